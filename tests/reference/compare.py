"""Compares the flux-triton binary with diffusers on checkpoints: compare.py --binary build/cli/flux-triton CHECKPOINT...

Prints one line per stage and image and exits with 1 if one is out of its limit: float32 within 2e-4 of the largest
value and 99.9 % of the pixels within 1 of 255; bfloat16 by the distance to the float32 result of the same weights.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cases
from make_golden import run_transformer, transformer_inputs
from reference import DTYPES, float32_twin, generate, load, packed_noise, psnr

# A bfloat16 stage may be this much farther from the float32 result than diffusers' own bfloat16 result is.
STAGE_SLACK = 2.0


class Product:
    """The binary under test, on one checkpoint in one compute dtype."""

    def __init__(self, binary, checkpoint, dtype, folder):
        self.binary, self.checkpoint, self.dtype, self.folder = (
            binary,
            checkpoint,
            dtype,
            Path(folder),
        )

    def run(self, *arguments):
        command = [str(self.binary), *map(str, arguments), "--dtype", self.dtype, "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def stage(self, stage, tensors=None, *options):
        """Returns the outputs of `flux-triton run-stage`."""
        source, target = self.folder / "in.safetensors", self.folder / "out.safetensors"
        target.unlink(missing_ok=True)
        if tensors:
            save_file({name: value.contiguous() for name, value in tensors.items()}, source)
            options = ("--input", source, *options)
        self.run("run-stage", self.checkpoint, stage, *options, "--output", target)
        return load_file(target)

    def tokenize(self, prompt, length):
        text = self.run_tokenize(prompt, length)
        return json.loads(text)

    def run_tokenize(self, prompt, length):
        command = [str(self.binary), "tokenize", str(self.checkpoint), "--prompt=" + prompt]
        done = subprocess.run(
            [*command, "--max-sequence-length", str(length)], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def generate(self, request):
        """Returns (packed latents, uint8 images) of `flux-triton generate`."""
        for old in self.folder.glob("image*"):
            old.unlink()
        image, latents = self.folder / "image.png", self.folder / "image.safetensors"
        options = [f"--prompt={p}" for p in request["prompt"]]
        options += [f"--prompt-2={p}" for p in request.get("prompt_2") or []]
        options += [f"--negative-prompt={p}" for p in request.get("negative_prompt") or []]
        flags = {
            "seed": "seed",
            "num_inference_steps": "steps",
            "guidance_scale": "guidance",
            "height": "height",
        }
        flags |= {
            "width": "width",
            "num_images_per_prompt": "images",
            "true_cfg_scale": "true-cfg-scale",
        }
        flags |= {"max_sequence_length": "max-sequence-length"}
        for name, flag in flags.items():
            options += [f"--{flag}", str(request[name])] if name in request else []
        self.run(
            "generate", self.checkpoint, *options, "--output", image, "--save-latents", latents
        )
        count = len(request["prompt"]) * request.get("num_images_per_prompt", 1)
        files = [image] if count == 1 else [self.folder / f"image_{i}.png" for i in range(count)]
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        return load_file(latents)["latents"], torch.from_numpy(pixels)


class Report:
    def __init__(self):
        self.bad = 0

    def line(self, good, name, text):
        self.bad += not good
        print(f"{'ok ' if good else 'BAD'} {name}: {text}", flush=True)

    def attempt(self, name, work):
        """Runs `work()` -> (good, text); a failure of the binary is a bad line, not the end."""
        try:
            self.line(*(lambda result: (result[0], name, result[1]))(work()))
        except RuntimeError as error:
            self.line(False, name, str(error))


def relative(a, b):
    """Largest difference relative to the largest value of `b`; infinite where shapes differ or values are not finite."""
    if a.shape != b.shape or not torch.isfinite(a.float()).all():
        return float("inf")
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-30))


def rms(a, b):
    return float(
        (a.float() - b.float()).pow(2).mean().sqrt()
        / b.float().pow(2).mean().sqrt().clamp_min(1e-30)
    )


def judge_stage(found, pipes, run):
    """Compares one output with `run(pipe)`: closely in float32, else by the distance to the float32 twin."""
    expected = run(pipes[0])
    if found.shape != expected.shape:
        return False, f"shape {list(found.shape)}, expected {list(expected.shape)}"
    if len(pipes) == 1:
        error = relative(found, expected)
        return error <= 2e-4, f"{error:.1e} of the largest value"
    exact = run(pipes[1])
    mine, theirs = rms(found, exact), rms(expected, exact)
    return mine <= STAGE_SLACK * theirs + 1e-3, f"{mine:.2e} from float32, diffusers {theirs:.2e}"


def compare_stages(report, product, pipes, rng):
    pipe, twin = pipes[0], pipes[-1]
    for i in rng.sample(range(len(cases.PROMPTS)), 4):
        prompt = cases.PROMPTS[i]
        length = rng.choice([1, 20, 77, 256, 512])

        def tokens():
            options = dict(padding="max_length", truncation=True)
            clip = pipe.tokenizer(prompt, max_length=77, **options).input_ids
            t5 = pipe.tokenizer_2(prompt, max_length=length, **options).input_ids
            found = product.tokenize(prompt, length)
            return (
                found["clip"] == clip and found["t5"] == t5,
                f"CLIP {found['clip'] == clip}, T5 {found['t5'] == t5}",
            )

        report.attempt(f"tokenize prompt {i} x {length}", tokens)

        def clip():
            found = product.stage("clip_encoder", None, "--prompt=" + prompt)[
                "pooled_prompt_embeds"
            ]
            return judge_stage(
                found.view(1, -1), pipes, lambda p: p._get_clip_prompt_embeds([prompt])
            )

        report.attempt(f"clip_encoder prompt {i}", clip)

        def t5():
            options = ("--prompt=" + prompt, "--max-sequence-length", length)
            found = product.stage("t5_encoder", None, *options)["prompt_embeds"]
            run = lambda p: p._get_t5_prompt_embeds([prompt], max_sequence_length=length)
            return judge_stage(found.view(1, length, -1), pipes, run)

        report.attempt(f"t5_encoder prompt {i} x {length}", t5)

    for _ in range(2):
        batch = rng.randint(1, 2)
        case = dict(
            batch=batch,
            tokens=(rng.randint(1, 9), rng.randint(1, 9)),
            text_tokens=rng.randint(1, 90),
            timesteps=[rng.uniform(1, 1000) for _ in range(batch)],
            guidance=[rng.uniform(0, 8) for _ in range(batch)],
            seed=rng.randint(0, 99),
        )
        inputs = transformer_inputs(pipe, case, product.dtype)
        name = f"dit_transformer {case['tokens']} image and {case['text_tokens']} text tokens x {batch}"
        work = lambda: judge_stage(
            product.stage("dit_transformer", inputs)["noise_pred"],
            pipes,
            lambda p: run_transformer(p, inputs),
        )
        report.attempt(name, work)

        shape = (
            batch,
            twin.vae.config.latent_channels,
            2 * rng.randint(1, 9),
            2 * rng.randint(1, 9),
        )
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(case["seed"])).to(
            DTYPES[product.dtype]
        )
        with torch.no_grad():
            decode = lambda p: p.vae.decode(latents.to(p.vae.dtype), return_dict=False)[0]
            work = lambda: judge_stage(
                product.stage("vae_decoder", {"latents": latents})["image"], pipes, decode
            )
            report.attempt(f"vae_decoder {list(shape)}", work)


def random_request(pipe, rng):
    unit = 2 * pipe.vae_scale_factor
    rows = rng.choice([1, 1, 2, 3])
    take = lambda: rng.choices(cases.PROMPTS, k=rows)
    side = lambda: unit * rng.randint(-(-16 // unit), max(2, 96 // unit))
    request = dict(
        prompt=take(),
        height=side(),
        width=side(),
        seed=rng.choice([0, 42, 2**40 + 7, rng.randint(0, 2**63 - 9)]),
    )
    request |= dict(
        num_inference_steps=rng.randint(1, 5), guidance_scale=round(rng.uniform(0, 7), 2)
    )
    request |= dict(
        max_sequence_length=rng.choice([1, 33, 77, 128, 256, 512]),
        num_images_per_prompt=rng.choice([1, 1, 2, 3]),
    )
    if rng.random() < 0.4:
        request |= dict(prompt_2=take())
    if rng.random() < 0.4:
        request |= dict(negative_prompt=take(), true_cfg_scale=round(rng.uniform(1.1, 4), 2))
    return request


def judge_image(product, pipes, request):
    seconds = time.time()
    latents, images = product.generate(request)
    seconds = time.time() - seconds
    expected = generate(pipes[0], request)
    last = expected[f"latents_{request['num_inference_steps'] - 1}"]
    if latents.shape != last.shape or images.shape != expected["images"].shape:
        return (
            False,
            f"shapes {list(latents.shape)}, {list(images.shape)}, expected {list(last.shape)}",
        )
    off = (images.int() - expected["images"].int()).abs()
    share = float((off <= 1).double().mean())
    text = f"latents {relative(latents, last):.1e}, pixels max {int(off.max())}, {100 * share:.2f} % within 1"
    if len(pipes) == 1:
        good = relative(latents, last) <= 2e-4 and share >= 0.999
    else:
        twin = generate(pipes[1], request, latents=packed_noise(pipes[0], request).float())
        direct, mine, theirs = (
            psnr(images, expected["images"]),
            psnr(images, twin["images"]),
            psnr(expected["images"], twin["images"]),
        )
        good = direct > 38 or mine >= theirs
        text += f"; {direct:.1f} dB from diffusers; from float32 {mine:.1f} dB, diffusers {theirs:.1f} dB"
    return good, f"{text} ({seconds:.1f} s)"


def compare(report, checkpoint, args, dtype):
    rng = random.Random(args.seed)
    pipe = load(checkpoint, dtype)
    pipes = [pipe] if dtype == "f32" else [pipe, float32_twin(pipe)]
    with tempfile.TemporaryDirectory() as folder:
        product = Product(args.binary, checkpoint, dtype, folder)
        if not args.images_only:
            with torch.no_grad():
                compare_stages(report, product, pipes, rng)
        for i in range(args.requests):
            request = random_request(pipe, rng)
            size = f"{request['height']}x{request['width']}"
            name = f"image {i} {size} x {len(request['prompt'])}x{request['num_images_per_prompt']}"
            before = report.bad
            report.attempt(name, lambda: judge_image(product, pipes, request))
            if report.bad > before:
                print("    request:", json.dumps(request, ensure_ascii=True)[:2000])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--binary", type=Path, default=Path("build/cli/flux-triton"))
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=list(DTYPES))
    parser.add_argument(
        "--requests", type=int, default=4, help="random requests per checkpoint and dtype"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    parser.add_argument("--images-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(2)
    report = Report()
    for checkpoint in args.checkpoints:
        for dtype in args.dtypes:
            print(f"-- {checkpoint} {dtype}")
            compare(report, checkpoint, args, dtype)
    print(f"{report.bad} out of limits")
    sys.exit(1 if report.bad else 0)


if __name__ == "__main__":
    main()
