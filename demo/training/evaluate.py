"""Measures a checkpoint with diffusers' FluxPipeline: the judge's shares, and PSNR between types.

    python -m training.evaluate shapes --count 128 --sheet contact_sheet.png [--device cuda] [--only NAME]

bfloat16 and float32 pipelines sample unlike noise from one seed (torch samples the uniform numbers in the
noise's own type), so "same noise" hands both the bfloat16 noise.
"""

import argparse
import json
import multiprocessing
import os
import time

import numpy as np
import torch

from .judge import judge, mean
from .pool import pack_latents
from .render import pack, render
from .sample import to_pixels
from .scenes import test_scenes
from .sheet import sheet

# name: (dtype, steps, guidance, height, width, text tokens)
ROWS = {
    "bf16 12 steps": ("bfloat16", 12, 3.5, 128, 128, 64),
    "f32 12 steps": ("float32", 12, 3.5, 128, 128, 64),
    "bf16 28 steps": ("bfloat16", 28, 3.5, 128, 128, 64),
    "bf16 20 steps": ("bfloat16", 20, 3.5, 128, 128, 64),
    "bf16 8 steps": ("bfloat16", 8, 3.5, 128, 128, 64),
    "bf16 4 steps": ("bfloat16", 4, 3.5, 128, 128, 64),
    "bf16 guidance 1": ("bfloat16", 12, 1.0, 128, 128, 64),
    "bf16 guidance 2": ("bfloat16", 12, 2.0, 128, 128, 64),
    "bf16 guidance 5": ("bfloat16", 12, 5.0, 128, 128, 64),
    "bf16 512 text": ("bfloat16", 12, 3.5, 128, 128, 512),
    "bf16 128 text": ("bfloat16", 12, 3.5, 128, 128, 128),
    "bf16 64x64": ("bfloat16", 12, 3.5, 64, 64, 64),
    "bf16 96x96": ("bfloat16", 12, 3.5, 96, 96, 64),
    "bf16 192x192": ("bfloat16", 12, 3.5, 192, 192, 64),
    "bf16 256x256": ("bfloat16", 12, 3.5, 256, 256, 64),
    "bf16 256x256 512": ("bfloat16", 12, 3.5, 256, 256, 512),
    "bf16 96x160": ("bfloat16", 12, 3.5, 96, 160, 64),
    "bf16 192x128": ("bfloat16", 12, 3.5, 192, 128, 64),
    "bf16 128x256": ("bfloat16", 12, 3.5, 128, 256, 64),
}
# name: two of (dtype, steps, text tokens), generated from the same noise
PAIRS = {
    "bf16 to f32, 12 steps": (("bfloat16", 12, 64), ("float32", 12, 64)),
    "bf16 to f32, 28 steps": (("bfloat16", 28, 64), ("float32", 28, 64)),
    "f32, 8 to 28 steps": (("float32", 8, 64), ("float32", 28, 64)),
    "f32, 512 to 64 text": (("float32", 12, 512), ("float32", 12, 64)),
}


def load(checkpoint, dtype, device):
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(checkpoint, torch_dtype=dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, prompts, first, row, noise=None):
    """All prompts at once, each with its own seed (first, first + 1, ...)."""
    _, steps, guidance, height, width, length = row
    n = len(prompts)
    chance = {"generator": [torch.Generator().manual_seed(first + i) for i in range(n)]}
    if noise is not None:
        chance = {"latents": noise.to(pipe.transformer.dtype).to(pipe.device)}
    out = pipe(
        prompt=list(prompts),
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=length,
        output_type="np",
        **chance,
    ).images
    return (out * 255).round().astype(np.uint8)


def psnr(a, b):
    """Mean over images of each one's PSNR in dB."""
    e = ((a.astype(np.float64) - b) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(e, 1e-3))).mean())


def noises(count):
    shape = (1, 16, 16, 16)
    make = [torch.Generator().manual_seed(i) for i in range(count)]
    return pack_latents(
        torch.cat([torch.randn(shape, generator=g, dtype=torch.bfloat16) for g in make])
    )


def through(vae, scenes, height, width):
    """Perfect images encoded and decoded: no model that generates latents can do better."""
    x = render(pack(scenes), height, width).to(vae.device, vae.dtype)
    parts = [vae.decode(vae.encode(y).latent_dist.mean).sample for y in x.split(32)]
    return to_pixels(torch.cat(parts))


def one(pair):
    torch.set_num_threads(1)
    with torch.no_grad():
        return judge(*pair)


def compare(pipes, scenes, count):
    prompts, noise = [s["prompt"] for s in scenes[:count]], noises(count)
    for name, sides in PAIRS.items():
        rows = [(d, steps, 3.5, 128, 128, length) for d, steps, length in sides]
        a, b = (generate(pipes[r[0]], prompts, 0, r, noise) for r in rows)
        print(f"{name:24} same noise: {psnr(a, b):.1f} dB", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("checkpoint")
    ap.add_argument("--count", type=int, default=64)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--only", nargs="*", help="rows by name")
    ap.add_argument("--vae", action="store_true", help="judge perfect images through the VAE, too")
    ap.add_argument("--vae-sheet", help="PNG with 32 of these, those that the VAE spoils first")
    ap.add_argument("--pairs", type=int, default=0, help="prompts for the PSNR between types")
    ap.add_argument("--sheet", help="PNG with the first 32 images of the first row")
    ap.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    ap.add_argument("--verbose", action="store_true")
    o = ap.parse_args()
    workers = multiprocessing.get_context("fork").Pool(o.workers)
    torch.set_grad_enabled(False)
    scenes = test_scenes(o.count)
    pipes = {d: load(o.checkpoint, getattr(torch, d), o.device) for d in ("bfloat16", "float32")}
    vae = pipes["bfloat16"].vae
    for side in (64, 96, 128, 256) if o.vae else ():
        images = through(vae, scenes, side, side)
        results = workers.map(one, list(zip(images, scenes)), chunksize=2)
        print(f"{f'VAE alone {side}':18} {json.dumps(mean(results))}", flush=True)
        if o.vae_sheet and side == 128:
            wrong = [i for i, r in zip(images, results) if not r["all"]]
            sheet((wrong + list(images))[:32], o.vae_sheet)
    for name in o.only if o.only is not None else ROWS:
        row, begin, images = ROWS[name], time.time(), []
        for i in range(0, o.count, o.batch):
            prompts = [s["prompt"] for s in scenes[i : i + o.batch]]
            images += list(generate(pipes[row[0]], prompts, i, row))
        seconds = time.time() - begin
        results = workers.map(one, list(zip(images, scenes)), chunksize=2)
        line = {**mean(results), "images": o.count, "seconds": round(seconds, 2)}
        print(f"{name:18} {json.dumps(line)}", flush=True)
        if name == "bf16 12 steps":
            for k, (r, s) in enumerate(zip(results, scenes) if o.verbose else []):
                if not r["all"]:
                    print(k, [q for q in r if not r[q]], s["layout"], "|", s["prompt"], flush=True)
            if o.sheet:
                sheet(images[:32], o.sheet)
    if o.pairs:
        compare(pipes, scenes, o.pairs)
    workers.terminate()


if __name__ == "__main__":
    main()
