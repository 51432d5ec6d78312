"""Trains the transformer and both text encoders (flow matching), then distils guidance into it."""

import math
import random

import torch
import torch.nn.functional as F

from . import fast
from .optim import Clock, FlatWeights
from .scenes import KINDS, NAMES

# (height, width, text tokens, relative share of the steps, share of the full batch)
SHAPES = [
    (128, 128, 64, 0.9, 1.0),
    (128, 128, 128, 0.05, 0.6),
    (128, 128, 256, 0.04, 0.4),
    (128, 128, 512, 0.05, 0.2),
    (64, 64, 64, 0.1, 1.0),
    (96, 96, 64, 0.06, 1.0),
    (96, 160, 64, 0.03, 1.0),
    (160, 96, 64, 0.03, 1.0),
    (192, 192, 64, 0.04, 0.5),
    (128, 192, 64, 0.03, 0.8),
    (192, 128, 64, 0.03, 0.8),
    (256, 128, 64, 0.015, 0.6),
    (128, 256, 64, 0.015, 0.6),
    (256, 256, 64, 0.03, 0.4),
    (256, 256, 512, 0.01, 0.15),
]
TAP = 1  # the hint heads read the image states behind so many single blocks
HINTS = len(KINDS) + 1 + len(NAMES) + 1 + len(NAMES) + 3


def shift(s, n):
    """The scheduler's dynamic shift of noise levels for n image tokens."""
    mu = (n - 256) * (1.15 - 0.5) / (4096 - 256) + 0.5
    return math.exp(mu) / (math.exp(mu) + 1 / s - 1)


def noise_levels(count, n, high, device):
    """Logit-normal, shifted; a share `high` of them uniform from 0.55 to 1, where the words matter."""
    s = shift(torch.sigmoid(torch.randn(count, device=device) * 1.1), n)
    u = 1 - 0.45 * torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < high, u, s)


def hint_loss(h, packed, y, rows, columns):
    """The content of every image token (kind and colour of the shape over it, its offset and radius, the
    background), read off inner states h (B, rows * columns, HINTS). Only a help in training: it tells
    the early layers at once what the velocity's error tells them slowly."""
    cy = ((torch.arange(rows, device=h.device) + 0.5) / rows).repeat_interleave(columns)
    cx = ((torch.arange(columns, device=h.device) + 0.5) / columns).repeat(rows)
    side = min(rows, columns)
    kind = torch.full((len(h), rows * columns), len(KINDS), device=h.device)
    color = torch.full_like(kind, len(NAMES))
    where = torch.zeros(len(h), rows * columns, 3, device=h.device)
    for k in range(3):
        o = packed[:, 7 * k : 7 * k + 4, None]
        dx, dy = (cx - o[:, 1]) * columns / side, (cy - o[:, 2]) * rows / side
        over = (torch.maximum(dx.abs(), dy.abs()) < o[:, 3].clamp_min(0.52 / side)) & (o[:, 0] >= 0)
        kind = torch.where(over, o[:, 0].long(), kind)
        color = torch.where(over, y[:, k, None], color)
        at = torch.stack([dx, dy, o[:, 3].expand_as(dx)], -1)
        where = torch.where(over[..., None], at, where)
    h = h.float()
    a, b, c, d = h.split([len(KINDS) + 1, len(NAMES) + 1, len(NAMES), 3], -1)
    covered = (kind < len(KINDS)).float()[..., None]
    loss = F.cross_entropy(a.flatten(0, 1), kind.flatten())
    loss = loss + F.cross_entropy(b.flatten(0, 1), color.flatten())
    loss = loss + F.cross_entropy(c.mean(1), y[:, 3])
    return loss + 5 * ((d - where).abs() * covered).mean()


def fitted(b, length):
    return b[:, :length] if length <= b.shape[1] else F.pad(b, (0, length - b.shape[1]))


def split(params):
    """{'dit.x': w} -> ({'x': w} grouped in blocks) for each of the models."""
    out = {}
    for key in sorted({n.split(".")[0] for n in params}):
        out[key] = fast.group(
            {n[len(key) + 1 :]: w for n, w in params.items() if n.startswith(key + ".")}
        )
    return out


def is_matrix(name):
    blocks = ("transformer_blocks.", "encoder.block.", "encoder.layers.")
    return any(b in name for b in blocks) and ".norm" not in name and "relative" not in name


def make_weights(models, device, keys=("dit", "clip", "t5"), hints=True):
    named = {f"{k}.{n}": p.detach() for k in keys for n, p in models[k].named_parameters()}
    if hints:
        named["hint.weight"] = torch.randn(HINTS, models["dit"].inner_dim) * 0.02
        named["hint.bias"] = torch.zeros(HINTS)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return FlatWeights(named, device, dtype, is_matrix, average=0.9993)


@torch.no_grad()
def put_back(weights, flat, models):
    """Copies a flat buffer (the masters or their average) into the modules."""
    for name, view in weights.views(flat).items():
        key, rest = name.split(".", 1)
        if key in models:
            models[key].get_parameter(rest).copy_(view)


class Passes(fast.Passes):
    """The models' passes and the hint heads' loss."""

    def __init__(self, compiled, **how):
        super().__init__(compiled, **how)
        self.hints = torch.compile(hint_loss, **how) if compiled else hint_loss


class Trainer:
    """Steps over pooled batches; on a GPU each shape's step is captured once as a CUDA graph."""

    def __init__(self, weights, pool, empty, batch, passes, shapes=SHAPES, high=0.4):
        """`passes`: those of the first shape, by far the most frequent, and those of all others (not
        compiled where a short training does not pay for it)."""
        self.weights, self.pool, self.empty, self.batch = weights, pool, empty, batch
        self.all_passes, self.shapes, self.high = passes, shapes, high
        self.device = weights.master.device
        self.p = split(weights.params)
        self.hint_weight = torch.zeros((), device=self.device)
        self.sums = torch.zeros(4, device=self.device)
        self.graphs = {}

    def sample_batch(self, height, width, length, share):
        z, packed, y, a, b = self.pool.bins[height, width]
        n = max(2, int(self.batch * share))
        k = torch.randint(len(z), (n,), device=self.device)
        return z[k].float(), packed[k], y[k], a[k], fitted(b[k], length)

    def loss(self, shape):
        height, width, length, _, share = shape
        grid = (height // 16, width // 16)
        x0, packed, y, a, b = self.sample_batch(height, width, length, share)
        n = len(x0)
        drop = torch.rand(n, 1, device=self.device) < 0.1
        a = torch.where(drop, self.empty[0], a)
        b = torch.where(drop, fitted(self.empty[1], length), b)
        t = noise_levels(n, x0.shape[1], self.high, self.device)
        e = torch.randn_like(x0)
        x = torch.lerp(x0, e, t[:, None, None])
        g = 1 + 4 * torch.rand_like(t)  # means nothing yet: the model learns to leave it alone
        states, pooled = self.passes.t5(self.p["t5"], b), self.passes.clip(self.p["clip"], a)
        out, h = self.passes.dit(self.p["dit"], x, t, g, states, pooled, grid, tap=TAP)
        flow = F.mse_loss(out.float(), e - x0)
        keep = ~drop[:, 0]
        hint = F.linear(h, self.p["hint"]["weight"], self.p["hint"]["bias"])
        hint = self.passes.hints(hint * keep[:, None, None], packed, y, *grid)
        return flow + self.hint_weight * hint, flow.detach(), hint.detach()

    def step(self, shape):
        self.passes = self.all_passes[0 if shape is self.shapes[0] else 1]
        loss, flow, hint = self.loss(shape)
        self.weights.backward(loss)
        self.weights.step()
        if shape is self.shapes[0]:
            self.sums += torch.stack([flow, hint, self.weights.norm, torch.ones_like(flow)])

    def capture(self, shape):
        """Warms the step up (its compilation included), then captures it."""
        if self.device.type != "cuda":
            self.graphs[shape] = lambda: self.step(shape)
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step(shape)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).__self__.pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool):
            self.step(shape)
        self.graphs[shape] = graph.replay

    def run(self, name, seconds, lr, start, end, hint=(0.0, 0.0), every=16, seed=0):
        """Trains for `seconds`. `every`: steps between two refreshed chunks of the pool."""
        chance = random.Random(seed)
        for shape in self.shapes:  # the rate is 0 while graphs are captured
            if shape not in self.graphs:
                self.capture(shape)
        self.sums.zero_()
        clock, said, shares = Clock(seconds, lr, start, end), 0.0, [s[3] for s in self.shapes]
        while clock.progress() < 1:
            self.weights.lr.fill_(clock.rate())
            self.hint_weight.fill_(hint[0] + (hint[1] - hint[0]) * clock.progress())
            self.graphs[chance.choices(self.shapes, shares)[0]]()
            if clock.steps % every == 0:
                self.pool.refresh(chance.choices(self.shapes, shares)[0][:2])
            if clock.steps % 25 == 0 and self.device.type == "cuda":
                torch.cuda.synchronize()
            if clock.elapsed() - said > 20:
                said = clock.elapsed()
                a = self.sums.tolist()
                self.sums.zero_()
                mean = [v / max(a[3], 1) for v in a]
                print(
                    f"{name} {said:5.0f} s step {clock.steps} ({1000 * said / clock.steps:.1f} ms) lr "
                    f"{float(self.weights.lr):.1e} loss {mean[0]:.4f} hint {mean[1]:.3f} norm {mean[2]:.3f}",
                    flush=True,
                )
        self.weights.lr.zero_()
        return clock.steps


class Distiller(Trainer):
    """The guided teacher v(no text) + w (v(text) - v(no text)) becomes one pass of the student, which
    is told the guidance g; w = 1 + strength * (g - 1)."""

    def __init__(self, weights, teacher, pool, empty, batch, passes, strength, **more):
        super().__init__(weights, pool, empty, batch, passes, **more)
        self.teacher, self.strength = teacher, strength

    @torch.no_grad()
    def target(self, x, t, g, a, b, grid):
        states, pooled = self.passes.t5(self.teacher["t5"], b), self.passes.clip(
            self.teacher["clip"], a
        )
        s0 = self.passes.t5(self.teacher["t5"], fitted(self.empty[1], b.shape[1])).expand_as(states)
        p0 = self.passes.clip(self.teacher["clip"], self.empty[0]).expand_as(pooled)
        dit = self.teacher["dit"]
        two = [torch.cat([v, v]) for v in (x, t, g)]
        both = (torch.cat([states, s0]), torch.cat([pooled, p0]))
        v1, v0 = self.passes.dit(dit, *two, *both, grid).float().split(len(x))
        w = 1 + self.strength * (g - 1)
        return v0 + w[:, None, None] * (v1 - v0), states, pooled

    def loss(self, shape):
        height, width, length, _, share = shape
        grid = (height // 16, width // 16)
        x0, _, _, a, b = self.sample_batch(height, width, length, share)
        t = noise_levels(len(x0), x0.shape[1], self.high, self.device)
        x = torch.lerp(x0, torch.randn_like(x0), t[:, None, None])
        g = 1 + 4 * torch.rand_like(t)
        want, states, pooled = self.target(x, t, g, a, b, grid)
        out = self.passes.dit(self.p["dit"], x, t, g, states, pooled, grid)
        loss = F.mse_loss(out.float(), want)
        return loss, loss.detach(), torch.zeros_like(loss)
