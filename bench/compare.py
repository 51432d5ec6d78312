#!/usr/bin/env python3
"""Compares flux-triton with diffusers on the CPU: seconds per stage and whole, and peak memory.

Both generate images with the same random-weight checkpoint on the same cores, alternating in one
run. Needs only the standard library; diffusers runs in a virtual environment of its own, made here on
first use, or in the interpreter named by FLUX_REFERENCE_PYTHON.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "bench" / "reference"
STAGES = ["clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder"]
# Peak memory may be the weights in their compute dtype plus this much.
MEMORY_ALLOWANCE = 1 << 30


def run(command: list, **options) -> str:
    """Standard output of a command; its standard error only when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return done.stdout


def environment(directory: pathlib.Path, requirements: pathlib.Path) -> pathlib.Path:
    """The interpreter of a virtual environment that has the requirements."""
    python = directory / "bin" / "python"
    stamp = directory / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {requirements.name} into {directory}", file=sys.stderr)
        run([sys.executable, "-m", "venv", "--clear", directory])
        run([python, "-m", "pip", "install", "--quiet", "-r", requirements])
        stamp.write_text(wanted)
    return python


def reference_python(build: pathlib.Path) -> pathlib.Path:
    """An interpreter that has the pinned torch and diffusers."""
    given = os.environ.get("FLUX_REFERENCE_PYTHON")
    if given:
        return pathlib.Path(given)
    return environment(build / "venv-reference", REFERENCE / "requirements.txt")


def checkpoint(build: pathlib.Path, python: pathlib.Path) -> pathlib.Path:
    """The benchmark checkpoint, made again when its recipe changes."""
    recipe = REFERENCE / "make_checkpoint.py"
    name = "bench-checkpoint-" + hashlib.sha256(recipe.read_bytes()).hexdigest()[:8]
    directory = build / name
    if not directory.exists():
        print(f"Making the benchmark checkpoint {directory}", file=sys.stderr)
        run([python, recipe, "--tokenizers", ROOT / "demo" / "shapes", "--output", directory])
    return directory


def cpu_name() -> str:
    with open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure(args, case: tuple, path: pathlib.Path, python: pathlib.Path) -> dict:
    """Both programs on one case; the runs of both are joined over the rounds."""
    dtype, height, width = case
    common = ["--dtype", dtype, "--height", height, "--width", width, "--steps", args.steps]
    common += ["--max-sequence-length", 512, "--threads", args.threads]
    common += ["--runs", args.runs, "--warmup", 1]
    commands = {
        "diffusers": [python, REFERENCE / "time_diffusers.py", path, *common],
        "flux-triton": [args.flux_triton, "bench", path, "--json", *common],
    }
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(args.threads))
    rounds = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            print(f"{dtype} {width}x{height}: {name}", file=sys.stderr)
            rounds[name].append(json.loads(run(command, env=environment)))
    return {name: best(results) for name, results in rounds.items()}


def best(results: list) -> dict:
    """The round with the fastest median image, and the largest peak memory of all rounds."""
    fastest = min(results, key=lambda result: result["image"]["median"])
    peak = max(result["peak_memory_bytes"] for result in results)
    return fastest | {"peak_memory_bytes": peak}


def table(case: tuple, steps: int, result: dict) -> list:
    dtype, height, width = case
    theirs, ours = result["diffusers"], result["flux-triton"]
    lines = [f"{dtype} {width}x{height}, {steps} steps        diffusers  flux-triton    ratio"]
    rows = [(name, theirs["stages"][name], ours["stages"][name]) for name in STAGES]
    rows.append(("whole image", theirs["image"], ours["image"]))
    for name, left, right in rows:
        ratio = left["median"] / right["median"]
        lines.append(
            f"  {name:<22}{left['median']:>12.4f} s{right['median']:>11.4f} s{ratio:>8.2f}x"
        )
    gib = 1 << 30
    limit = ours["weight_bytes"] + MEMORY_ALLOWANCE
    lines.append(
        f"  {'peak memory':<22}{theirs['peak_memory_bytes'] / gib:>10.3f} GiB"
        f"{ours['peak_memory_bytes'] / gib:>9.3f} GiB   limit {limit / gib:.3f} GiB (weights + 1)"
    )
    return lines


def parse_arguments() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flux-triton", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="cache directory")
    parser.add_argument("--dtypes", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--sizes", nargs="+", default=["256x256", "512x512"], metavar="HxW")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--runs", type=int, default=3, help="timed runs in each round")
    parser.add_argument("--rounds", type=int, default=2, help="turns of diffusers and flux-triton")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "bench/results/cpu.txt")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    args.build.mkdir(parents=True, exist_ok=True)
    python = reference_python(args.build)
    path = checkpoint(args.build, python)
    versions = run(
        [python, "-c", "import torch, diffusers; print(diffusers.__version__, torch.__version__)"]
    ).split()
    lines = [
        f"flux-triton against diffusers {versions[0]} with torch {versions[1]}",
        f"{cpu_name()}, {args.threads} threads, {datetime.date.today()}",
        f"median of {args.runs} runs after one warm-up, the better of {args.rounds} rounds; "
        "dit_transformer is one step",
        f"load average at the start: {os.getloadavg()[0]:.2f}",
    ]
    print("\n".join(lines))
    for dtype in args.dtypes:
        for size in args.sizes:
            height, width = (int(side) for side in size.split("x"))
            case = (dtype, height, width)
            lines.append("")
            lines += table(case, args.steps, measure(args, case, path, python))
            print("\n".join(lines[-len(STAGES) - 4 :]), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(lines) + "\n")
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
