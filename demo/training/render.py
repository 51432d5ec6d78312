"""Draws packed scenes: anti-aliased flat shapes, lightly shaded, with soft shadows."""

import math

import torch


def distances(x, y, r):
    """Signed distances (in the unit of x and y, y downwards) to the six shapes of radius r, stacked in
    the order of scenes.KINDS."""
    L, u = torch.hypot(x, y), -y / r
    v = x.abs() / r  # v, u: half plane, y upwards, radius 1
    circle = L / r - 0.95
    a, b = v - 0.80, u.abs() - 0.80
    square = torch.hypot(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max(0) - 0.06
    triangle = torch.maximum(-u - 0.85, (v * 1.85 + (u - 1) * 1.05) / math.hypot(1.85, 1.05))
    ring = (L / r - 0.73).abs() - 0.23
    k1x, k1y = 0.809016994375, -0.587785252292  # five-pointed star: fold twice, then one edge
    p, q = v, u - 0.04
    d = (k1x * p + k1y * q).clamp_min(0) * 2
    p, q = p - d * k1x, q - d * k1y
    d = (-k1x * p + k1y * q).clamp_min(0) * 2
    p, q = (p + d * k1x).abs(), q - d * k1y - 1.05
    bx, by = -0.45 * k1y, 0.45 * k1x - 1
    h = ((p * bx + q * by) / (bx * bx + by * by)).clamp(0, 1.05)
    star = torch.hypot(p - bx * h, q - by * h) * torch.sign(q * bx - p * by)
    p, q = v / 1.7, u / 1.7 + 0.54  # heart: two arcs over a right angle
    m = (p + q).clamp_min(0) / 2
    low = torch.minimum(torch.hypot(p, q - 1), torch.hypot(p - m, q - m)) * torch.sign(p - q)
    heart = torch.where(p + q > 1, torch.hypot(p - 0.25, q - 0.75) - math.sqrt(2) / 4, low) * 1.7
    return torch.stack([circle, square, triangle, star, ring, heart]) * r


def render(packed, H, W):
    """Packed scenes (B, 27) -> pictures (B, 3, H, W) in [-1, 1]."""
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
        d = distances(X, Y, R).gather(0, pick)[0][:, None]
        shadow = distances(X - 0.012 * side, Y - 0.025 * side, R).gather(0, pick)[0][:, None]
        s = (0.5 - shadow / (0.07 * side)).clamp(0, 1)
        img = img * (1 - 0.2 * on * s * s * (3 - 2 * s))
        shade = (Y / R).clamp(-1, 1)[:, None]
        col = torch.where(shade < 0, col - (1 - col) * 0.12 * shade, col * (1 - 0.07 * shade))
        a = (0.5 - d).clamp(0, 1) * on
        img = img * (1 - a) + col * a
    return img * 2 - 1
