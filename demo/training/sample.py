"""Generates with the training passes and two-pass guidance: how good is the undistilled model?"""

import math

import numpy as np
import torch

from . import fast
from .flow import fitted, shift
from .pool import pack_latents, unpack_latents


def sigmas(steps, n):
    """FluxPipeline's noise levels for n image tokens, the final 0 included."""
    return [shift(float(s), n) for s in np.linspace(1, 1 / steps, steps)] + [0.0]


def to_pixels(y):
    y = (y.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return (y * 255).round().astype(np.uint8)


@torch.no_grad()
def generate(p, vae, tokens, empty, seeds, steps, weight, height=128, width=128, length=64):
    """uint8 images (N, height, width, 3). `p`: flow.split's dicts; `weight` 1: one pass."""
    passes, device = fast.Passes(), empty[0].device
    dtype = p["dit"]["x_embedder.weight"].dtype
    a, b = (t.to(device) for t in tokens)
    b = fitted(b, length)
    states, pooled = passes.t5(p["t5"], b), passes.clip(p["clip"], a)
    s0 = passes.t5(p["t5"], fitted(empty[1], length)).expand_as(states)
    p0 = passes.clip(p["clip"], empty[0]).expand_as(pooled)
    grid = (height // 16, width // 16)
    shape = (1, 16, height // 8, width // 8)
    noise = [
        torch.randn(shape, generator=torch.Generator().manual_seed(s), dtype=dtype) for s in seeds
    ]
    x = pack_latents(torch.cat(noise)).to(device)
    levels = sigmas(steps, grid[0] * grid[1])
    for now, after in zip(levels[:-1], levels[1:]):
        t, g = torch.full((len(x),), now, device=device), torch.ones(len(x), device=device)
        v = passes.dit(p["dit"], x, t, g, states, pooled, grid).float()
        if weight != 1:
            v0 = passes.dit(p["dit"], x, t, g, s0, p0, grid).float()
            v = v0 + weight * (v - v0)
        x = (x.float() + (after - now) * v).to(dtype)
    z = unpack_latents(x, *grid) / vae.config.scaling_factor + vae.config.shift_factor
    y = torch.cat([vae.decode(q).sample for q in z.to(next(vae.parameters()).dtype).split(32)])
    return to_pixels(y)
