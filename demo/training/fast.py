"""Forward passes for training: the same arithmetic as diffusers' FluxTransformer2DModel and
transformers' T5EncoderModel and CLIPTextModel, as plain functions of dicts of weights.

torch.compile then makes one kernel set for all blocks of a kind, and a whole training step can be
captured as one CUDA graph. test_fast.py holds them against the library classes.
"""

import math

import torch
import torch.nn.functional as F

from .models import AXES, GUIDANCE_FROM, HEADS, TIME_FROM


def group(weights):
    """{'a.0.b.w': tensor} -> the same with a dict for each numbered block: {'a': [{'b.w': tensor}]}."""
    out = {}
    for name, w in weights.items():
        parts = name.split(".")
        at = next((i for i, p in enumerate(parts) if p.isdigit()), None)
        if at is None or parts[0] not in (
            "transformer_blocks",
            "single_transformer_blocks",
            "encoder",
        ):
            out[name] = w
            continue
        blocks = out.setdefault(".".join(parts[:at]), [])
        while len(blocks) <= int(parts[at]):
            blocks.append({})
        blocks[int(parts[at])][".".join(parts[at + 1 :])] = w
    return out


def lin(p, name, x):
    return F.linear(x, p[name + ".weight"], p.get(name + ".bias"))


def rms(x, w, eps=1e-6):
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * w


def modulated(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def heads(p, name, norm, x, rope=None):
    """One projection split in heads (B, S, heads, D), normalised; `rope` rotates it."""
    y = lin(p, name, x).unflatten(-1, (HEADS, -1))
    return y if norm is None else rms(y, p[norm + ".weight"])


def rotate(x, rope):
    cos, sin = rope
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(3).to(x.dtype)


def attend(q, k, v, rope):
    q, k, v = rotate(q, rope).transpose(1, 2), rotate(k, rope).transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def double_block(p, c, x, temb, cos, sin):
    """Text states c and image states x, each with its own weights, one attention over both."""
    n = c.shape[1]
    xm, cm = lin(p, "norm1.linear", temb).chunk(6, -1), lin(p, "norm1_context.linear", temb).chunk(
        6, -1
    )
    xn, cn = modulated(x, xm[0], xm[1]), modulated(c, cm[0], cm[1])
    q = torch.cat(
        [
            heads(p, "attn.add_q_proj", "attn.norm_added_q", cn),
            heads(p, "attn.to_q", "attn.norm_q", xn),
        ],
        1,
    )
    k = torch.cat(
        [
            heads(p, "attn.add_k_proj", "attn.norm_added_k", cn),
            heads(p, "attn.to_k", "attn.norm_k", xn),
        ],
        1,
    )
    v = torch.cat([heads(p, "attn.add_v_proj", None, cn), heads(p, "attn.to_v", None, xn)], 1)
    a = attend(q, k, v, (cos, sin))
    x = x + xm[2][:, None] * lin(p, "attn.to_out.0", a[:, n:])
    c = c + cm[2][:, None] * lin(p, "attn.to_add_out", a[:, :n])
    h = F.gelu(lin(p, "ff.net.0.proj", modulated(x, xm[3], xm[4])), approximate="tanh")
    x = x + xm[5][:, None] * lin(p, "ff.net.2", h)
    h = F.gelu(lin(p, "ff_context.net.0.proj", modulated(c, cm[3], cm[4])), approximate="tanh")
    return c + cm[5][:, None] * lin(p, "ff_context.net.2", h), x


def single_block(p, x, temb, cos, sin):
    """Text and image states in one sequence; attention and MLP side by side."""
    shift, scale, gate = lin(p, "norm.linear", temb).chunk(3, -1)
    y = modulated(x, shift, scale)
    a = attend(
        heads(p, "attn.to_q", "attn.norm_q", y),
        heads(p, "attn.to_k", "attn.norm_k", y),
        heads(p, "attn.to_v", None, y),
        (cos, sin),
    )
    h = F.gelu(lin(p, "proj_mlp", y), approximate="tanh")
    return x + gate[:, None] * lin(p, "proj_out", torch.cat([a, h], -1))


def t5_block(p, x, bias):
    """Self-attention without scaling, with a relative bias, and a gated-gelu MLP."""
    y = rms(x, p["layer.0.layer_norm.weight"])
    q, k, v = (
        lin(p, f"layer.0.SelfAttention.{n}", y).unflatten(-1, (bias.shape[0], -1)).transpose(1, 2)
        for n in "qkv"
    )
    w = (q @ k.transpose(-1, -2) + bias).float().softmax(-1).to(x.dtype)
    x = x + lin(p, "layer.0.SelfAttention.o", (w @ v).transpose(1, 2).flatten(2))
    y = rms(x, p["layer.1.layer_norm.weight"])
    h = F.gelu(lin(p, "layer.1.DenseReluDense.wi_0", y), approximate="tanh") * lin(
        p, "layer.1.DenseReluDense.wi_1", y
    )
    return x + lin(p, "layer.1.DenseReluDense.wo", h)


def clip_block(p, x, mask):
    def norm(name, y):
        return F.layer_norm(y, y.shape[-1:], p[name + ".weight"], p[name + ".bias"], 1e-5)

    y = norm("layer_norm1", x)
    q, k, v = (
        lin(p, f"self_attn.{n}_proj", y).unflatten(-1, (-1, 64)).transpose(1, 2) for n in "qkv"
    )
    w = ((q @ k.transpose(-1, -2)) * 0.125 + mask).float().softmax(-1).to(x.dtype)
    x = x + lin(p, "self_attn.out_proj", (w @ v).transpose(1, 2).flatten(2))
    h = lin(p, "mlp.fc1", norm("layer_norm2", x))
    return x + lin(p, "mlp.fc2", h * torch.sigmoid(1.702 * h))


def t5_buckets(n, device):
    """T5's bucket of every (query, key) pair: 32 buckets, both directions, logarithmic up to 128."""
    d = torch.arange(n)[None, :] - torch.arange(n)[:, None]
    far = 8 + (torch.log(d.abs().clamp_min(1).float() / 8) / math.log(128 / 8) * 8).long()
    return (torch.where(d.abs() < 8, d.abs(), far.clamp_max(15)) + 16 * (d > 0)).to(device)


def rope_table(text, rows, columns, device):
    """Cosines and sines (text + rows * columns, D / 2) float32: text ids are (0, 0, 0), image ids
    (0, row, column)."""
    ids = torch.zeros(text + rows * columns, 3, dtype=torch.float64)
    ids[text:, 1] = torch.arange(rows).repeat_interleave(columns)
    ids[text:, 2] = torch.arange(columns).repeat(rows)
    angles = []
    for axis, dim in enumerate(AXES):
        freq = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles.append(ids[:, axis, None] * freq)
    a = torch.cat(angles, -1)
    return a.cos().float().to(device), a.sin().float().to(device)


def embedding(p, name, value, first):
    """The sinusoids of 1000 * value through a two-layer MLP; the first frequencies are left out."""
    freq = torch.exp(-math.log(10000) / 128 * torch.arange(128, device=value.device))
    a = value.float()[:, None] * freq
    use = torch.arange(128, device=value.device) >= first
    y = (torch.cat([a.cos() * use, a.sin() * use], -1)).to(p[name + ".linear_1.weight"].dtype)
    return lin(p, name + ".linear_2", F.silu(lin(p, name + ".linear_1", y)))


class Passes:
    """The three models' passes; `compiled` puts torch.compile around each kind of block."""

    def __init__(self, compiled=False, **how):
        def wrap(f):
            return torch.compile(f, **how) if compiled else f

        self.double, self.single = wrap(double_block), wrap(single_block)
        self.t5_block, self.clip_block, self.embedding = (
            wrap(t5_block),
            wrap(clip_block),
            wrap(embedding),
        )
        self.final = wrap(self._final)
        self.tables = {}

    @staticmethod
    def _final(p, x, temb):
        scale, shift = lin(p, "norm_out.linear", temb).chunk(2, -1)
        return lin(p, "proj_out", modulated(x, shift, scale))

    def cached(self, key, make):
        if key not in self.tables:
            self.tables[key] = make()
        return self.tables[key]

    def t5(self, p, ids):
        n = ids.shape[1]
        buckets = self.cached(("t5", n), lambda: t5_buckets(n, ids.device))
        blocks = p["encoder.block"]
        bias = F.embedding(
            buckets, blocks[0]["layer.0.SelfAttention.relative_attention_bias.weight"]
        )
        bias = bias.permute(2, 0, 1).contiguous()
        x = F.embedding(ids, p["shared.weight"])
        for b in blocks:
            x = self.t5_block({k: v for k, v in b.items() if "relative" not in k}, x, bias)
        return rms(x, p["encoder.final_layer_norm.weight"])

    def clip(self, p, ids):
        """The pooled state; `ids` may be cut anywhere behind the first end token (it is causal)."""
        n = ids.shape[1]
        pos = p["embeddings.position_embedding.weight"]
        mask = self.cached(
            ("clip", n, pos.dtype),
            lambda: torch.full((n, n), -1e9, device=ids.device, dtype=pos.dtype).triu(1),
        )
        x = F.embedding(ids, p["embeddings.token_embedding.weight"]) + pos[:n]
        for b in p["encoder.layers"]:
            x = self.clip_block(b, x, mask)
        at = ids.argmax(-1)
        x = x.gather(1, at[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
        w, b = p["final_layer_norm.weight"], p["final_layer_norm.bias"]
        return F.layer_norm(x, x.shape[-1:], w, b, 1e-5)

    def dit(self, p, x, t, g, states, pooled, grid, tap=None):
        """The predicted velocity (B, n, 64). t (0 to 1) and g are rounded to the weights' type and
        multiplied by 1000 in it, as the pipeline does. `tap`: also give the image states
        behind that many single blocks."""
        dtype = p["x_embedder.weight"].dtype
        n = states.shape[1]
        key = ("rope", n, *grid)
        cos, sin = self.cached(key, lambda: rope_table(n, *grid, x.device))
        t, g = t.to(dtype) * 1000, g.to(dtype) * 1000
        temb = self.embedding(_part(p, "time_text_embed.timestep_embedder"), "e", t, TIME_FROM)
        temb = temb + self.embedding(
            _part(p, "time_text_embed.guidance_embedder"), "e", g, GUIDANCE_FROM
        )
        name = "time_text_embed.text_embedder"
        temb = temb + lin(p, name + ".linear_2", F.silu(lin(p, name + ".linear_1", pooled)))
        temb = F.silu(temb)
        c, x = lin(p, "context_embedder", states), lin(p, "x_embedder", x.to(dtype))
        for b in p["transformer_blocks"]:
            c, x = self.double(b, c, x, temb, cos, sin)
        y = torch.cat([c, x], 1)
        tapped = None
        for i, b in enumerate(p["single_transformer_blocks"]):
            y = self.single(b, y, temb, cos, sin)
            if tap == i + 1:
                tapped = y[:, n:]
        ends = (
            "norm_out.linear.weight",
            "norm_out.linear.bias",
            "proj_out.weight",
            "proj_out.bias",
        )
        out = self.final({k: p[k] for k in ends}, y[:, n:], temb)
        return out if tap is None else (out, tapped)


def _part(p, prefix):
    return {"e" + k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}
