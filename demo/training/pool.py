"""Training data: scenes made by worker processes, drawn and encoded on the GPU, kept in pools."""

import random

import torch

from .render import labels, pack, render
from .scenes import held_out, scene

CLIP_CUT, T5_CUT = 44, 48  # no prompt is longer: 36 and 41 tokens were the most in 5000


class Stream(torch.utils.data.IterableDataset):
    """Endless chunks of scenes not held out: (packed, colour numbers, CLIP tokens, T5 tokens)."""

    def __init__(self, clip, t5, size, seed):
        self.clip, self.t5, self.size, self.seed = clip, t5, size, seed

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        r = random.Random(self.seed * 1000 + (info.id if info else 999))
        torch.set_num_threads(1)
        while True:
            chosen = []
            while len(chosen) < self.size:
                s = scene(r)
                if not held_out(s):
                    chosen.append(s)
            yield pack(chosen), labels(chosen), *self.tokens([s["prompt"] for s in chosen])

    def tokens(self, texts):
        how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        a = self.clip(texts, max_length=77, **how).input_ids
        return a[:, :CLIP_CUT], self.t5(texts, max_length=T5_CUT, **how).input_ids


def loader(stream, workers):
    ahead = 6 if workers else None
    return iter(
        torch.utils.data.DataLoader(
            stream, batch_size=None, num_workers=workers, prefetch_factor=ahead
        )
    )


def pack_latents(z):
    """(B, C, h, w) -> (B, h w / 4, 4 C), as FluxPipeline packs latents."""
    b, c, h, w = z.shape
    z = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(b, h * w // 4, c * 4)


def unpack_latents(z, rows, columns):
    b, _, c = z.shape
    z = z.view(b, rows, columns, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(b, c // 4, rows * 2, columns * 2)


class Pool:
    """Encoded images with their scenes and tokens, one bin for each image size. Bins are tensors
    with fixed addresses: `refresh` overwrites a part of one with new images."""

    def __init__(self, vae, data, counts, device):
        self.vae, self.data, self.device = vae, data, device
        self.render = torch.compile(render, dynamic=True) if device.type == "cuda" else render
        self.bins = {}
        for (height, width), count in counts.items():
            parts, have = [], 0
            while have < count:
                parts.append(self.make(height, width))
                have += len(parts[-1][0])
            self.bins[height, width] = [torch.cat(t) for t in zip(*parts)]
        self.at = dict.fromkeys(self.bins, 0)

    @torch.no_grad()
    def make(self, height, width):
        packed, y, a, b = (t.to(self.device, non_blocking=True) for t in next(self.data))
        config, dtype, z = self.vae.config, next(self.vae.parameters()).dtype, []
        for p in packed.split(max(16, 256 * 128 * 128 // (height * width))):
            x = self.render(p, height, width).to(dtype).to(memory_format=torch.channels_last)
            z.append(self.vae.encode(x).latent_dist.mean.float())
        z = (torch.cat(z) - config.shift_factor) * config.scaling_factor
        return pack_latents(z).to(torch.bfloat16), packed, y, a, b

    def refresh(self, size):
        new, old = self.make(*size), self.bins[size]
        at = self.at[size]
        take = min(len(new[0]), len(old[0]) - at)
        for t, n in zip(old, new):
            t[at : at + take] = n[:take]
        self.at[size] = (at + take) % len(old[0])
