#!/usr/bin/env python3
"""vae_decoder: latents to images, FluxPipeline's call of self.vae.decode(...).

  input   latents  T     [rows, latent_channels, h, w]  unpacked, divided by scaling_factor, plus
                                                        shift_factor; T: parameter "dtype"
  output  image    FP32  [rows, 3, height, width]       in [-1, 1]

Triton's Python backend runs this file in a process of its own, whose Python needs the packages
below. Without Triton, `python3 model.py [CHECKPOINT]` tries it on made tensors: CHECKPOINT is a
diffusers directory; in a model repository it is not needed.
"""

import importlib.util
import json
import pathlib
import re
import sys
import time

NAME = "vae_decoder"
PACKAGES = ("numpy", "torch", "diffusers")
PARTS = ("vae",)  # directories of the checkpoint
PARAMETERS = ()  # of requests
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if not MISSING:
    import numpy as np
    import torch
    import diffusers
    from diffusers import AutoencoderKL
try:
    import triton_python_backend_utils as pb_utils
except ImportError:
    pb_utils = None  # without Triton: main() puts StandIn in its place
LARGEST_SIDE = 8192  # pixels


class TritonPythonModel:
    def initialize(self, args):
        """Once, when the model is loaded."""
        require_packages(args["model_instance_kind"])
        directory = pathlib.Path(args["model_repository"]) / args["model_version"]
        diffusers.utils.logging.disable_progress_bar()
        self.dtype = dtype_of(args)
        self.device = device_of(args)
        self.vae = AutoencoderKL.from_pretrained(directory / "vae", torch_dtype=self.dtype)
        del self.vae.encoder  # its memory: nothing is encoded here
        self.vae.to(self.device).eval()
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.counters = Counters(STAGE_COUNTERS)

    def execute(self, requests):
        """One response a request, in their order."""
        self.counters.add("flux_stage_batches_total", 1)
        return [answer(self, request) for request in requests]

    def compute(self, request):
        """(outputs, rows, False). Rows are decoded one by one: the same row gives the same bytes
        alone and in company."""
        latents = states_of(request, "latents", self.device)
        height, width = (self.factor * side for side in latents.shape[-2:])
        if max(height, width) > LARGEST_SIDE:
            raise Refused(
                f"latents of {latents.shape[-2]} x {latents.shape[-1]} give {height} x {width} "
                f"pixels: at most {LARGEST_SIDE} a side"
            )
        images = []
        for row in latents.split(1):
            check_wanted(request)
            images.append(self.decode(row).float())
        return [output_of("image", torch.cat(images))], len(images), False

    def decode(self, latents):
        """[1, latent_channels, h, w] to [1, 3, height, width]: in tiles where a GPU has no room
        for the whole."""
        try:
            return self.vae.decode(latents, return_dict=False)[0]
        except torch.OutOfMemoryError as error:
            pb_utils.Logger.log_warn(f"{NAME}: decoding in tiles: {str(error).splitlines()[0]}")
        torch.cuda.empty_cache()
        self.vae.enable_tiling()
        try:
            return self.vae.decode(latents, return_dict=False)[0]
        finally:
            self.vae.disable_tiling()


def states_of(request, name, device):
    """An input whose values must be finite: others would look like success in the end."""
    values = to_torch(input_of(request, name), device)
    if not torch.isfinite(values).all():
        raise Refused(f"input {name} holds values that are not finite")
    return values


def try_it(model, directory):
    """What main() asks: two rows of noise, alone and together."""
    channels = model.vae.config.latent_channels
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, channels, 4, 6, generator=generator, dtype=model.dtype)
    found = run(model, [pb_utils.Tensor("latents", latents)])["image"]
    expect(found, (2, 3, 4 * model.factor, 6 * model.factor), torch.float32)
    for row in range(2):
        alone = run(model, [pb_utils.Tensor("latents", latents[row : row + 1])])["image"]
        expect_equal(found[row : row + 1], alone)


# ---- What all stages share, the same in every file --------------------------------------------

STAGE_COUNTERS = {
    "flux_stage_seconds_total": "Seconds that the model computed",
    "flux_stage_rows_total": "Rows (prompts, steps of images, images) that the model computed",
    "flux_stage_batches_total": "Executions of the model; rows / batches is the mean batch size",
}


# Request parameters of the server, and of its HTTP endpoints.
SERVERS = {
    "timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "binary_data",
    "binary_data_output", "stream", "id",
}  # fmt: skip


class Refused(Exception):
    """What a request is answered with instead of outputs; `code` is one of pb_utils.TritonError."""

    def __init__(self, message, code="INVALID_ARG"):
        super().__init__(message)
        self.code = code


def require_packages(kind):
    if MISSING:
        raise RuntimeError(
            f"{NAME}: python {sys.version.split()[0]} of {sys.prefix} has no {', '.join(MISSING)}; "
            "install what is missing there, or start the server with another Python"
        )
    # The program that runs this file, of Triton up to 24.10, imports numpy 1 by this name, which
    # numpy 2 moved: it would answer nothing but empty tensors.
    old = b"numpy.core.multiarray" in pathlib.Path("/proc/self/exe").read_bytes()
    if old and int(np.__version__.split(".")[0]) > 1:
        raise RuntimeError(
            f"{NAME}: numpy {np.__version__}: this release of Triton needs numpy 1: install "
            "'numpy<2' in the Python that the server runs models with"
        )
    if kind == "GPU" and not torch.cuda.is_available():
        raise RuntimeError(
            f"{NAME}: config.pbtxt says KIND_GPU, and torch {torch.__version__} sees no GPU"
        )


def dtype_of(args):
    names = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    return names[parameters_of(args)["dtype"]]


def parameters_of(args):
    """Those of config.pbtxt, name: text."""
    given = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in given.items()}


def device_of(args):
    if args["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    return torch.device("cuda", int(args["model_instance_device_id"]))


def answer(model, request):
    """The response to one request."""
    start = time.monotonic()
    try:
        check_parameters(request)
        with torch.inference_mode():
            outputs, rows, truncated = model.compute(request)
        model.counters.add("flux_stage_rows_total", rows)
        model.counters.add("flux_stage_seconds_total", time.monotonic() - start)
        return respond(outputs, truncated)
    except Refused as refusal:
        message, code = str(refusal), refusal.code
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        message, code = f"out of memory: {error}".splitlines()[0], "UNAVAILABLE"
    pb_utils.Logger.log_info(f"{NAME}: request '{request.request_id()}': {message}")
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse(error=error)


def respond(outputs, truncated):
    """Triton takes parameters of a response from 25.02 on; before, only the log says it."""
    if truncated:
        pb_utils.Logger.log_warn(f"{NAME}: a prompt was longer than its encoder takes and was cut")
        if hasattr(pb_utils.InferenceResponse, "parameters"):
            return pb_utils.InferenceResponse(outputs, parameters={"truncated": True})
    return pb_utils.InferenceResponse(outputs)


def check_parameters(request):
    """Refuses a parameter that is not known, and might as well have been meant."""
    for name in sorted(json.loads(request.parameters() or "{}")):
        if name == "lora":
            raise Refused(
                f"lora is given: {NAME} is a model in Python, which takes no adapters; convert "
                "again with that stage native"
            )
        if name not in SERVERS.union(PARAMETERS) and not name.startswith("triton_"):
            known = ", ".join(PARAMETERS) or "no parameters"
            raise Refused(f"parameter {name[:200]} is not known: {NAME} takes {known}")


def check_wanted(request):
    if request.is_cancelled():
        raise Refused("cancelled before the stage began", "CANCELLED")


def input_of(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise Refused(f"{name} is missing: it is required")
    if 0 in tensor.shape():
        raise Refused(f"{name} has shape {list(tensor.shape())}: no size may be 0")
    return tensor


def to_torch(tensor, device):
    """A tensor of Triton as one of torch: the same memory, by DLPack, copied only to another
    device. (numpy has no bfloat16: as_numpy refuses it.)"""
    return torch.utils.dlpack.from_dlpack(tensor.to_dlpack()).to(device)


def to_triton(name, tensor):
    """The other way round. The server reads CPU tensors from shared memory: one copy, its own. It
    reads those on a GPU in a stream of its own, which does not wait for torch's."""
    tensor = tensor.contiguous()
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    return pb_utils.Tensor.from_dlpack(name, tensor)


def output_of(name, tensor):
    """A result as Triton takes it. One that is not finite would look like success."""
    if not torch.isfinite(tensor).all():
        dtype = {torch.bfloat16: "bf16", torch.float16: "f16"}.get(tensor.dtype, "f32")
        raise Refused(
            f"output {name} of {NAME} holds values that are not finite: the weights are damaged, "
            f"or the inputs too large for {dtype}",
            # Texts cannot be too large.
            "INTERNAL" if NAME.endswith("encoder") else "INVALID_ARG",
        )
    return to_triton(name, tensor)


class Counters:
    """Metrics with the names that the native models have; none where the server has none."""

    def __init__(self, names):
        self.metrics = {}
        for name, what in names.items() if hasattr(pb_utils, "MetricFamily") else ():
            family = pb_utils.MetricFamily(name, what, pb_utils.MetricFamily.COUNTER)
            self.metrics[name] = (family.Metric({"model": NAME}), family)

    def add(self, name, value):
        if name in self.metrics:
            self.metrics[name][0].increment(value)


# ---- Without Triton -----------------------------------------------------------------------------


class StandIn:
    """As much of triton_python_backend_utils as this file uses."""

    class Tensor:
        def __init__(self, name, data):
            self._name, self._data = name, data

        @staticmethod
        def from_dlpack(name, tensor):
            return StandIn.Tensor(name, torch.utils.dlpack.from_dlpack(tensor))

        def name(self):
            return self._name

        def shape(self):
            return tuple(self._data.shape)

        def as_numpy(self):
            return self._data

        def to_dlpack(self):
            return torch.utils.dlpack.to_dlpack(self._data)

    class InferenceRequest:
        def __init__(self, inputs):
            self._inputs = inputs

        def inputs(self):
            return self._inputs

        def request_id(self):
            return "made"

        def parameters(self):
            return ""

        def is_cancelled(self):
            return False

    class InferenceResponse:
        def __init__(self, output_tensors=(), error=None):
            self.outputs, self.failure = output_tensors, error

    class TritonError:
        INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"
        UNAVAILABLE, CANCELLED = "UNAVAILABLE", "CANCELLED"

        def __init__(self, message, code):
            self.message, self.code = message, code

    class Logger:
        @staticmethod
        def log_info(message):
            print(f"  log: {message}")

        log_warn = log_info

    @staticmethod
    def get_input_tensor_by_name(request, name):
        return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


class Off(Exception):
    """Something is not as it should be."""


def run(model, inputs):
    """One request; its outputs by name. Prints what came, and how long it took."""
    start = time.monotonic()
    response = model.execute([pb_utils.InferenceRequest(inputs)])[0]
    if response.failure is not None:
        raise Off(response.failure.message)
    found = {tensor.name(): to_torch(tensor, "cpu") for tensor in response.outputs}
    seconds = time.monotonic() - start
    for name, tensor in found.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        print(f"  {name} {kind} {list(tensor.shape)}: {seconds:.3f} s on {model.device}")
    return found


def expect(tensor, shape, dtype):
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        raise Off(f"came as {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {tuple(shape)}")
    if not torch.isfinite(tensor.float()).all():
        raise Off("holds values that are not finite")


def expect_equal(found, alone):
    if not torch.equal(found, alone):
        raise Off("a row has other values alone than in company")


def made_arguments(directory):
    """What Triton would give to initialize(): config.pbtxt where there is one, else defaults."""
    config = directory.parent / "config.pbtxt"
    text = config.read_text() if config.exists() else ""
    found = dict(re.findall(r'key: "(\w+)" value: { string_value: "([^"]*)" }', text))
    parameters = {"dtype": "f32", "device": "cpu", "default_max_sequence_length": "256"} | found
    gpu = torch.cuda.is_available() and (parameters["device"] == "cuda" or not found)
    if not gpu:
        print(f"{NAME}: {'no GPU here' if parameters['device'] == 'cuda' else 'on the CPU'}")
    values = {name: {"string_value": value} for name, value in parameters.items()}
    return {
        "model_config": json.dumps({"parameters": values}),
        "model_instance_kind": "GPU" if gpu else "CPU",
        "model_instance_device_id": "0",
        "model_repository": str(directory.parent),
        "model_version": directory.name,
    }


def main():
    global pb_utils
    pb_utils = StandIn
    given = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    directory = pathlib.Path(given).resolve()
    try:
        for part in PARTS:
            if not (directory / part).is_dir():
                raise Off(f"{directory} has no {part}; name the directory of a FLUX checkpoint")
        if MISSING:
            raise Off(f"{', '.join(MISSING)} missing; pip install it. {directory} has all parts")
        model, start = TritonPythonModel(), time.monotonic()
        model.initialize(made_arguments(directory))
        print(f"{NAME}: loaded from {directory} in {time.monotonic() - start:.1f} s")
        try_it(model, directory)
    except Exception as error:  # whatever it is, one line says it
        what = "" if isinstance(error, Off) else f"{type(error).__name__}: "
        print(f"{NAME}: failed: {what}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{NAME}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
