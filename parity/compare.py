"""Runs `longreel` on every recorded film and compares with the reference.

    python parity/compare.py PATH/TO/longreel [case ...]

Needs numpy and safetensors, not torch. Prints the relative L2 difference of every compared tensor and the worst
element; ends with 1 when a difference is above the case's limit, a case fails to run, or nothing was compared.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from safetensors.numpy import load_file

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
DUMPS = {"final_latents": "latents.safetensors", "frames": "frames.safetensors"}


def relative_l2(value, reference):
    value, reference = value.astype(np.float64), reference.astype(np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def compare(name, value, reference):
    """Returns (difference, text): infinity and the reason where shapes or numbers make no sense."""
    if value.shape != reference.shape:
        return float("inf"), f"{name}: shape {value.shape}, reference {reference.shape}"
    if not np.isfinite(value).all():
        return float("inf"), f"{name}: not finite"
    difference = relative_l2(value, reference)
    worst = np.unravel_index(np.abs(value - reference).argmax(), value.shape)
    place = tuple(int(i) for i in worst)
    return difference, f"{name}: {difference:.2e}, worst at {place}: {value[worst]:.6f}, reference {reference[worst]:.6f}"


def run_case(binary, folder, fixtures=FIXTURES, limit=None, timeout_s=600):
    """Runs one case; returns (passed, lines to print)."""
    with open(os.path.join(folder, "case.json"), encoding="utf-8") as file:
        case = json.load(file)
    limit = limit or case["relative_l2_limit"]
    with tempfile.TemporaryDirectory() as out:
        fill = {"{fixtures}": fixtures, "{here}": folder, "{out}": out}
        arguments = []
        for argument in case["arguments"]:
            for key, value in fill.items():
                argument = argument.replace(key, value)
            arguments.append(argument)
        started = time.monotonic()
        try:
            done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False, [f"{case['name']}: FAILED, no end after {timeout_s} s"]
        seconds = time.monotonic() - started
        if done.returncode != 0:
            tail = (done.stderr or done.stdout).strip().splitlines()[-5:]
            return False, [f"{case['name']}: FAILED, exit code {done.returncode}", *("    " + line for line in tail)]
        expected = load_file(os.path.join(folder, "expected.safetensors"))
        passed, lines = True, []
        for name in case["compares"]:
            dump = os.path.join(out, DUMPS[name])
            values = load_file(dump) if os.path.exists(dump) else {}
            if name not in values:
                passed = False
                lines.append(f"    {name}: not written")
                continue
            difference, text = compare(name, values[name], expected[name])
            passed &= difference <= limit
            lines.append("    " + text)
    verdict = "ok" if passed else f"ABOVE {limit:.1e}"
    return passed, [f"{case['name']}: {verdict} ({seconds:.1f} s)", *lines]


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    binary, chosen = os.path.abspath(arguments[0]), arguments[1:]
    films = os.path.join(FIXTURES, "films")
    failures = count = 0
    for name in chosen or sorted(os.listdir(films)):
        passed, lines = run_case(binary, os.path.join(films, name))
        print("\n".join(lines), flush=True)
        count += 1
        failures += not passed
    print(f"{count - failures} of {count} cases agree with the reference")
    sys.exit(1 if failures or not count else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
