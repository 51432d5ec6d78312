#!/usr/bin/env bash
# lycoris-lora 4.1.3, torch 2.11.0 on the CPU (3.4.0 does the same).
# A LoKr or LoHa adapter with alpha / rank other than 1 is trained, and applied, as W + (alpha / rank) * D: that is
# what the layer's forward computes. merge_to(), for a model that is saved merged, and get_merged_weight() multiply
# with it twice.
# Seen, alpha 2 and rank 4: what the forward adds to W and what merging adds differ by a factor of 0.5, for LoKr and
# LoHa.
# Expected: the same, as for LoRA.
# Why it matters: the usual alpha of 1 with rank 16 leaves a merged model with a sixteenth of what was trained,
# without a word. A LoKr of whole factors and one with alpha = rank are not touched.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet lycoris-lora==4.1.3 torch==2.11.0 numpy==2.4.6 einops==0.8.1 toml==0.10.2

cd "$work"
status=0
"$work/venv/bin/python" - 2>"$work/err" <<'TRY' || status=$?
import importlib.metadata
import logging
import sys

import torch

logging.disable(logging.INFO)
from lycoris import LycorisNetwork, create_lycoris

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("lycoris-lora", "torch")))
LycorisNetwork.apply_preset({"target_module": ["Linear"]})


def added(linear, weight, bias):
    """The change of the weight that the layer computes with."""
    return (linear(torch.eye(linear.in_features)) - bias).T - weight


factors = {}
for algorithm in ("lora", "lokr", "loha"):
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(24, 36))
    weight, bias = (value.detach().clone() for value in (model[0].weight, model[0].bias))
    network = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2, algo=algorithm, factor=4)
    network.apply_to()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
        forward = added(model[0], weight, bias)
        network.restore()
        network.merge_to(1.0)
        merged = added(model[0], weight, bias)
    factors[algorithm] = float(merged.norm() / forward.norm())
    print(f"{algorithm}: merged / forward = {factors[algorithm]:.4f}")
twice = all(abs(factors[name] - 0.5) < 1e-3 for name in ("lokr", "loha"))
sys.exit(not (twice and abs(factors["lora"] - 1) < 1e-3))
TRY
if [ "$status" = 0 ]; then
  echo "HOLDS (expected: 1 for each)"
else
  echo "STALE: the behaviour has changed"
  tail -n 5 "$work/err"
  exit 1
fi
