"""diffusers' FluxPipeline run the way the product's requests are worded: used by make_golden.py and compare.py."""

import copy
import logging
import os
import warnings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers import FluxPipeline  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402
from diffusers.utils.torch_utils import randn_tensor  # noqa: E402

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("diffusers").setLevel(logging.ERROR)

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
DEFAULTS = {
    "prompt_2": None,
    "negative_prompt": None,
    "true_cfg_scale": 1.0,
    "guidance_scale": 3.5,
    "num_images_per_prompt": 1,
    "max_sequence_length": 512,
}


def load(folder, dtype):
    """Returns the checkpoint's pipeline with every component in `dtype` ("f32", "bf16" or "f16")."""
    pipe = FluxPipeline.from_pretrained(folder, dtype=DTYPES[dtype])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def float32_twin(pipe):
    """Returns a float32 copy of a pipeline, with the weights as `pipe` has them rounded."""
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            parts[name] = copy.deepcopy(part).to(torch.float32)
    twin = type(pipe)(**{**parts, "scheduler": copy.deepcopy(pipe.scheduler)})
    twin.set_progress_bar_config(disable=True)
    return twin


def generators(request):
    """One generator per image: rows first, then the images of a row, seeded seed + k."""
    images = len(request["prompt"]) * request.get("num_images_per_prompt", 1)
    return [torch.Generator("cpu").manual_seed(request["seed"] + k) for k in range(images)]


def packed_noise(pipe, request):
    """The noise that `pipe` samples for the request, in its dtype: [images, tokens, channels]."""
    made = generators(request)
    channels = pipe.transformer.config.in_channels // 4
    height, width = (
        2 * (request[side] // (2 * pipe.vae_scale_factor)) for side in ("height", "width")
    )
    noise = randn_tensor(
        (len(made), channels, height, width), generator=made, dtype=pipe.text_encoder_2.dtype
    )
    return pipe._pack_latents(noise, len(made), channels, height, width)


@torch.no_grad()
def generate(pipe, request, latents=None):
    """Generates a request's images and returns a dictionary of tensors: `latents_<i>` after step i (packed), `images` uint8
    [images, height, width, 3], `sigmas` and `timesteps`.

    request: a dictionary with prompt (list), seed, height, width, num_inference_steps and what else DEFAULTS names.
    latents: packed noise to start from instead of sampled noise.
    """
    arguments = {**DEFAULTS, **request}
    seed = arguments.pop("seed")
    result = {}

    def keep(_, step, __, tensors):
        result[f"latents_{step}"] = tensors["latents"].clone()
        return {}

    made = generators({**arguments, "seed": seed}) if latents is None else None
    images = pipe(
        **arguments, generator=made, latents=latents, output_type="pil", callback_on_step_end=keep
    ).images
    result["images"] = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    result["sigmas"] = pipe.scheduler.sigmas.clone()
    result["timesteps"] = pipe.scheduler.timesteps.clone()
    return result


def trace(module, names, call):
    """Runs `call()` and returns the outputs of the named submodules, tuples as `<name>.0`, `<name>.1`, ..."""
    seen = {}

    def watch(name):
        def hook(_, __, output):
            parts = output if isinstance(output, tuple) else (output,)
            parts = [part for part in parts if isinstance(part, torch.Tensor)]
            for i, part in enumerate(parts):
                key = name if len(parts) == 1 else f"{name}.{i}"
                seen[key] = part.detach().clone().contiguous()

        return hook

    handles = [module.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            result = call()
    finally:
        for handle in handles:
            handle.remove()
    return result, seen


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of two uint8 images (255 peak), infinite if equal."""
    error = float(((a.double() - b.double()) ** 2).mean())
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
