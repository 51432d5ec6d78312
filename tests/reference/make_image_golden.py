"""Makes the golden tensors of images as input, tests/golden/image_to_image: python tests/reference/make_image_golden.py [NAME...]

By diffusers' AutoencoderKL, FluxImg2ImgPipeline and FluxInpaintPipeline on the tiny checkpoints, and by the pipelines of
the other kinds on theirs.
"""

import argparse
from contextlib import contextmanager

import numpy as np
import torch
from diffusers import (
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.models.autoencoders import vae as vae_module
from diffusers.pipelines.flux import (
    pipeline_flux_control,
    pipeline_flux_fill,
    pipeline_flux_img2img,
    pipeline_flux_inpaint,
    pipeline_flux_kontext,
)
from PIL import Image

import cases
from make_golden import GOLDEN, Writer, with_twin
from reference import DEFAULTS, DTYPES, float32_twin, load, psnr, trace

FOLDER = GOLDEN / "image_to_image"


def picture(height, width, seed):
    """Waves, edges and noise: uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        127 + 90 * np.sin((x * a + y * b) / 9 + c) + 30 * ((x // 7 + y // 5 + i) % 2)
        for i, (a, b, c) in enumerate(random.uniform(0.2, 2, (3, 3)))
    ]
    noisy = np.stack(planes, -1) + random.normal(0, 9, (height, width, 3))
    return np.clip(noisy, 0, 255).round().astype(np.uint8)


def mask_of(height, width, mode):
    """A blob with soft edges, crossing 127 and 128: uint8 [height, width], or with 3 channels of its own each."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(y / height - 0.45, x / width - 0.55)
    grey = np.clip(127.5 + 900 * (0.31 - distance), 0, 255)
    if mode == "L":
        return grey.round().astype(np.uint8)
    return np.stack([grey, 255 - grey * 0.1, grey * 0.9], -1).round().astype(np.uint8)


@contextmanager
def noise_drawn_in(dtype):
    """Lets diffusers draw noise in `dtype` whatever it computes in: a float32 twin gets that of the rounded pipeline."""
    modules = (
        vae_module,
        pipeline_flux_control,
        pipeline_flux_fill,
        pipeline_flux_img2img,
        pipeline_flux_inpaint,
        pipeline_flux_kontext,
    )
    original = vae_module.randn_tensor

    def draw(shape, generator=None, device=None, dtype=None, layout=None):
        return original(shape, generator=generator, dtype=DTYPES[drawn]).to(dtype)

    drawn = dtype
    for module in modules:
        module.randn_tensor = draw
    try:
        yield
    finally:
        for module in modules:
            module.randn_tensor = original


@torch.no_grad()
def encoder_cases(writer, pipes, dtype):
    for name, (batch, rows, columns, seed) in cases.VAE_ENCODER.items():
        factor = 2 ** (len(pipes[0].vae.config.block_out_channels) - 1)
        random = torch.Generator().manual_seed(seed)
        image = torch.rand((batch, 3, rows * factor, columns * factor), generator=random) * 2 - 1
        seeds = [seed + k for k in range(batch)]

        def encode(pipe):
            with noise_drawn_in(dtype):
                found = [
                    pipe.vae.encode(image[k : k + 1].to(pipe.vae.dtype)).latent_dist
                    for k in range(batch)
                ]
                made = [torch.Generator("cpu").manual_seed(s) for s in seeds]
                samples = [d.sample(generator=g) for d, g in zip(found, made)]
            return {"latents": torch.cat([d.mode() for d in found]), "samples": torch.cat(samples)}

        tensors = {"image": image, "seed": torch.tensor(seeds)[:, None], **with_twin(pipes, encode)}
        writer.add(f"vae_encoder_{name}_{dtype}", "vae_encoder", dtype, tensors)


@torch.no_grad()
def tiled_case(writer, pipe, dtype):
    """An image encoded as after vae.enable_tiling(): three by three tiles, the last ones cut; pixels that bf16 has."""
    vae = pipe.vae
    factor, side = 2 ** (len(vae.config.block_out_channels) - 1), vae.tile_latent_min_size
    shape = (1, 3, (2 * side - 3) * factor, (2 * side + side // 4) * factor)
    image = (torch.rand(shape, generator=torch.Generator().manual_seed(54)) * 2 - 1).bfloat16()
    vae.enable_tiling()
    moments = vae.encode(image.to(vae.dtype)).latent_dist.parameters
    vae.disable_tiling()
    tensors = {"image": image, "moments": moments}
    writer.add(f"vae_encoder_tiled_{dtype}", "vae_encoder_tiled", dtype, tensors)


@torch.no_grad()
def encoder_trace(writer, pipe, dtype):
    encoder = pipe.vae.encoder
    names = ["conv_in", "mid_block.resnets.0", "mid_block"]
    names += [f"down_blocks.{i}" for i in range(len(encoder.down_blocks))]
    factor = 2 ** (len(encoder.down_blocks) - 1)
    random = torch.Generator().manual_seed(5)
    image = torch.rand((1, 3, 3 * factor, 2 * factor), generator=random) * 2 - 1
    latents, seen = trace(encoder, names, lambda: pipe.vae.encode(image).latent_dist.mode())
    tensors = {"image": image, "latents": latents, **seen}
    writer.add(
        f"trace_vae_encoder_{dtype}", "vae_encoder", dtype, tensors, trace=sorted(seen)
    )


@torch.no_grad()
def generate_from(pipe, request, image, mask):
    """The images of a request, each by a call of its own with seed + k; `latents` as the loops end, packed."""
    if type(pipe) is FluxPipeline:
        kind = FluxInpaintPipeline if mask is not None else FluxImg2ImgPipeline
        pipe = kind(**pipe.components)
        pipe.set_progress_bar_config(disable=True)
    arguments = {**DEFAULTS, **request}
    seed, count = arguments.pop("seed"), arguments.pop("num_images_per_prompt")
    control = isinstance(pipe, FluxControlPipeline)
    arguments["control_image" if control else "image"] = Image.fromarray(image.numpy())
    if control or isinstance(pipe, FluxFillPipeline):  # no true CFG
        arguments.pop("negative_prompt")
        arguments.pop("true_cfg_scale")
    if isinstance(pipe, FluxKontextPipeline):
        arguments["max_area"] = 64 * 64  # the checkpoint's default size
    if mask is not None:
        arguments["mask_image"] = Image.fromarray(mask.numpy())
    latents, images, steps = [], [], []

    def keep(_, step, __, tensors):
        steps.append(step)
        latents.append(tensors["latents"].clone())
        return {}

    for k in range(len(request["prompt"]) * count):
        texts = {
            key: arguments[key][k // count]
            for key in ("prompt", "prompt_2", "negative_prompt")
            if arguments.get(key) is not None
        }
        generator = torch.Generator("cpu").manual_seed(seed + k)
        result = pipe(
            **{**arguments, **texts},
            generator=generator,
            output_type="pil",
            callback_on_step_end=keep,
        )
        images.append(torch.from_numpy(np.asarray(result.images[0]).copy()))
        latents[k:] = latents[-1:]
    return {"latents": torch.cat(latents), "images": torch.stack(images)}, max(steps) + 1


def image_cases(writer, pipes, dtype, requests):
    for number, (name, given) in enumerate(requests.items()):
        request = {key: value for key, value in given.items() if key not in ("image", "mask")}
        image = torch.from_numpy(picture(*given["image"], 60 + number))
        mask = torch.from_numpy(mask_of(*given["mask"])) if "mask" in given else None
        steps = []

        def run(pipe):
            with noise_drawn_in(dtype):
                result, done = generate_from(pipe, request, image, mask)
            steps.append(done)
            return result

        result = run(pipes[0])
        if len(pipes) > 1:
            twin = run(pipes[1])
            result.update({f"{key}_f32": value for key, value in twin.items()})
            print(f"  {name} {dtype}: {psnr(result['images'], twin['images']):.1f} dB from float32")
        tensors = {"image": image, **({} if mask is None else {"mask": mask}), **result}
        print(f"  {name} {dtype}: {steps[0]} steps, pixel std {result['images'].double().std():.0f}")
        recipe = {"request": request, "steps": steps[0]}
        writer.add(f"from_image_{name}_{dtype}", "image_to_image", dtype, tensors, **recipe)


# The pipelines of the kinds whose checkpoints have little but a transformer; all else is that of tiny-dev.
KINDS = {
    "tiny-kontext": FluxKontextPipeline,
    "tiny-fill": FluxFillPipeline,
    "tiny-control": FluxControlPipeline,
}


def load_kind(name, dtype):
    base = load(GOLDEN / "checkpoints/tiny-dev", dtype)
    parts = {key: part for key, part in base.components.items() if part is not None}
    folder = GOLDEN / "checkpoints" / name / "transformer"
    if folder.exists():
        parts["transformer"] = FluxTransformer2DModel.from_pretrained(folder, dtype=DTYPES[dtype])
    made = KINDS[name](**parts)
    made.set_progress_bar_config(disable=True)
    return made


def make(name):
    print(name)
    writer = Writer(name, FOLDER / name)
    for dtype in ("f32", "bf16"):
        kind = name in KINDS
        pipe = load_kind(name, dtype) if kind else load(GOLDEN / "checkpoints" / name, dtype)
        pipes = [pipe] if dtype == "f32" else [pipe, float32_twin(pipe)]
        if not kind:
            encoder_cases(writer, pipes, dtype)
            if dtype == "f32":
                encoder_trace(writer, pipe, dtype)
                tiled_case(writer, pipe, dtype)
        image_cases(writer, pipes, dtype, cases.IMAGE_TO_IMAGE[name][dtype])
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(cases.IMAGE_TO_IMAGE)}")
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    for name in args.names or cases.IMAGE_TO_IMAGE:
        make(name)


if __name__ == "__main__":
    main()
