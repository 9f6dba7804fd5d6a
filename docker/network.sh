# What docker/build.sh knows of the network: where a proxy is, what is reached through it, whether an
# image exists, and what a failure means. Sourced, not run.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The ports at which proxies of desktops listen: Clash, then those of others.
PROXY_PORTS="7890 8080 1080"
proxy=""
proxy_from=""

# Asks through the proxy there is; the status, or 000 when nothing came back.
status() { # URL [more words for curl]
    local through=()
    if [ -n "$proxy" ]; then through=(--proxy "$proxy"); else through=(--noproxy '*'); fi
    case "$1" in http://127.0.0.1* | http://localhost*) through=(--noproxy '*') ;; esac
    curl --silent --output /dev/null --write-out '%{http_code}' --connect-timeout 5 --max-time 20 \
        "${through[@]}" "$@" || true
}

# Any answer will do: a registry says 401 to whoever has not signed in.
reaches() { # URL
    local answer
    answer=$(status "$1" --location)
    [ "$answer" != 000 ] && [ "${answer#5}" = "$answer" ]
}

is_loopback() { # URL
    case "$1" in
    *//localhost* | *//127.* | *//\[::1\]* | *@localhost* | *@127.*) return 0 ;;
    *) return 1 ;;
    esac
}

without_password() { printf %s "$1" | sed -E 's#//[^@/]*@#//***@#'; }

# Sets `proxy` and `proxy_from`.
find_proxy() { # URL that has to be reached
    command -v curl >/dev/null || fail "there is no curl here, with which the network is looked at; install curl"
    local url=$1 candidate port
    case "${LONGREEL_PROXY:-}" in
    none) return 0 ;;
    "") ;;
    *)
        try_proxy "$LONGREEL_PROXY" LONGREEL_PROXY "$url" && return 0
        fail "$url is not reached through LONGREEL_PROXY=$(without_password "$LONGREEL_PROXY"); is the proxy running?"
        ;;
    esac
    for name in https_proxy HTTPS_PROXY http_proxy HTTP_PROXY all_proxy ALL_PROXY; do
        eval "candidate=\${$name:-}"
        [ -n "$candidate" ] || continue
        try_proxy "$candidate" "$name" "$url" && return 0
        note "$url is not reached through $name=$(without_password "$candidate")"
    done
    proxy=""
    reaches "$url" && return 0
    for port in $PROXY_PORTS; do
        for candidate in "http://127.0.0.1:$port" "socks5h://127.0.0.1:$port"; do
            try_proxy "$candidate" "port $port of this machine" "$url" && return 0
        done
    done
    candidate=$(system_proxy)
    if [ -n "$candidate" ] && try_proxy "$candidate" "the settings of the system" "$url"; then return 0; fi
    proxy=""
    fail "$url is not reached, neither without a proxy nor through ports ${PROXY_PORTS// /, } of this machine
   nor through the settings of the system. Start your proxy or VPN, or name it:
       LONGREEL_PROXY=http://127.0.0.1:7890 docker/build.sh
   $(without_proxy)"
}

# What else there is to do, where nothing is reached.
without_proxy() {
    case "${LONGREEL_MIRROR:-}" in
    china) echo "Or name other mirrors: REGISTRY of images, CARGO_INDEX of crates" ;;
    *) printf 'In China mirrors need no proxy:\n       LONGREEL_MIRROR=china docker/build.sh' ;;
    esac
}

try_proxy() { # PROXY WHERE-FROM URL
    case "$1" in *://*) proxy=$1 ;; *) proxy=http://$1 ;; esac
    proxy_from=$2
    reaches "$3" && return 0
    proxy=""
    return 1
}

system_proxy() {
    if command -v scutil >/dev/null; then
        scutil --proxy | awk '/HTTPSEnable : 1/ {on = 1} /HTTPSProxy/ {host = $3} /HTTPSPort/ {port = $3}
            END {if (on && host) print "http://" host ":" port}'
    elif command -v gsettings >/dev/null && [ "$(gsettings get org.gnome.system.proxy mode 2>/dev/null)" = "'manual'" ]; then
        local host port
        host=$(gsettings get org.gnome.system.proxy.https host | tr -d "'")
        port=$(gsettings get org.gnome.system.proxy.https port)
        [ -z "$host" ] || echo "http://$host:$port"
    elif [ -r /etc/environment ]; then
        sed -n -E 's/^(https_proxy|HTTPS_PROXY)="?([^"]*)"?$/\2/p' /etc/environment | head -n 1
    fi
}

# An image's name in its parts: HOST[:PORT]/PATH:TAG, where Docker Hub is not written.
image_host() {
    case "$1" in
    docker.io/*) echo registry-1.docker.io ;;
    */*)
        local first=${1%%/*}
        case "$first" in *.* | *:* | localhost) echo "$first" ;; *) echo registry-1.docker.io ;; esac
        ;;
    *) echo registry-1.docker.io ;;
    esac
}
image_path() {
    local path=${1#docker.io/} first
    first=${path%%/*}
    if [ "$first" != "$path" ]; then
        case "$first" in *.* | *:* | localhost) path=${path#*/} ;; esac
    fi
    path=${path%@*}
    local last=${path##*/}
    case "$last" in *:*) path=${path%:*} ;; esac
    if [ "$(image_host "$1")" = registry-1.docker.io ]; then
        case "$path" in */*) ;; *) path=library/$path ;; esac
    fi
    echo "$path"
}
image_tag() {
    case "$1" in *@*) echo "${1#*@}" && return ;; esac
    local last=${1##*/}
    case "$last" in *:*) echo "${last#*:}" ;; *) echo latest ;; esac
}
registry_url() {
    local host
    host=$(image_host "$1")
    case "$host" in localhost* | 127.*) echo "http://$host/v2/" ;; *) echo "https://$host/v2/" ;; esac
}

# Ends the build where an image is not in its registry, before anything of it is done.
check_image() { # IMAGE
    local base path tag url answer
    base=$(registry_url "$1") path=$(image_path "$1") tag=$(image_tag "$1")
    reaches "$base" || fail "the registry $base is not reached${proxy:+ through $(without_password "$proxy")}.
   Behind a proxy: LONGREEL_PROXY=http://host:port
   $(without_proxy)"
    url=$base$path/manifests/$tag
    answer=$(registry_status "$url")
    case "$answer" in
    200) note "$1 exists" ;;
    404) fail "$1 does not exist: $base$path has no tag $tag.$(similar_tags "$base$path" "$tag")
   Choose another one with RUST_IMAGE, BASE_IMAGE, CUDA_VERSION or CUDA_IMAGE" ;;
    401 | 403) fail "$1: the registry wants a name and a password (status $answer); docker login $(image_host "$1")" ;;
    429) note "$1: the registry has counted too many questions and does not say whether it exists" ;;
    *) fail "$1: the registry answers with status $answer; try again, or choose another REGISTRY" ;;
    esac
}

MANIFESTS="application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
token_header=()

# The status of an address of a registry, with the token that it hands out to everybody.
registry_status() { # URL
    local answer
    sign_in "$1"
    answer=$(status "$1" --head --header "Accept: $MANIFESTS" ${token_header[@]+"${token_header[@]}"})
    echo "$answer"
}

sign_in() { # URL
    local through=() challenge realm service scope token
    token_header=()
    [ -n "$proxy" ] && ! is_loopback "$1" && through=(--proxy "$proxy")
    challenge=$(curl --silent --head --max-time 20 ${through[@]+"${through[@]}"} "$1" |
        tr -d '\r' | sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *[Bb]earer *//p' | head -n 1)
    [ -n "$challenge" ] || return 0
    part() { printf %s "$challenge" | sed -n "s/.*$1=\"\([^\"]*\)\".*/\1/p"; }
    realm=$(part realm) service=$(part service) scope=$(part scope)
    token=$(curl --silent --max-time 20 ${through[@]+"${through[@]}"} --get "$realm" \
        --data-urlencode "service=$service" --data-urlencode "scope=$scope" |
        sed -n 's/.*"token" *: *"\([^"]*\)".*/\1/p')
    [ -z "$token" ] || token_header=(--header "Authorization: Bearer $token")
}

# Tags that are the same behind the version, so that a mistyped one is put right with one look.
similar_tags() { # URL-OF-REPOSITORY TAG
    local through=() tags
    [ -n "$proxy" ] && ! is_loopback "$1" && through=(--proxy "$proxy")
    sign_in "$1/tags/list"
    tags=$(curl --silent --max-time 20 ${through[@]+"${through[@]}"} ${token_header[@]+"${token_header[@]}"} \
        "$1/tags/list" | tr ',[]' '\n\n\n' | sed -n 's/^ *"\([^"]*\)" *}*$/\1/p' |
        awk -v kind="${2#*-}" '{tag = $0; sub(/^[^-]*-/, ""); if ($0 == kind) print tag}' |
        sort -V | tail -n 5 | tr '\n' ' ') || true
    [ -z "$tags" ] || printf '\n   There are: %s' "$tags"
}

# What to do, by what the build said last.
explain() { # LOG
    local told=""
    because() { # PATTERN ADVICE
        grep -qiE "$1" "$log" || return 0
        note "$2"
        told=yes
    }
    local log=$1
    because 'failed to fetch oauth token|failed to authorize|registry-1.docker.io.*(timeout|refused)|TLS handshake timeout|failed to resolve source metadata|error getting credentials' \
        "The engine itself did not reach the registry. It has a proxy setting of its own:
   Docker Desktop: Settings, Resources, Proxies. Linux: /etc/systemd/system/docker.service.d/proxy.conf with
       [Service]
       Environment=HTTPS_PROXY=http://127.0.0.1:7890
   then: sudo systemctl daemon-reload && sudo systemctl restart docker. In China: LONGREEL_MIRROR=china"
    because 'manifest unknown|: not found$|pull access denied' \
        "An image does not exist under that name; docker/build.sh check says which ones do"
    because 'no space left on device' \
        "The disk is full. docker system df shows what takes it; docker builder prune makes room"
    because 'spurious network error|failed to download from|failed to get .* as a dependency|index.crates.io|static.crates.io' \
        "Crates were not fetched. Behind a proxy: LONGREEL_PROXY=http://host:port; in China: LONGREEL_MIRROR=china
   (or CARGO_INDEX=sparse+https://rsproxy.cn/index/); with a VPN of this machine: NETWORK=host"
    because 'Could not resolve host|Temporary failure resolving|Temporary failure in name resolution' \
        "A step of the build has no names of the network. NETWORK=host lets it use those of this machine"
    because 'Failed to fetch|Unable to locate package' \
        "Debian's packages were not fetched. In China: LONGREEL_MIRROR=china, or APT_MIRROR=mirrors.tuna.tsinghua.edu.cn"
    because 'signal: 9|SIGKILL|cannot allocate memory|Killed' \
        "Memory ran out. Give the engine more (Docker Desktop: Settings, Resources), or close other programs"
    because 'the --mount option requires BuildKit|Unknown flag: mount|BuildKit is enabled but the buildx component is missing' \
        "The Dockerfile needs BuildKit; install the package docker-buildx-plugin, or Docker 20.10 and newer"
    because 'certificate verify failed|SSL certificate problem|self.signed certificate|unable to get local issuer' \
        "A proxy looks into TLS with certificates that the build does not know. CA_BUNDLE=FILE docker/build.sh
   trusts those of FILE (PEM: the system's and the proxy's); ask whoever runs the proxy for them"
    because 'attestations? (is|are) not supported' \
        "This builder cannot attach an SBOM. docker buildx create --use makes one that can and pushes; or turn on
   the engine's containerd image store"
    because 'lock file .* needs to be updated' \
        "Cargo.lock does not fit the manifests; run cargo check, which writes it, and commit it"
    because 'the CUDA image has no' "Choose another CUDA_IMAGE, one with runtime in its name"
    because 'docker/cudnn.txt has no cuDNN' \
        "Write the line of that CUDA's package and its hashes into docker/cudnn.txt, or choose another CUDA_VERSION"
    because 'from versions: none|No matching distribution|pip.*(timed out|Connection)|THESE PACKAGES DO NOT MATCH' \
        "cuDNN's package was not fetched as docker/cudnn.txt has it. Behind a proxy: LONGREEL_PROXY=http://host:port;
   in China: LONGREEL_MIRROR=china, or PIP_INDEX=https://pypi.tuna.tsinghua.edu.cn/simple"
    [ -n "$told" ] || note "The last lines above say why; all of them are in $1"
}
