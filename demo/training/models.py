"""The five models in FLUX.1-dev's classes, and the checkpoint's folder that FluxPipeline loads."""

import copy
import json
from pathlib import Path

import torch

FOLDER = {"dit": "transformer", "clip": "text_encoder", "t5": "text_encoder_2", "vae": "vae"}
WIDTH, HEADS, AXES = 256, 4, (16, 24, 24)
DOUBLE, SINGLE = 2, 3
LATENT_CHANNELS = 16
# The time and guidance embeddings turn 1000 t and 1000 g into cosines and sines of 128 frequencies
# 10000^(-i/128). bfloat16 rounds 1000 t by up to 2 and 1000 g by up to 16: of frequencies that turn
# such a step into a large angle, rounding makes noise. The model never uses them (see fast.embedding):
# what is left turns a rounding step by at most 0.1 (time) and 0.13 (guidance) radians.
TIME_FROM, GUIDANCE_FROM = 42, 68


def load_tokenizers(folder):
    from transformers import CLIPTokenizer, T5TokenizerFast

    folder = Path(folder)
    return (
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
    )


def build_text(clip_words, t5_words):
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    # eos_token_id 2 as in FLUX.1: transformers then pools at the highest token number.
    clip = CLIPTextConfig(
        vocab_size=clip_words,
        hidden_size=128,
        intermediate_size=384,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        projection_dim=128,
    )
    t5 = T5Config(
        vocab_size=-(-t5_words // 16) * 16,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return CLIPTextModel(clip), T5EncoderModel(t5)


def build_dit():
    from diffusers import FluxTransformer2DModel

    dit = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=True,
        axes_dims_rope=AXES,
    )
    modulations = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")
    for name, m in dit.named_modules():  # every block starts as the identity
        if name.endswith(modulations) or name == "proj_out":
            torch.nn.init.zeros_(m.weight)
            torch.nn.init.zeros_(m.bias)
    embed = dit.time_text_embed
    for layer, first in (
        (embed.timestep_embedder.linear_1, TIME_FROM),
        (embed.guidance_embedder.linear_1, GUIDANCE_FROM),
    ):
        with torch.no_grad():
            layer.weight[:, :first] = 0
            layer.weight[:, 128 : 128 + first] = 0
    return dit


def build_vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=16,
        sample_size=128,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=True,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build(folder):
    """(CLIP tokenizer, T5 tokenizer, models by short name) for the tokenizers in `folder`."""
    c, t = load_tokenizers(folder)
    clip, t5 = build_text(len(c), len(t))
    return c, t, {"dit": build_dit(), "clip": clip, "t5": t5, "vae": build_vae()}


def export(folder, models):
    """Writes the models in bfloat16, FLUX.1-dev's scheduler and the index, beside the tokenizers."""
    from diffusers import FlowMatchEulerDiscreteScheduler, __version__
    from safetensors.torch import load_file, save_file

    folder = Path(folder)
    for key, m in models.items():
        m = copy.deepcopy(m).cpu().to(torch.bfloat16)
        m = m.to(memory_format=torch.contiguous_format)
        for old in (folder / FOLDER[key]).glob("*.safetensors*"):
            old.unlink()
        m.save_pretrained(folder / FOLDER[key], max_shard_size="10MB")
    # transformers 5 drops the prefix that FLUX.1-dev's file has; it loads both.
    path = folder / FOLDER["clip"] / "model.safetensors"
    weights = {
        k if k.startswith("text_model.") else f"text_model.{k}": v
        for k, v in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": __version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        # It was trained at 64 to 256 pixels.
        "flux_triton": {"default_size": "128x128"},
    }
    for f in folder.glob("*/*.safetensors"):
        f.chmod(0o644)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
