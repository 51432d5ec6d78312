"""Flat weights and their optimiser.

All weights of some models lie in one float32 buffer (the masters) and one bfloat16 buffer (what the
passes use); momenta, gradients and the running average are buffers of the same layout. A step is
then a few kernels, without a word from the host, so that it can be captured in a CUDA graph.

Matrices inside blocks are trained with Muon (momentum, made orthogonal by a Newton-Schulz iteration:
Jordan et al. 2024, with the scale of Liu et al. 2025, arXiv:2502.16982), all the rest with AdamW.
"""

import hashlib

import torch
import torch.distributed as dist

ALIGN = 64  # elements: weights start at addresses that matrix kernels like


def orthogonal(g, steps=5):
    """Nearest (semi-)orthogonal matrices to a batch of matrices, roughly, in bfloat16."""
    x = g.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return (x.mT if tall else x).float()


class FlatWeights:
    """`named`: {name: tensor} of initial values. `is_matrix(name)`: train it with Muon."""

    def __init__(self, named, device, dtype, is_matrix=lambda name: False, average=0.999):
        shapes = {}
        for name, w in named.items():
            key = tuple(w.shape) if w.ndim == 2 and is_matrix(name) else ()
            shapes.setdefault(key, []).append(name)
        self.names, self.slots, self.groups, at = [], {}, [], 0
        for key in sorted(shapes):
            start = at
            for name in shapes[key]:
                self.slots[name] = (at, named[name].shape)
                self.names.append(name)
                at += named[name].numel() if key else -(-named[name].numel() // ALIGN) * ALIGN
            if key:
                self.groups.append((start, at, key))
            else:
                self.plain = at
        self.plain = 0 if () not in shapes else self.plain
        self.master = torch.zeros(at, device=device)
        for name, view in self.views(self.master).items():
            view.copy_(named[name].detach())
        self.work = self.master.to(dtype, copy=True)
        self.grad = torch.zeros_like(self.work)
        self.average, self.decay = self.master.clone(), average
        self.m = torch.zeros_like(self.master)
        self.v = torch.zeros(self.plain, device=device)
        self.params = {k: torch.nn.Parameter(v) for k, v in self.views(self.work).items()}
        self.grads = list(self.views(self.grad).values())
        self.lr = torch.zeros((), device=device)
        self.count = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)

    def views(self, flat):
        out = {}
        for name in self.names:
            at, shape = self.slots[name]
            out[name] = flat[at : at + shape.numel()].view(shape)
        return out

    def backward(self, loss):
        found = torch.autograd.grad(loss, list(self.params.values()), allow_unused=True)
        pairs = [(a, b) for a, b in zip(self.grads, found) if b is not None]
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])

    @torch.no_grad()
    def step(self, muon=2.0, decay=0.02):
        """`self.lr` is AdamW's rate; Muon's is `muon` times it."""
        if dist.is_initialized():
            dist.all_reduce(self.grad)
            self.grad /= dist.get_world_size()
        self.count += 1
        g = self.grad.float()
        norm = g.norm()
        self.norm.copy_(norm)
        g = g * (1 / norm.clamp_min(1.0))
        p, n = self.plain, self.count
        if p:
            m, v = self.m[:p], self.v
            m.lerp_(g[:p], 0.1)
            v.lerp_(g[:p].square(), 0.01)
            upd = (m / (1 - 0.9**n)) / ((v / (1 - 0.99**n)).sqrt() + 1e-8)
            self.master[:p] -= self.lr * upd
        for start, end, (r, c) in self.groups:
            m = self.m[start:end]
            m.lerp_(g[start:end], 0.05)
            u = orthogonal(torch.lerp(g[start:end], m, 0.95).view(-1, r, c)).reshape(-1)
            w = self.master[start:end]
            w -= muon * self.lr * (0.2 * max(r, c) ** 0.5 * u + decay * w)
        self.work.copy_(self.master)
        self.average.lerp_(self.master, 1 - torch.clamp((n + 1) / (n + 10), max=self.decay))

    def digest(self):
        text = " ".join(f"{n}:{tuple(self.slots[n][1])}" for n in self.names)
        return hashlib.sha256(text.encode()).hexdigest()

    def state(self, compact=False):
        """Everything that a resumed training needs; compact: the averaged weights alone (float32)."""
        out = {"digest": self.digest(), "master": self.average if compact else self.master}
        if not compact:
            out.update(average=self.average, m=self.m, v=self.v, count=self.count)
        return {k: v.cpu() if torch.is_tensor(v) else v for k, v in out.items()}

    @torch.no_grad()
    def load(self, state):
        if state["digest"] != self.digest():
            raise SystemExit("the saved state is of other models: delete it or use its revision")
        for key in ("master", "average", "m", "v", "count"):
            if key in state:
                getattr(self, key).copy_(state[key])
        if "average" not in state:
            self.average.copy_(self.master)
        self.work.copy_(self.master)


class Clock:
    """A stage's time budget and its learning rate, which goes from `start` to `end` (shares of `lr`)
    in a straight line over the stage, after a short warm-up."""

    def __init__(self, seconds, lr, start=1.0, end=0.0, warm=100):
        import time

        self.now, self.seconds, self.lr = time.time, seconds, lr
        self.start, self.end, self.warm = start, end, warm
        self.begin, self.steps = time.time(), 0

    def elapsed(self):
        return self.now() - self.begin

    def progress(self):
        """From 0 to 1, the same in all processes that train together."""
        share = min(1.0, self.elapsed() / self.seconds)
        if dist.is_initialized():
            first = torch.tensor(share, dtype=torch.float64)
            dist.broadcast(first, 0)
            share = float(first)
        return share

    def rate(self):
        self.steps += 1
        share = self.start + (self.end - self.start) * self.progress()
        return self.lr * max(share, 0.002) * min(1.0, self.steps / self.warm)
