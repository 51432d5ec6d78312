#!/usr/bin/env python3
"""bls: prompts to images, FluxPipeline.__call__. It asks the other models, once a step the
transformer, so that steps of different users' images meet in its queue.

  output  images                 UINT8  [rows, images, height, width, 3]  for raw
  output  encoded_images         STRING [rows, images]                    for all formats but raw
  output  seed                   INT64  [rows, 1]  of the row's first image

config.pbtxt lists the inputs, each [rows, 1], with their types, limits and defaults. All but prompt
are optional, and may also come as request parameters; an input wins. bls_request.py, beside this
file, reads and checks them. Without Triton, `python3 model.py [CHECKPOINT]` generates images with
made answers of the other models.
"""

import asyncio
import concurrent.futures
import importlib.util
import json
import pathlib
import re
import sys
import time
import types

NAME = "bls"
PACKAGES = ("numpy", "torch", "diffusers", "PIL")
PARTS = ("scheduler", "transformer", "vae")  # directories of the checkpoint; their configurations
LONGEST_ERROR = 500  # characters
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if not MISSING:
    import numpy as np
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler
try:
    import triton_python_backend_utils as pb_utils
except ImportError:
    pb_utils = None  # without Triton: main() puts StandIn in its place

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from bls_request import Job, Refused, Sizes, log_prefix, read_request  # noqa: E402

if not MISSING:
    from bls_images import encoded

COUNTERS = {
    "flux_steps_total": "Denoising steps done for images",
    "flux_steps_cancelled_total": "Denoising steps that cancelled requests no longer needed",
    "flux_images_total": "Images generated",
}


class TritonPythonModel:
    def initialize(self, args):
        """Once, when the model is loaded."""
        require_packages()
        check_inputs(args)
        directory = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.sizes = Sizes(directory, parameters_of(args))
        self.dtype = dtype_of(args)
        names = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
        self.origin = {"dtype": names[self.dtype], "checkpoint": checkpoint_name(directory)}
        self.counters = Counters(COUNTERS)
        torch.set_num_threads(1)  # it computes little; more would be in the way of the stages
        # Each request to another model waits in a thread.
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(128))

    def execute(self, requests):
        """Serves the requests side by side: one response each, in their order."""
        with torch.inference_mode():
            return self.loop.run_until_complete(together(*map(self.serve, requests)))

    async def serve(self, request):
        """The response to one request."""
        job = None
        try:
            rows, output_format = read_request(request, self.sizes)
            job = Job(request, rows)
            job.origin = self.origin
            images = await self.generate(job)
            self.counters.add("flux_images_total", sum(map(len, images)))
            response = respond(job, images, output_format)
            message = f"{sum(map(len, images))} images; {job.seconds()}"
        except Exception as error:  # whatever it is, the client is told
            known = isinstance(error, Refused)
            message = str(error) if known else f"{type(error).__name__}: {error}"
            if len(message) > LONGEST_ERROR:  # gRPC drops what is longer than a header
                message = f"{message[: LONGEST_ERROR // 2]}...{message[-LONGEST_ERROR // 2 :]}"
            code = getattr(pb_utils.TritonError, error.code if known else "INTERNAL")
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
            if "cancelled after step" in message:
                self.counters.add("flux_steps_cancelled_total", job.steps - job.done)
        pb_utils.Logger.log_info(f"{NAME}: {log_prefix(request)}{message}")
        return response

    async def generate(self, job):
        """The images of a request, [row][image], as arrays [height, width, 3]. Each follows
        FluxPipeline.__call__; the steps of all are done side by side."""
        texts = await together(*(self.encode(job, row) for row in job.rows))
        images = [
            [Image(self, row, row.seed + k, *text) for k in range(row.num_images_per_prompt)]
            for row, text in zip(job.rows, texts)
        ]
        everyone = [image for row in images for image in row]
        job.lap()
        for step in range(job.steps):
            job.check()
            active = [image for image in everyone if step < image.row.num_inference_steps]
            await together(*(self.denoise(job, image, step) for image in active))
            job.done = step + 1
            self.counters.add("flux_steps_total", 1)
        job.check()
        job.lap()
        await together(*(self.decode(job, image) for image in everyone))
        return [[image.pixels for image in row] for row in images]

    async def encode(self, job, row):
        """FluxPipeline.encode_prompt: [(pooled, sequence)], of the negative prompt behind it."""
        pairs = [(row.prompt, row.prompt_2)]
        if row.negative_prompt is not None:
            pairs.append((row.negative_prompt, row.negative_prompt))
        length = np.array([[row.max_sequence_length]], np.int32)
        calls = []
        for prompt, prompt_2 in pairs:
            clip = [pb_utils.Tensor("prompt", np.array([[prompt.encode()]], object))]
            t5 = [pb_utils.Tensor("prompt", np.array([[prompt_2.encode()]], object))]
            t5.append(pb_utils.Tensor("max_sequence_length", length))
            calls.append(self.ask(job, "clip_encoder", clip, "pooled_prompt_embeds"))
            calls.append(self.ask(job, "t5_encoder", t5, "prompt_embeds"))
        found = await together(*calls)
        return list(zip(found[0::2], found[1::2]))

    async def denoise(self, job, image, step):
        """One pass of the pipeline's denoising loop."""
        inputs = image.transformer_inputs(step)
        calls = [self.ask(job, "dit_transformer", each, "noise_pred") for each in inputs]
        image.advance(step, *await together(*calls))

    async def decode(self, job, image):
        """The end of the pipeline: vae.decode and image_processor.postprocess."""
        latents = [to_triton("latents", image.unpacked())]
        decoded = await self.ask(job, "vae_decoder", latents, "image")
        unit = (decoded[0] / 2 + 0.5).nan_to_num(0.0).clamp(0, 1)
        image.pixels = (unit * 255).round().byte().permute(1, 2, 0).cpu().numpy()

    async def ask(self, job, stage, inputs, output):
        """A request to another model: its output as a tensor of torch, where the model left it."""
        request = pb_utils.InferenceRequest(
            model_name=NAME.removesuffix("bls") + stage,
            inputs=inputs,
            requested_output_names=[output],
            request_id=job.request.request_id(),
            timeout=job.remaining_microseconds(),
        )
        response = await request.async_exec()
        if response.has_error():
            job.check()  # a stage that found the time over says so in its own way
            said = response.error().message()
            gone = "is not loaded: " if not pb_utils.is_model_ready(stage) else ""
            raise Refused(f"stage '{stage}' {gone}failed: {said}", "UNAVAILABLE")
        if hasattr(response, "parameters"):  # from Triton 25.02 on
            if json.loads(response.parameters() or "{}").get("truncated", False):
                job.truncated_by.add(stage.removesuffix("_encoder"))
        tensor = pb_utils.get_output_tensor_by_name(response, output)
        return to_torch(tensor)


class Image:
    """One image while it is generated: the pipeline's latents, ids, guidance and scheduler."""

    def __init__(self, model, row, seed, positive, negative=None):
        self.row, self.sizes, self.dtype = row, model.sizes, model.dtype
        self.pixels = None
        self.rows, self.columns = (side // self.sizes.multiple for side in (row.height, row.width))
        self.latents = self.noise(seed)
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.sizes.scheduler)
        self.timesteps = self.schedule(row.num_inference_steps)
        img_ids = torch.zeros(self.rows, self.columns, 3)  # _prepare_latent_image_ids
        img_ids[..., 1] += torch.arange(self.rows)[:, None]
        img_ids[..., 2] += torch.arange(self.columns)[None, :]
        # What is the same in all steps is handed to the server once.
        self.fixed = []
        for pooled, sequence in (positive, negative) if negative else (positive,):
            inputs = {
                "pooled_projections": pooled,
                "encoder_hidden_states": sequence,
                "img_ids": img_ids.reshape(1, -1, 3),
                "txt_ids": torch.zeros(1, sequence.shape[1], 3),
            }
            if self.sizes.guided:
                inputs["guidance"] = torch.tensor([[row.guidance_scale]], dtype=torch.float32)
            self.fixed.append([to_triton(name, tensor) for name, tensor in inputs.items()])

    def noise(self, seed):
        """prepare_latents and _pack_latents: made on the CPU, in the pipeline's dtype."""
        h, w, c = self.rows, self.columns, self.sizes.channels
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn((1, c, 2 * h, 2 * w), generator=generator, dtype=self.dtype)
        return noise.view(1, c, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, h * w, c * 4)

    def schedule(self, steps):
        """retrieve_timesteps with the pipeline's sigmas and calculate_shift."""
        config = self.scheduler.config
        least, most = config.base_image_seq_len, config.max_image_seq_len
        slope = (config.max_shift - config.base_shift) / (most - least)
        mu = self.rows * self.columns * slope + config.base_shift - slope * least
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        self.scheduler.set_begin_index(0)
        return self.scheduler.timesteps

    def transformer_inputs(self, step):
        """Those of the step's calls: one, or with true CFG two."""
        timestep = (self.timesteps[step].to(self.dtype) / 1000).float().reshape(1, 1)
        return [
            [to_triton("hidden_states", self.latents), to_triton("timestep", timestep), *fixed]
            for fixed in self.fixed
        ]

    def advance(self, step, noise, negative=None):
        """scheduler.step, where the transformer left its answer."""
        if negative is not None:
            noise = negative + self.row.true_cfg_scale * (noise - negative)
        latents, timestep = self.latents.to(noise.device), self.timesteps[step]
        self.latents = self.scheduler.step(noise, timestep, latents, return_dict=False)[0]

    def unpacked(self):
        """_unpack_latents, and the scale of the decoder."""
        h, w, c = self.rows, self.columns, self.sizes.channels
        latents = self.latents.view(1, h, w, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return latents.reshape(1, c, 2 * h, 2 * w) / self.sizes.scaling + self.sizes.shift


async def together(*calls):
    """All results; a failure only once all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for failure in filter(lambda result: isinstance(result, BaseException), results):
        raise failure
    return results


def respond(job, images, output_format):
    """The outputs that are wanted."""
    wanted, outputs = job.request.requested_output_names(), []
    if "images" in wanted and output_format == "raw":
        outputs.append(pb_utils.Tensor("images", np.array(images)))
    if "encoded_images" in wanted and output_format != "raw":
        files = [
            [
                encoded(pixels, output_format, row, row.seed + index, job.origin)
                for index, pixels in enumerate(of_row)
            ]
            for row, of_row in zip(job.rows, images)
        ]
        outputs.append(pb_utils.Tensor("encoded_images", np.array(files, object)))
    if "seed" in wanted:
        outputs.append(pb_utils.Tensor("seed", np.array([[row.seed] for row in job.rows], "int64")))
    if job.truncated_by:
        said = {"truncated": True, "truncated_by": ",".join(sorted(job.truncated_by))}
        return pb_utils.InferenceResponse(outputs, parameters=said)
    return pb_utils.InferenceResponse(outputs)


def require_packages():
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


def checkpoint_name(directory):
    """The name in the index. That of an older repository has none: then it is the models', and
    without one the directory's: <repository>/bls/1."""
    index = directory / "model_index.json"
    said = json.loads(index.read_text()) if index.exists() else {}
    known = said.get("flux_triton", {}).get("name")
    return known or NAME.removesuffix("bls").rstrip("_") or directory.parents[1].name


def dtype_of(args):
    names = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    return names[parameters_of(args)["dtype"]]


def parameters_of(args):
    """Those of config.pbtxt, name: text."""
    given = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in given.items()}


def check_inputs(args):
    """Refuses a config.pbtxt with which the server would refuse every short request."""
    for tensor in json.loads(args["model_config"]).get("input", []):
        name = tensor["name"]
        found = "has a reshape" if "reshape" in tensor else "is not optional"
        if "reshape" in tensor or not (name == "prompt" or tensor.get("optional", False)):
            raise RuntimeError(
                f"model '{NAME}': config.pbtxt: input '{name}' {found}; change it, or make the "
                "repository again with flux-triton convert"
            )


def to_torch(tensor):
    """A tensor of Triton as one of torch: the same memory, by DLPack, on the CPU or a GPU. (numpy
    has no bfloat16: as_numpy refuses it.)"""
    return torch.utils.dlpack.from_dlpack(tensor.to_dlpack())


def to_triton(name, tensor):
    """The other way round. The server reads CPU tensors from shared memory: one copy, its own. It
    reads those on a GPU in a stream of its own, which does not wait for torch's."""
    tensor = tensor.contiguous()
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
    return pb_utils.Tensor.from_dlpack(name, tensor)


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
    """As much of triton_python_backend_utils as this file uses; the other models answer noise."""

    shapes = {}  # of the outputs

    class Tensor:
        def __init__(self, name, data):
            self._name, self._data = name, data

        @staticmethod
        def from_dlpack(name, tensor):
            return StandIn.Tensor(name, tensor)

        def name(self):
            return self._name

        def as_numpy(self):
            return self._data

        def to_dlpack(self):
            return torch.utils.dlpack.to_dlpack(self._data)

    class InferenceRequest:
        def __init__(self, inputs, requested_output_names, model_name="", request_id="", timeout=0):
            self._inputs, self._wanted, self._timeout = inputs, requested_output_names, timeout
            self._id = request_id

        def inputs(self):
            return self._inputs

        def requested_output_names(self):
            return self._wanted

        def parameters(self):
            return json.dumps({"max_sequence_length": "16"})

        def request_id(self):
            return self._id

        def timeout(self):
            return self._timeout

        def is_cancelled(self):
            return False

        async def async_exec(self):
            """What another model would answer: noise of the right shape."""
            name = self._wanted[0]
            shape, dtype = StandIn.shapes[name]
            for tensor in self._inputs:
                if tensor.name() == "hidden_states":
                    shape = tensor.as_numpy().shape
            return StandIn.InferenceResponse([StandIn.Tensor(name, torch.rand(shape).to(dtype))])

    class InferenceResponse:
        def __init__(self, outputs=(), error=None):
            self.outputs, self.failure = outputs, error

        def has_error(self):
            return self.failure is not None

    class TritonError:
        INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = "INVALID", "UNAVAILABLE", "CANCELLED", "BUG"

        def __init__(self, message, code):
            self.message, self.code = message, code

    Logger = types.SimpleNamespace(log_info=lambda message: print(f"  log: {message}"))

    @staticmethod
    def get_output_tensor_by_name(response, name):
        return next(tensor for tensor in response.outputs if tensor.name() == name)


class Off(Exception):
    """Something is not as it should be."""


def ask(model, wanted, **values):
    """One request; its response."""
    inputs = [pb_utils.Tensor(name, np.array([[value]])) for name, value in values.items()]
    request = pb_utils.InferenceRequest(inputs, wanted)
    return model.execute([request])[0]


def try_it(model):
    """What main() asks: an image with true CFG, raw and as PNG, and something that is refused."""
    sizes, dtype = model.sizes, model.dtype
    height, width = 2 * sizes.multiple, 3 * sizes.multiple
    StandIn.shapes = {
        "pooled_prompt_embeds": ((1, sizes.pooled_dim), dtype),
        "prompt_embeds": ((1, 16, sizes.joint_dim), dtype),
        "noise_pred": (None, dtype),
        "image": ((1, 3, height, width), torch.float32),
    }
    values = {"height": height, "width": width, "num_inference_steps": 2, "seed": 7}
    values |= {"prompt": b"a red fox", "negative_prompt": b"dark", "true_cfg_scale": 2.0}
    for output_format, name in (("raw", "images"), ("png", "encoded_images")):
        start, form = time.monotonic(), output_format.encode()
        response = ask(model, [name, "seed"], output_format=form, num_images_per_prompt=2, **values)
        if response.has_error():
            raise Off(response.failure.message)
        found, seed = (tensor.as_numpy() for tensor in response.outputs)
        print(f"  {name} {found.dtype} {list(found.shape)}: {time.monotonic() - start:.3f} s")
        shape = (1, 2, height, width, 3) if output_format == "raw" else (1, 2)
        if found.shape != shape or seed.tolist() != [[7]]:
            raise Off(f"{name} came as {found.shape}, expected {shape}")
    refused = ask(model, ["images"], prompt=b"a red fox", height=7)
    if not refused.has_error() or refused.failure.code != "INVALID":
        raise Off("a height of 7 was not refused")


def made_arguments(directory):
    """What Triton would give to initialize(): config.pbtxt where there is one, else defaults."""
    config = directory.parent / "config.pbtxt"
    text = config.read_text() if config.exists() else ""
    parameters = {"dtype": "f32", "max_side": "2048"}
    parameters |= {"default_height": "1024", "default_width": "1024"}
    parameters |= re.findall(r'key: "(\w+)" value: { string_value: "([^"]*)" }', text)
    values = {name: {"string_value": value} for name, value in parameters.items()}
    return {
        "model_config": json.dumps({"parameters": values}),
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
        try_it(model)
    except Exception as error:  # whatever it is, one line says it
        what = "" if isinstance(error, Off) else f"{type(error).__name__}: "
        print(f"{NAME}: failed: {what}{' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"{NAME}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
