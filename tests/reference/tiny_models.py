"""Writes small random FLUX checkpoints in the diffusers layout, with the sizes and oddities that a `Spec` names."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from reference import DTYPES
from tiny_tokenizers import write_clip_tokenizer, write_json, write_t5_tokenizer


# Peaked attention and strong values: what the text stream holds must reach the image.
TRANSFORMER_SCALES = [
    ("norm_out.linear", 0.5),
    ("linear", 0.7),
    ("proj_out", 0.8),
    ("attn.norm_", 1.7),
    ("_v", 1.8),
    ("to_out", 1.4),
    ("to_add_out", 1.8),
]


@dataclass
class Spec:
    """Description of a checkpoint. The dictionaries are the components' config keys; sizes that must agree between
    components (vocabularies, joint and pooled dimensions, latent channels) are filled in by write_checkpoint().
    """

    transformer: dict
    vae: dict
    clip: dict
    t5: dict
    scheduler: dict
    seed: int
    dtype: str = "f32"
    shard_bytes: dict = field(default_factory=dict)  # component -> largest shard; absent: one file
    drop_keys: dict = field(default_factory=dict)  # component -> config keys left out of the file
    clip_tokenizer: dict = field(default_factory=dict)  # arguments of write_clip_tokenizer
    t5_tokenizer: dict = field(default_factory=dict)  # arguments of write_t5_tokenizer
    clip_eos: str = "legacy"  # "legacy": eos_token_id 2; "real": the end token's id
    clip_prefix: bool = False  # tensors named text_model.*, as in published checkpoints
    t5_embedding: str = "shared"  # "shared", "encoder" or "both": where the embedding is stored
    t5_spare_rows: int = 5  # embedding rows past the tokenizer's size, as in published checkpoints


def randomise(model, seed, scales=()):
    """Gives every parameter a value that matters: no zero bias, no norm weight of 1, activations of order 1.

    scales: pairs (part of a name, factor) that scale a matrix or a norm weight further, the first match counts.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        factor = next((f for part, f in scales if part in name), 1.0)
        if parameter.ndim == 1 and name.endswith("weight"):
            value = factor * (1 + 0.25 * noise)
        elif parameter.ndim == 1:
            value = 0.2 * noise
        else:
            is_embedding = (
                "embed_tokens" in name or "shared" in name or "relative_attention_bias" in name
            )
            fan_in = 1 if is_embedding else math.prod(parameter.shape[1:])
            if "token_embedding" in name or "position_embedding" in name:
                fan_in = 2
            value = noise * factor / math.sqrt(fan_in)
        parameter.data.copy_(value)
    return model.eval()


def t5_scales(config):
    """T5 does not scale q.k, so its query weights are small instead."""
    return [("SelfAttention.q", 0.4 / math.sqrt(config.d_kv))]


def save_model(model, folder, spec, component, rename=None):
    """Saves a model in the spec's dtype and sharding; `rename` maps the dictionary of tensors to the one written."""
    shard = spec.shard_bytes.get(component)
    sharding = {"max_shard_size": shard} if shard else {}
    model = model.to(DTYPES[spec.dtype])
    model.save_pretrained(folder, **sharding)
    if rename:
        for path in sorted(Path(folder).glob("*.safetensors")):
            save_file(rename(load_file(path)), path, metadata={"format": "pt"})
        for path in Path(folder).glob("*.index.json"):
            index = json.loads(path.read_text())
            index["weight_map"] = {
                new: index["weight_map"][old] for old, new in renamed(index["weight_map"], rename)
            }
            write_json(path, index)
    drop_keys(Path(folder) / "config.json", spec.drop_keys.get(component, ()))


def renamed(names, rename):
    """Pairs (old, new) of the names that `rename` gives to each tensor alone."""
    return [(old, new) for old in names for new in rename({old: torch.zeros(1)})]


def drop_keys(path, keys):
    config = json.loads(path.read_text())
    for key in keys:
        if key not in config:
            raise KeyError(f"{path} has no key {key} to drop")
        del config[key]
    write_json(path, config)


def t5_embedding_names(where):
    def rename(tensors):
        table = tensors.pop("shared.weight", None)
        if table is not None and where in ("shared", "both"):
            tensors["shared.weight"] = table
        if table is not None and where in ("encoder", "both"):
            tensors["encoder.embed_tokens.weight"] = table.clone()
        return tensors

    return rename


def write_text_encoders(out, spec):
    clip_size, clip_end = write_clip_tokenizer(out / "tokenizer", **spec.clip_tokenizer)
    t5_size = write_t5_tokenizer(out / "tokenizer_2", **spec.t5_tokenizer)
    clip_config = CLIPTextConfig(
        **spec.clip,
        vocab_size=clip_size,
        projection_dim=spec.clip["hidden_size"],
        eos_token_id=2 if spec.clip_eos == "legacy" else clip_end,
        bos_token_id=0 if spec.clip_eos == "legacy" else clip_end - 1,
    )
    clip = randomise(CLIPTextModel(clip_config), spec.seed + 1)
    prefix = (
        (lambda tensors: {"text_model." + k: v for k, v in tensors.items()})
        if spec.clip_prefix
        else None
    )
    save_model(clip, out / "text_encoder", spec, "text_encoder", prefix)
    t5_config = T5Config(**spec.t5, vocab_size=t5_size + spec.t5_spare_rows, dropout_rate=0.0)
    t5 = randomise(T5EncoderModel(t5_config), spec.seed + 2, t5_scales(t5_config))
    save_model(
        t5, out / "text_encoder_2", spec, "text_encoder_2", t5_embedding_names(spec.t5_embedding)
    )


def write_checkpoint(out, spec):
    """Writes the whole checkpoint directory `out`, the same bytes for the same spec."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    write_text_encoders(out, spec)
    latent_channels = spec.vae["latent_channels"]
    transformer = FluxTransformer2DModel(
        **spec.transformer,
        in_channels=4 * latent_channels,
        joint_attention_dim=spec.t5["d_model"],
        pooled_projection_dim=spec.clip["hidden_size"],
    )
    transformer = randomise(transformer, spec.seed + 3, TRANSFORMER_SCALES)
    save_model(transformer, out / "transformer", spec, "transformer")
    levels = len(spec.vae["block_out_channels"])
    vae = AutoencoderKL(
        **spec.vae,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
    )
    save_model(
        randomise(vae, spec.seed + 4, [("decoder.conv_out", 0.45)]), out / "vae", spec, "vae"
    )
    (out / "scheduler").mkdir(exist_ok=True)
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": "0.42.1",
        **spec.scheduler,
    }
    write_json(out / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(out / "model_index.json", index)
