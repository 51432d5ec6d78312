"""Writes a random checkpoint of odd sizes and options: make_random_checkpoint.py --seed N OUT [--count K]

The same seed gives the same checkpoint. With --count, OUT-N, OUT-(N+1), ... are written.
"""

import argparse
import inspect
import json
import random
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, T5Config

from tiny_models import Spec, write_checkpoint, write_json

CONFIGS = {
    "transformer/config.json": FluxTransformer2DModel,
    "vae/config.json": AutoencoderKL,
    "scheduler/scheduler_config.json": FlowMatchEulerDiscreteScheduler,
    "text_encoder/config.json": CLIPTextConfig,
    "text_encoder_2/config.json": T5Config,
}


def random_vae(rng):
    groups = rng.choice([1, 2, 3, 4, 8])
    levels = rng.choice([1, 2, 3, 3, 4, 4])
    attention = rng.random() < 0.7
    return dict(
        block_out_channels=[
            2 * groups * rng.randint(1, max(1, 12 // groups)) for _ in range(levels)
        ],
        layers_per_block=rng.randint(1, 3),
        latent_channels=rng.choice([1, 2, 3, 4, 5, 8, 16]),
        norm_num_groups=groups,
        scaling_factor=rng.choice([0.18215, 0.3611, 1.0, round(rng.uniform(0.3, 2), 4)]),
        shift_factor=rng.choice([0.1159, 0.0, round(rng.uniform(-0.4, 0.4), 4)]),
        mid_block_add_attention=attention,
        use_quant_conv=rng.random() < 0.3,
        use_post_quant_conv=rng.random() < 0.4,
    )


def random_scheduler(rng):
    kind = rng.choice(["dynamic", "dynamic", "linear", "constant", "constant", "empty", "terminal"])
    if kind == "empty":
        return {}
    if kind == "constant":
        return dict(shift=rng.choice([1.0, 3.0, round(rng.uniform(0.5, 5), 3)]))
    if kind == "terminal":
        return dict(shift=2.0, shift_terminal=0.05)
    shape = dict(base_image_seq_len=rng.choice([4, 256]), max_image_seq_len=rng.choice([64, 4096]))
    shifts = dict(base_shift=rng.choice([0.5, 0.25]), max_shift=rng.choice([1.15, 2.0]))
    return dict(
        use_dynamic_shifting=True,
        shift=3.0,
        time_shift_type="linear" if kind == "linear" else "exponential",
    ) | rng.choice([{}, shape, shape | shifts])


def random_spec(seed):
    """Returns the Spec that belongs to a seed."""
    rng = random.Random(seed)
    axes = [2 * rng.randint(1, 8) for _ in range(3)]
    clip_heads, t5_heads = rng.randint(1, 4), rng.randint(1, 4)
    shards = {"transformer": f"{rng.choice([40, 120])}KB", "text_encoder_2": "40KB", "vae": "60KB"}
    clip_form = rng.choice([{}, {"tokenizer_json": False}, {"vocab_files": False}])
    t5_form = rng.choice([{}, {"tokenizer_json": False}, {"spiece": False}])
    clip_eos = rng.choice(["legacy", "real"])
    return Spec(
        seed=10000 + 10 * seed,
        dtype=rng.choice(["f32", "bf16", "f16"]),
        shard_bytes={part: size for part, size in shards.items() if rng.random() < 0.4},
        transformer=dict(
            num_attention_heads=rng.randint(1, 4),
            attention_head_dim=sum(axes),
            num_layers=rng.randint(1, 3),
            num_single_layers=rng.choice([0, 1, 1, 2, 3]),
            guidance_embeds=rng.random() < 0.5,
            axes_dims_rope=axes,
        ),
        vae=random_vae(rng),
        clip=dict(
            hidden_size=clip_heads * rng.randint(3, 16),
            intermediate_size=rng.randint(9, 70),
            num_hidden_layers=rng.randint(1, 3),
            num_attention_heads=clip_heads,
            hidden_act=rng.choice(["quick_gelu", "gelu"]),
            layer_norm_eps=rng.choice([1e-5, 1e-5, 1e-4]),
        ),
        t5=dict(
            d_model=rng.randint(9, 60),
            d_kv=rng.randint(3, 24),
            d_ff=rng.randint(9, 90),
            num_layers=rng.randint(1, 3),
            num_heads=t5_heads,
            feed_forward_proj=rng.choice(
                ["gated-gelu", "gated-gelu", "relu", "gated-silu", "gelu"]
            ),
            relative_attention_num_buckets=rng.choice([32, 32, 8, 14, 20, 50]),
            relative_attention_max_distance=rng.choice([128, 128, 20, 60, 300]),
            layer_norm_epsilon=rng.choice([1e-6, 1e-6, 1e-5]),
        ),
        scheduler=random_scheduler(rng),
        clip_tokenizer=dict(
            merges=rng.randint(20, 300), end_is_highest=clip_eos == "legacy" or rng.random() < 0.5
        )
        | clip_form,
        t5_tokenizer=dict(pieces=rng.randint(330, 500)) | t5_form,
        clip_eos=clip_eos,
        clip_prefix=rng.random() < 0.5,
        t5_embedding=rng.choice(["shared", "encoder", "both"]),
        t5_spare_rows=rng.choice([0, 0, 7, 28]),
    )


def defaults_of(cls):
    """The values a class gives to keys that its config does not name."""
    if hasattr(cls, "model_type"):
        return cls().to_dict()
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {
        p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters
    }


def drop_default_keys(folder, rng):
    """Removes about half of the config keys whose value is the class's default anyway."""
    for name, cls in CONFIGS.items():
        config = json.loads((folder / name).read_text())
        defaults = defaults_of(cls)
        for key in list(config):
            is_default = key in defaults and config[key] == defaults[key] and key != "model_type"
            if is_default and rng.random() < 0.5:
                del config[key]
        if name.startswith("text_encoder_2") and rng.random() < 0.5:
            config.pop("dense_act_fn", None)
            config.pop("is_gated_act", None)
        write_json(folder / name, config)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--count", type=int, default=None, help="how many, from seed on, as OUT-<seed>"
    )
    args = parser.parse_args()
    torch.set_num_threads(2)
    for seed in range(args.seed, args.seed + (args.count or 1)):
        folder = args.out if args.count is None else args.out.with_name(f"{args.out.name}-{seed}")
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(folder, random_spec(seed))
        drop_default_keys(folder, random.Random(seed))
        print(folder)


if __name__ == "__main__":
    main()
