"""A real Triton server with a repository made by `flux-triton convert`, for the tests.

FLUX_TEST_PYTHON names the models, separated by commas, that run in Python instead of the native
backend, with the packages of FLUX_PYTHON: the same tests, for every mix (scripts/test_python.py).
"""

import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from served import free_ports  # noqa: E402

PROGRAM = pathlib.Path(os.environ.get("FLUX_TRITON", ROOT / "build/cli/flux-triton"))
BACKENDS = pathlib.Path(os.environ.get("FLUX_BACKENDS", ROOT / "build/backends"))
CUDA_LIBRARY = BACKENDS.parent / "lib/libflux_cuda.so"
# Device of the models, and of the flux-triton that they are compared with.
DEVICE = os.environ.get("FLUX_TEST_DEVICE", "cpu")
# What all of them multiply: none or fp8.
QUANTIZATION = os.environ.get("FLUX_TEST_QUANTIZATION", "none")
# The packages of nvidia-pytriton and of the client are beside each other.
PACKAGES = pathlib.Path(grpcclient.__file__).parents[2]
CHECKPOINTS = ROOT / "tests/golden/checkpoints"
MODELS = ("bls", "clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder")
IN_PYTHON = tuple(name for name in os.environ.get("FLUX_TEST_PYTHON", "").split(",") if name)
READY_SECONDS = 300 if IN_PYTHON else 60  # each model.py imports torch
TYPES = {
    "prompt": "BYTES",
    "prompt_2": "BYTES",
    "negative_prompt": "BYTES",
    "output_format": "BYTES",
    "lora": "BYTES",
    "true_cfg_scale": "FP32",
    "guidance_scale": "FP32",
    "num_inference_steps": "INT32",
    "height": "INT32",
    "width": "INT32",
    "num_images_per_prompt": "INT32",
    "max_sequence_length": "INT32",
    "quality": "INT32",
    "seed": "INT64",
}
NUMPY = {"BYTES": object, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64}


def program(*arguments, **options):
    """Runs flux-triton and returns what it printed on standard output."""
    command = [str(PROGRAM), *map(str, arguments)]
    if "--device" not in command and arguments[0] in ("convert", "generate", "run-stage"):
        command += ["--device", DEVICE]
    takes = arguments[0] in ("convert", "generate", "run-stage") and not any(
        "python" in word or word == "--quantization" for word in command
    )
    if QUANTIZATION != "none" and takes:
        command += ["--quantization", QUANTIZATION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def convert(checkpoint, repository, *options, device=DEVICE):
    for model in IN_PYTHON:
        options += ("--stage", f"{model}=python")
    program("convert", checkpoint, repository, "--device", device, "--weights", "copy", *options)
    return repository


def same(found, wanted, bf16=False):
    """Whether images or outputs of stages are equal: to the byte among native models; where one
    of them is in Python, as closely as float32 (or bfloat16) of two implementations can be."""
    if not IN_PYTHON:
        return found.shape == wanted.shape and bool((found == wanted).all())
    if found.shape != wanted.shape:
        return False
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    if found.dtype != np.uint8:
        return bool(difference.max() <= 2e-4 * np.abs(wanted).max())
    if bf16:
        return 10 * np.log10(255**2 / max(np.mean(difference**2), 1e-9)) > 38
    return bool((difference <= 1).mean() >= 0.999)


class Server:
    """A running tritonserver. Use it with `with`. `python`: for models in Python."""

    def __init__(self, repository, log, *options, ready=True, python=None):
        if IN_PYTHON:
            python = os.environ["FLUX_PYTHON"]
        self.python = python
        self.http, self.grpc, self.metrics_port = free_ports(3)
        self.log_path = pathlib.Path(log)
        tritonserver = PACKAGES / "pytriton/tritonserver/bin/tritonserver"
        ports = [f"--http-port={self.http}", f"--grpc-port={self.grpc}"]
        ports.append(f"--metrics-port={self.metrics_port}")
        if python:  # serve knows what the Python backend needs
            command = [PROGRAM, "serve", repository, "--tritonserver", tritonserver]
            command += ["--backend-directory", BACKENDS, "--python", python, *ports]
            command += ["--front-port", "0"]
            command += ["--", *options]
        else:
            command = [
                tritonserver,
                f"--model-repository={repository}",
                f"--backend-directory={BACKENDS}",
                "--http-address=127.0.0.1",
                "--grpc-address=127.0.0.1",
                "--metrics-address=127.0.0.1",
                *ports,
                *options,
            ]
        libraries = [str(PACKAGES / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
        environment = os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
        with open(self.log_path, "w") as log_file:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=environment,
                stdout=log_file,
                stderr=subprocess.STDOUT,
            )
        if ready:
            self.wait_ready()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def get(self, path, port=None):
        with urllib.request.urlopen(f"http://127.0.0.1:{port or self.http}{path}", timeout=10) as r:
            return r.read().decode()

    def wait_ready(self, seconds=READY_SECONDS):
        end = time.time() + seconds
        while time.time() < end:
            assert self.process.poll() is None, f"the server ended:\n{self.log()[-4000:]}"
            try:
                self.get("/v2/health/ready")
                self.get("/metrics", self.metrics_port)  # starts last
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(f"the server did not get ready:\n{self.log()[-4000:]}")

    def stop(self, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode

    def grpc_client(self):
        return grpcclient.InferenceServerClient(f"127.0.0.1:{self.grpc}")

    def http_client(self):
        return httpclient.InferenceServerClient(
            f"127.0.0.1:{self.http}", network_timeout=300, connection_timeout=300
        )

    def metric(self, name, model):
        for line in self.get("/metrics", self.metrics_port).splitlines():
            if line.startswith(name + "{") and f'model="{model}"' in line:
                return float(line.rsplit(" ", 1)[1])
        return None

    def process_id(self):
        """The process id of tritonserver."""
        said = re.search(r"^serving .* \(process (\d+)\)", self.log(), re.MULTILINE)
        return int(said.group(1)) if said else self.process.pid

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process_id()}/status").read_text()
        line = next(l for l in status.splitlines() if l.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def threads(self):
        return len(list(pathlib.Path(f"/proc/{self.process_id()}/task").iterdir()))

    def open_files(self):
        return len(list(pathlib.Path(f"/proc/{self.process_id()}/fd").iterdir()))

    def steps(self):
        return self.metric("flux_steps_total", "bls")


def inputs(module, types=TYPES, **values):
    """Inputs of `bls`: a list is one value a row, anything else is repeated for the rows."""
    prompt = values["prompt"]
    rows = len(prompt) if isinstance(prompt, list) else 1
    made = []
    for name, value in values.items():
        column = value if isinstance(value, list) else [value] * rows
        datatype = types[name]
        if datatype == "BYTES":
            column = [v.encode() if isinstance(v, str) else v for v in column]
        array = np.array([[v] for v in column], NUMPY[datatype])
        made.append(tensor(module, name, array, datatype))
    return made


def tensor(module, name, array, datatype):
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def generate(client, module=grpcclient, options=None, **values):
    """Asks `bls`; returns the result."""
    return client.infer("bls", inputs(module, **values), **(options or {}))


def start(client, options=None, **values):
    """Sends a request to `bls` over gRPC; returns its context and a queue for (result, error)."""
    answers = queue.Queue()
    context = client.async_infer(
        "bls",
        inputs(grpcclient, **values),
        callback=lambda result, error: answers.put((result, error)),
        **(options or {}),
    )
    return context, answers


def rows_of(server, stage):
    """Rows that a stage has computed."""
    return server.metric("flux_stage_rows_total", stage)


def run_threads(*works):
    """Runs the functions side by side; the first exception of one is raised here."""
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def wait_until(condition, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def post(server, path, body):
    """Sends JSON over HTTP; returns (status, parsed answer)."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def generate_json(server, body):
    return post(server, "/v2/models/bls/generate", body)
