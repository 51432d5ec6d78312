"""Trains the VAE: first all of it, then the decoder alone on the latents as they will stay."""

import torch
import torch.nn.functional as F

from .optim import Clock, FlatWeights
from .render import render

OTHER_SIZES = [(64, 64), (96, 96), (64, 64), (96, 160), (64, 64), (256, 256), (96, 96), (192, 192)]
OTHER_SIZES += [(64, 64), (160, 96)]
SMALL = 0.13  # radius of a small shape, of the shorter side


def image_loss(y, x):
    """L1 at three scales, and L1 of the gradients for sharp edges. Returns (loss, plain L1)."""
    y = y.float()
    loss, a, c = 0, x, y
    for _ in range(3):
        loss = loss + F.l1_loss(c, a)
        a, c = F.avg_pool2d(a, 2), F.avg_pool2d(c, 2)
    for dim in (2, 3):
        loss = loss + F.l1_loss(y.diff(dim=dim), x.diff(dim=dim))
    return loss, F.l1_loss(y, x).detach()


def kl(dist):
    m, lv = dist.mean.float(), dist.logvar.float()
    return 0.5 * (m * m + lv.exp() - 1 - lv).mean()


def load_flat(vae, weights, flat):
    """Points the module's parameters at a flat buffer."""
    views = weights.views(flat)
    for name, p in vae.named_parameters():
        p.data = views[name]


@torch.no_grad()
def freeze(weights, prefix):
    """Sets the weights under `prefix` to their running average and stops their momentum."""
    weights.grad.zero_()
    for flat in (weights.master, weights.work):
        views = weights.views(flat)
        for name, average in weights.views(weights.average).items():
            if name.startswith(prefix):
                views[name].copy_(average)
    for name, m in weights.views(weights.m).items():
        if name.startswith(prefix):
            m.zero_()


@torch.no_grad()
def measure(vae, data, device, chunks=8):
    """Writes the latents' mean and spread into the config; FluxPipeline undoes them."""
    dtype, z = next(vae.parameters()).dtype, []
    for _ in range(chunks):
        x = render(next(data)[0][:128].to(device), 128, 128).to(dtype)
        z.append(vae.encode(x).latent_dist.mean.float())
    z = torch.cat(z)
    shift, scale = round(float(z.mean()), 5), round(float(1 / z.std()), 5)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    spread = [round(float(v), 2) for v in z.std((0, 2, 3)) * scale]
    print(
        f"latents: mean {shift} std {1 / scale:.4f}, scaled spread of channels {spread}", flush=True
    )


class Report:
    """The running means of loss, L1 and KL, printed every 15 seconds."""

    def __init__(self, device):
        self.sums, self.steps, self.said = torch.zeros(3, device=device), 0, 0.0

    def add(self, loss, l1, k):
        self.sums += torch.stack([loss.detach(), l1, k])
        self.steps += 1

    def say(self, clock, rate):
        """Whether it was time to print."""
        if clock.elapsed() - self.said <= 15 or not self.steps:
            return False
        self.said = clock.elapsed()
        loss, l1, k = (self.sums / self.steps).tolist()
        print(
            f"vae {self.said:5.0f} s step {clock.steps} lr {float(rate):.1e} loss {loss:.4f} "
            f"l1 {l1:.5f} kl {k:.3f}",
            flush=True,
        )
        self.sums.zero_()
        self.steps = 0
        return True


class Batches:
    """Packed scenes by the batch; every second scene without a small shape is passed over, since small
    shapes are what the VAE loses first."""

    def __init__(self, data, device):
        self.data, self.device, self.kept = data, device, torch.empty(0, 27)

    def take(self, n):
        while len(self.kept) < n:
            packed = next(self.data)[0]
            radius = packed[:, 3:21:7]
            small = ((radius > 0) & (radius < SMALL)).any(1)
            self.kept = torch.cat([self.kept, packed[small | (torch.rand(len(packed)) < 0.5)]])
        out, self.kept = self.kept[:n], self.kept[n:]
        return out.to(self.device, non_blocking=True)


class Losses:
    """The VAE's losses on packed scenes. Passes of 128x128, by far the most, are compiled."""

    def __init__(self, vae, kl_weight, noise):
        self.vae, self.kl_weight, self.noise = vae, kl_weight, noise
        self.dtype = next(vae.parameters()).dtype
        gpu = next(vae.parameters()).is_cuda
        wrap = torch.compile if gpu else (lambda f: f)
        self.compiled = [wrap(f) for f in (self.moments, self.all, self.decoder)]
        self.render = torch.compile(render, dynamic=True) if gpu else render

    @torch.no_grad()
    def moments(self, x):
        q = self.vae.encode(x).latent_dist
        return q.mean, q.std

    def all(self, x, target):
        q = self.vae.encode(x).latent_dist
        loss, l1 = image_loss(self.vae.decode(q.sample()).sample, target)
        k = kl(q)
        return loss + self.kl_weight * k, l1, k.detach()

    def decoder(self, z, target):
        return image_loss(self.vae.decode(z).sample, target)

    def of(self, packed, height, width, alone):
        """(loss, L1, KL or 0); `alone`: of the decoder."""
        main = (height, width) == (128, 128)
        moments, both, decoder = self.compiled if main else (self.moments, self.all, self.decoder)
        target = self.render(packed, height, width)
        x = target.to(self.dtype).contiguous(memory_format=torch.channels_last)
        if not alone:
            return both(x, target)
        mean, spread = moments(x)
        share = self.noise * torch.rand_like(mean[:, :1, :1, :1])
        z = (mean + share * spread * torch.randn_like(mean)).to(self.dtype)
        loss, l1 = decoder(z.contiguous(memory_format=torch.channels_last), target)
        return loss, l1, torch.zeros_like(l1)


def train(vae, data, seconds, batch, device, kl_weight=5e-3, alone=0.5, noise=0.5, lr=1.5e-3):
    """`vae` ends with the averaged weights, in bfloat16 on a GPU. `seconds`: a function that is asked
    for the time once everything is compiled. `alone`: the last share of the
    time, in which the encoder stays as it is (1: all of it; shift and scale then stay too).
    `noise`: the decoder is then trained to bear up to this share of the encoder's spread: with all
    of it, it blurs fine tips that the transformer does generate."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae.to(device)
    weights = FlatWeights(dict(vae.named_parameters()), device, dtype, average=0.998)
    vae.to(dtype)
    params = dict(vae.named_parameters())
    load_flat(vae, weights, weights.work)
    weights.params = params
    losses, batches = Losses(vae, kl_weight, noise), Batches(data, device)
    for frozen in {alone > 0, alone >= 1}:
        losses.of(batches.take(batch), 128, 128, frozen)[0].backward()
    clock, report = Clock(seconds(), lr, 1.0, 0.0, 200), Report(device)
    frozen = False
    while clock.progress() < 1:
        weights.lr.fill_(clock.rate())
        if not frozen and clock.progress() >= 1 - alone:
            frozen = True
            for name, p in params.items():
                p.requires_grad_(not name.startswith("encoder."))
            freeze(weights, "encoder.")
        other = clock.steps % 4 == 3
        height, width = OTHER_SIZES[clock.steps // 4 % len(OTHER_SIZES)] if other else (128, 128)
        n = max(1, min(2 * batch, batch * 128 * 128 // (height * width)))
        loss, l1, k = losses.of(batches.take(n), height, width, frozen)
        live = [(a, q) for a, q in zip(weights.grads, params.values()) if q.requires_grad]
        found = torch.autograd.grad(loss, [q for _, q in live])
        torch._foreach_copy_([a for a, _ in live], list(found))
        weights.step()
        if not other:
            report.add(loss, l1, k)
        if not report.say(clock, weights.lr) and clock.steps % 20 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
    load_flat(vae, weights, weights.average.to(dtype))
    for p in vae.parameters():
        p.requires_grad_(False)
    if alone < 1:
        measure(vae, data, device)
