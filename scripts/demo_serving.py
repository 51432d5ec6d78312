#!/usr/bin/env python3
"""The demo checkpoint behind a real Triton server: converts it, serves it, requests images.

Runs in .venv-serving. Ctrl-C at any time stops the server; all images that exist then are complete.
"""

import argparse
import concurrent.futures
import io
import pathlib
import signal
import sys

# Until main() takes over: the imports below are slow, and Ctrl-C in them deserves no traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from PIL import Image
from served import Served, run_program, run_script, seconds_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
TYPES = {"prompt": ("BYTES", object), "output_format": ("BYTES", object), "seed": ("INT64", np.int64)}
TEXT_TOKENS = 64
SHAPES = [
    "a small blue square on a white background",
    "a large green triangle on a black background",
    "a yellow star on the right on a purple background",
    "a pink heart above an orange ring",
]


def ask(module, client, rows: list, common: dict):
    """Requests one image for each row from bls; `common` are the inputs that all rows share."""
    common = common | {"output_format": b"png", "max_sequence_length": TEXT_TOKENS}
    columns = {name: [value] * len(rows) for name, value in common.items()}
    columns["prompt"] = [row.encode() for row in rows]
    inputs = []
    for name, column in columns.items():
        datatype, dtype = TYPES.get(name, ("INT32", np.int32))
        array = np.array([[value] for value in column], dtype)
        made = module.InferInput(name, list(array.shape), datatype)
        made.set_data_from_numpy(array)
        inputs.append(made)
    return client.infer("bls", inputs).as_numpy("encoded_images").reshape(-1)


def save(output: pathlib.Path, name: str, data: bytes) -> str:
    """Writes an image under its name once it is complete; returns its name and size."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        width, height = image.size
    file = output / f"{name}.png"
    beside = output / f".{name}.png.new"
    try:
        beside.write_bytes(data)
        beside.rename(file)
    finally:
        beside.unlink(missing_ok=True)
    return f"{file} {width}x{height}"


def one_image(served: Served, steps: int) -> list:
    """HTTP, one row."""
    with httpclient.InferenceServerClient(served.http, network_timeout=600.0) as client:
        common = {"height": 128, "width": 128, "num_inference_steps": steps, "seed": 3}
        return list(ask(httpclient, client, ["a large red circle on a yellow background"], common))


def a_batch(served: Served, steps: int) -> list:
    """gRPC, four rows in one request."""
    with grpcclient.InferenceServerClient(served.grpc) as client:
        common = {"height": 128, "width": 128, "num_inference_steps": steps, "seed": 7}
        return list(ask(grpcclient, client, SHAPES, common))


def different_sizes(served: Served, steps: int) -> list:
    """Three clients at once, each with a size and a step count of its own."""
    wishes = [(256, 256, steps), (128, 256, steps // 2 + 1), (192, 128, steps)]

    def generate(wish):
        height, width, count = wish
        with grpcclient.InferenceServerClient(served.grpc) as client:
            common = {"height": height, "width": width, "num_inference_steps": count, "seed": 11}
            return ask(grpcclient, client, ["three blue circles in a row"], common)[0]

    with concurrent.futures.ThreadPoolExecutor(len(wishes)) as clients:
        return list(clients.map(generate, wishes))


def print_statistics(served: Served) -> None:
    with grpcclient.InferenceServerClient(served.grpc) as client:
        print("model            requests  rows  executions  ms each")
        for model in client.get_inference_statistics().model_stats:
            took, requests = model.inference_stats.success.ns, model.inference_stats.success.count
            print(
                f"{model.name:<16} {requests:>8} {model.inference_count:>5} "
                f"{model.execution_count:>11} {took / max(requests, 1) / 1e6:>8.2f}"
            )


def demo(program: pathlib.Path, output: pathlib.Path, steps: int) -> None:
    repository = output / "models"
    # On a GPU where there is one that this build computes on: convert says where.
    said = run_program(
        program, "convert", ROOT / "demo/shapes", repository, "--dtype", "f32", "--force"
    )
    computes = next(line for line in said.splitlines() if line.startswith("computes in "))
    with Served(program, repository, output / "server.log") as served:
        print(f"serving {repository} at {served.http}, ready after {served.start_seconds:.1f} s")
        print(computes.split(";")[0])
        for name, what, generate in (
            ("single", "one image over HTTP", one_image),
            ("batch", "four prompts in one request", a_batch),
            ("size", "three sizes at once", different_sizes),
        ):
            seconds, images = seconds_of(lambda generate=generate: generate(served, steps))
            print(f"{what}: {seconds:.2f} s, {seconds / len(images):.2f} s an image")
            for index, data in enumerate(images):
                print("  " + save(output, f"{name}_{index}", data), flush=True)
        print_statistics(served)
    print(f"server stopped; start it again with: {program} serve {repository}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, required=True, help="flux-triton")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="directory for it all")
    parser.add_argument("--steps", type=int, default=28)
    args = parser.parse_args()

    def work() -> int:
        args.output.mkdir(parents=True, exist_ok=True)
        demo(args.program, args.output, args.steps)
        return 0

    return run_script("demo", work)


if __name__ == "__main__":
    sys.exit(main())
