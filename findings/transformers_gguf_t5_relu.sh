#!/usr/bin/env bash
# transformers 5.23.0, gguf 0.19.0, torch 2.11.0 on the CPU.
# T5 v1.1 (and Flan-T5) have a gated GELU in their feed-forward layers. A GGUF file does not name the activation: the
# architecture implies it. transformers sets is_gated_act when it reads one, leaves dense_act_fn at the config class's
# default, relu, and so computes a gated ReLU.
# Seen, a tiny encoder with config.json's "gated-gelu", written as GGUF in float32 with llama.cpp's names and keys (arch
# t5encoder): all weights are equal, dense_act_fn is relu, and the output is off by 0.14 of its norm. With that one field
# set right the output is equal.
# Expected: gelu_new, which T5Config makes of "gated-gelu"; or a warning that the activation is a guess.
# Why it matters: the tensors compare equal and the embeddings look like embeddings, so that T5 from GGUF seems to be much
# worse than its quantisation makes it. from_pretrained takes the field: dense_act_fn="gelu_new".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet transformers==5.23.0 gguf==0.19.0 torch==2.11.0 numpy==2.4.6 \
  accelerate==1.15.0

cd "$work"
TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" - <<'TRY'
import importlib.metadata
import sys

import gguf
import torch
from transformers import T5Config, T5EncoderModel

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "gguf", "torch")))
torch.manual_seed(0)
config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
                  feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
model = T5EncoderModel(config).eval()

names = {"layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.0.layer_norm": "attn_norm",
         "layer.1.DenseReluDense.wi_0": "ffn_gate", "layer.1.DenseReluDense.wi_1": "ffn_up",
         "layer.1.DenseReluDense.wo": "ffn_down", "layer.1.layer_norm": "ffn_norm",
         **{f"layer.0.SelfAttention.{key}": f"attn_{key}" for key in "qkvo"}}
writer = gguf.GGUFWriter("t5.gguf", "t5encoder")
writer.add_name("t5-v1_1")
writer.add_context_length(512)
writer.add_embedding_length(config.d_model)
writer.add_feed_forward_length(config.d_ff)
writer.add_block_count(config.num_layers)
writer.add_head_count(config.num_heads)
writer.add_key_length(config.d_kv)
writer.add_value_length(config.d_kv)
writer.add_layer_norm_eps(config.layer_norm_epsilon)
writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
writer.add_vocab_size(config.vocab_size)
writer.add_tensor("token_embd.weight", model.shared.weight.detach().numpy())
writer.add_tensor("enc.output_norm.weight", model.encoder.final_layer_norm.weight.detach().numpy())
for i, block in enumerate(model.encoder.block):
    for name, value in block.named_parameters():
        writer.add_tensor(f"enc.blk.{i}.{names[name.removesuffix('.weight')]}.weight", value.detach().numpy())
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

loaded = T5EncoderModel.from_pretrained(".", gguf_file="t5.gguf", dtype=torch.float32).eval()
right = T5EncoderModel(T5Config(**{**loaded.config.to_dict(), "dense_act_fn": "gelu_new"})).eval()
right.load_state_dict(loaded.state_dict())
given = model.state_dict()
same = all(torch.equal(value, given[name]) for name, value in loaded.state_dict().items())
ids = torch.arange(2, 18)[None]


@torch.no_grad()
def error(other):
    wanted = model(ids).last_hidden_state
    return float((other(ids).last_hidden_state - wanted).norm() / wanted.norm())


as_loaded, with_gelu = error(loaded), error(right)
print(f"weights equal: {same}; {config.dense_act_fn} became {loaded.config.dense_act_fn}, gated: "
      f"{loaded.config.is_gated_act}\nrelative error as loaded {as_loaded:.3f}, with gelu_new {with_gelu:.1e}")
holds = same and loaded.config.dense_act_fn == "relu" and as_loaded > 0.05 and with_gelu < 1e-5
print("HOLDS (expected: gelu_new, error 0)" if holds else "STALE: the behaviour has changed")
sys.exit(not holds)
TRY
