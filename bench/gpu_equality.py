#!/usr/bin/env python3
"""Compares one image by diffusers and by flux-triton on the same GPU, both in bfloat16.

Prints the PSNR between the two in dB; exits with 1 when it is not above the limit of
docs/numerics.md.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

LIMIT = 38.0


def by_diffusers(args) -> np.ndarray:
    pipe = FluxPipeline.from_pretrained(args.checkpoint, torch_dtype=torch.bfloat16).to("cuda")
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        args.prompt,
        height=args.size,
        width=args.size,
        num_inference_steps=args.steps,
        generator=torch.Generator("cpu").manual_seed(args.seed),
    ).images[0]
    return np.asarray(image)


def by_flux_triton(args) -> np.ndarray:
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory) / "image.png"
        command = [args.flux_triton, "generate", args.checkpoint, "--device", "cuda"]
        command += ["--dtype", "bf16", "--prompt", args.prompt, "--seed", args.seed]
        command += ["--height", args.size, "--width", args.size, "--steps", args.steps, "-o", file]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        return np.asarray(Image.open(file))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--flux-triton", required=True)
    parser.add_argument("--prompt", default="a red circle above a blue square")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()

    ours = by_flux_triton(args).astype(np.float64)
    theirs = by_diffusers(args).astype(np.float64)
    psnr = 10 * np.log10(255.0**2 / max(1e-9, np.mean((ours - theirs) ** 2)))
    print(
        f"{args.size}x{args.size}, {args.steps} steps, seed {args.seed}: {psnr:.1f} dB between "
        f"flux-triton and diffusers (limit {LIMIT}); pixels within 1 of 255: "
        f"{np.mean(np.abs(ours - theirs) <= 1):.4f}; standard deviation {ours.std():.1f}"
    )
    return 0 if psnr > LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
