"""The six shapes as signed distances, for torch tensors (training) and numpy arrays (the judge)."""

import math


def distances(xp, x, y, r):
    """Signed distances (in the unit of x and y, y downwards) to the six shapes of radius r, stacked in
    the order of scenes.KINDS. `xp`: the arrays' library, torch or numpy."""
    L, u = xp.hypot(x, y), -y / r
    v = abs(x) / r  # v, u: half plane, y upwards, radius 1
    circle = L / r - 0.95
    a, b = v - 0.80, abs(u) - 0.80
    square = xp.hypot(xp.clip(a, 0, None), xp.clip(b, 0, None))
    square = square + xp.clip(xp.maximum(a, b), None, 0) - 0.06
    triangle = xp.maximum(-u - 0.85, (v * 1.85 + (u - 1) * 1.05) / math.hypot(1.85, 1.05))
    ring = abs(L / r - 0.73) - 0.23
    k1x, k1y = 0.809016994375, -0.587785252292  # five-pointed star: fold twice, then one edge
    p, q = v, u - 0.04
    d = xp.clip(k1x * p + k1y * q, 0, None) * 2
    p, q = p - d * k1x, q - d * k1y
    d = xp.clip(-k1x * p + k1y * q, 0, None) * 2
    p, q = abs(p + d * k1x), q - d * k1y - 1.05
    bx, by = -0.45 * k1y, 0.45 * k1x - 1
    h = xp.clip((p * bx + q * by) / (bx * bx + by * by), 0, 1.05)
    star = xp.hypot(p - bx * h, q - by * h) * xp.sign(q * bx - p * by)
    p, q = v / 1.7, u / 1.7 + 0.54  # heart: two arcs over a right angle
    m = xp.clip(p + q, 0, None) / 2
    low = xp.minimum(xp.hypot(p, q - 1), xp.hypot(p - m, q - m)) * xp.sign(p - q)
    heart = xp.where(p + q > 1, xp.hypot(p - 0.25, q - 0.75) - math.sqrt(2) / 4, low) * 1.7
    return xp.stack([circle, square, triangle, star, ring, heart]) * r
