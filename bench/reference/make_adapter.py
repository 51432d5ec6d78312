"""Writes a LoRA of random values for all linears of FLUX.1-dev's transformer, in diffusers' names."""

import argparse

import torch
from make_full_checkpoint import models
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)

    def random(rows: int, columns: int, scale: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).mul_(scale).bfloat16()

    tensors = {}
    for name, module in models(schnell=False)["transformer"].named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        rows, columns = module.weight.shape
        prefix = f"transformer.{name}"
        tensors[f"{prefix}.lora_A.weight"] = random(args.rank, columns, columns**-0.5)
        tensors[f"{prefix}.lora_B.weight"] = random(rows, args.rank, 0.1 * args.rank**-0.5)
    save_file(tensors, args.output, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
