"""Random scenes of coloured shapes and the English prompts that ask for them.

A scene is a dict: prompt, objs (kind, color, size, named, x, y, r), bg, grad, swap, layout. Positions
are fractions of width and height, radii fractions of the shorter side. `swap` says that the prompt
leaves the order of two shapes open ("next to").
"""

import random
import zlib

COLORS = {
    "red": (226, 54, 54),
    "orange": (245, 140, 20),
    "yellow": (250, 215, 50),
    "green": (56, 160, 72),
    "cyan": (40, 190, 205),
    "blue": (40, 95, 215),
    "purple": (135, 50, 170),
    "pink": (245, 150, 190),
    "brown": (125, 82, 58),
    "white": (250, 250, 250),
    "gray": (150, 152, 156),
    "black": (35, 35, 38),
}
NAMES = list(COLORS)
KINDS = ["circle", "square", "triangle", "star", "ring", "heart"]
WORDS = {
    "circle": ["circle"] * 4 + ["disc", "dot", "ball"],
    "square": ["square"] * 4 + ["box"],
    "ring": ["ring"] * 4 + ["hoop", "donut"],
    "triangle": ["triangle"],
    "star": ["star"],
    "heart": ["heart"],
    "small": ["small"] * 3 + ["little", "tiny"],
    "large": ["large"] * 3 + ["big", "huge"],
    "gray": ["gray", "grey"],
    "cyan": ["cyan"] * 3 + ["turquoise"],
    "purple": ["purple"] * 3 + ["violet"],
}
RADII = {
    1: {"small": 0.13, "medium": 0.21, "large": 0.30},
    2: {"small": 0.105, "medium": 0.16, "large": 0.215},
    3: {"small": 0.08, "medium": 0.115, "large": 0.14},
}
PLACES = {
    "left": (0.25, 0.5),
    "right": (0.75, 0.5),
    "top": (0.5, 0.25),
    "bottom": (0.5, 0.75),
    "centre": (0.5, 0.5),
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
}
PLACE_PAIRS = [
    ("left", "right"),
    ("top", "bottom"),
    ("top left", "bottom right"),
    ("top right", "bottom left"),
    ("top left", "top right"),
    ("bottom left", "bottom right"),
]
PAIR_PHRASES = {
    "left": [
        "{A} to the left of {B}",
        "{A} left of {B}",
        "{B} with {A} to its left",
        "to the left of {B} is {A}",
        "{A} on the left of {B}",
    ],
    "right": [
        "{A} to the right of {B}",
        "{A} right of {B}",
        "{B} with {A} to its right",
        "to the right of {B} is {A}",
        "{A} on the right of {B}",
    ],
    "above": [
        "{A} above {B}",
        "{A} over {B}",
        "{B} with {A} above it",
        "above {B} is {A}",
        "{A} on top of {B}",
    ],
    "below": [
        "{A} below {B}",
        "{A} under {B}",
        "{B} with {A} below it",
        "below {B} is {A}",
        "{A} beneath {B}",
    ],
    "next": ["{A} next to {B}", "{A} beside {B}", "{A} and {B} side by side"],
    "and": ["{A} and {B}", "{A} with {B}"],
}
LAYOUTS = {"one": 24, "pair": 30, "places": 10, "inside": 8, "same": 8, "row": 12, "roof": 8}
TRIPLE = (0.19, 0.5, 0.81)
OPENINGS = [
    "a picture of ",
    "an image of ",
    "a flat illustration of ",
    "a drawing of ",
    "draw ",
    "a poster with ",
]
ENDINGS = [", flat design", ", vector art", ", minimal style", ", simple shapes"]


def _word(r, w):
    return r.choice(WORDS.get(w, [w]))


def _say_place(r, p):
    if p == "centre":
        return r.choice(["in the centre", "in the center", "in the middle", "at the centre"])
    if " " in p:
        q = p if r.random() < 0.7 else p.replace("top", "upper").replace("bottom", "lower")
        return f"in the {q}" + r.choice([" corner", ""])
    side = " side" if p in ("left", "right") and r.random() < 0.3 else ""
    return f"{'at' if p in ('top', 'bottom') else 'on'} the {p}{side}"


def _say(r, o, article=True, plural=False):
    """One shape in words, in one of several word orders."""
    color = _word(r, o["color"]) if o["named"] else ""
    kind = _word(r, o["kind"])
    size = _word(r, o["size"]) if o["size"] != "medium" else ""
    if plural:
        kind += "es" if kind[-1] == "x" else "s"
    if o["named"] and article and r.random() < 0.06:
        t = r.choice([f"{kind} in {color}", f"{kind} of {color} colour"])
        t = f"{size} {t}" if size else t
    else:
        t = " ".join(w for w in (size, color, kind) if w)
    if not article:
        return t
    return ("an " if t[0] in "aeiou" else "a ") + t


def _objects(r, layout, n, palette):
    objs = []
    for i in range(n):
        if layout == "same" and i:
            objs.append(dict(objs[0]))
            continue
        o = {
            "kind": r.choice(KINDS),
            "color": r.choice(palette),
            "size": r.choice(["small", "medium", "medium", "large"]),
            "named": r.random() > 0.03,
        }
        while any(o["kind"] == p["kind"] and o["color"] == p["color"] for p in objs):
            o["color"] = r.choice(palette)
        objs.append(o)
    if layout == "inside":
        objs[0].update(kind=r.choice(["circle", "square", "heart"]), size="medium")
        objs[1]["size"] = "medium"
        while objs[1]["color"] == objs[0]["color"]:
            objs[1]["color"] = r.choice(palette)
    return objs


def _lay_one(r, objs):
    place = r.choice(list(PLACES) + ["centre"] * 3)
    t = _say(r, objs[0])
    if place != "centre" or r.random() < 0.4:
        # Both phrasings are made before one is chosen, so that every draw has the same cost.
        forms = [f"{t} {_say_place(r, place)}"] * 3 + [f"{_say_place(r, place)}, {t}"]
        t = r.choice(forms)
    return t, [PLACES[place]], False


def _lay_pair(r, objs):
    rel = r.choice(list(PAIR_PHRASES))
    a, b = _say(r, objs[0]), _say(r, objs[1])
    if rel in ("above", "below"):
        pos = [(0.5, 0.26), (0.5, 0.74)]
    else:
        pos = [(0.26, 0.5), (0.74, 0.5)]
    if rel in ("right", "below"):
        pos = pos[::-1]
    swap = rel in ("next", "and")
    if swap:
        pos = pos[:: r.choice([1, -1])]
    return r.choice(PAIR_PHRASES[rel]).format(A=a, B=b), pos, swap


def _lay_places(r, objs):
    p, q = r.choice(PLACE_PAIRS)
    if r.random() < 0.5:
        p, q = q, p
    t = f"{_say(r, objs[0])} {_say_place(r, p)} and {_say(r, objs[1])} {_say_place(r, q)}"
    return t, [PLACES[p], PLACES[q]], False


def _lay_inside(r, objs):
    a, b = _say(r, objs[1]), _say(r, objs[0])
    forms = [
        f"{a} inside {b}",
        f"{a} in {b}",
        f"{b} with {a} inside",
        f"{b} with {a} in the middle of it",
    ]
    return r.choice(forms), [(0.5, 0.5)] * 2, False


def _lay_same(r, objs):
    n = len(objs)
    t = f"{ {2: 'two', 3: 'three'}[n]} {_say(r, objs[0], False, True)}"
    side = r.random() < 0.7
    pos = [(x, 0.5) if side else (0.5, x) for x in ((0.26, 0.74) if n == 2 else TRIPLE)]
    if side:
        t += r.choice(["", " side by side", " in a row"])
    else:
        t += r.choice([" in a column", " stacked", " one above the other"])
    return t, pos, False


def _lay_row(r, objs):
    side = r.random() < 0.65
    pos = [(x, 0.5) if side else (0.5, x) for x in TRIPLE]
    a, b, c = (_say(r, o) for o in objs)
    if side:
        forms = [
            f"{a}, {b} and {c}" + r.choice(["", " in a row", " from left to right"]),
            f"{a} on the left, {b} in the middle and {c} on the right",
            f"{b} between {a} and {c}",
        ]
    else:
        forms = [
            f"{a}, {b} and {c} " + r.choice(["in a column", "from top to bottom", "stacked"]),
            f"{a} at the top, {b} in the middle and {c} at the bottom",
            f"{a} above {b} above {c}",
        ]
    return r.choice(forms), pos, False


def _lay_roof(r, objs):
    a, b, c = (_say(r, o) for o in objs)
    up = r.random() < 0.5
    y = 0.28 if up else 0.72
    pos = [(0.5, y), (0.26, 1 - y), (0.74, 1 - y)]
    return (
        f"{a} {r.choice(['above', 'over'] if up else ['below', 'under'])} {b} and {c}",
        pos,
        False,
    )


LAY = {
    "one": _lay_one,
    "pair": _lay_pair,
    "places": _lay_places,
    "inside": _lay_inside,
    "same": _lay_same,
    "row": _lay_row,
    "roof": _lay_roof,
}


def _place(r, objs, pos, layout):
    """Gives every shape its position and radius, with a little jitter, inside the picture."""
    n = len(objs)
    jitter = 0.012 if n == 3 else 0.025
    for o, (x, y) in zip(objs, pos):
        o["r"] = RADII[n][o["size"]] * r.uniform(0.95, 1.05)
        if layout == "inside":
            o["r"] = 0.34 if o is objs[0] else 0.125
        m = o["r"] + 0.03
        o["x"], o["y"] = (min(max(v + r.uniform(-jitter, jitter), m), 1 - m) for v in (x, y))
    if layout == "inside":  # a heart's middle is above its centre
        lift = 0.03 if objs[0]["kind"] == "heart" else 0
        objs[1]["x"], objs[1]["y"] = objs[0]["x"], objs[0]["y"] - lift


def _say_background(r, t, bg, grad):
    b, g = _word(r, bg), r.choice(["", "", "soft ", "smooth "]) if grad else ""
    d = f"{g}{b} gradient" if grad else b
    a = "an" if d[0] in "aeiou" else "a"
    place = r.choice(["background"] * 4 + ["backdrop"])
    forms = [f"{t} on {a} {d} {place}"] * 4
    forms += [f"{t} against {a} {d} {place}", f"{t}, {d} {place}"]
    forms += [f"on {a} {d} {place}, {t}", f"{t} on {d}"]
    return r.choice(forms)


def scene(r):
    """One random scene with its prompt. `r` is a random.Random, the only source of chance."""
    layout = r.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
    count = r.choice([2, 2, 3])
    n = {"one": 1, "same": count, "row": 3, "roof": 3}.get(layout, 2)
    # The background is named, or not named (then white, or blue where a shape is white).
    shown = r.random() < 0.88
    bg = r.choice(NAMES)
    objs = _objects(r, layout, n, [c for c in NAMES if c != bg])
    if not shown:
        bg = "white" if all(o["color"] != "white" for o in objs) else "blue"
        for o in objs:
            while o["color"] == bg:
                o["color"] = r.choice([c for c in NAMES if c not in ("white", "blue")])
    grad = shown and r.random() < 0.35
    t, pos, swap = LAY[layout](r, objs)
    _place(r, objs, pos, layout)
    if shown:
        t = _say_background(r, t, bg, grad)
    if r.random() < 0.25 and t.split()[0] in ("a", "an", "two", "three"):
        t = r.choice(OPENINGS) + t
    if r.random() < 0.15:
        t += r.choice(ENDINGS)
    if r.random() < 0.2:
        t = t[0].upper() + t[1:]
    if r.random() < 0.2:
        t += "."
    return {"prompt": t, "objs": objs, "bg": bg, "grad": grad, "swap": swap, "layout": layout}


def held_out(s):
    """True for one scene in 16, chosen by what it shows: never trained on, left for tests."""
    key = "|".join([f"{o['color']} {o['kind']}" for o in s["objs"]] + [s["bg"]])
    return zlib.crc32(key.encode()) % 16 == 0


def test_scenes(count, seed=987654321):
    """The first `count` held-out scenes whose shapes all have a named colour."""
    r, out = random.Random(seed), []
    while len(out) < count:
        s = scene(r)
        if held_out(s) and all(o["named"] for o in s["objs"]):
            out.append(s)
    return out
