#!/usr/bin/env bash
# diffusers 0.42.1, safetensors 0.8.0, torch 2.11.0 on the CPU.
# ComfyUI's "scaled fp8" files of FLUX.1 store a linear layer X as X.weight in float8_e4m3fn and one factor beside it:
# X.scale_weight in older files, X.weight_scale (with the metadata _quantization_metadata) in newer ones.
# FluxTransformer2DModel.from_single_file takes the tensors that it has names for, casts them, and drops the rest.
# Seen, a file of each kind with weights 192 and factors 0.0001: it loads without a word, and the model's weights are 192.
# Expected: 0.0192, or an error, or a warning that tensors of the file are not used.
# Why it matters: plain fp8 files load rightly by the same call, so "fp8 works" is no evidence for these, whose images are
# noise or, where factors are near 1, subtly wrong. Multiply before loading.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet diffusers==0.42.1 safetensors==0.8.0 torch==2.11.0 numpy==2.4.6 \
  transformers==5.23.0 accelerate==1.15.0

cd "$work"
status=0
"$work/venv/bin/python" - 2>"$work/err" <<'TRY' || status=$?
import importlib.metadata
import json
import sys

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("diffusers", "safetensors", "torch")))
# One block of each kind, at FLUX.1's width: the reader of single files has that width in its code.
config = {"_class_name": "FluxTransformer2DModel", "num_layers": 1, "num_single_layers": 1, "guidance_embeds": False,
          "num_attention_heads": 24, "attention_head_dim": 128, "joint_attention_dim": 64, "pooled_projection_dim": 64}
with open("config.json", "w") as file:
    json.dump(config, file)
width = 3072
linears = {"img_in": (width, 64), "txt_in": (width, 64), "time_in.in_layer": (width, 256),
           "time_in.out_layer": (width, width), "vector_in.in_layer": (width, 64),
           "vector_in.out_layer": (width, width), "single_blocks.0.modulation.lin": (3 * width, width),
           "single_blocks.0.linear1": (7 * width, width), "single_blocks.0.linear2": (width, 5 * width),
           "final_layer.adaLN_modulation.1": (2 * width, width), "final_layer.linear": (64, width)}
norms = ["single_blocks.0.norm.query_norm", "single_blocks.0.norm.key_norm"]
for side in ("img", "txt"):
    block = f"double_blocks.0.{side}"
    linears |= {f"{block}_mod.lin": (6 * width, width), f"{block}_attn.qkv": (3 * width, width),
                f"{block}_attn.proj": (width, width), f"{block}_mlp.0": (4 * width, width),
                f"{block}_mlp.2": (width, 4 * width)}
    norms += [f"{block}_attn.norm.query_norm", f"{block}_attn.norm.key_norm"]

seen = []
for key in ("scale_weight", "weight_scale"):
    tensors = {f"{name}.scale": torch.ones(128, dtype=torch.bfloat16) for name in norms}
    for name, (rows, columns) in linears.items():
        tensors[f"{name}.weight"] = torch.full((rows, columns), 200.0, dtype=torch.float8_e4m3fn)
        tensors[f"{name}.{key}"] = torch.tensor(1e-4)
        tensors[f"{name}.bias"] = torch.zeros(rows, dtype=torch.bfloat16)
    layers = {name: {"format": "float8_e4m3fn"} for name in linears}
    if key == "scale_weight":
        tensors["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
        metadata = None
    else:
        metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(tensors, "flux1-dev.safetensors", metadata=metadata)
    model = FluxTransformer2DModel.from_single_file("flux1-dev.safetensors", config=".", torch_dtype=torch.bfloat16)
    value = float(model.single_transformer_blocks[0].proj_out.weight.detach()[0, 0])
    stored = float(tensors["single_blocks.0.linear2.weight"][0, 0])
    print(f"{key}: stored {stored:g} with factor 0.0001, loaded {value:g}")
    seen.append((stored, value))
sys.exit(any(value != stored for stored, value in seen))
TRY
words=$(grep -ciE 'scale|not used|unexpected' "$work/err" || true)
echo "lines on standard error about it: $words"
if [ "$status" = 0 ] && [ "$words" = 0 ]; then
  echo "HOLDS (expected: loaded 0.0192, or an error)"
else
  echo "STALE: the behaviour has changed"
  tail -n 5 "$work/err"
  exit 1
fi
