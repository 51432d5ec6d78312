#!/usr/bin/env python3
"""Compares policies of the scheduler of steps under an open load: images of several sizes arrive at
random times, whether or not the server keeps up.

Starts `flux-triton serve` on free ports, once for each policy, and sends all of them the same
requests at the same times: Poisson arrivals at --load times what the server can do, or those of a
trace (--trace: a line of JSON for each request, {"at": seconds, "height": .., "width": ..,
"steps": ..}). Prints latencies, slowdowns (latency over the time alone) and goodput, the images that
came within --deadline; fails where an image differs between policies. The folder --output gets
report.json, plot.png, trace.jsonl and the servers' logs.

Needs a build (`make build`) and .venv-serving, in which it runs.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from served import Failed, Served, run_program, run_script  # noqa: E402

POLICIES = ("share", "fifo", "least-work")
MIX = ("256x256/4:50", "512x512/28:35", "1024x1024/28:15")
ALONE_RUNS = 3
LATE_SECONDS = 600  # after the last arrival


@dataclasses.dataclass(frozen=True)
class Kind:
    height: int
    width: int
    steps: int

    def __str__(self):
        return f"{self.width}x{self.height}, {self.steps} steps"


@dataclasses.dataclass
class Sent:
    kind: Kind
    at: float  # of arrival, since the start
    seed: int
    latency: float = 0.0
    error: str = ""
    digest: str = ""


def parse_mix(text: str) -> tuple:
    """"512x384/28:35" is 35 parts of images 512 wide and 384 high, of 28 steps."""
    try:
        size, _, rest = text.partition("/")
        steps, _, parts = rest.partition(":")
        width, _, height = size.partition("x")
        return Kind(int(height), int(width), int(steps)), float(parts)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not like 512x512/28:35") from None


def poisson(args, alone: dict) -> list:
    """The requests of a load: they ask for args.load times the seconds that there are."""
    draw = random.Random(args.seed)
    kinds = [kind for kind, _ in args.mix]
    parts = [part for _, part in args.mix]
    mean = sum(part * alone[kind] for kind, part in args.mix) / sum(parts)
    at = 0.0
    requests = []
    for seed in range(args.count):
        at += draw.expovariate(args.load / mean)
        requests.append(Sent(draw.choices(kinds, parts)[0], at, seed))
    return requests


def read_trace(path: pathlib.Path) -> list:
    requests = []
    for seed, line in enumerate(path.read_text().splitlines()):
        try:
            row = json.loads(line)
            kind = Kind(int(row["height"]), int(row["width"]), int(row["steps"]))
            requests.append(Sent(kind, float(row["at"]), seed))
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"{path}, line {seed + 1}: {error}") from None
    if not requests:
        raise Failed(f"{path}: holds no request")
    return requests


class Client:
    """Requests over gRPC, as many at once as there are."""

    def __init__(self, served, args):
        import tritonclient.grpc as grpcclient  # of the environment that this script runs in
        from gpu_serving import inputs

        self._module = grpcclient
        self._inputs = inputs
        self._client = grpcclient.InferenceServerClient(served.grpc)
        self._timeout = int(args.timeout * 1e6) if args.timeout else None

    def _message(self, kind: Kind, seed: int) -> list:
        return self._inputs(
            self._module, f"image {seed}", seed, kind.height, kind.width, kind.steps
        )

    def alone(self, kind: Kind) -> float:
        times = []
        for run in range(1 + ALONE_RUNS):
            begin = time.monotonic()
            self._client.infer("bls", self._message(kind, run))
            times.append(time.monotonic() - begin)
        return statistics.median(times[1:])

    def run(self, requests: list) -> float:
        """Sends all requests at their times; returns the seconds until the last answer."""
        left = threading.Semaphore(0)
        start = time.monotonic() + 0.5

        def answered(sent: Sent, result, error) -> None:
            sent.latency = time.monotonic() - start - sent.at
            if error is not None:
                sent.error = error.message()
            else:
                sent.digest = hashlib.sha256(result.as_numpy("images").tobytes()).hexdigest()
            left.release()

        for sent in requests:
            message = self._message(sent.kind, sent.seed)
            time.sleep(max(0.0, start + sent.at - time.monotonic()))
            self._client.async_infer(
                "bls", message, lambda result, error, sent=sent: answered(sent, result, error),
                timeout=self._timeout,
            )  # fmt: skip
        for sent in requests:
            if not left.acquire(timeout=LATE_SECONDS):
                raise Failed(f"an answer did not come within {LATE_SECONDS} s of the last request")
        return time.monotonic() - start


def percentile(ordered: list, share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def figures(requests: list, alone: dict, seconds: float, deadline: float) -> dict:
    done = [sent for sent in requests if not sent.error]
    if not done:
        raise Failed(f"no request succeeded: {requests[0].error}")
    latencies = sorted(sent.latency for sent in done)
    slowdowns = sorted(sent.latency / alone[sent.kind] for sent in done)
    kinds = {}
    for kind in alone:
        own = [sent.latency for sent in done if sent.kind == kind]
        if own:
            kinds[str(kind)] = {"count": len(own), "mean": statistics.mean(own),
                                "slowdown": statistics.mean(own) / alone[kind]}  # fmt: skip
    return {
        "requests": len(requests),
        "refused": len(requests) - len(done),
        "images_per_second": len(done) / seconds,
        "latency": {"mean": statistics.mean(latencies)}
        | {f"p{round(100 * p)}": percentile(latencies, p) for p in (0.5, 0.9, 0.99)},
        "slowdown": {"mean": statistics.mean(slowdowns), "max": slowdowns[-1]}
        | {f"p{round(100 * p)}": percentile(slowdowns, p) for p in (0.5, 0.9, 0.99)},
        "goodput": sum(sent.latency <= deadline for sent in done) / len(requests),
        "kinds": kinds,
    }


def lines_of(policy: str, found: dict, deadline: float) -> list:
    latency, slowdown = found["latency"], found["slowdown"]
    lines = [
        f"{policy:<11}{latency['mean']:>9.2f}{latency['p50']:>9.2f}{latency['p90']:>9.2f}"
        f"{latency['p99']:>9.2f}{slowdown['mean']:>10.1f}{slowdown['p99']:>8.1f}"
        f"{slowdown['max']:>8.1f}{found['images_per_second']:>10.2f}{100 * found['goodput']:>9.0f} %"
    ]
    for name, kind in found["kinds"].items():
        lines.append(f"  {name:<22}{kind['count']:>5}: {kind['mean']:.2f} s on average, "
                     f"slowdown {kind['slowdown']:.1f}")  # fmt: skip
    return lines


HEAD = (f"{'policy':<11}{'mean s':>9}{'p50':>9}{'p90':>9}{'p99':>9}{'slowdown':>10}{'p99':>8}"
        f"{'max':>8}{'images/s':>10}{'in time':>11}")  # fmt: skip


def write_plot(path: pathlib.Path, runs: dict, alone: dict) -> None:
    """Latency and slowdown by percentile, a line for each policy."""
    from PIL import Image, ImageDraw
    from soak_report import PANEL, WIDTH, Panel

    image = Image.new("RGB", (WIDTH, 2 * PANEL), "white")
    drawing = ImageDraw.Draw(image)
    panels = (
        ("seconds from arrival to answer, by percentile", lambda sent: sent.latency),
        ("slowdown: that over the time alone", lambda sent: sent.latency / alone[sent.kind]),
    )
    for at, (title, value_of) in enumerate(panels):
        curves = []
        for policy, requests in runs.items():
            ordered = sorted(value_of(sent) for sent in requests if not sent.error)
            points = [(p, percentile(ordered, p / 100)) for p in range(101)]
            curves.append((policy, points))
        Panel(drawing, at * PANEL, title, 100).plot(curves)
    image.save(path)


def check_same(runs: dict) -> None:
    (first, expected), *others = runs.items()
    for policy, requests in others:
        for a, b in zip(expected, requests):
            if a.digest and b.digest and a.digest != b.digest:
                raise Failed(f"image {a.seed} of {a.kind} differs between {first} and {policy}")


def compare(args) -> int:
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        repository = args.repository
        if repository is None:
            repository = pathlib.Path(directory) / "models"
            run_program(args.flux_triton, "convert", args.checkpoint, repository, "--device",
                        args.device, "--dtype", args.dtype, "--weights", "reference")  # fmt: skip
        alone, runs, report = {}, {}, {}
        for policy in args.policies:
            log = args.output / f"{policy}.log"
            setting = f"--backend-config=flux,policy={policy}"
            with Served(args.flux_triton, repository, log, setting) as served:
                client = Client(served, args)
                if not alone:
                    kinds = {sent.kind for sent in read_trace(args.trace)} if args.trace else {
                        kind for kind, _ in args.mix}  # fmt: skip
                    alone = {kind: client.alone(kind) for kind in sorted(kinds, key=str)}
                    for kind, seconds in alone.items():
                        print(f"{kind}: {seconds:.3f} s alone")
                    print(HEAD)
                else:
                    for kind in alone:  # warm as the first one is
                        client.alone(kind)
                requests = read_trace(args.trace) if args.trace else poisson(args, alone)
                seconds = client.run(requests)
            runs[policy] = requests
            report[policy] = figures(requests, alone, seconds, args.deadline)
            print("\n".join(lines_of(policy, report[policy], args.deadline)), flush=True)
    trace = [{"at": round(sent.at, 6)} | dataclasses.asdict(sent.kind) for sent in requests]
    (args.output / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trace))
    whole = {"load": args.load, "alone": {str(kind): s for kind, s in alone.items()},
             "deadline": args.deadline, "policies": report}  # fmt: skip
    (args.output / "report.json").write_text(json.dumps(whole, indent=2) + "\n")
    write_plot(args.output / "plot.png", runs, alone)
    check_same(runs)
    print(f"images are the same in all; written to {args.output}")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--flux-triton", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=ROOT / "demo/shapes")
    parser.add_argument("--repository", type=pathlib.Path, help="instead of one of --checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=["share", "least-work"])
    parser.add_argument("--mix", nargs="+", type=parse_mix, default=[parse_mix(one) for one in MIX],
                        metavar="WxH/STEPS:PARTS", help=f"[default: {' '.join(MIX)}]")  # fmt: skip
    parser.add_argument("--load", type=float, default=0.8, help="1: as much as can be done")
    parser.add_argument("--count", type=int, default=165, help="requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", type=pathlib.Path, help="arrivals, instead of random ones")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds, for the goodput")
    parser.add_argument("--timeout", type=float, help="seconds that each request gives the server")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "out/schedule")
    args = parser.parse_args()
    if args.load <= 0 or args.count < 1:
        parser.error("--load and --count must be above 0")
    return args


def main() -> int:
    args = parse_arguments()
    if not args.flux_triton.exists():
        raise Failed(f"{args.flux_triton}: no such file; run make build, or give --flux-triton")
    python = ROOT / ".venv-serving/bin/python"
    try:
        import tritonclient.grpc  # noqa: F401
    except ImportError:
        if not python.exists():
            raise Failed("the package tritonclient is missing; run scripts/serving_venv.sh") from None
        os.execv(python, [str(python), *sys.argv])
    return compare(args)


if __name__ == "__main__":
    sys.exit(run_script("schedule.py", main))
