#!/usr/bin/env bash
# Release archives: longreel-VERSION-TARGET.tar.gz with the program, its licence and those of what is linked into it
# (deploy/licenses.sh), completions and manual pages, and SHA256SUMS over all of them.
#
#   deploy/release.sh [TARGET...]      x86_64-unknown-linux-gnu, where none is named
#   deploy/release.sh --twice [TARGET...]
#                                      builds each a second time, from a copy of the sources in another
#                                      folder, and compares the archives
#
# Targets are {x86_64,aarch64}-unknown-linux-{gnu,musl}. Those of gnu run with glibc 2.17 (2012) and newer
# and load NVIDIA's libraries where they are there. Those of musl need no library at all, and so can load
# none: they compute on the processor.
#
# It wants `rustup target add TARGET` for targets other than the machine's (Debian's rustc takes those of its packages
# libstd-rust-dev and libstd-rust-web-dev for arm64), zig as a C and C++ compiler (pip install ziglang
# cargo-zigbuild) and readelf (binutils). A program that cannot be run here is not packed; for another processor's,
# qemu-user makes it run, and its C library has to be here (Debian: libc6-arm64-cross; elsewhere QEMU_LD_PREFIX
# says where).
#
# Settings, in the environment:
#   OUT [dist]                where archives go
#   SOURCE_DATE_EPOCH         time of the files in them [that of the last commit]
#   CARGO_TARGET_DIR [target]
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C

GLIBC=2.17
# What every Linux with glibc has. Everything else is within the program.
LIBRARIES='libc|libm|libdl|libpthread|librt|libutil|ld-linux-x86-64|ld-linux-aarch64'

say() { printf '== %s (%d s)\n' "$*" "$SECONDS"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

twice=""
if [ "${1:-}" = --twice ]; then
    twice=1
    shift
fi
[ "$#" -gt 0 ] || set -- x86_64-unknown-linux-gnu
for target in "$@"; do
    case "$target" in
    x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu | x86_64-unknown-linux-musl | aarch64-unknown-linux-musl) ;;
    *) fail "TARGET '$target' is none of {x86_64,aarch64}-unknown-linux-{gnu,musl}" ;;
    esac
    [ -d "$(rustc --print target-libdir --target "$target")" ] ||
        fail "this toolchain has no standard library for $target; rustup target add $target"
done
command -v cargo-zigbuild >/dev/null ||
    fail "there is no cargo-zigbuild; pip install cargo-zigbuild ziglang, and have its folder in PATH"
command -v readelf >/dev/null || fail "there is no readelf; install binutils"

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}
[ -n "$SOURCE_DATE_EPOCH" ] || fail "this is no git checkout; set SOURCE_DATE_EPOCH, in seconds since 1970"
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
out=$(mkdir -p "${OUT:-dist}" && cd "${OUT:-dist}" && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$CARGO_TARGET_DIR"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Folders of this machine, and what stands in their place in the program.
cargo fetch --quiet --locked
cargo_home=${CARGO_HOME:-$HOME/.cargo}
places=("$PWD=/longreel" "$CARGO_TARGET_DIR=/target" "$(rustc --print sysroot)/lib/rustlib=/rust/lib/rustlib")
for folder in "$cargo_home"/registry/src/*; do places+=("$folder=/crates"); done
rust_flags="" c_flags=""
for place in "${places[@]}"; do
    rust_flags+=$'\x1f'"--remap-path-prefix=$place"
    c_flags+=" -ffile-prefix-map=$place"
done

build() { # TARGET; sets `program`
    local name=$1 folder=$1
    case "$1" in *-gnu) name=$1.$GLIBC ;; esac
    # The H.264 encoder takes an assembler where it finds one, and the program would depend on that.
    CARGO_ENCODED_RUSTFLAGS=${rust_flags#?} CFLAGS=$c_flags CXXFLAGS=$c_flags OPENH264_NO_ASM=1 \
        CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols \
        cargo zigbuild --release --locked --package longreel --target "$name"
    program=$CARGO_TARGET_DIR/$folder/release/longreel
}

check() { # TARGET
    local needed newest library place
    needed=$(readelf --dynamic --wide "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    case "$1" in
    *-musl) [ -z "$needed" ] || fail "$1 needs libraries:" "$needed" ;;
    *)
        for library in $needed; do
            printf %s "$library" | grep -Eq "^($LIBRARIES)\.so\.[0-9]+$" || fail "$1 needs $library"
        done
        newest=$(readelf --version-info --wide "$program" | grep -o 'GLIBC_[0-9.]*' | sed s/GLIBC_// | sort -uV | tail -n 1)
        [ "$(printf '%s\n' "$newest" "$GLIBC" | sort -V | tail -n 1)" = "$GLIBC" ] ||
            fail "$1 needs glibc $newest; $GLIBC is promised"
        printf 'needs glibc %s: %s\n' "$newest" "$(printf %s "$needed" | tr '\n' ' ')"
        ;;
    esac
    for place in "${places[@]}" "$cargo_home" "$HOME/."; do
        ! grep -aqF "${place%%=*}" "$program" || fail "${place%%=*} is written in the program"
    done
}

# The program in a folder and an environment where nothing is, or under the emulator of its processor.
run() { # TARGET WORD...
    local runner=() target=$1
    shift
    [ "${target%%-*}" = "$(uname -m)" ] ||
        runner=("qemu-${target%%-*}" -L "${QEMU_LD_PREFIX:-/usr/${target%%-*}-linux-gnu}")
    (cd "$scratch" && env -i HOME="$scratch/home" PATH=/usr/bin:/bin "${runner[@]}" "$program" "$@")
}

package() { # TARGET
    local target=$1 name=longreel-$version-$1
    [ "${target%%-*}" = "$(uname -m)" ] || PATH=/usr/bin:/bin command -v "qemu-${target%%-*}" >/dev/null ||
        fail "$target cannot be run on $(uname -m), and what was not run is not packed; install qemu-user"
    local libraries=${QEMU_LD_PREFIX:-/usr/${target%%-*}-linux-gnu}
    [ "${target%%-*}" = "$(uname -m)" ] || [ "${target##*-}" = musl ] || [ -d "$libraries/lib" ] ||
        fail "$target needs its C library to be run here, and $libraries/lib is not there; install libc6-arm64-cross" \
            "(Debian, for aarch64), or say where it is with QEMU_LD_PREFIX"
    # An emulated processor takes minutes for what takes seconds: there the smallest film has to do.
    local film=(--num-frames 33)
    [ "${target%%-*}" = "$(uname -m)" ] ||
        film=(--size 32x32 --num-frames 5 --base-num-frames 5 --overlap-history 5 --steps 1 --guidance-scale 1)
    run "$target" generate "a red circle moves right on a blue background" "${film[@]}" --quiet -o film.mp4
    head -c 12 "$scratch/film.mp4" | grep -q ftyp || fail "$target makes no film"
    local folder=$scratch/$name
    mkdir -p "$folder/completions" "$folder/man"
    install -m 755 "$program" "$folder/longreel"
    install -m 644 README.md README.zh-CN.md LICENSE CHANGELOG.md "$folder"
    deploy/licenses.sh "$target" >"$folder/THIRD-PARTY.txt"
    run "$target" completions bash >"$folder/completions/longreel.bash"
    run "$target" completions zsh >"$folder/completions/_longreel"
    run "$target" completions fish >"$folder/completions/longreel.fish"
    run "$target" man --output "$folder/man"
    tar -C "$scratch" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -c "$name" | gzip -9n >"$out/$name.tar.gz"
    (cd "$out" && sha256sum "longreel-$version"-*.tar.gz >SHA256SUMS)
    echo "$name.tar.gz: $(stat -c %s "$out/$name.tar.gz") bytes, the program $(stat -c %s "$program")"
}

for target in "$@"; do
    say "$target: build"
    build "$target"
    say "$target: check"
    check "$target"
    say "$target: a film, and the archive"
    package "$target"
done

if [ -n "$twice" ]; then
    say "again, from another folder"
    mkdir -p "$scratch/again/sources"
    { git ls-files -z || true; } | tar --null --files-from=- -c | tar -C "$scratch/again/sources" -x
    OUT=$scratch/again/dist CARGO_TARGET_DIR=$scratch/again/target "$scratch/again/sources/deploy/release.sh" "$@"
    for target in "$@"; do
        cmp "$out/longreel-$version-$target.tar.gz" "$scratch/again/dist/longreel-$version-$target.tar.gz" ||
            fail "$target: two builds differ"
    done
    say "the same in every byte"
fi
