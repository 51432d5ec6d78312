"""The demo model generates what it is asked for, by its judge; and the judge sees what is there."""

import copy
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("FLUX_TRITON", str(ROOT / "build" / "cli" / "flux-triton"))
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "bench")]

import quality  # noqa: E402
from training.judge import ASPECTS, judge  # noqa: E402
from training.outlines import distances  # noqa: E402
from training.scenes import COLORS, KINDS, test_scenes as held_out_scenes  # noqa: E402

SIDE = 128


def paint(scene):
    """A scene as flat shapes without shadows."""
    image = np.full((SIDE, SIDE, 3), COLORS[scene["bg"]], np.uint8)
    at = (np.arange(SIDE) + 0.5) / SIDE
    for o in scene["objs"]:
        x, y = at[None, :] - o["x"], at[:, None] - o["y"]
        outline = distances(np, *np.broadcast_arrays(x, y), o["r"])[KINDS.index(o["kind"])]
        image[outline < 0] = COLORS[o["color"]]
    return image


def wrong(image, scene):
    return {aspect for aspect, right in judge(image, scene).items() if not right}


def test_judge_accepts_what_was_asked():
    scenes = held_out_scenes(40)
    assert {s["layout"] for s in scenes} >= {"one", "pair", "inside", "row", "roof"}
    refused = [s["prompt"] for s in scenes if wrong(paint(s), s)]
    assert len(refused) <= 1, refused


@pytest.mark.parametrize(
    "aspect, change",
    [
        ("background", lambda s: s.update(bg="black")),
        ("colours", lambda s: s["objs"][0].update(color="black")),
        ("shapes", lambda s: s["objs"][0].update(kind="ring")),
        ("places", lambda s: s["objs"].__setitem__(slice(None), swapped(s["objs"]))),
        ("sizes", lambda s: s["objs"][0].update(r=0.21)),
        ("count", lambda s: s["objs"].pop()),
    ],
)
def test_judge_refuses_what_was_not_asked(aspect, change):
    o = {"kind": "star", "color": "red", "size": "small", "x": 0.26, "y": 0.5, "r": 0.105}
    other = o | {"kind": "square", "color": "blue", "x": 0.74}
    asked = {"objs": [o, other], "bg": "yellow", "layout": "pair", "swap": False}
    assert not wrong(paint(asked), asked)
    changed = copy.deepcopy(asked)
    change(changed)
    assert aspect in wrong(paint(changed), asked)


def swapped(objs):
    return [objs[0] | {"x": objs[1]["x"]}, objs[1] | {"x": objs[0]["x"]}]


def test_noise_is_the_same_for_every_dtype_and_count(tmp_path):
    parts = []
    for count in (1, 3):
        quality.write_noise(tmp_path / "noise", quality.Case(height=32, width=48), count)
        data = (tmp_path / "noise").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        parts.append(np.frombuffer(data[8 + length :], "<u4").reshape(count, 6, 64))
    assert np.array_equal(parts[0][0], parts[1][0])
    assert not np.array_equal(parts[1][0], parts[1][1])
    assert not (parts[1] & 0xFFFF).any()  # bfloat16 holds it
    assert 0.9 < parts[1].view(np.float32).std() < 1.1


def test_demo_model_generates_what_it_is_asked_for(tmp_path):
    """In every dtype most of a few held-out prompts, alike; with a page of them."""
    command = [sys.executable, ROOT / "bench/quality.py", "--flux-triton", PROGRAM, "--count", "8"]
    command += ["--steps", "12", "--output", tmp_path / "table", "--sheet", tmp_path / "sheet.png"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table").read_text() == done.stdout
    lines = [line.split() for line in done.stdout.splitlines()[3:]]
    assert [line[0] for line in lines] == list(quality.TIERS)
    for line in lines:
        shares = dict(zip(ASPECTS, map(float, line[5:12])))
        assert shares["background"] == 1.0
        assert shares["all"] >= 0.75
    for line in lines[1:]:
        assert float(line[12]) > 40  # dB to float32
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.width > 4 * SIDE and page.height > 2 * SIDE


def test_a_failure_is_told(tmp_path):
    command = [sys.executable, ROOT / "bench/quality.py", "--flux-triton", PROGRAM]
    command += ["--checkpoint", tmp_path, "--count", "1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "flux-triton: error: " in done.stderr
