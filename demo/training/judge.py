"""Judges pictures drawn by the shapes checkpoint: are the background, the shapes, their colours,
outlines, places and sizes as asked? Plain image analysis, no learned model.

    python -m training.judge --list --count 64                # prompts and seeds, one JSON a line
    python -m training.judge --images DIR --count 64          # judges DIR/000.png, 001.png, ...
    python -m training.judge --truth --count 1000             # perfect pictures: the judge's own error

The prompts come from scenes held out of training (scenes.held_out).
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from .outlines import distances
from .scenes import COLORS, KINDS, NAMES, RADII, test_scenes

PALETTE = np.array([COLORS[n] for n in NAMES], np.float32)
# Every colour as it is, lit, and in two degrees of shade: 12 x 4 x 3.
SHADES = np.stack([PALETTE, PALETTE + (255 - PALETTE) * 0.12, PALETTE * 0.93, PALETTE * 0.86], 1)
# Half the longer side of a shape of radius 1.
EXTENT = dict(zip(KINDS, (0.95, 0.86, 1.03, 1.0, 0.96, 1.03)))
ASPECTS = ("background", "count", "colours", "shapes", "places", "sizes", "all")


def box(m):
    """(top, bottom, left, right) of a mask's true part."""
    y, x = np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))
    return y[0], y[-1] + 1, x[0], x[-1] + 1


def resize(plane, height, width):
    """A 2-D array, stretched bilinearly (and smoothed where it shrinks)."""
    image = Image.fromarray(plane.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def fit(m):
    """A mask's true part, stretched to 48x48."""
    a, b, c, d = box(m)
    return resize(m[a:b, c:d], 48, 48) > 0.5


def _template(k):
    g = ((np.arange(192) + 0.5) / 96 - 1) * 1.3
    return fit(distances(np, g[None, :], g[:, None], 1.0)[k] < 0)


TEMPLATES = [_template(k) for k in range(len(KINDS))]


def _along_rows(label, mask):
    """Gives every run of a row's true pixels the highest label in it."""
    change = np.ones(mask.shape, bool)
    change[:, 1:] = mask[:, 1:] != mask[:, :-1]
    start = np.flatnonzero(change)
    length = np.diff(start, append=mask.size)
    highest = np.maximum.reduceat(label.ravel(), start)
    return np.repeat(highest, length).reshape(mask.shape) * mask


def parts(mask):
    """4-connected parts of a mask, by spreading the highest number along rows and columns."""
    label = np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    while True:
        new = _along_rows(_along_rows(label, mask).T, mask.T).T
        if np.array_equal(new, label):
            return [label == v for v in np.unique(label) if v]
        label = new


def fill(m):
    """Closes the holes of a mask."""
    outer = np.pad(~m, 1, constant_values=True)
    around = [p for p in parts(outer) if p[0, 0]][0]
    return ~around[1:-1, 1:-1]


def inside(b, c):
    return b[0] >= c[0] - 1 and b[1] <= c[1] + 1 and b[2] >= c[2] - 1 and b[3] <= c[3] + 1


def _near(mask, decide):
    """`decide` (np.logical_and or np.logical_or) over each pixel's 3x3 neighbourhood; outside the
    picture nothing is true."""
    wide = np.pad(mask, 1)
    rows = decide(decide(wide[:-2], wide[1:-1]), wide[2:])
    return decide(decide(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _segments(a, edge):
    """[colour number, mask, box] of every connected patch of one colour before the background."""
    side = min(a.shape[:2])
    smooth = [np.convolve(np.pad(e, 4, mode="edge"), np.ones(9) / 9, "valid") for e in edge.T]
    back = np.stack(smooth, 1)[:, None]
    s = (a * back).sum(-1) / np.maximum((back * back).sum(-1), 1)
    s = s.clip(0.78, 1.0)[..., None]  # a shadow only darkens
    front = np.abs(a - s * back).max(-1) > 26
    label = np.full(front.shape, -1)
    label[front] = ((a[front][:, None, None] - SHADES) ** 2).sum(-1).min(-1).argmin(-1)
    found = []
    for k in range(len(NAMES)):
        m = label == k
        if m.sum() < 40:
            continue
        for p in parts(_near(m, np.logical_and)):
            if p.sum() >= 0.0022 * side * side:
                grown = _near(p, np.logical_or) & m
                found.append([k, grown, box(grown)])
    return found


def look(img):
    """(top colour, bottom colour, [(colour, shape, x, y, radius), ...]) of a picture as uint8."""
    height, width = 2 * img.shape[0], 2 * img.shape[1]
    a = np.stack([resize(plane, height, width) for plane in img.transpose(2, 0, 1)], -1)
    edge = np.median(np.concatenate([a[:, :3], a[:, -3:]], 1), 1)
    found = _segments(a, edge)

    def part_of(f, h):  # seen through a ring
        same = f is not h and f[0] == h[0]
        return same and inside(f[2], h[2]) and h[1].sum() > f[1].sum()

    kept = [f for f in found if not any(part_of(f, h) for h in found)]
    out = []
    for k, m, b in kept:
        if any(h[1] is not m and h[0] != k and inside(h[2], b) for h in kept):
            m = fill(m)
        f = fit(m)
        iou = [(f & t).sum() / (f | t).sum() for t in TEMPLATES]
        kind = KINDS[int(np.argmax(iou))] if max(iou) > 0.6 else "?"
        x, y = (b[2] + b[3]) / 2 / width, (b[0] + b[1]) / 2 / height
        radius = max(b[1] - b[0], b[3] - b[2]) / 2 / min(height, width)
        out.append((NAMES[k], kind, x, y, radius))
    return np.median(edge[:4], 0), np.median(edge[-4:], 0), out


def _background(top, bottom):
    """The colour's name that is nearest, plain or graded."""
    middle = (top + bottom) / 2
    graded = [False] + ([True] if abs(top - bottom).max() > 12 else [])

    def distance(c):
        means = [((c + (255 - c) * 0.35) + c * 0.92) / 2 if g else c for g in graded]
        return min(np.linalg.norm(middle - m) for m in means)

    return NAMES[int(np.argmin([distance(c) for c in PALETTE]))]


def _placed(perm, where, layout):
    ok = True
    if layout in ("one", "places"):
        near = [abs(f[2] - x) < 0.12 and abs(f[3] - y) < 0.12 for f, (x, y) in zip(perm, where)]
        ok = all(near)
    for (i, f), (j, h) in itertools.combinations(enumerate(perm), 2):
        for axis in (0, 1):
            want, got = where[j][axis] - where[i][axis], h[2 + axis] - f[2 + axis]
            if abs(want) > 0.15:
                ok &= want * got > 0 and abs(got) > 0.1
            else:
                ok &= abs(got) < 0.15
    return bool(ok)


def _sized(perm, s):
    n = len(s["objs"])

    def right(f, o):
        r = f[4] / EXTENT[o["kind"]]
        return min(RADII[n], key=lambda q: abs(np.log(r / RADII[n][q]))) == o["size"]

    if s["layout"] == "inside":
        return True
    return all(o["size"] == "medium" or right(f, o) for f, o in zip(perm, s["objs"]))


def judge(img, s):
    """{aspect: right?} of a picture for a scene; of all assignments of what is seen to what was
    asked the best one counts."""
    top, bottom, found = look(img)
    n = len(s["objs"])
    r = dict.fromkeys(ASPECTS[:-1], False)
    r["background"] = _background(top, bottom) == s["bg"]
    r["count"] = len(found) == n
    orders = [[(o["x"], o["y"]) for o in s["objs"]]]
    if s["swap"]:
        orders.append(orders[0][::-1])
    best = (-1,)
    for perm in itertools.permutations(found) if r["count"] else []:
        for where in orders:
            new = {
                "colours": all(f[0] == o["color"] for f, o in zip(perm, s["objs"])),
                "shapes": all(f[1] == o["kind"] for f, o in zip(perm, s["objs"])),
                "places": _placed(perm, where, s["layout"]),
                "sizes": _sized(perm, s),
            }
            named = new["colours"] and new["shapes"]
            rank = (named, named and new["places"], sum(new.values()))
            if rank > best:
                best = rank
                r.update(new)
    r["all"] = all(r.values())
    return r


def mean(results):
    return {k: round(float(np.mean([r[k] for r in results])), 4) for k in ASPECTS}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--images", type=Path, help="a folder with 000.png, 001.png, ...")
    ap.add_argument("--count", type=int, default=64)
    ap.add_argument("--height", type=int, default=128)
    ap.add_argument("--width", type=int, default=128)
    ap.add_argument("--list", action="store_true", help="print the prompts")
    ap.add_argument("--truth", action="store_true", help="judge perfect pictures")
    ap.add_argument("--verbose", action="store_true", help="one line a picture")
    o = ap.parse_args()
    scenes = test_scenes(o.count)
    if o.list:
        for i, s in enumerate(scenes):
            print(
                json.dumps({"prompt": s["prompt"], "seed": i, "height": o.height, "width": o.width})
            )
        return
    if o.truth:
        from .render import pack, render  # needs torch

        drawn = (render(pack([s]), o.height, o.width)[0].permute(1, 2, 0) for s in scenes)
        images = [((d + 1) * 127.5).round().byte().numpy() for d in drawn]
    elif o.images:
        paths = [o.images / f"{i:03d}.png" for i in range(o.count)]
        images = [np.array(Image.open(p).convert("RGB")) for p in paths]
    else:
        ap.error("say --images DIR, --list or --truth")
    results = [judge(i, s) for i, s in zip(images, scenes)]
    for k, (r, s) in enumerate(zip(results, scenes) if o.verbose else []):
        wrong = [q for q in ASPECTS[:-1] if not r[q]]
        print(k, "NO " + ",".join(wrong) if wrong else "ok", "|", s["layout"], "|", s["prompt"])
    print(json.dumps({**mean(results), "pictures": len(results)}))


if __name__ == "__main__":
    main()
