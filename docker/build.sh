#!/usr/bin/env bash
# Builds the images, behind a proxy or not:
#
#   docker/build.sh              longreel:cpu
#   docker/build.sh gpu          longreel:gpu
#   docker/build.sh check        looks at network, proxy and base images, and builds nothing
#
# Settings, in the environment or in .env:
#   LONGREEL_MIRROR=china    mirrors of images, crates, packages and models, all at once
#   LONGREEL_PROXY=URL       the proxy; `none` for none. Without it: that of the environment, else none
#                            where the registry is reached without, else what is found on this machine
#   REGISTRY, RUST_IMAGE, BASE_IMAGE, CUDA_VERSION, CUDA_IMAGE, CARGO_INDEX, APT_MIRROR, PIP_INDEX, HF_ENDPOINT,
#   EXTRA_PACKAGES           as in docker/Dockerfile
#   CA_BUNDLE=FILE           certificates (PEM) to trust while it fetches, where a proxy looks into TLS
#   TAG                      of the image [longreel:cpu or longreel:gpu]
#   NETWORK                  of the steps of the build, as `docker build --network` takes it
#   PUSH=1                   push it to its registry with an SBOM and provenance attached (needs buildx)
#   DRY_RUN=1                show the command and run nothing
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=docker/network.sh
. docker/network.sh

target=${1:-cpu}
case "$target" in
cpu | gpu | check) ;;
*) fail "there is no image '$target'; say cpu, gpu or check" ;;
esac

setting() { # NAME: from .env, unless the environment has it
    eval "[ -z \"\${$1:-}\" ]" || return 0
    [ -f .env ] || return 0
    local line
    line=$(grep -E "^$1=." .env | tail -n 1) || return 0
    export "$1=${line#*=}"
}
for name in LONGREEL_MIRROR LONGREEL_PROXY REGISTRY RUST_IMAGE BASE_IMAGE CUDA_VERSION CUDA_IMAGE \
    CARGO_INDEX APT_MIRROR PIP_INDEX HF_ENDPOINT EXTRA_PACKAGES CA_BUNDLE TAG NETWORK PUSH; do
    setting "$name"
done

case "${LONGREEL_MIRROR:-}" in
"" | none) ;;
china)
    : "${REGISTRY:=docker.m.daocloud.io}" "${CARGO_INDEX:=sparse+https://rsproxy.cn/index/}"
    : "${APT_MIRROR:=mirrors.tuna.tsinghua.edu.cn}" "${HF_ENDPOINT:=https://hf-mirror.com}"
    : "${PIP_INDEX:=https://pypi.tuna.tsinghua.edu.cn/simple}"
    ;;
*) fail "LONGREEL_MIRROR is '$LONGREEL_MIRROR'; it can be china, or empty" ;;
esac

if [ -n "${CA_BUNDLE:-}" ]; then
    grep -qs 'BEGIN CERTIFICATE' "$CA_BUNDLE" ||
        fail "CA_BUNDLE names '$CA_BUNDLE', which holds no certificate; it wants a file in PEM form that can be read"
    # This script asks with the same ones.
    export CURL_CA_BUNDLE=$CA_BUNDLE
fi

# What the Dockerfile says, where nobody says otherwise.
default() { sed -n "s/^ARG $1=\(.*\)/\1/p" docker/Dockerfile | head -n 1; }
REGISTRY=${REGISTRY:-$(default REGISTRY)}
CUDA_VERSION=${CUDA_VERSION:-$(default CUDA_VERSION)}
HF_ENDPOINT=${HF_ENDPOINT:-$(default HF_ENDPOINT)}
expand() { default "$1" | sed "s|\${REGISTRY}|$REGISTRY|; s|\${CUDA_VERSION}|$CUDA_VERSION|"; }
RUST_IMAGE=${RUST_IMAGE:-$(expand RUST_IMAGE)}
BASE_IMAGE=${BASE_IMAGE:-$(expand BASE_IMAGE)}
CUDA_IMAGE=${CUDA_IMAGE:-$(expand CUDA_IMAGE)}

images=("$RUST_IMAGE" "$BASE_IMAGE")
[ "$target" = cpu ] || images+=("$CUDA_IMAGE")

say "engine"
command -v docker >/dev/null || fail "there is no docker here; install Docker Engine or Docker Desktop"
engine=$(docker info --format '{{.OperatingSystem}}' 2>/dev/null) ||
    fail "the Docker engine does not answer; start Docker Desktop, or: sudo systemctl start docker"
note "$engine"

say "network"
missing=()
for image in "${images[@]}"; do
    docker image inspect "$image" >/dev/null 2>&1 && note "$image is here" || missing+=("$image")
done
# Images that are here need no registry; crates are fetched all the same.
crates=${CARGO_INDEX:-https://index.crates.io/}
crates=${crates#sparse+}
if [ "${#missing[@]}" -gt 0 ]; then find_proxy "$(registry_url "${missing[0]}")"; else find_proxy "${crates%/}/config.json"; fi
[ -z "$proxy" ] && note "no proxy" || note "proxy $(without_password "$proxy"), from $proxy_from"

for image in ${missing[@]+"${missing[@]}"}; do
    check_image "$image"
done
if reaches "$HF_ENDPOINT"; then
    note "$HF_ENDPOINT is reached"
else
    note "$HF_ENDPOINT is not reached: the image can be built, but models cannot be fetched from here."
    note "In China: LONGREEL_MIRROR=china; behind a proxy: LONGREEL_PROXY=http://host:port"
fi
[ "$target" = check ] && exit 0

say "build"
command=(docker)
if [ -n "${PUSH:-}" ]; then
    docker buildx version >/dev/null 2>&1 ||
        fail "PUSH=1 attaches an SBOM, for which buildx is needed; install the package docker-buildx-plugin"
    command+=(buildx build --push --sbom=true --provenance=mode=max)
else
    command+=(build)
fi
command+=(--file docker/Dockerfile --target "$target" --tag "${TAG:-longreel:$target}")
network=${NETWORK:-}
if [ -n "$proxy" ]; then
    inside=$proxy
    if is_loopback "$proxy"; then
        # In a step of the build 127.0.0.1 is the step itself.
        case "$engine" in
        *"Docker Desktop"*) inside=$(printf %s "$proxy" | sed -E 's#(//|@)(localhost|127\.0\.0\.1|\[::1\])#\1host.docker.internal#') ;;
        *) : "${network:=host}" ;;
        esac
    fi
    # These names are known to Docker: they hold while it builds, and are neither in the image nor in
    # its history.
    for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; do
        command+=(--build-arg "$name=$inside")
    done
    command+=(--build-arg "no_proxy=${no_proxy:-localhost,127.0.0.1}")
fi
[ -n "$network" ] && command+=(--network "$network")
[ -z "${CA_BUNDLE:-}" ] || command+=(--secret "id=ca,src=$CA_BUNDLE")
for name in REGISTRY RUST_IMAGE BASE_IMAGE CUDA_VERSION CUDA_IMAGE CARGO_INDEX APT_MIRROR PIP_INDEX HF_ENDPOINT \
    EXTRA_PACKAGES; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || command+=(--build-arg "$name=$value")
done
command+=(--build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)")
command+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
# The time of the commit, so that the same commit gives the same labels.
command+=(--build-arg "CREATED=$(git log -1 --format=%cI 2>/dev/null || echo unknown)")
command+=(.)

if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
log=${TMPDIR:-/tmp}/longreel-build-$target.log
note "all that it says is also in $log"
if DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain "${command[@]}" 2>&1 | tee "$log"; then
    docker image inspect "${TAG:-longreel:$target}" --format '{{.Size}}' 2>/dev/null |
        awk -v tag="${TAG:-longreel:$target}" '{printf "\n%s: %.0f MB\n", tag, $1 / 1e6}' || true
else
    say "the build failed"
    explain "$log"
    exit 1
fi
