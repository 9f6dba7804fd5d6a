#!/usr/bin/env bash
# Everything that needs an NVIDIA card, in one go: what is found, the operations and networks against their references,
# a film beside the processor's, how fast the published models' shapes are, and how much faster several cards are.
# Prints a summary last.
#
#   benches/gpu.sh [OUT]        results go to OUT (default: target/gpu); about fifteen minutes on a large card
#
# CUDA_VISIBLE_DEVICES chooses the cards, as for every program. With two, four and eight of them and more, films by so many
# are compared with one card's, and a pass of a transformer is shared among them.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/gpu}
mkdir -p "$out"
program=${LONGREEL:-target/release/longreel}
[ -x "$program" ] || cargo build --release

failed=()
step() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    if ! "$@" >"$out/$name.txt" 2>&1; then
        failed+=("$name")
        tail -n 20 "$out/$name.txt"
    fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total,memory.free --format=csv || exit 1
step doctor "$program" doctor --offline
# Right before fast.
if command -v cargo >/dev/null; then
    export LONGREEL_TEST_DEVICE=cuda
    step kernels cargo test --release -p longreel-kernels --test conformance --test gpu --test cuda
    step networks cargo test --release -p longreel-models --test transformer --test products --test vae --test text_encoder --test clip_vision --test key_value_cache
    unset LONGREEL_TEST_DEVICE
fi
# Films by NAME on the devices that are named next; more words are flags.
film() {
    local name=$1 device=$2
    shift 2
    "$program" generate "a red circle moves right on a blue background" --seed 7 --overwrite -o "$out/$name.mp4" --device "$device" --dump-latents "$out/$name.safetensors" "$@"
}
step film-cpu film cpu cpu
step film-cuda film cuda cuda
step film-batch film batch cuda --guidance-batch on
step film-no-batch film no-batch cuda --guidance-batch off
# Products of 8-bit floats, beside the processor that rounds in the same way, and beside bf16.
step film-fp8-cpu film fp8-cpu cpu --dtype fp8
step film-fp8 film fp8 cuda --dtype fp8
# Kernels started one by one, beside whole passes replayed.
LONGREEL_GRAPHS=off step film-no-graphs film no-graphs cuda
# As many cards as the driver shows a program, named as it numbers them.
cards=$(LC_ALL=C.UTF-8 "$program" doctor --offline 2>/dev/null | grep -c 'cuda:[0-9]* .* free of')
several=()
for count in 2 4 8; do
    [ "$count" -le "$cards" ] && several+=("$count")
done
# The first COUNT cards.
first() { seq -s, -f 'cuda:%g' 0 $(($1 - 1)); }
for count in "${several[@]}"; do
    # Both ways to share the work: a pass of guidance each, and strips of the picture alone, of which the demo model
    # with its four heads has as many.
    step "film-$count-cards" film "$count-cards" "$(first "$count")"
    [ "$count" -le 4 ] && step "film-$count-strips" film "$count-strips" "$(first "$count")" --guidance-scale 1
done
# With one WAY between cards alone.
by() { local way=$1 && shift && LONGREEL_EXCHANGE=$way "$@"; }
ways=()
[ "${#several[@]}" -gt 0 ] && ways=(nccl peer host)
for way in "${ways[@]}"; do
    command -v cargo >/dev/null && step "exchange-by-$way" by "$way" cargo test --release -p longreel-kernels --test cuda -- several:: --nocapture
    step "film-2-by-$way" by "$way" film "2-by-$way" "$(first 2)" --guidance-scale 1
done
[ "${#several[@]}" -gt 0 ] && step film-1-strip film 1-strip cuda --guidance-scale 1
if command -v python3 >/dev/null; then
    pairs=(cpu cuda no-batch batch no-graphs cuda fp8-cpu fp8 cuda fp8)
    for count in "${several[@]}"; do
        pairs+=(cuda "$count-cards")
        [ "$count" -le 4 ] && pairs+=(1-strip "$count-strips")
    done
    for way in "${ways[@]}"; do pairs+=(1-strip "2-by-$way"); done
    step distance python3 - "$out" "${pairs[@]}" <<'PYTHON'
import json, struct, sys
def values(path):
    data = open(path, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:8 + length])["final_latents"]["data_offsets"]
    return struct.unpack(f"<{(end - begin) // 4}f", data[8 + length + begin:8 + length + end])
folder, *names = sys.argv[1:]
for first, second in zip(names[::2], names[1::2]):
    a, b = (values(f"{folder}/{name}.safetensors") for name in (first, second))
    off = (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a)) ** 0.5
    print(f"latents, {second} beside {first}: relative L2 {off:.1e}")
PYTHON
fi
# The cases of the aims first, with time enough for all layers and frames: LightX2V's (81 frames at 480P), and 97 frames at
# 540P, of which the decoder is the same for both models.
step bench-14B-480P "$program" bench SkyReels-V2-DF-14B-540P --size 832x480 --num-frames 81 --budget 60
step bench-1.3B-540P "$program" bench SkyReels-V2-DF-1.3B-540P --size 960x544 --num-frames 97 --budget 60 --trace "$out/1.3B.json"
# The 14B models at both of their sizes.
step bench-14B-540P "$program" bench SkyReels-V2-DF-14B-540P
# The same with our own kernels for attention and convolutions, beside cuDNN's.
step bench-14B-540P-own-kernels env LONGREEL_CUDNN=off "$program" bench SkyReels-V2-DF-14B-540P
# Products of 8-bit floats, by cuBLASLt where it has them, beside bf16 above.
step bench-1.3B-540P-fp8 "$program" bench SkyReels-V2-DF-1.3B-540P --dtype fp8
step bench-14B-480P-fp8 "$program" bench SkyReels-V2-DF-14B-540P --size 832x480 --num-frames 81 --dtype fp8
step bench-14B-540P-fp8 "$program" bench SkyReels-V2-DF-14B-540P --dtype fp8
step bench-14B-720P "$program" bench SkyReels-V2-DF-14B-720P --num-frames 121 --trace "$out/14B.json"
# How much faster several are: 1.3B has 12 heads and is for up to four, 14B has 40.
for count in "${several[@]}"; do
    [ "$count" -le 4 ] && step "bench-1.3B-540P-$count-cards" "$program" bench SkyReels-V2-DF-1.3B-540P --device "$(first "$count")"
    step "bench-14B-540P-$count-cards" "$program" bench SkyReels-V2-DF-14B-540P --device "$(first "$count")"
done
# Each way between as many cards as there are; above it is the first that works.
for way in "${ways[@]}"; do
    count=${several[-1]}
    step "bench-14B-540P-$count-cards-by-$way" by "$way" "$program" bench SkyReels-V2-DF-14B-540P --layers 6 --device "$(first "$count")"
done

# A figure of a BENCH, the first line that begins with WORDS, and the AIM beside it.
aim() {
    local bench=$1 words=$2 aim=$3 line
    line=$(grep -m1 -e "^ *$words" "$out/bench-$bench.txt" 2>/dev/null) || line="$words: not measured, see $out/bench-$bench.txt"
    printf '%s\n    aim: %s\n' "$line" "$aim"
}

printf '\n== summary\n'
printf '%s\n' "--- 14B at 832x480, 81 frames"
aim 14B-480P "step with guidance:" "under 5.18 s, LightX2V's on an H100"
aim 14B-480P "attention " "75% of the peak or better"
aim 14B-480P "linear " "75% of the peak or better"
aim 14B-480P "feed-forward " "75% of the peak or better"
printf '%s\n' "--- 97 frames at 960x544"
aim 1.3B-540P "VAE decoder:" "under 3 s"
printf '%s\n' "---"
cat "$out"/distance.txt 2>/dev/null
grep -H -e "times as fast" -e "exchange in a layer" "$out"/bench-*.txt 2>/dev/null | sed "s|^$out/bench-||"
for bench in "$out"/bench-*.txt; do
    printf '%s\n' "--- $bench"
    cat "$bench"
done
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[*]}"
    exit 1
fi
