#!/usr/bin/env bash
# The whole way in containers, for real: images are built, the service is started by compose, a film is
# made through the API, the service is killed and restarted in the middle of a film, and the results are
# still there. On Debian, as root, it needs nothing but the registries of Debian and of crates:
#
#   docker/test.sh                 with the engine that answers, else one that it starts and ends itself
#   KEEP=1 docker/test.sh          leaves its engine and images, so that a second run is quick
#   SKIP_BUILD=1 docker/test.sh    with the image that is there
#   SCRATCH=/big/disk docker/test.sh
#   docker/test.sh gpu             besides, the image for cards (cuDNN alone is 0.7 GB to fetch); where NVIDIA's image
#                                  is not reached, its libraries come from NVIDIA's packages for Python (1 GB)
#
# Where Docker Hub is not reached, both base images are made here: Debian by debootstrap, the toolchain
# from that and the Rust of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=${SCRATCH:-${TMPDIR:-/tmp}/longreel-docker}
mkdir -p "$scratch"
started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# Reads to the end, unlike `grep -q`, at whose leaving early what writes to it fails, and the pipe with it.
finds() { grep "$@" >/dev/null; }

# Everything that this starts is named after it, so that nothing else is touched.
export COMPOSE_PROJECT_NAME=longreel-test LONGREEL_PORT=${LONGREEL_PORT:-18000}
compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }

engine=""
finish() {
    local code=$?
    [ "$code" -eq 0 ] || compose logs --tail 40 2>/dev/null || true
    compose --profile monitoring --profile cpu down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [ -n "$engine" ] && [ -z "${KEEP:-}" ]; then
        kill "$engine" 2>/dev/null || true
        while kill -0 "$engine" 2>/dev/null; do sleep 0.2; done
        umount "$scratch/exec/netns/default" 2>/dev/null || true
        rm -rf "$scratch" || true
    fi
    exit "$code"
}
trap finish EXIT

say "engine"
# One that was kept, by an earlier run.
if DOCKER_HOST=unix://$scratch/docker.sock docker info >/dev/null 2>&1; then
    export DOCKER_HOST=unix://$scratch/docker.sock
    engine=$(cat "$scratch/docker.pid")
fi
if ! docker info >/dev/null 2>&1; then
    wanted=()
    command -v dockerd >/dev/null || wanted+=(docker.io iptables)
    command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || wanted+=(docker-compose)
    command -v debootstrap >/dev/null || wanted+=(debootstrap)
    if [ "${#wanted[@]}" -gt 0 ]; then
        echo "skipped: no engine answers, and ${wanted[*]} cannot be installed here" >"$scratch/skip"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${wanted[@]}"; } \
            >"$scratch/apt.log" 2>&1 || { cat "$scratch/skip"; exit 0; }
    fi
    # That of Debian has BuildKit inside; another client before it on the path may lack its plugin.
    export DOCKER_HOST=unix://$scratch/docker.sock
    # Low priority: whoever works on this machine goes first.
    nice -n 19 dockerd --host "$DOCKER_HOST" --data-root "$scratch/data" --exec-root "$scratch/exec" \
        --pidfile "$scratch/docker.pid" >"$scratch/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 60); do docker info >/dev/null 2>&1 && break || sleep 0.5; done
    docker info >/dev/null 2>&1 || { tail -n 20 "$scratch/dockerd.log"; fail "the engine does not start"; }
fi
# A client without buildx cannot build; Debian's can.
if ! docker buildx version >/dev/null 2>&1 && [ -x /usr/bin/docker ]; then export PATH=/usr/bin:$PATH; fi
docker info --format '{{.ServerVersion}}, {{.Driver}}, cgroup v{{.CgroupVersion}}'

say "base images"
has() { docker image inspect "$1" >/dev/null 2>&1; }
tarred() { # FOLDER: without what a slim image lacks
    tar -C "$1" --exclude='./var/cache/apt/*.bin' --exclude='./var/cache/apt/archives/*.deb' \
        --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
        --exclude='./usr/share/locale/*' --exclude='./var/log/*.log' -c .
}
if docker pull -q rust:1.95-bookworm >/dev/null 2>&1 && docker pull -q debian:bookworm-slim >/dev/null 2>&1; then
    export RUST_IMAGE=rust:1.95-bookworm BASE_IMAGE=debian:bookworm-slim
else
    echo "Docker Hub is not reached; both are made here"
    export RUST_IMAGE=longreel-test/rust:bookworm BASE_IMAGE=longreel-test/debian:bookworm NETWORK=host
    # What keeps the hub away may also look into TLS: what this machine trusts, the build trusts.
    if [ -r /etc/ssl/certs/ca-certificates.crt ]; then export CA_BUNDLE=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}; fi
    if ! has "$BASE_IMAGE" || ! has "$RUST_IMAGE"; then
        mirror=${DEBIAN:-http://deb.debian.org/debian}
        rm -rf "$scratch/debian"
        nice -n 19 debootstrap --variant=minbase bookworm "$scratch/debian" "$mirror" >"$scratch/debootstrap.log" 2>&1 ||
            { tail -n 5 "$scratch/debootstrap.log"; fail "debootstrap"; }
        tarred "$scratch/debian" | docker import --change 'CMD ["bash"]' - "$BASE_IMAGE" >/dev/null
        # The toolchain: Debian's C++ compiler and this machine's Rust.
        cp /etc/resolv.conf "$scratch/debian/etc/resolv.conf"
        chroot "$scratch/debian" sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends g++ ca-certificates' \
            >"$scratch/toolchain.log" 2>&1 || { tail -n 5 "$scratch/toolchain.log"; fail "g++ for the toolchain"; }
        mkdir -p "$scratch/debian/usr/local/rust"
        tar -C "$(rustc --print sysroot)" --exclude=./share/doc --exclude=./lib/rustlib/src -c . |
            tar -C "$scratch/debian/usr/local/rust" -x
        tarred "$scratch/debian" | docker import --change 'CMD ["bash"]' \
            --change 'ENV PATH=/usr/local/rust/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo' \
            - "$RUST_IMAGE" >/dev/null
        rm -rf "$scratch/debian"
    fi
fi
docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}'

say "build"
if [ -z "${SKIP_BUILD:-}" ] || ! has longreel:cpu; then TMPDIR=$scratch docker/build.sh cpu; fi
bytes=$(docker image inspect longreel:cpu --format '{{.Size}}')
[ "$bytes" -lt 150000000 ] || fail "the image takes $bytes bytes, more than 150 MB"
inspect() { docker image inspect longreel:cpu --format "$1"; }
[ "$(inspect '{{.Config.User}}')" = longreel ] || fail "it runs as $(inspect '{{.Config.User}}')"
[ "$(inspect '{{.Config.Healthcheck.Interval}}')" = 30s ] || fail "no health check every 30 s"
[ -n "$(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}')" ] || fail "no labels"
! { docker history --no-trunc longreel:cpu; docker inspect longreel:cpu; } | finds -i 'https\?_proxy' ||
    fail "a proxy is left in the image"
# The SBOM is made of what the program says of itself: crates of Cargo.lock, and of them what is linked.
docker run --rm --entrypoint cat longreel:cpu /usr/share/doc/longreel/sbom.cdx.json >"$scratch/sbom.json"
finds '"bomFormat":"CycloneDX"' <"$scratch/sbom.json" || fail "the SBOM is not CycloneDX: $(head -c 200 "$scratch/sbom.json")"
grep -o 'pkg:cargo/[^"?]*' "$scratch/sbom.json" | sed 's|pkg:cargo/||; s|@| |; s|%2B|+|g' | LC_ALL=C sort -u >"$scratch/listed"
awk -F '"' '/^name = /{name = $2} /^version = /{if (name) print name, $2; name = ""}' Cargo.lock | LC_ALL=C sort -u >"$scratch/locked"
strange=$(LC_ALL=C comm -23 "$scratch/listed" "$scratch/locked")
[ -z "$strange" ] || fail "the SBOM lists what Cargo.lock has not: $strange"
for crate in longreel longreel-kernels longreel-server tokio openh264-sys2 libsqlite3-sys ureq; do
    finds "^$crate " <"$scratch/listed" || fail "the SBOM lacks $crate"
done
! finds -E '^(longreel-shim|half) ' <"$scratch/listed" || fail "the SBOM lists what only tests use"
docker run --rm --entrypoint cat longreel:cpu /usr/share/doc/longreel/THIRD-PARTY.txt | finds 'Cisco Systems' ||
    fail "the image lacks the licences of what is linked"
echo "$(wc -l <"$scratch/listed") crates in the SBOM, of $(wc -l <"$scratch/locked") in Cargo.lock"

say "up"
export LONGREEL_IMAGE=longreel:cpu
compose up -d --no-build
container=$(compose ps -q longreel)
[ -n "$container" ] || fail "no container"
health() { docker inspect "$container" --format '{{.State.Health.Status}}'; }
for _ in $(seq 90); do [ "$(health)" = healthy ] && break || sleep 1; done
[ "$(health)" = healthy ] || fail "it is $(health)"
of_host() { docker inspect "$container" --format "{{.HostConfig.$1}}"; }
[ "$(of_host ReadonlyRootfs)" = true ] || fail "its file system can be written"
[ "$(of_host Memory)" -gt 0 ] || fail "its memory has no limit"
[ "$(of_host RestartPolicy.Name)" = unless-stopped ] || fail "it is restarted $(of_host RestartPolicy.Name)"
of_host LogConfig.Config | finds 'max-size' || fail "its log grows without end: $(of_host LogConfig)"
[ "$(docker exec "$container" id -u)" = 1000 ] || fail "it does not run as user 1000"
key=$(compose logs longreel | sed -n 's/.*API key, shown this once: *//p' | tr -d '\r' | head -n 1)
[ -n "$key" ] || fail "the first start prints no key"
base=http://127.0.0.1:$LONGREEL_PORT
[ "$(curl -s -o /dev/null -w '%{http_code}' "$base/v1/videos")" = 401 ] || fail "it can be called without a key"
call() { curl -sS --fail-with-body -H "authorization: Bearer $key" "$@"; }
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }
ask() { # SECONDS SEED
    call "$base/v1/videos" -H 'content-type: application/json' \
        -d "{\"prompt\": \"a red circle moves right on a blue background\", \"seconds\": $1, \"seed\": $2}" | field id
}
state() { call "$base/v1/videos/$1" | field status; }
finished() { # ID
    for _ in $(seq 600); do
        case "$(state "$1" 2>/dev/null)" in
        completed) return 0 ;;
        failed) fail "the film $1 failed: $(call "$base/v1/videos/$1")" ;;
        *) sleep 1 ;;
        esac
    done
    fail "the film $1 is not finished"
}
wait_up() { for _ in $(seq 120); do curl -sf -o /dev/null "$base/health/ready" && return 0 || sleep 0.5; done; fail "it is not back"; }

say "a film through the API"
whole=$(ask 40 7)
finished "$whole"
call "$base/download/$whole" -o "$scratch/whole.mp4"
head -c 12 "$scratch/whole.mp4" | finds ftyp || fail "that is no film"

say "killed in the middle of a film, and restarted"
cut=$(ask 40 7)
segments() { call "$base/v1/videos/$cut/segments" | grep -o '"state":"done"' | wc -l; }
for _ in $(seq 600); do [ "$(segments)" -ge 2 ] && break || sleep 0.2; done
[ "$(state "$cut")" = in_progress ] || fail "the film was $(state "$cut") before it could be killed"
docker kill --signal KILL "$container" >/dev/null
docker start "$container" >/dev/null
wait_up
finished "$cut"
call "$base/download/$cut" -o "$scratch/cut.mp4"
cmp "$scratch/whole.mp4" "$scratch/cut.mp4" || fail "the film that was interrupted is another one"

say "stopped in the middle of a film: the signal reaches the program"
last=$(ask 40 8)
for _ in $(seq 600); do [ "$(state "$last")" = in_progress ] && break || sleep 0.2; done
compose stop
[ "$(docker inspect "$container" --format '{{.State.ExitCode}}')" = 0 ] || fail "it did not end by itself: $(docker inspect "$container" --format '{{.State.ExitCode}}')"

say "another container on the same volumes"
compose down
compose up -d --no-build
wait_up
container=$(compose ps -q longreel)
call "$base/download/$whole" | cmp - "$scratch/whole.mp4" || fail "the first film is gone"
finished "$last"
docker exec "$container" test -s /app/logs/access.log || fail "there is no access.log"
! compose logs longreel | finds 'API key, shown this once' || fail "a second first key"

say "monitoring: Prometheus reads with a key of its own"
if ! docker pull -q "${PROMETHEUS_IMAGE:-prom/prometheus:v3.5.0}" >/dev/null 2>&1; then
    export PROMETHEUS_IMAGE=longreel-test/prometheus
    # Debian's, where Docker Hub is not reached.
    has "$PROMETHEUS_IMAGE" || docker build --quiet --network host --tag "$PROMETHEUS_IMAGE" - >/dev/null <<EOF
FROM $BASE_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends prometheus \\
    && mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
EOF
fi
export PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090}
compose --profile monitoring up -d --no-build prometheus
watched() { curl -s "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode 'query=up{job="longreel"} == 1' | finds films:8000; }
for _ in $(seq 60); do watched && break || sleep 1; done
watched || { compose --profile monitoring logs --tail 20 prometheus monitoring-key; fail "Prometheus does not read /metrics"; }
curl -s "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/rules" | finds LongreelOutOfMemory || fail "Prometheus has no alert rules"
docker exec "$container" longreel keys list | finds 'prometheus of monitoring' || fail "there is no key of Prometheus"

if [ "${1:-}" = gpu ]; then
    say "the image for cards"
    if ! docker pull -q "nvidia/cuda:$(sed -n 's/^ARG CUDA_VERSION=//p' docker/Dockerfile)-runtime-ubuntu24.04" >/dev/null 2>&1; then
        export CUDA_IMAGE=longreel-test/cuda:12.9
        if ! has "$CUDA_IMAGE"; then
            rm -rf "$scratch/cuda" && mkdir -p "$scratch/cuda/wheels"
            python3 -m pip download -q --no-deps -d "$scratch/cuda/wheels" 'nvidia-cublas-cu12==12.9.*' \
                'nvidia-cuda-nvrtc-cu12==12.9.*' 'nvidia-cuda-runtime-cu12==12.9.*' nvidia-nccl-cu12
            for wheel in "$scratch"/cuda/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$scratch/cuda/files"; done
            mkdir -p "$scratch/cuda/lib64"
            mv "$scratch"/cuda/files/nvidia/*/lib/*.so* "$scratch/cuda/lib64/"
            rm -rf "$scratch/cuda/wheels" "$scratch/cuda/files"
            printf 'FROM %s\nCOPY lib64 /usr/local/cuda/lib64\n' "$BASE_IMAGE" >"$scratch/cuda/Dockerfile"
            docker build --quiet --tag "$CUDA_IMAGE" "$scratch/cuda" >/dev/null
            rm -rf "$scratch/cuda"
        fi
    fi
    TMPDIR=$scratch docker/build.sh gpu
    bytes=$(docker image inspect longreel:gpu --format '{{.Size}}')
    [ "$bytes" -lt 4000000000 ] || fail "the image takes $bytes bytes, more than 4 GB"
    found=$(docker run --rm --entrypoint ldconfig longreel:gpu -p)
    for library in libcudart.so.12 libnvrtc.so.12 libcublas.so.12 libcublasLt.so.12 libcudnn.so.9 libnccl.so.2; do
        printf %s "$found" | finds "$library " || fail "the image has no $library"
    done
    docker run --rm longreel:gpu --version
    # The cuDNN that the linker finds is the one that the list names, and new enough for our attention.
    docker run --rm --entrypoint sh longreel:gpu -c 'ls -d /usr/local/lib/cuda/nvidia_cudnn_*.dist-info' |
        finds "$(sed -n 's/^nvidia-cudnn-cu12==\([^ ]*\).*/\1/p' docker/cudnn.txt)" || fail "another cuDNN than docker/cudnn.txt names"
    if command -v python3 >/dev/null; then
        rm -rf "$scratch/libraries" && holder=$(docker create longreel:gpu) &&
            docker cp "$holder:/usr/local/lib/cuda" "$scratch/libraries" >/dev/null && docker rm "$holder" >/dev/null
        version=$(cd "$scratch/libraries" && LD_LIBRARY_PATH=$PWD python3 -c \
            'import ctypes; print(ctypes.CDLL("libcudnn.so.9").cudnnGetVersion())')
        rm -rf "$scratch/libraries"
        [ "$version" -ge 91301 ] || fail "the image has cuDNN $version, older than 9.13.1"
        echo "cuDNN $version"
    fi
fi

say "done"
docker images longreel --format '{{.Repository}}:{{.Tag}} {{.Size}}'
