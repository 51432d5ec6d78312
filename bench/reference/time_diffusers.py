"""Times diffusers' FluxPipeline, whole and stage by stage, and prints one JSON object.

The object has the keys of `flux-triton bench --json` that the comparison reads.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
from diffusers import FluxPipeline


def measure(call, runs: int, warmup: int) -> dict:
    def wait():
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def timed() -> float:
        wait()
        start = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - start

    for _ in range(warmup):
        timed()
    seconds = [timed() for _ in range(runs)]
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }


def seconds_since_start() -> float:
    """Of this process."""
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def report(text: str) -> None:
    print(f"{seconds_since_start():.1f} s: {text}", file=sys.stderr, flush=True)


def quantize_linears(transformer) -> None:
    """The linears that `flux-triton --quantization fp8` computes in e4m3, with torchao's scales for
    each row of weights and activations."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    def is_large(module, name):
        inside = name.startswith(("transformer_blocks.", "single_transformer_blocks."))
        return inside and isinstance(module, torch.nn.Linear) and ".norm" not in name

    # torchao's settings for Inductor would tune each kernel for minutes.
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )
    quantize_(transformer, config, is_large)


def stage_calls(pipe, args) -> dict:
    """The calls inside FluxPipeline.__call__ that flux-triton's stages stand in for."""
    dtype = pipe.transformer.dtype
    factor = pipe.vae_scale_factor
    rows, columns = args.height // factor, args.width // factor
    channels = pipe.transformer.config.in_channels
    latents, image_ids = pipe.prepare_latents(
        1, channels // 4, args.height, args.width, dtype, args.device, torch.Generator().manual_seed(1)
    )
    pooled = pipe._get_clip_prompt_embeds(args.prompt)
    embeds = pipe._get_t5_prompt_embeds(args.prompt, max_sequence_length=args.max_sequence_length)
    transformer_inputs = {
        "hidden_states": latents,
        "timestep": torch.full((1,), 0.5, dtype=dtype, device=args.device),
        "guidance": torch.full((1,), 3.5, device=args.device),
        "pooled_projections": pooled,
        "encoder_hidden_states": embeds,
        "txt_ids": torch.zeros(embeds.shape[1], 3, dtype=dtype, device=args.device),
        "img_ids": image_ids,
        "return_dict": False,
    }
    decoder_input = torch.randn(1, channels // 4, rows, columns, dtype=dtype, device=args.device)
    return {
        "clip_encoder": lambda: pipe._get_clip_prompt_embeds(args.prompt),
        "t5_encoder": lambda: pipe._get_t5_prompt_embeds(
            args.prompt, max_sequence_length=args.max_sequence_length
        ),
        "dit_transformer": lambda: pipe.transformer(**transformer_inputs),
        "vae_decoder": lambda: pipe.vae.decode(decoder_input, return_dict=False),
    }


def peak_memory_bytes() -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", default="a red circle above a blue square")
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--max-sequence-length", type=int, default=512)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--lora", action="append", default=[],
                        help="a file whose adapter is used, unfused, by peft")  # fmt: skip
    parser.add_argument("--compile", choices=["whole", "blocks"],
                        help="by torch.compile: transformer and decoder as a whole, or each kind of "
                             "the transformer's blocks once")  # fmt: skip
    parser.add_argument("--quantization", choices=["none", "fp8"], default="none",
                        help="fp8: the transformer's large linears by torchao")  # fmt: skip
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    pipe = FluxPipeline.from_pretrained(args.checkpoint, torch_dtype=dtype).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    report("loaded")
    for i, file in enumerate(args.lora):
        pipe.load_lora_weights(file, adapter_name=f"adapter{i}")
    if args.lora:
        pipe.set_adapters([f"adapter{i}" for i in range(len(args.lora))])
        report("adapters loaded")
    if args.quantization == "fp8":
        quantize_linears(pipe.transformer)
        report("quantized")
    if args.compile == "whole":
        pipe.transformer.compile()
        pipe.vae.decode = torch.compile(pipe.vae.decode)
    if args.compile == "blocks":
        pipe.transformer.compile_repeated_blocks(fullgraph=True)

    result = {}

    def generate():
        pipe(
            args.prompt,
            height=args.height,
            width=args.width,
            num_inference_steps=args.steps,
            max_sequence_length=args.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(1),
        )
        if "first_image_seconds" not in result:
            result["first_image_seconds"] = seconds_since_start()
            report("first image")

    with torch.inference_mode():
        result["image"] = measure(generate, args.runs, args.warmup)
        result["peak_memory_bytes"] = peak_memory_bytes()
        result["stages"] = {
            name: measure(call, args.runs, args.warmup)
            for name, call in stage_calls(pipe, args).items()
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
