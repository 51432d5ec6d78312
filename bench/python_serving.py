#!/usr/bin/env python3
"""Compares native models with models in Python in the same server, on the same checkpoints: seconds
for each image, start-up, memory, and what a step costs besides the stages' own work.

Needs a build, tritonclient and numpy in its own Python, and a second Python with torch and diffusers
(--python); `make bench-python` has all of it. Writes bench/results/python_serving.txt. On a GPU:
  bench/python_serving.py --device cuda --case /data/FLUX.1-dev:bf16:1024:28 --images 2 --minutes 9
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import tritonclient.grpc as grpcclient

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import served as serving  # noqa: E402
from compare import checkpoint as bench_checkpoint  # noqa: E402
from compare import cpu_name  # noqa: E402
from served import Failed, Served, run_program, run_script, seconds_of  # noqa: E402

KINDS = {
    "native": ["--backend", "native"],
    "python": ["--backend", "python"],
    "mixed": ["--backend", "python", "--stage", "dit_transformer=native"],
}
CLIENTS = 4
PROMPT = b"a large red circle on the left on a yellow background"
ROWS = [
    ("ready", "ready after", "s"),
    ("first", "first image", "s"),
    ("single", "an image, 1 client (median)", "s"),
    ("shared", f"an image, {CLIENTS} clients (time / images)", "s"),
    ("wait", f"an answer, {CLIENTS} clients (median)", "s"),
    ("step", "a step in the transformer", "ms"),
    ("beside", "a step beside the transformer", "ms"),
    ("pss", "host memory (PSS of all processes)", "MiB"),
    ("rss", "host memory (RSS of all processes)", "MiB"),
    ("gpu", "GPU memory, most", "MiB"),
]


@dataclasses.dataclass
class Case:
    checkpoint: pathlib.Path
    dtype: str
    side: int
    steps: int

    @staticmethod
    def parse(text: str) -> "Case":
        parts = text.rsplit(":", 3)
        if len(parts) != 4 or not all(part.isdigit() for part in parts[2:]):
            raise argparse.ArgumentTypeError(f"{text}: give CHECKPOINT:DTYPE:SIDE:STEPS")
        return Case(pathlib.Path(parts[0]), parts[1], int(parts[2]), int(parts[3]))

    def __str__(self):
        name = "bench checkpoint" if "bench-checkpoint" in self.checkpoint.name else self.checkpoint.name
        return f"{name}, {self.dtype}, {self.side}x{self.side}, {self.steps} steps"


class Clock:
    """The time that a run may take."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        return self.end - time.monotonic()


def generate(client, case: Case, seed: int) -> None:
    values = {"prompt": ("BYTES", object, PROMPT), "seed": ("INT64", np.int64, seed)}
    for name in ("height", "width"):
        values[name] = ("INT32", np.int32, case.side)
    values["num_inference_steps"] = ("INT32", np.int32, case.steps)
    inputs = []
    for name, (datatype, dtype, value) in values.items():
        inputs.append(grpcclient.InferInput(name, [1, 1], datatype))
        inputs[-1].set_data_from_numpy(np.array([[value]], dtype))
    found = client.infer("bls", inputs).as_numpy("images")
    if found.shape != (1, 1, case.side, case.side, 3) or found.std() == 0:
        raise Failed(f"{case}: no image came, but {found.shape}")


def counter(served: Served, name: str) -> float:
    """A metric of dit_transformer."""
    with urllib.request.urlopen(served.metrics, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    wanted = f'{name}{{model="dit_transformer"}}'
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(wanted))


def processes_of(root: int) -> list:
    """`root` and all that it started."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def host_memory(root: int) -> dict:
    """MiB; PSS counts what processes share once, RSS for each of them."""
    total = {"pss": 0.0, "rss": 0.0}
    for process in processes_of(root):
        text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
        for line in text.splitlines():
            name = line.split(":")[0].lower()
            if name in total:
                total[name] += int(line.split()[1]) / 1024
    return total


class GpuWatch:
    """The most GPU memory in use while it is open, of all GPUs of this machine."""

    def __init__(self, device: str):
        self.most = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.wanted = device == "cuda" and shutil.which("nvidia-smi") is not None

    def watch(self):
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.stop.wait(0.25):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                used = sum(float(line) for line in done.stdout.split())
                self.most = max(self.most or 0, used)

    def __enter__(self):
        if self.wanted:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        if self.wanted:
            self.thread.join()


def measure(args, case: Case, kind: str, work: pathlib.Path, clock: Clock, found: dict) -> None:
    """Figures by the names of ROWS. Those found before a failure count: that a server does not stop
    properly is none of theirs."""
    repository = work / f"models-{kind}"
    run_program(
        args.program, "convert", case.checkpoint, repository, "--dtype", case.dtype, "--device",
        args.device, "--weights", "reference", "--force", *KINDS[kind],
    )  # fmt: skip
    with GpuWatch(args.device) as gpu:
        with Served(args.program, repository, work / f"server-{kind}.log") as served:
            found["ready"] = served.start_seconds
            with grpcclient.InferenceServerClient(served.grpc) as client:
                found["first"] = seconds_of(lambda: generate(client, case, 0))[0]
                found.update(alone(args, case, served, client, clock))
            if clock.left() > CLIENTS * 2 * found["single"]:
                found.update(share(args, case, served))
            found.update(host_memory(served.process.pid))
            if gpu.most is not None:
                found["gpu"] = gpu.most


def denoise_seconds(served: Served) -> list:
    """The denoising seconds of all images so far, as bls logs them."""
    log = served.log.read_text(encoding="utf-8", errors="replace")
    return [float(found) for found in re.findall(r"seconds: encode [\d.]+, denoise ([\d.]+)", log)]


def alone(args, case: Case, served: Served, client, clock: Clock) -> dict:
    """One client. What a step costs besides the transformer's own work is the time of the loop, as
    bls has it, less what the transformer says that it computed."""
    generate(client, case, 0)  # warm-up: a second image finds all memory in place
    names = ("flux_stage_seconds_total", "flux_stage_rows_total")
    before = [counter(served, name) for name in names]
    earlier, seconds = len(denoise_seconds(served)), []
    for seed in range(args.images):
        seconds.append(seconds_of(lambda: generate(client, case, seed))[0])
        if clock.left() < 0:
            break
    worked, steps = (counter(served, n) - old for n, old in zip(names, before))
    end = time.monotonic() + 5  # the log may come a moment later
    while len(denoise_seconds(served)) < earlier + len(seconds) and time.monotonic() < end:
        time.sleep(0.1)
    loops = sum(denoise_seconds(served)[earlier:])
    return {
        "single": statistics.median(seconds),
        "step": 1e3 * worked / steps,
        "beside": 1e3 * (loops - worked) / steps,
    }


def share(args, case: Case, served: Served) -> dict:
    """Several clients at once, each with `args.images` images."""

    def work(number):
        with grpcclient.InferenceServerClient(served.grpc) as client:
            seeds = range(number, number + args.images)
            return [seconds_of(lambda: generate(client, case, seed))[0] for seed in seeds]

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        total, answers = seconds_of(lambda: list(pool.map(work, range(CLIENTS))))
    waits = [seconds for each in answers for seconds in each]
    return {"shared": total / len(waits), "wait": statistics.median(waits)}


def joined(rounds: list) -> dict:
    """The median of each figure over the rounds."""
    names = {name for figures in rounds for name in figures}
    return {n: statistics.median(f[n] for f in rounds if n in f) for n in names}


def table(case: Case, kinds: list, results: dict) -> list:
    lines = [str(case), " " * 40 + "".join(f"{kind:>12}" for kind in kinds)]
    for name, what, unit in ROWS:
        cells = []
        for kind in kinds:
            figure = results.get(kind, {}).get(name)
            digits = 0 if unit == "MiB" else 2 if unit == "ms" else 3
            cells.append(f"{'-' if figure is None else f'{figure:.{digits}f}':>12}")
        if any(cell.strip() != "-" for cell in cells):
            lines.append(f"{what + ', ' + unit:<40}{''.join(cells)}")
    return lines


def bench_case(args, case: Case, work: pathlib.Path, clock: Clock) -> list:
    rounds = {kind: [] for kind in args.kinds}
    notes = []
    for number in range(args.rounds):
        for kind in args.kinds:
            if clock.left() < 0:
                notes.append(f"left out for want of time: {kind}, round {number + 1}")
                continue
            print(f"{case}: {kind}, round {number + 1}", file=sys.stderr, flush=True)
            rounds[kind].append({})
            try:
                measure(args, case, kind, work, clock, rounds[kind][-1])
            except Failed as failure:
                notes.append(f"{kind}: {failure}")
    results = {kind: joined(found) for kind, found in rounds.items()}
    return table(case, args.kinds, results) + notes + [""]


def machine(device: str) -> str:
    if device == "cuda":
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip().replace("\n", "; ")
    return f"{cpu_name()}, {len(os.sched_getaffinity(0))} CPUs"


def bench(args) -> int:
    os.environ["FLUX_PYTHON"] = str(args.python.absolute())
    if args.tritonserver:
        os.environ["TRITONSERVER"] = str(args.tritonserver.absolute())
    serving.READY_SECONDS = args.ready_seconds
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    cases = args.case
    if not cases:
        cases = [Case(ROOT / "tests/golden/checkpoints/tiny-dev", "f32", 32, 100)]
        cases.append(Case(ROOT / "demo/shapes", "f32", 128, 4))
        cases.append(Case(bench_checkpoint(ROOT / "build", args.python), "bf16", 256, 4))
    clock = Clock(args.minutes)
    kept = args.output.read_text(encoding="utf-8") + "\n" if args.append else ""
    asked = "import torch, diffusers; print(torch.__version__, diffusers.__version__)"
    torch, diffusers = run_program(args.python, "-c", asked).split()
    lines = [
        f"{datetime.date.today()}, {machine(args.device)}, load {os.getloadavg()[0]:.1f}",
        f"torch {torch}, diffusers {diffusers}; images for each client: {args.images}, rounds: "
        f"{args.rounds} (medians), weights in the page cache",
        "",
    ]
    for case in cases:
        lines += bench_case(args, case, work, clock)
        # After each case: whoever interrupts keeps what is there.
        args.output.write_text(kept + "\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = ROOT / "bench/results/python_serving.txt"
    parser.add_argument("--python", type=pathlib.Path, required=True, help="has torch, diffusers")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--tritonserver", type=pathlib.Path, help="else what serve finds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", type=Case.parse, action="append",
                        help="CHECKPOINT:DTYPE:SIDE:STEPS, repeatable")  # fmt: skip
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["native", "python"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30, help="begin nothing after that")
    parser.add_argument("--ready-seconds", type=float, default=600)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/bench-python")
    parser.add_argument("--output", type=pathlib.Path, default=results)
    parser.add_argument("--append", action="store_true", help="to the output instead of anew")
    args = parser.parse_args()
    return run_script("bench", lambda: bench(args))


if __name__ == "__main__":
    sys.exit(main())
