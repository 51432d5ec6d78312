"""Makes the golden tensors of tests/golden from the tiny checkpoints: python tests/reference/make_golden.py [NAME...]

Every case is a safetensors file named in `index.json`, which also names what went in; tests/reference/README.md says
how to read them. Without names, everything is made, noise and schedules included.
"""

import argparse
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from safetensors.torch import save_file

import cases
from reference import DTYPES, float32_twin, generate, load, packed_noise, psnr, trace

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


class Writer:
    """Collects the cases of one checkpoint and writes their files and index.json."""

    def __init__(self, name, folder):
        self.folder = folder
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.checkpoint = f"checkpoints/{name}"
        self.cases = []

    def add(self, name, stage, dtype, tensors, **recipe):
        file = f"{name}.safetensors"
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            self.folder / file,
            metadata={"format": "pt"},
        )
        self.cases.append({"name": name, "stage": stage, "dtype": dtype, "file": file, **recipe})

    def close(self):
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
        versions["transformers"] = transformers.__version__
        index = {"checkpoint": self.checkpoint, "made_with": versions, "cases": self.cases}
        text = json.dumps(index, ensure_ascii=False, indent=1)
        (self.folder / "index.json").write_text(text + "\n", encoding="utf-8")


def with_twin(pipes, run):
    """Runs `run(pipe)`; for a reduced dtype adds the float32 twin's tensors as `<name>_f32`."""
    result = run(pipes[0])
    if len(pipes) > 1:
        result.update(
            {
                f"{name}_f32": value
                for name, value in run(pipes[1]).items()
                if value.is_floating_point()
            }
        )
    return result


def text_cases(writer, pipes, dtype):
    prompts = cases.PROMPTS

    def clip(pipe):
        ids = pipe.tokenizer(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        embeds = pipe._get_clip_prompt_embeds(prompts)
        return {"input_ids": ids.input_ids.int(), "pooled_prompt_embeds": embeds}

    writer.add(f"clip_{dtype}", "clip_encoder", dtype, with_twin(pipes, clip), prompts=prompts)
    for length, chosen in cases.T5_LENGTHS.items():
        texts = [prompts[i] for i in chosen]
        rows = torch.tensor(
            sorted({*range(min(length, 6)), *range(0, length, max(1, length // 9)), length - 1})
        )

        def t5(pipe):
            options = dict(
                padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            embeds = pipe._get_t5_prompt_embeds(texts, max_sequence_length=length)
            ids = pipe.tokenizer_2(texts, **options).input_ids
            return {"input_ids": ids.int(), "rows": rows, "prompt_embeds": embeds[:, rows]}

        recipe = {"max_sequence_length": length, "prompts": texts}
        writer.add(f"t5_{length}_{dtype}", "t5_encoder", dtype, with_twin(pipes, t5), **recipe)


def transformer_inputs(pipe, case, dtype):
    """Inputs as the product's dit_transformer takes them, every one with a batch dimension."""
    config = pipe.transformer.config
    generator = torch.Generator().manual_seed(case["seed"])
    batch, (rows, columns), text = case["batch"], case["tokens"], case["text_tokens"]
    random = lambda *shape: torch.randn(shape, generator=generator).to(DTYPES[dtype])
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)
    # As the pipeline passes it: the scheduler's value in the compute dtype, divided by 1000 there.
    timestep = (torch.tensor(case["timesteps"]).to(DTYPES[dtype]) / 1000).float()
    inputs = {
        "hidden_states": random(batch, rows * columns, config.in_channels),
        "timestep": timestep[:, None],
        "pooled_projections": random(batch, config.pooled_projection_dim),
        "encoder_hidden_states": random(batch, text, config.joint_attention_dim),
        "img_ids": ids.view(1, -1, 3).repeat(batch, 1, 1),
        "txt_ids": torch.zeros(batch, text, 3),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.tensor(case["guidance"])[:, None]
    return inputs


@torch.no_grad()
def run_transformer(pipe, inputs):
    dtype = pipe.transformer.dtype
    return pipe.transformer(
        hidden_states=inputs["hidden_states"].to(dtype),
        timestep=inputs["timestep"][:, 0],
        guidance=inputs["guidance"][:, 0] if "guidance" in inputs else None,
        pooled_projections=inputs["pooled_projections"].to(dtype),
        encoder_hidden_states=inputs["encoder_hidden_states"].to(dtype),
        img_ids=inputs["img_ids"][0],
        txt_ids=inputs["txt_ids"][0],
        return_dict=False,
    )[0]


def transformer_cases(writer, pipes, dtype):
    for name, case in cases.TRANSFORMER.items():
        inputs = transformer_inputs(pipes[0], case, dtype)
        outputs = with_twin(pipes, lambda pipe: {"noise_pred": run_transformer(pipe, inputs)})
        writer.add(f"transformer_{name}_{dtype}", "dit_transformer", dtype, {**inputs, **outputs})


def vae_cases(writer, pipes, dtype):
    channels = pipes[0].vae.config.latent_channels
    for name, (batch, height, width, seed) in cases.VAE.items():
        noise = torch.randn(
            (batch, channels, height, width), generator=torch.Generator().manual_seed(seed)
        )
        latents = (1.5 * noise).to(DTYPES[dtype])

        @torch.no_grad()
        def decode(pipe):
            return {
                "image": pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0].float()
            }

        writer.add(
            f"vae_{name}_{dtype}",
            "vae_decoder",
            dtype,
            {"latents": latents, **with_twin(pipes, decode)},
        )


@torch.no_grad()
def tiled_case(writer, pipe, dtype):
    """An image decoded as after vae.enable_tiling(): three by three tiles, the last ones cut."""
    side = pipe.vae.tile_latent_min_size
    latents = torch.randn(
        (1, pipe.vae.config.latent_channels, 2 * side - 3, 2 * side + side // 4),
        generator=torch.Generator().manual_seed(4),
    )
    pipe.vae.enable_tiling()
    image = pipe.vae.decode(latents, return_dict=False)[0].float()
    pipe.vae.disable_tiling()
    tensors = {"latents": latents, "image": image}
    writer.add(f"vae_tiled_{dtype}", "vae_decoder_tiled", dtype, tensors)


def trace_cases(writer, pipe, dtype):
    """The outputs of the blocks inside the stages, named as diffusers and transformers name the modules."""
    model = pipe.transformer
    inputs = transformer_inputs(pipe, cases.TRACE, dtype)
    names = ["x_embedder", "context_embedder", "time_text_embed", "norm_out", "proj_out"]
    for i in range(len(model.transformer_blocks)):
        block = f"transformer_blocks.{i}"
        names += [f"{block}.norm1", f"{block}.attn", f"{block}.ff", f"{block}.ff_context", block]
    for i in range(len(model.single_transformer_blocks)):
        block = f"single_transformer_blocks.{i}"
        names += [f"{block}.norm", f"{block}.attn", f"{block}.proj_mlp", block]
    _, seen = trace(model, names, lambda: run_transformer(pipe, inputs))
    # A block returns (text, image) states, the attention (image, text).
    writer.add(
        f"trace_transformer_{dtype}",
        "dit_transformer",
        dtype,
        {**inputs, **seen},
        trace=sorted(seen),
    )

    prompt = cases.PROMPTS[1]
    names = [f"encoder.layers.{i}" for i in range(len(pipe.text_encoder.encoder.layers))] + [
        "embeddings"
    ]
    output, seen = trace(pipe.text_encoder, names, lambda: pipe._get_clip_prompt_embeds([prompt]))
    seen["pooled_prompt_embeds"] = output
    writer.add(
        f"trace_clip_{dtype}", "clip_encoder", dtype, seen, prompts=[prompt], trace=sorted(seen)
    )

    names = [
        f"encoder.block.{i}.layer.{k}"
        for i in range(len(pipe.text_encoder_2.encoder.block))
        for k in (0, 1)
    ]
    call = lambda: pipe._get_t5_prompt_embeds([prompt], max_sequence_length=20)
    output, seen = trace(pipe.text_encoder_2, names, call)
    seen = {name: value for name, value in seen.items() if value.shape[-1] == output.shape[-1]}
    seen["prompt_embeds"] = output
    recipe = {"max_sequence_length": 20, "prompts": [prompt], "trace": sorted(seen)}
    writer.add(f"trace_t5_{dtype}", "t5_encoder", dtype, seen, **recipe)

    decoder = pipe.vae.decoder
    names = ["conv_in", "mid_block.resnets.0", "mid_block", "conv_norm_out"]
    names += ["mid_block.attentions.0"] if decoder.mid_block.attentions[0] is not None else []
    names += [f"up_blocks.{i}" for i in range(len(decoder.up_blocks))]
    noise = torch.randn(
        (1, pipe.vae.config.latent_channels, 2, 6), generator=torch.Generator().manual_seed(3)
    )
    latents = noise.to(DTYPES[dtype])
    with torch.no_grad():
        image, seen = trace(
            decoder, names, lambda: pipe.vae.decode(latents, return_dict=False)[0].float()
        )
    writer.add(
        f"trace_vae_{dtype}",
        "vae_decoder",
        dtype,
        {"latents": latents, "image": image, **seen},
        trace=sorted(seen),
    )


def image_cases(writer, pipes, dtype, requests):
    for name, request in requests.items():
        result = generate(pipes[0], request)
        if len(pipes) > 1:
            twin = generate(pipes[1], request, latents=packed_noise(pipes[0], request).float())
            last = max(int(key.split("_")[1]) for key in result if key.startswith("latents_"))
            result["images_f32"] = twin["images"]
            result["latents_f32"] = twin[f"latents_{last}"]
            print(f"  {name} {dtype}: {psnr(result['images'], twin['images']):.1f} dB from float32")
        images = result["images"].double()
        clipped = float(((images == 0) | (images == 255)).double().mean())
        print(
            f"  {name} {dtype}: {list(images.shape)}, pixel std {images.std():.0f}, {100 * clipped:.1f} % clipped"
        )
        writer.add(f"image_{name}_{dtype}", "bls", dtype, result, request=request)


def noise_file():
    tensors = {}
    for dtype, torch_dtype in DTYPES.items():
        for seed in cases.NOISE_SEEDS:
            for shape in (
                cases.NOISE_SHAPES if seed == cases.NOISE_SEEDS[0] else cases.NOISE_SHAPES[:4]
            ):
                generator = torch.Generator("cpu").manual_seed(seed)
                key = f"{dtype}/{seed}/{'x'.join(map(str, shape))}"
                tensors[key] = torch.randn(shape, generator=generator, dtype=torch_dtype)
    save_file(tensors, GOLDEN / "noise.safetensors", metadata={"format": "pt"})


def schedule_file():
    made = []
    for config in cases.SCHEDULERS:
        for tokens, steps in cases.SCHEDULES:
            scheduler = FlowMatchEulerDiscreteScheduler(**config)
            c = scheduler.config
            mu = calculate_shift(
                tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift
            )
            sigmas = np.linspace(1.0, 1 / steps, steps)
            retrieve_timesteps(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
            values = {
                "sigmas": scheduler.sigmas.tolist(),
                "timesteps": scheduler.timesteps.tolist(),
            }
            if not np.isfinite(values["sigmas"]).all():
                continue  # diffusers generates nothing sensible then; the engine refuses
            made.append(
                {"config": config, "image_tokens": tokens, "num_inference_steps": steps, **values}
            )
    (GOLDEN / "schedules.json").write_text(
        json.dumps(made, indent=None).replace('}, {"config', '},\n{"config') + "\n"
    )


def make(name):
    print(name)
    writer = Writer(name, GOLDEN / name)
    for dtype in ("f32", "bf16"):
        pipe = load(GOLDEN / "checkpoints" / name, dtype)
        pipes = [pipe] if dtype == "f32" else [pipe, float32_twin(pipe)]
        text_cases(writer, pipes, dtype)
        transformer_cases(writer, pipes, dtype)
        vae_cases(writer, pipes, dtype)
        if dtype == "f32":
            trace_cases(writer, pipe, dtype)
            tiled_case(writer, pipe, dtype)
        image_cases(writer, pipes, dtype, cases.IMAGES[name][dtype])
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        help=f"of {', '.join(cases.IMAGES)}, noise, schedules; all if none is given",
    )
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    for name in args.names or [*cases.IMAGES, "noise", "schedules"]:
        {"noise": noise_file, "schedules": schedule_file}.get(name, lambda: make(name))()
    size = sum(
        p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file() and "checkpoints" not in p.parts
    )
    print(f"golden data without the checkpoints: {size} bytes")


if __name__ == "__main__":
    main()
