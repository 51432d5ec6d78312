#!/usr/bin/env python3
"""Compares flux-triton with stable-diffusion.cpp on GGUF files: seconds and peak memory on the CPU.

Both generate images with the same files of FLUX.1-schnell's size, which have random weights and are
made on first use, on the same cores, in turns. Needs only the standard library; stable-diffusion.cpp
is built from source on first use, for this processor, into a virtual environment of its own.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import shutil
import sys

from compare import MEMORY_ALLOWANCE, REFERENCE, ROOT, cpu_name, environment, run

RECIPE = REFERENCE / "make_quantized_file.py"
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q2_K", "Q3_K", "Q6_K"]
GIB = 1 << 30


def made(work: pathlib.Path, python: pathlib.Path, name: str, *options) -> pathlib.Path:
    """A file with random weights, made again when its recipe changes."""
    recipe = hashlib.sha256(RECIPE.read_bytes() + repr(options).encode()).hexdigest()[:8]
    stem, suffix = name.rsplit(".", 1)
    path = work / f"{stem}-{recipe}.{suffix}"
    if not path.exists():
        print(f"Making {path}", file=sys.stderr)
        part = path.with_suffix(".part")
        run([python, RECIPE, *options, "--output", part])
        part.rename(path)
    return path


def parts(args, python: pathlib.Path, kind: str) -> dict:
    blocks = ["--schnell", "--blocks", *args.blocks]
    return {
        "transformer": made(args.work, python, f"schnell-{kind}.gguf", "--type", kind, *blocks),
        "t5": made(args.work, python, f"t5-{args.t5}.gguf", "--part", "t5", "--type", args.t5),
        "clip": made(args.work, python, "clip.safetensors", "--part", "clip", "--type", "BF16"),
        "vae": made(args.work, python, "vae.safetensors", "--part", "vae", "--type", "BF16"),
    }


def measure(args, python: pathlib.Path, files: dict, steps: int) -> dict:
    """One image by each program."""
    named = ["--clip", files["clip"], "--t5", files["t5"], "--vae", files["vae"]]
    common = ["--steps", steps, "--threads", args.threads]
    size = ["--height", args.size, "--width", args.size]
    ours = [args.flux_triton, "bench", files["transformer"], *named, *common, *size]
    ours += ["--tokenizers", ROOT / "demo" / "shapes", "--device", "cpu", "--json"]
    ours += ["--max-sequence-length", 256, "--runs", 1, "--warmup", 0]
    theirs = [python, REFERENCE / "time_sdcpp.py", files["transformer"], *named, *common]
    print(f"{files['transformer'].name}, {steps} steps: stable-diffusion.cpp", file=sys.stderr)
    reference = json.loads(run([*theirs, "--size", args.size]))
    print(f"{files['transformer'].name}, {steps} steps: flux-triton", file=sys.stderr)
    result = json.loads(run(ours))
    result["step_seconds"] = result["stages"]["dit_transformer"]["median"]
    result["image_seconds"] = result["image"]["median"]
    return {"theirs": reference, "ours": result}


def table(args, kind: str, steps: int, files: dict, result: dict) -> list:
    theirs, ours = result["theirs"], result["ours"]
    title = f"{kind}, {args.size}x{args.size}, {steps} step{'s' if steps > 1 else ''}"
    lines = [f"{title:<26}stable-diffusion.cpp  flux-triton    ratio"]
    for name, key in [("a step", "step_seconds"), ("whole image", "image_seconds")]:
        ratio = theirs[key] / ours[key]
        lines.append(f"  {name:<24}{theirs[key]:>18.2f} s{ours[key]:>11.2f} s{ratio:>8.2f}x")
    limit = sum(path.stat().st_size for path in files.values()) + MEMORY_ALLOWANCE
    peaks = [each["peak_memory_bytes"] / GIB for each in (theirs, ours)]
    lines.append(
        f"  {'peak memory':<24}{peaks[0]:>16.2f} GiB{peaks[1]:>9.2f} GiB"
        f"   limit {limit / GIB:.2f} GiB (files + 1)"
    )
    return lines


def parse_arguments() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flux-triton", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench-gguf",
                        help="directory of the files and of stable-diffusion.cpp")  # fmt: skip
    parser.add_argument("--types", nargs="+", choices=TYPES, default=["Q4_0", "Q8_0"])
    parser.add_argument("--t5", choices=TYPES, default="Q8_0", help="type of the text encoder")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--size", type=int, default=512, help="height and width")
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--blocks", type=int, nargs=2, default=[19, 38], metavar=("DOUBLE", "SINGLE"),
                        help="fewer for a trial")  # fmt: skip
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "bench/results/gguf.txt")
    return parser.parse_args()


def check_room(work: pathlib.Path) -> None:
    wanted = 30 * GIB  # files of two types, T5, and one that is being made
    free = shutil.disk_usage(work).free
    if not any(work.glob("*.gguf")) and free < wanted:
        sys.exit(f"gguf.py: {work}: {free / GIB:.0f} GiB are free, {wanted // GIB} are needed; "
                 "give another directory with --work")  # fmt: skip


def main() -> None:
    args = parse_arguments()
    if not args.flux_triton.exists():
        sys.exit(f"gguf.py: {args.flux_triton}: no such file; run make build, or give --flux-triton")
    args.work.mkdir(parents=True, exist_ok=True)
    check_room(args.work)
    python = environment(args.work / "venv", REFERENCE / "requirements-gguf.txt")
    lines = []
    for kind in args.types:
        files = parts(args, python, kind)
        for steps in args.steps:
            result = measure(args, python, files, steps)
            if not lines:
                version = run([args.flux_triton, "--version"]).strip()
                lines += [
                    f"{version} against stable-diffusion-cpp-python {result['theirs']['version']}",
                    f"{cpu_name()}, {args.threads} threads, {datetime.date.today()}",
                    f"random weights, {args.blocks[0]} + {args.blocks[1]} blocks, T5 in {args.t5}; "
                    "one image by each, in turns",
                    f"load average at the start: {os.getloadavg()[0]:.2f}",
                ]
                print("\n".join(lines))
            lines += ["", *table(args, kind, steps, files, result)]
            print("\n".join(lines[-4:]), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(lines) + "\n")
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
