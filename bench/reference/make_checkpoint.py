"""Writes the benchmark checkpoint: a FLUX.1 of the dev kind with random weights.

4 double and 8 single blocks of 6 heads x 128, CLIP 6 layers x 512, T5 4 layers x 512, VAE
64-128-128-128, stored in bfloat16 as published checkpoints are. The tokenizers come from the demo
checkpoint.
"""

import argparse
import json
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

COMPONENTS = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "T5TokenizerFast"),
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def read_config(directory: pathlib.Path) -> dict:
    return json.loads((directory / "config.json").read_text())


def make_text_encoders(tokenizers: pathlib.Path) -> dict:
    """Text encoders whose vocabularies fit the borrowed tokenizers."""
    clip = read_config(tokenizers / "text_encoder")
    t5 = read_config(tokenizers / "text_encoder_2")
    return {
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=clip["vocab_size"],
                hidden_size=512,
                intermediate_size=2048,
                num_hidden_layers=6,
                num_attention_heads=8,
                projection_dim=512,
                bos_token_id=clip["bos_token_id"],
                eos_token_id=clip["eos_token_id"],
                pad_token_id=clip["pad_token_id"],
            )
        ),
        "text_encoder_2": T5EncoderModel(
            T5Config(
                vocab_size=t5["vocab_size"],
                d_model=512,
                d_kv=64,
                d_ff=2048,
                num_layers=4,
                num_heads=8,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
                use_cache=False,
            )
        ),
    }


def make_image_models() -> dict:
    return {
        "transformer": FluxTransformer2DModel(
            in_channels=64,
            num_layers=4,
            num_single_layers=8,
            attention_head_dim=128,
            num_attention_heads=6,
            joint_attention_dim=512,
            pooled_projection_dim=512,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        ),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(64, 128, 128, 128),
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=32,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
    }


def save_frame(directory: pathlib.Path, tokenizers: pathlib.Path, dynamic_shift: bool) -> None:
    """The files of a checkpoint besides its models."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic_shift)
    scheduler.save_pretrained(directory / "scheduler")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tokenizers / name, directory / name)
    index = {"_class_name": "FluxPipeline", "_diffusers_version": "0.42.1"} | COMPONENTS
    (directory / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()

    torch.manual_seed(20)
    beside = args.output.with_name(args.output.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, model in (make_text_encoders(args.tokenizers) | make_image_models()).items():
        model.to(torch.bfloat16).save_pretrained(beside / name)
    save_frame(beside, args.tokenizers, dynamic_shift=True)
    beside.rename(args.output)


if __name__ == "__main__":
    main()
