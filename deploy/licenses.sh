#!/usr/bin/env bash
# The licences of all that is linked into the program, on stdout: who hands the program on hands them on with it.
#
#   deploy/licenses.sh TARGET
#
# First what each crate's manifest says, then the files that lie in the sources of the crates, those of the C code in
# them included, each text once.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
target=${1:?"name a target, such as x86_64-unknown-linux-gnu"}

cargo fetch --quiet --locked --target "$target"
sources=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/)
declare -A crates=() files=()
texts=()
crates_of() { # those of a registry; our own have a folder behind their names
    cargo tree --locked --package longreel --edges normal,no-proc-macro --target "$target" --prefix none \
        --format '{p}|{l}|{r}' | sed 's/ (\*)$//' | grep -v '^[^|]* (/' | sort -u
}
# Not within the loop, which would go on with nothing where this fails.
list=$(crates_of)
while IFS='|' read -r package licence repository; do
    crate=${package/ v/-}
    printf '%s: %s, %s\n' "$crate" "${licence:-no licence named}" "$repository"
    folder=""
    for place in "${sources[@]}"; do
        [ ! -d "$place$crate" ] || folder=$place$crate
    done
    [ -n "$folder" ] || {
        echo "error: the sources of $crate are not below ${sources[*]}; run cargo fetch" >&2
        exit 1
    }
    # Shorter ones are links to another file that have lost what they led to.
    while read -r file; do
        hash=$(tr -d '\r' <"$file" | sha256sum | cut -c 1-64)
        [ -n "${files[$hash]:-}" ] || texts+=("$hash")
        files[$hash]=$file
        crates[$hash]+=" $crate"
    done < <(find "$folder" -maxdepth 2 -type f -size +100c \
        \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'unlicense*' \) | sort)
done <<<"$list"
for hash in "${texts[@]}"; do
    printf '\n\n==== %s\n\n' "${crates[$hash]# }"
    tr -d '\r' <"${files[$hash]}"
done
