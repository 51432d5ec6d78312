"""Writes the tiny checkpoints under tests/golden/checkpoints: python tests/reference/make_checkpoints.py [NAME...]

`--check` also zeroes every tensor in turn and reports those without an effect on the component's output.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from tiny_models import TRANSFORMER_SCALES, Spec, randomise, write_checkpoint, write_json

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SPECS = {
    # The dev kind: guidance, dynamic shift, float32, one file per component, complete configs.
    "tiny-dev": Spec(
        seed=1000,
        transformer=dict(
            num_attention_heads=3,
            attention_head_dim=12,
            num_layers=2,
            num_single_layers=3,
            guidance_embeds=True,
            axes_dims_rope=[2, 4, 6],
        ),
        vae=dict(
            block_out_channels=[8, 8, 12, 16],
            layers_per_block=1,
            latent_channels=6,
            norm_num_groups=4,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
            sample_size=64,
        ),
        clip=dict(
            hidden_size=24,
            intermediate_size=50,
            num_hidden_layers=2,
            num_attention_heads=3,
            hidden_act="quick_gelu",
        ),
        t5=dict(
            d_model=40, d_kv=12, d_ff=56, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
        ),
        scheduler=dict(
            num_train_timesteps=1000,
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=8,
            max_image_seq_len=64,
            invert_sigmas=False,
            shift_terminal=None,
            stochastic_sampling=False,
            time_shift_type="exponential",
            use_beta_sigmas=False,
            use_exponential_sigmas=False,
            use_karras_sigmas=False,
        ),
        clip_prefix=True,
        t5_embedding="both",
    ),
    # The schnell kind: no guidance, constant shift, bfloat16, sharded, every optional key left to its default.
    "tiny-schnell": Spec(
        seed=2000,
        dtype="bf16",
        shard_bytes={"transformer": "150KB", "text_encoder_2": "40KB"},
        transformer=dict(
            num_attention_heads=2,
            attention_head_dim=24,
            num_layers=1,
            num_single_layers=2,
            axes_dims_rope=[4, 12, 8],
        ),
        vae=dict(
            block_out_channels=[16, 16, 24],
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
            scaling_factor=0.71,
            shift_factor=-0.083,
        ),
        clip=dict(
            hidden_size=20,
            intermediate_size=36,
            num_hidden_layers=3,
            num_attention_heads=2,
            hidden_act="gelu",
        ),
        t5=dict(
            d_model=36,
            d_kv=8,
            d_ff=44,
            num_layers=3,
            num_heads=5,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=20,
            relative_attention_max_distance=90,
        ),
        scheduler=dict(shift=2.3),
        drop_keys={
            "transformer": ["guidance_embeds", "out_channels", "patch_size"],
            "vae": [
                "act_fn",
                "force_upcast",
                "in_channels",
                "latent_channels",
                "latents_mean",
                "latents_std",
                "mid_block_add_attention",
                "out_channels",
                "sample_size",
                "use_post_quant_conv",
                "use_quant_conv",
            ],
            "text_encoder": [
                "attention_dropout",
                "layer_norm_eps",
                "max_position_embeddings",
                "pad_token_id",
            ],
            "text_encoder_2": [
                "dense_act_fn",
                "is_gated_act",
                "layer_norm_epsilon",
                "pad_token_id",
                "num_decoder_layers",
            ],
        },
        clip_tokenizer=dict(merges=120, end_is_highest=False, tokenizer_json=False),
        t5_tokenizer=dict(pieces=420, tokenizer_json=False),
        clip_eos="real",
        t5_embedding="encoder",
    ),
    # float16 storage, tokenizer.json only, T5 of the first kind (relu), linear time shift, no attention in the decoder.
    "tiny-f16": Spec(
        seed=3000,
        dtype="f16",
        transformer=dict(
            num_attention_heads=1,
            attention_head_dim=20,
            num_layers=1,
            num_single_layers=1,
            guidance_embeds=True,
            axes_dims_rope=[4, 6, 10],
        ),
        vae=dict(
            block_out_channels=[6, 12],
            layers_per_block=1,
            latent_channels=3,
            norm_num_groups=3,
            scaling_factor=1.1,
            shift_factor=0.0,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        clip=dict(
            hidden_size=12,
            intermediate_size=30,
            num_hidden_layers=1,
            num_attention_heads=1,
            hidden_act="quick_gelu",
        ),
        t5=dict(d_model=28, d_kv=16, d_ff=30, num_layers=2, num_heads=1, feed_forward_proj="relu"),
        scheduler=dict(use_dynamic_shifting=True, time_shift_type="linear", max_image_seq_len=300),
        drop_keys={
            "text_encoder": ["hidden_act"],
            "text_encoder_2": ["dense_act_fn", "is_gated_act", "feed_forward_proj"],
        },
        clip_tokenizer=dict(merges=60, vocab_files=False),
        t5_tokenizer=dict(pieces=330, spiece=False),
        clip_eos="real",
    ),
}


# Checkpoints of other pipelines: class, and the channels of a transformer of their own. All else is that of tiny-dev,
# which is not copied.
KINDS = {
    "tiny-kontext": ("FluxKontextPipeline", None),
    "tiny-fill": ("FluxFillPipeline", 2 * 24 + 4 * 8 * 8),
    "tiny-control": ("FluxControlPipeline", 2 * 24),
}


def write_kind(folder, class_name, channels):
    """model_index.json, the scheduler and, unless it is that of tiny-dev, the transformer."""
    base = folder.parent / "tiny-dev"
    index = json.loads((base / "model_index.json").read_text())
    # Kontext's images have as many pixels as the default size; FLUX's million is much for a test.
    index = {**index, "_class_name": class_name, "flux_triton": {"default_size": "64x64"}}
    folder.mkdir(parents=True)
    write_json(folder / "model_index.json", index)
    shutil.copytree(base / "scheduler", folder / "scheduler")
    if channels is None:
        return
    sizes = {**SPECS["tiny-dev"].transformer, "num_layers": 1, "num_single_layers": 1}
    config = FluxTransformer2DModel.load_config(base / "transformer")
    model = FluxTransformer2DModel(
        **sizes,
        in_channels=channels,
        out_channels=24,
        joint_attention_dim=config["joint_attention_dim"],
        pooled_projection_dim=config["pooled_projection_dim"],
    )
    model = randomise(model, 4000 + channels, TRANSFORMER_SCALES).to(torch.bfloat16)
    model.save_pretrained(folder / "transformer")


def outputs_of(pipe):
    """Functions that run each component once on fixed inputs, as float32 tensors."""
    c = pipe.transformer.config
    g = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(shape, generator=g)
    ids = torch.zeros(6, 3)
    ids[:, 1], ids[:, 2] = torch.arange(6) // 3, torch.arange(6) % 3
    call = dict(
        hidden_states=random(1, 6, c.in_channels),
        timestep=torch.tensor([0.7]),
        guidance=torch.tensor([3.5]) if c.guidance_embeds else None,
        pooled_projections=random(1, c.pooled_projection_dim),
        encoder_hidden_states=random(1, 9, c.joint_attention_dim),
        img_ids=ids,
        txt_ids=torch.zeros(9, 3),
    )
    latents = random(1, pipe.vae.config.latent_channels, 4, 6)
    text = ["a red cat in the rain, it's wooden 🐱", "watercolour of the sea"]
    return {
        "transformer": lambda: pipe.transformer(**call, return_dict=False)[0],
        "vae": lambda: pipe.vae.decode(latents, return_dict=False)[0],
        "text_encoder": lambda: pipe._get_clip_prompt_embeds(text),
        "text_encoder_2": lambda: pipe._get_t5_prompt_embeds(text, max_sequence_length=77),
    }


@torch.no_grad()
def check(folder):
    """Reports tensors whose removal leaves the output almost as it is. A key bias in front of a softmax is one by
    nature (it shifts all scores of a query alike), and so is an encoder of a VAE that only decodes.
    """
    pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    for component, run in outputs_of(pipe).items():
        before = run()
        print(
            f"{folder.name}/{component}: output std {before.std():.3f}, largest {before.abs().max():.2f}"
        )
        for name, parameter in getattr(pipe, component).named_parameters():
            if name.startswith(("encoder.", "quant_conv")) and component == "vae":
                continue
            kept = parameter.data.clone()
            parameter.data.zero_()
            change = float((run() - before).abs().max() / before.abs().max())
            parameter.data.copy_(kept)
            if change < 0.01:
                print(f"  {name}: {change:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = [*SPECS, *KINDS]
    parser.add_argument("names", nargs="*", help=f"of {', '.join(every)}; all if none is given")
    parser.add_argument(
        "--check", action="store_true", help="also report tensors that do not matter"
    )
    args = parser.parse_args()
    torch.set_num_threads(2)
    for name in args.names or every:
        folder = GOLDEN / "checkpoints" / name
        shutil.rmtree(folder, ignore_errors=True)
        if name in KINDS:
            write_kind(folder, *KINDS[name])
        else:
            write_checkpoint(folder, SPECS[name])
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {size} bytes")
        if args.check and name in SPECS:
            check(folder)


if __name__ == "__main__":
    main()
