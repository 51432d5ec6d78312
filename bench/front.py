#!/usr/bin/env python3
"""Measures what the HTTP front adds to gRPC to `bls`, or, with --soak N, whether it stays as it is.

Both ways ask the same server for the same images in turns, from 1 to 32 clients that wait for each
answer: PNG files by gRPC to `bls`, and by POST /v1/images/generations on kept connections. Writes
bench/results/front.txt. With --soak it sends N requests, a quarter of them errors and clients that
leave, and fails when the front's memory, threads or descriptors grow.

Needs a build (`make build`) and .venv-serving, in which it runs. Other work on the machine spoils
the figures.
"""

import argparse
import http.client
import itertools
import json
import pathlib
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time

import numpy as np
import tritonclient.grpc as grpcclient

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from served import Failed, Served, run_program, run_script  # noqa: E402
from serving import machine  # noqa: E402

CLIENTS = (1, 4, 16, 32)
SIDE = 128
STEPS = 4
TARGET_MS = 2
GROWN_MIB = 8  # more than an allocator's fluctuation after the first fifth of a soak
TINY = ROOT / "tests/golden/checkpoints/tiny-dev"


class Grpc:
    def __init__(self, served):
        self._client = grpcclient.InferenceServerClient(served.grpc)

    def ask(self, seed):
        inputs = []
        for name, value, kind, datatype in [
            ("prompt", b"a boat", object, "BYTES"), ("output_format", b"png", object, "BYTES"),
            ("height", SIDE, np.int32, "INT32"), ("width", SIDE, np.int32, "INT32"),
            ("num_inference_steps", STEPS, np.int32, "INT32"), ("seed", seed, np.int64, "INT64"),
        ]:  # fmt: skip
            tensor = grpcclient.InferInput(name, [1, 1], datatype)
            tensor.set_data_from_numpy(np.array([[value]], kind))
            inputs.append(tensor)
        files = self._client.infer("bls", inputs).as_numpy("encoded_images")
        if len(files[0, 0]) < 100:
            raise Failed("gRPC: no image came")


class Front:
    def __init__(self, served):
        self._connection = http.client.HTTPConnection(served.front)

    def ask(self, seed, **more):
        body = {"prompt": "a boat", "size": f"{SIDE}x{SIDE}", "steps": STEPS, "seed": seed, **more}
        self._connection.request("POST", "/v1/images/generations", json.dumps(body))
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != (400 if "stepz" in more else 200):
            raise Failed(f"the front answered {answer.status}: {text[:300]}")
        if answer.status == 200 and b'"b64_json"' not in text:
            raise Failed("the front: no image came")


def run_clients(count, work):
    """Runs work(number) in so many threads; the first failure of one is raised here."""
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def seconds_of_requests(way, served, clients, requests):
    """How long each of the requests took."""
    found = []
    connected = [way(served) for _ in range(clients)]

    def work(number):
        for at in range(requests):
            begin = time.perf_counter()
            connected[number].ask(1000 * number + at)
            found.append(time.perf_counter() - begin)

    run_clients(clients, work)
    return found


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def compare(served, rounds, requests):
    """A line for each number of clients."""
    for way in (Grpc, Front):
        seconds_of_requests(way, served, 4, 10)
    yield f"{'clients':>7} {'gRPC p50':>9} {'p99':>9} {'front p50':>10} {'p99':>9} {'adds to p50':>12}"
    for clients in CLIENTS:
        seconds = {Grpc: [], Front: []}
        adds = []
        for turn in range(rounds):
            medians = {}
            for way in (Grpc, Front) if turn % 2 == 0 else (Front, Grpc):
                found = seconds_of_requests(way, served, clients, max(4, requests // clients))
                seconds[way] += found
                medians[way] = statistics.median(found)
            adds.append(1000 * (medians[Front] - medians[Grpc]))
        row = [1000 * percentile(seconds[way], q) for way in (Grpc, Front) for q in (0.5, 0.99)]
        yield (
            f"{clients:7} {row[0]:9.2f} {row[1]:9.2f} {row[2]:10.2f} {row[3]:9.2f} "
            f"{statistics.median(adds):9.2f} ms"
        )


def front_process(served):
    """The process id of the front, a child of `serve`."""
    children = f"/proc/{served.process.pid}/task/{served.process.pid}/children"
    for pid in pathlib.Path(children).read_text().split():
        if pathlib.Path(f"/proc/{pid}/comm").read_text().startswith("flux-triton-fr"):
            return int(pid)
    raise Failed("serve has started no front")


def look(pid):
    """(MiB, threads, descriptors) of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    memory = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024
    threads = int(re.search(r"Threads:\s+(\d+)", status).group(1))
    return memory, threads, len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def leave(served, seed):
    host, port = served.front.split(":")
    with socket.create_connection((host, int(port))) as connection:
        body = json.dumps({"prompt": "a", "steps": 500, "seed": seed, "stream": bool(seed % 2)})
        connection.sendall(
            f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"\r\n{body}".encode()
        )
        time.sleep(random.random() / 50)


def soak(served, total):
    """Lines; the last one says whether anything grew."""
    pid = front_process(served)
    counter = itertools.count()
    samples = []

    def work(_):
        front = Front(served)
        while (at := next(counter)) < total:
            if at % 8 == 0:
                leave(served, at)
            elif at % 8 == 4:
                front.ask(at, stepz=1)
            else:
                front.ask(at, size="32x32", stream=at % 3 == 0)
            if at % max(1, total // 50) == 0:
                samples.append(look(pid))

    run_clients(16, work)
    time.sleep(1)
    samples.append(look(pid))
    early = samples[len(samples) // 5]
    last = samples[-1]
    for memory, threads, files in samples[:: max(1, len(samples) // 10)]:
        yield f"{memory:8.1f} MiB {threads:4} threads {files:4} descriptors"
    yield f"{last[0]:8.1f} MiB {last[1]:4} threads {last[2]:4} descriptors at the end"
    if last[0] > early[0] + GROWN_MIB or last[1] > early[1] + 2 or last[2] > early[2] + 4:
        raise Failed(f"the front grew: {early} after a fifth, {last} at the end")
    yield f"{total} requests: nothing grew"


def work(args):
    with tempfile.TemporaryDirectory() as directory:
        repository = pathlib.Path(directory) / "models"
        run_program(
            args.program, "convert", args.checkpoint, repository, "--device", "cpu",
            "--weights", "copy", "--default-size", "32x32",
        )  # fmt: skip
        with Served(args.program, repository, pathlib.Path(directory) / "log.txt") as served:
            lines = [machine()]
            made = (
                soak(served, args.soak) if args.soak else compare(served, args.rounds, args.requests)
            )
            print(lines[0])
            for line in made:
                lines.append(line)
                print(line, flush=True)
    if args.soak == 0:
        lines.insert(1, f"{SIDE}x{SIDE}, {STEPS} steps; milliseconds of a request; at most "
                        f"{TARGET_MS} ms may be added to p50")  # fmt: skip
        args.output.write_text("\n".join(lines) + "\n")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", default=ROOT / "build/cli/flux-triton")
    parser.add_argument("--checkpoint", default=TINY)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=96, help="of a round, over all clients")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="10000 for a release")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "bench/results/front.txt")
    args = parser.parse_args()
    return run_script("front.py", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
