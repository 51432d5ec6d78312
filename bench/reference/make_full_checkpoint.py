"""Writes a checkpoint of FLUX.1-dev's size (33 GB) with random weights, for GPU benchmarks.

Weights are normal numbers that keep activations near 1, stored in bfloat16; generated on the GPU
if there is one. The tokenizers come from the demo checkpoint. --schnell leaves the guidance out.
"""

import argparse
import json
import pathlib

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from make_checkpoint import save_frame
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

SHARD_BYTES = 4 << 30
# With --outliers: channels of the residual stream, and rows of each large linear of the blocks.
OUTLIER_CHANNELS = 8
OUTLIER_ROWS = 4


def models(schnell: bool) -> dict:
    """Each component as a class and its configuration; parameters are not made yet."""
    clip = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        eos_token_id=2,
    )
    t5 = T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    with torch.device("meta"):
        return {
            "text_encoder": CLIPTextModel(clip),
            "text_encoder_2": T5EncoderModel(t5),
            "transformer": FluxTransformer2DModel(guidance_embeds=not schnell),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=16,
                norm_num_groups=32,
                sample_size=1024,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        }


def random_weight(name: str, shape: torch.Size, device: str) -> torch.Tensor:
    if len(shape) == 1:
        offset = 0.0 if name.endswith("bias") else 1.0
        return torch.randn(shape, device=device).mul_(0.02).add_(offset).bfloat16().cpu()
    fan_in = shape[1:].numel()
    scale = 1.0 if "embed_tokens" in name or "shared" in name else fan_in**-0.5
    # Residual streams must not grow with the depth.
    if any(part in name for part in ("to_out", "to_add_out", "net.2", "proj_out", ".o.", ".wo.")):
        scale *= 0.3
    return torch.randn(shape, device=device, dtype=torch.bfloat16).mul_(scale).cpu()


def add_outliers(name: str, weight: torch.Tensor) -> None:
    """Makes some channels and rows of the transformer large, the same in all tensors of a size."""
    places = torch.randperm(len(weight), generator=torch.Generator().manual_seed(21))
    if name in ("x_embedder.bias", "context_embedder.bias"):
        large = torch.linspace(50, 100, OUTLIER_CHANNELS)  # the other channels are near 1
        large[1::2] *= -1
        weight[places[:OUTLIER_CHANNELS]] = large.to(weight.dtype)
    elif "transformer_blocks." in name and weight.dim() == 2 and ".norm" not in name:
        weight[places[:OUTLIER_ROWS]] *= 10


def save_weights(model, directory: pathlib.Path, stem: str, device: str, outliers: bool) -> None:
    directory.mkdir(parents=True)
    shards, size = [{}], 0
    for name, parameter in model.named_parameters():
        if size > SHARD_BYTES:
            shards.append({})
            size = 0
        weight = random_weight(name, parameter.shape, device)
        if outliers:
            add_outliers(name, weight)
        shards[-1][name] = weight
        size += parameter.numel() * 2
    places = {}
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        if len(shards) == 1:
            file = f"{stem}.safetensors"
        save_file(shard, directory / file)
        places |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": places}
        (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--schnell", action="store_true")
    parser.add_argument(
        "--outliers",
        action="store_true",
        help="massive activations, as real checkpoints have them: biases of the embedders make "
        f"{OUTLIER_CHANNELS} channels of the transformer's residual stream 50 to 100 times larger "
        f"than the others, and {OUTLIER_ROWS} rows of each large linear's weight in its blocks are "
        "10 times larger; all other numbers are as without",
    )
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(20)
    for name, model in models(args.schnell).items():
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        save_weights(model, args.output / name, stem, device, args.outliers)
        if name.startswith("text"):
            model.config.save_pretrained(args.output / name)
        else:
            model.save_config(args.output / name)
    save_frame(args.output, args.tokenizers, dynamic_shift=not args.schnell)


if __name__ == "__main__":
    main()
