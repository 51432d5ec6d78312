#!/usr/bin/env python3
"""Measures what serving costs: perf_analyzer against `bls`, and the same image in process and served.

Needs a build (`make build`) and .venv-serving, in which it runs; `make bench-serving` does all of it.
Writes bench/results/serving.txt. Other work on the machine spoils the figures: each is the median of
several alternating rounds, with the smallest beside it.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import numpy as np
import tritonclient.grpc as grpcclient

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from served import Failed, Served, run_program, run_script, seconds_of  # noqa: E402

# perf_analyzer is in the wheel of tritonclient; this is what it needs besides Debian's libb64-0d.
CUDA_RUNTIME = "nvidia-cuda-runtime-cu12==12.6.77"
CONCURRENCIES = (1, 4, 16)
PROMPT = "a large red circle on the left on a yellow background"
LOADED = {"height": 128, "width": 128, "num_inference_steps": 4, "max_sequence_length": 64}
# A step this small takes half a millisecond: what the server adds is a good part of it. One thread,
# so that waiting for a second one blurs neither side.
SMALL = {"height": 32, "width": 32, "num_inference_steps": 100, "max_sequence_length": 16}
IMAGES = 8  # of each kind in a round
TARGET_MS = 0.3
TINY = ROOT / "tests/golden/checkpoints/tiny-dev"


def convert(program, checkpoint, repository):
    run_program(
        program, "convert", checkpoint, repository, "--dtype", "f32", "--device", "cpu",
        "--weights", "copy", "--force",
    )  # fmt: skip
    return repository


def analyzer(work: pathlib.Path):
    """(perf_analyzer, the environment it runs in)"""
    libraries = work / "cuda-runtime"
    if not (libraries / "nvidia").exists():
        print(f"Installing {CUDA_RUNTIME} into {libraries}", file=sys.stderr)
        run_program(
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", libraries,
            CUDA_RUNTIME,
        )  # fmt: skip
    path = libraries / "nvidia/cuda_runtime/lib"
    return pathlib.Path(sys.prefix) / "bin/perf_analyzer", os.environ | {"LD_LIBRARY_PATH": str(path)}


def analyze(served: Served, work: pathlib.Path, concurrency: int, requests: int) -> dict:
    """One run of perf_analyzer: a row of its report."""
    rows = [
        {"prompt": [PROMPT], "output_format": ["png"], "seed": [seed]}
        | {name: [value] for name, value in LOADED.items()}
        for seed in range(32)
    ]
    data, report = work / "prompts.json", work / "perf_analyzer.csv"
    data.write_text(json.dumps({"data": rows}))
    program, environment = analyzer(work)
    command = [program, "-m", "bls", "-i", "grpc", "-u", served.grpc, "--input-data", data]
    # Three windows whatever their spread: the rounds show it. (--request-count gives rates that are
    # rounded to whole seconds.)
    command += ["--concurrency-range", concurrency, "--measurement-mode", "count_windows"]
    command += ["--measurement-request-count", requests, "-s", 999, "-r", 3, "-f", report]
    done = subprocess.run(
        [str(part) for part in command], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 or not report.exists():
        raise Failed(f"perf_analyzer failed ({done.returncode}):\n{done.stdout[-3000:]}")
    with report.open(encoding="utf-8") as lines:
        found = next(csv.DictReader(lines))
    report.unlink()
    return found


def load_table(program, work: pathlib.Path, rounds: int, requests: int) -> list:
    """perf_analyzer's rows; the rounds alternate between the concurrencies."""
    repository = convert(program, ROOT / "demo/shapes", work / "shapes")
    found = {concurrency: [] for concurrency in CONCURRENCIES}
    with Served(program, repository, work / "server.log") as served:
        analyze(served, work, 1, 2)  # warm
        for _ in range(rounds):
            for concurrency in CONCURRENCIES:
                row = analyze(served, work, concurrency, requests)
                found[concurrency].append(
                    (float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3)
                    + (float(row["p99 latency"]) / 1e3,)
                )
    lines = ["clients  images/s (best)  p50 latency  p99 latency"]
    for concurrency, rows in found.items():
        rate, p50, p99 = (statistics.median(column) for column in zip(*rows))
        best = max(row[0] for row in rows)
        lines.append(
            f"{concurrency:>7}  {rate:>7.2f} ({best:.2f})  {p50:>8.0f} ms  {p99:>8.0f} ms"
        )
    return lines


def served_seconds(client, values: dict) -> float:
    inputs = []
    for name, value in values.items():
        datatype, dtype = {"prompt": ("BYTES", object), "seed": ("INT64", np.int64)}.get(
            name, ("INT32", np.int32)
        )
        array = np.array([[value]], dtype)
        inputs.append(grpcclient.InferInput(name, [1, 1], datatype))
        inputs[-1].set_data_from_numpy(array)
    return seconds_of(lambda: client.infer("bls", inputs))[0]


def in_process_seconds(program) -> dict:
    flags = []
    for name, value in SMALL.items():
        flag = "steps" if name == "num_inference_steps" else name.replace("_", "-")
        flags += [f"--{flag}", value]
    found = run_program(
        program, "bench", TINY, "--dtype", "f32", "--threads", 1, "--runs", IMAGES, "--json",
        "--prompt", PROMPT,
        *flags,
    )
    return json.loads(found)["image"]


def overhead_lines(program, work: pathlib.Path, rounds: int) -> tuple:
    """(lines, milliseconds that the server adds to a step)"""
    repository = convert(program, TINY, work / "tiny")
    steps = SMALL["num_inference_steps"]
    values = SMALL | {"prompt": PROMPT.encode(), "seed": 1}
    inside, outside = [], []  # (median, smallest) of each round
    options = "--backend-config=flux,threads=1"
    with Served(program, repository, work / "server.log", options) as served:
        with grpcclient.InferenceServerClient(served.grpc) as client:
            served_seconds(client, values)
            for _ in range(rounds):
                found = in_process_seconds(program)
                inside.append((found["median"], found["min"]))
                seconds = [served_seconds(client, values) for _ in range(IMAGES)]
                outside.append((statistics.median(seconds), min(seconds)))
            stats = client.get_inference_statistics("dit_transformer").model_stats[0]
    queue = stats.inference_stats.queue.ns / stats.inference_stats.queue.count / 1e6
    lines = ["              median        min   (ms a step)"]
    figures = []
    for name, rows in (("in process", inside), ("served", outside)):
        medians, smallest = zip(*rows)
        figures.append([statistics.median(medians) / steps * 1e3, min(smallest) / steps * 1e3])
        lines.append("{:<12} {:>7.3f}    {:>7.3f}".format(name, *figures[-1]))
    median, added = (outer - inner for inner, outer in zip(*figures))
    lines.append(f"added        {median:>7.3f}    {added:>7.3f}   (target: {TARGET_MS})")
    lines.append(f"a step waited {queue:.3f} ms in the server's queue (mean)")
    return lines, added


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    return f"{names[0] if names else cpu}, {len(os.sched_getaffinity(0))} CPUs"


def bench(args) -> int:
    work = ROOT / "build/bench-serving"
    work.mkdir(parents=True, exist_ok=True)
    overhead, added = overhead_lines(args.program, work, args.rounds)
    table = load_table(args.program, work, args.rounds, args.requests)
    text = "\n".join(
        [
            f"{datetime.date.today()}, {machine()}, load {os.getloadavg()[0]:.1f}",
            f"Triton 2.51, {args.rounds} rounds; medians of rounds, and the best round",
            "",
            f"perf_analyzer, gRPC, bls, demo/shapes in f32, {LOADED['width']}x{LOADED['height']}, "
            f"{LOADED['num_inference_steps']} steps, PNG; {3 * args.requests} requests a round",
            *table,
            "",
            f"one image of tiny-dev, {SMALL['width']}x{SMALL['height']}, "
            f"{SMALL['num_inference_steps']} steps, one thread, one client",
            *overhead,
            "",
        ]
    )
    print(text)
    args.output.write_text(text, encoding="utf-8")
    return 0 if added <= TARGET_MS else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "bench/results/serving.txt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32, help="of a perf_analyzer window")
    args = parser.parse_args()
    return run_script("bench", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
