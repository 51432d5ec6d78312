#!/usr/bin/env python3
"""What each way of computing costs in quality: the demo model's held-out prompts, drawn by
flux-triton from the same noise in every way, judged, and compared with float32.

A line of the table: the shares of pictures that are right, by demo/training/judge.py; the mean PSNR
of the pictures to float32's with the same settings. Needs numpy and Pillow.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))

from training.judge import ASPECTS, judge, mean  # noqa: E402
from training.scenes import test_scenes  # noqa: E402
from training.sheet import sheet  # noqa: E402

# The ways of computing: what `generate` is told. The first is what the others are compared with.
TIERS = {"f32": ["--dtype", "f32"], "bf16": ["--dtype", "bf16"]}


@dataclasses.dataclass(frozen=True)
class Case:
    steps: int = 12
    guidance: float = 3.5
    height: int = 128
    width: int = 128
    tokens: int = 64

    def __str__(self):
        size = f"{self.width}x{self.height}"
        return f"{size:>8} {self.steps:>5} {self.guidance:>8} {self.tokens:>6}"

    def options(self) -> list:
        options = {
            "--steps": self.steps, "--guidance": self.guidance, "--height": self.height,
            "--width": self.width, "--max-sequence-length": self.tokens,
        }  # fmt: skip
        return [str(part) for option in options.items() for part in option]


STEPS = [Case(steps) for steps in (4, 8, 12, 28)]
OTHERS = [Case(guidance=guidance) for guidance in (1.0, 2.0, 5.0)]
OTHERS += [Case(height=side, width=side) for side in (64, 96, 192, 256)]
OTHERS += [Case(height=128, width=192), Case(height=160, width=96), Case(tokens=512)]
HEAD = f"{'':10} {'size':>8} {'steps':>5} {'guidance':>8} {'tokens':>6}"


def write_noise(path: pathlib.Path, case: Case, count: int) -> None:
    """Packed noise [count, tokens, 64] that bfloat16 can hold: the same for every dtype. Picture k's
    does not depend on `count`."""
    shape = (case.height // 16 * (case.width // 16), 64)
    rows = [np.random.default_rng(k).standard_normal(shape, np.float32) for k in range(count)]
    bits = (np.stack(rows).view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
    entry = {"dtype": "F32", "shape": [count, *shape], "data_offsets": [0, bits.nbytes]}
    header = json.dumps({"latents": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())


def draw(args, tier: str, case: Case, prompts: list) -> list:
    """Pictures as uint8 [height, width, 3]."""
    with tempfile.TemporaryDirectory() as directory:
        noise = pathlib.Path(directory) / "noise.safetensors"
        write_noise(noise, case, len(prompts))
        command = [args.flux_triton, "generate", args.checkpoint, *TIERS[tier], *case.options()]
        command += ["--device", args.device, "--threads", args.threads, "--latents", noise, "--json"]
        command += ["--output", pathlib.Path(directory) / "image.png"]
        for prompt in prompts:
            command += ["--prompt", prompt]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{tier}: {done.stderr[-2000:]}")
        files = json.loads(done.stdout)["files"]
        return [np.array(Image.open(file).convert("RGB")) for file in files]


def psnr(pictures: list, reference: list) -> float:
    """Mean over pictures of each one's PSNR in dB; equal pictures count as 78 dB."""
    errors = [((a.astype(float) - b) ** 2).mean() for a, b in zip(pictures, reference)]
    return float(np.mean([10 * np.log10(255**2 / max(error, 1e-3)) for error in errors]))


def rows(args, case: Case, scenes: list, prompts: list):
    """(the table's line, pictures) for each tier."""
    reference = None
    for tier in args.tiers:
        pictures = draw(args, tier, case, prompts)
        reference = reference or pictures
        shares = mean([judge(picture, scene) for picture, scene in zip(pictures, scenes)])
        line = f"{tier:10} {case}" + "".join(f"{shares[aspect]:>11.3f}" for aspect in ASPECTS)
        same = "" if pictures is reference else f"{psnr(pictures, reference):.1f}"
        yield f"{line} {same:>8}".rstrip(), pictures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flux-triton", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=ROOT / "demo/shapes")
    parser.add_argument("--count", type=int, default=64, help="held-out prompts")
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--steps", type=int, nargs="+", help="only these, at 128x128")
    parser.add_argument("--all", action="store_true", help="also other guidances, sizes, text lengths")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each physical core")
    parser.add_argument("--output", type=pathlib.Path, help="also write the table to this file")
    parser.add_argument("--sheet", type=pathlib.Path, help="PNG with the last tier's 12-step pictures")
    parser.add_argument("--sheet-count", type=int, default=12)
    args = parser.parse_args()
    if args.count < 1:
        parser.error("--count must be at least 1")
    args.tiers = [tier for tier in TIERS if tier in args.tiers]
    return args


def main() -> None:
    args = parse_arguments()
    scenes = test_scenes(args.count)
    prompts = [scene["prompt"] for scene in scenes]
    lines = [
        f"{args.checkpoint.name}: {args.count} held-out prompts, drawn by flux-triton from one noise, "
        f"{datetime.date.today()}",
        "shares that are right; PSNR in dB to the first tier",
        f"{HEAD}{''.join(f'{aspect:>11}' for aspect in ASPECTS)} {'PSNR':>8}",
    ]
    print("\n".join(lines), flush=True)
    cases = [Case(steps) for steps in args.steps] if args.steps else STEPS
    for case in cases + (OTHERS if args.all else []):
        for line, pictures in rows(args, case, scenes, prompts):
            print(line, flush=True)
            lines.append(line)
        if args.sheet and case == Case():
            shown = slice(args.sheet_count)
            sheet(pictures[shown], args.sheet, prompts[shown], columns=4, margin=40)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
