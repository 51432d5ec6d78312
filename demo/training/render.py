"""Packs scenes into tensors and draws them: anti-aliased flat shapes, lightly shaded, with soft
shadows."""

import numpy as np
import torch

from .outlines import distances
from .scenes import COLORS, KINDS, NAMES


def pack(scenes):
    """Scenes as one float tensor (N, 27): 3 shapes of (kind or -1, x, y, r, red, green, blue), then
    the background's top and bottom colour."""
    out = np.full((len(scenes), 27), -1, np.float32)
    for i, s in enumerate(scenes):
        for k, o in enumerate(s["objs"]):
            head = (KINDS.index(o["kind"]), o["x"], o["y"], o["r"])
            out[i, 7 * k : 7 * k + 7] = (*head, *(v / 255 for v in COLORS[o["color"]]))
        c = np.array(COLORS[s["bg"]], np.float32) / 255
        out[i, 21:24], out[i, 24:27] = (c + (1 - c) * 0.35, c * 0.92) if s["grad"] else (c, c)
    return torch.from_numpy(out)


def labels(scenes):
    """Scenes as class numbers (N, 4): the three shapes' colours (0 where there is none), then the
    background's."""
    out = np.zeros((len(scenes), 4), np.int64)
    for i, s in enumerate(scenes):
        for k, o in enumerate(s["objs"]):
            out[i, k] = NAMES.index(o["color"])
        out[i, 3] = NAMES.index(s["bg"])
    return torch.from_numpy(out)


def render(packed, H, W):
    """Packed scenes (B, 27) -> images (B, 3, H, W) in [-1, 1]."""
    P = packed
    B, side = P.shape[0], min(H, W)
    yy = (torch.arange(H, device=P.device) + 0.5).view(1, H, 1)
    xx = (torch.arange(W, device=P.device) + 0.5).view(1, 1, W)
    top, bottom = P[:, 21:24, None, None], P[:, 24:27, None, None]
    img = (top + (bottom - top) * (yy / H)[:, None]).expand(B, 3, H, W)
    for k in range(3):
        kind, cx, cy, r, *_ = P[:, 7 * k : 7 * k + 7].split(1, 1)
        col = P[:, 7 * k + 4 : 7 * k + 7, None, None]
        on = (kind >= 0).float()[:, None, None]
        pick = kind.clamp_min(0).long().view(1, B, 1, 1).expand(1, B, H, W)
        X, Y, R = xx - cx[:, None] * W, yy - cy[:, None] * H, (r[:, None] * side).clamp_min(1e-3)
        d = distances(torch, X, Y, R).gather(0, pick)[0][:, None]
        shadow = distances(torch, X - 0.012 * side, Y - 0.025 * side, R).gather(0, pick)[0][:, None]
        s = (0.5 - shadow / (0.07 * side)).clamp(0, 1)
        img = img * (1 - 0.2 * on * s * s * (3 - 2 * s))
        shade = (Y / R).clamp(-1, 1)[:, None]
        col = torch.where(shade < 0, col - (1 - col) * 0.12 * shade, col * (1 - 0.07 * shade))
        a = (0.5 - d).clamp(0, 1) * on
        img = img * (1 - a) + col * a
    return img * 2 - 1
