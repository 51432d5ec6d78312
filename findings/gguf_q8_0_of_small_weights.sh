#!/usr/bin/env bash
# gguf 0.19.0 (Python), numpy 2.4.6.
# Q8_0 keeps one scale for 32 weights as float16: the largest of them / 127. For weights near 1e-5 that scale is one or
# two of float16's smallest steps, so it is rounded by up to a third; Q5_0 and Q4_0 divide by 16 and 8 and have 8 and
# 16 times the steps. So there fewer bits a weight make the better copy: 8 bits lose to 5 and to 4.
# Seen, relative error of normal weights with a deviation of 6e-6: Q8_0 0.170, Q4_0 0.086, Q5_0 0.046, BF16 0.002;
# the same weights times 2^16 before, and divided after: Q8_0 0.005. The file is valid and nothing warns.
# Expected: more bits, less error (0.005, 0.042, 0.085 at a deviation of 1), for weights that float16 itself holds well.
# Why it matters: "Q8_0 is as good as lossless" is how a tolerance or a choice of dtype gets argued; tensors with
# small values need F16, BF16 or F32, or a check of the smallest scale of all blocks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet gguf==0.19.0 numpy==2.4.6

"$work/venv/bin/python" - <<'TRY'
import importlib.metadata
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

print("gguf", importlib.metadata.version("gguf"))
normal = np.random.default_rng(0).standard_normal((256, 32)).astype(np.float32)


def error(weights, kind, factor=1.0):
    back = dequantize(quantize(weights * np.float32(factor), kind), kind) / np.float32(factor)
    return float(np.linalg.norm(back - weights) / np.linalg.norm(weights))


kinds = (Type.BF16, Type.Q8_0, Type.Q5_0, Type.Q4_0)
print(f"{'deviation':>9}", *(f"{kind.name:>8}" for kind in kinds))
seen = {}
for deviation in (1.0, 1e-3, 1e-4, 1e-5, 6e-6):
    seen[deviation] = {kind.name: error(normal * np.float32(deviation), kind) for kind in kinds}
    print(f"{deviation:9.0e}", *(f"{value:8.4f}" for value in seen[deviation].values()))
rescaled = error(normal * np.float32(6e-6), Type.Q8_0, 2.0**16)
print(f"6e-06 times 2^16, then divided: Q8_0 {rescaled:.4f}")

large, small = seen[1.0], seen[6e-6]
holds = (large["Q8_0"] < large["Q5_0"] < large["Q4_0"] and rescaled < 0.01
         and small["Q8_0"] > small["Q4_0"] > small["Q5_0"] and small["Q8_0"] > 20 * large["Q8_0"])
print("HOLDS (expected: Q8_0 below Q5_0 below Q4_0 in every row)" if holds else "STALE: the behaviour has changed")
sys.exit(not holds)
TRY
