#!/usr/bin/env python3
"""Times serving on a GPU against the same images in process: one client over HTTP and gRPC, then
several at once with images of one size and of mixed sizes.

Starts a real Triton server with `flux-triton serve` on free ports. Needs the Python packages
tritonclient[http,grpc] and numpy, and a server that `serve` finds ($TRITONSERVER, for example).
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from served import Failed, Served, run_program, run_script, seconds_of  # noqa: E402

CONCURRENCIES = (1, 2, 4, 8)
MIXED = ((1.0, 1.0), (0.5, 0.5), (1.5, 1.0), (1.0, 1.5), (2.0, 2.0))  # of --small
TOKENS = 512
ADDED_PART, ADDED_SECONDS = 0.01, 0.005  # what serving may add


def inputs(module, prompt, seed, height, width, steps):
    """A request to bls for raw pixels."""
    columns = {
        "prompt": (prompt.encode(), "BYTES", object),
        "seed": (seed, "INT64", np.int64),
        "height": (height, "INT32", np.int32),
        "width": (width, "INT32", np.int32),
        "num_inference_steps": (steps, "INT32", np.int32),
        "max_sequence_length": (TOKENS, "INT32", np.int32),
    }
    made = []
    for name, (value, datatype, dtype) in columns.items():
        made.append(module.InferInput(name, [1, 1], datatype))
        made[-1].set_data_from_numpy(np.array([[value]], dtype))
    return made


def connect(served, module):
    if module is grpcclient:
        return grpcclient.InferenceServerClient(served.grpc)
    return httpclient.InferenceServerClient(
        served.http, network_timeout=600, connection_timeout=600
    )


def generate(client, module, *request):
    pixels = client.infer("bls", inputs(module, *request)).as_numpy("images")
    if pixels.shape[2:4] != (request[2], request[3]):
        raise Failed(f"the server returned {pixels.shape}")


def in_process_seconds(args) -> list:
    """(median, smallest)"""
    found = run_program(
        args.program, "bench", args.checkpoint, "--device", args.device, "--dtype", args.dtype,
        "--height", args.large, "--width", args.large, "--steps", args.steps,
        "--max-sequence-length", TOKENS, "--runs", args.runs, "--json",
    )  # fmt: skip
    image = json.loads(found)["image"]
    return image["median"], image["min"]


def compare(args, served, inside) -> tuple:
    """(lines, whether serving added no more than it may)"""
    lines = [
        f"one {args.large}x{args.large} image, {args.steps} steps, {args.runs} runs after a first",
        "seconds        median      min    added",
        f"in process  {inside[0]:>9.4f}{inside[1]:>9.4f}",
    ]
    allowed = inside[0] * ADDED_PART + ADDED_SECONDS
    added = []
    for name, module in (("gRPC", grpcclient), ("HTTP", httpclient)):
        with connect(served, module) as client:
            request = ("a lighthouse at dawn", 1, args.large, args.large, args.steps)
            generate(client, module, *request)
            seconds = [
                seconds_of(lambda: generate(client, module, *request))[0] for _ in range(args.runs)
            ]
        added.append(statistics.median(seconds) - inside[0])
        lines.append(
            f"{name:<12}{statistics.median(seconds):>9.4f}{min(seconds):>9.4f}{added[-1]:>9.4f}"
        )
    lines.append(f"allowed to add: {allowed:.4f}")
    return lines, max(added) <= allowed


def batch_sizes(client) -> dict:
    stats = client.get_inference_statistics("dit_transformer").model_stats[0]
    return {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats}


class Load:
    """Clients that each ask for the next image as soon as they have one."""

    def __init__(self, served, sizes, steps, seconds):
        self.served = served
        self.sizes = sizes
        self.steps = steps
        self.seconds = seconds
        self.lock = threading.Lock()
        self.latencies = []
        self.failures = []
        self.last = 0.0

    def run(self, clients) -> str:
        with connect(self.served, grpcclient) as watcher:
            before = batch_sizes(watcher)
            self.start = time.monotonic()
            threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            after = batch_sizes(watcher)
        if self.failures:
            raise Failed(f"{len(self.failures)} requests failed: {self.failures[0]}")
        formed = {size: count - before.get(size, 0) for size, count in sorted(after.items())}
        text = ", ".join(f"{size}: {count}" for size, count in formed.items() if count)
        ordered = sorted(self.latencies)
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        rate = len(ordered) / (self.last - self.start)
        return (
            f"{clients:>7}{len(ordered):>10}{rate:>11.3f}{statistics.median(ordered):>9.3f}"
            f"{p99:>9.3f}   {text}"
        )

    def _ask(self, index):
        try:
            with connect(self.served, grpcclient) as client:
                turn = index
                while time.monotonic() - self.start < self.seconds:
                    height, width = self.sizes[turn % len(self.sizes)]
                    request = (f"image {turn} of {index}", turn, height, width, self.steps)
                    seconds, _ = seconds_of(lambda: generate(client, grpcclient, *request))
                    turn += 1
                    with self.lock:
                        self.latencies.append(seconds)
                        self.last = time.monotonic()
        except Exception as error:  # noqa: BLE001: whatever it is, the bench must say so
            with self.lock:
                self.failures.append(str(error) or repr(error))


def load_lines(args, served) -> list:
    one = [(args.small, args.small)]
    mixed = [
        tuple(int(args.small * part) // 16 * 16 for part in parts) for parts in MIXED
    ]  # fmt: skip
    lines = []
    for name, sizes in ((f"{args.small}x{args.small}", one), ("mixed sizes", mixed)):
        lines += ["", f"{name}, {args.steps} steps, gRPC, {args.seconds:.0f} s and what is begun"]
        if sizes is mixed:
            lines.append("  " + ", ".join(f"{height}x{width}" for height, width in sizes))
        lines.append("clients    images   a second      p50      p99   transformer batches: how often")
        for clients in args.clients:
            lines.append(Load(served, sizes, args.steps, args.seconds).run(clients))
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def bench(args, work: pathlib.Path) -> int:
    inside = in_process_seconds(args)
    repository = work / "models"
    run_program(
        args.program, "convert", args.checkpoint, repository, "--device", args.device, "--dtype",
        args.dtype, "--weights", "reference",
    )  # fmt: skip
    log = work / "server.log"
    try:
        with Served(args.program, repository, log) as served:
            lines, good = compare(args, served, inside)
            lines.append(f"the server was ready after {served.start_seconds:.1f} s")
            print("\n".join(lines), file=sys.stderr, flush=True)
            lines += load_lines(args, served)
    except Failed:
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        raise
    print("\n".join(lines))
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--large", type=int, default=1024, help="side of the compared image")
    parser.add_argument("--small", type=int, default=512, help="side where there are many clients")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=CONCURRENCIES)
    args = parser.parse_args()

    def work() -> int:
        with tempfile.TemporaryDirectory() as directory:
            return bench(args, pathlib.Path(directory))

    return run_script("bench", work)


if __name__ == "__main__":
    sys.exit(main())
