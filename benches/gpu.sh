#!/usr/bin/env bash
# Everything that needs an NVIDIA card, in one go: what is found, the operations and networks against their references,
# a film beside the processor's, and how fast the published models' shapes are. Prints a summary last.
#
#   benches/gpu.sh [OUT]        results go to OUT (default: target/gpu); about ten minutes on a large card
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
    step kernels cargo test --release -p longreel-kernels --test gpu --test cuda
    step networks cargo test --release -p longreel-models --test transformer --test vae --test text_encoder --test clip_vision --test key_value_cache
    unset LONGREEL_TEST_DEVICE
fi
film() { "$program" generate "a red circle moves right on a blue background" --seed 7 --overwrite -o "$out/$1.mp4" --device "$1" --dump-latents "$out/$1.safetensors"; }
step film-cpu film cpu
step film-cuda film cuda
if command -v python3 >/dev/null; then
    step distance python3 - "$out/cpu.safetensors" "$out/cuda.safetensors" <<'PYTHON'
import json, struct, sys
def values(path):
    data = open(path, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:8 + length])["final_latents"]["data_offsets"]
    return struct.unpack(f"<{(end - begin) // 4}f", data[8 + length + begin:8 + length + end])
a, b = map(values, sys.argv[1:])
print(f"latents: relative L2 {(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a)) ** 0.5:.1e}")
PYTHON
fi
# The 14B models at both of their sizes, and LightX2V's case (81 frames at 480P).
step bench-1.3B-540P "$program" bench SkyReels-V2-DF-1.3B-540P --trace "$out/1.3B.json"
step bench-14B-480P "$program" bench SkyReels-V2-DF-14B-540P --size 832x480 --num-frames 81
step bench-14B-540P "$program" bench SkyReels-V2-DF-14B-540P
# The same with our own kernel for attention, beside cuDNN's.
step bench-14B-540P-own-attention env LONGREEL_CUDNN=off "$program" bench SkyReels-V2-DF-14B-540P
step bench-14B-720P "$program" bench SkyReels-V2-DF-14B-720P --num-frames 121 --trace "$out/14B.json"

printf '\n== summary\n'
cat "$out"/distance.txt 2>/dev/null
for bench in "$out"/bench-*.txt; do
    printf '%s\n' "--- $bench"
    cat "$bench"
done
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'failed: %s\n' "${failed[*]}"
    exit 1
fi
