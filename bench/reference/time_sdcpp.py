"""Times stable-diffusion.cpp on one image and prints one JSON object."""

import argparse
import importlib.metadata
import json
import os
import resource
import time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transformer")
    parser.add_argument("--clip", required=True)
    parser.add_argument("--t5", required=True)
    parser.add_argument("--vae", required=True)
    parser.add_argument("--size", type=int, required=True, help="height and width")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    # The library prints its progress to standard output, which is for the result.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import stable_diffusion_cpp

    start = time.perf_counter()
    model = stable_diffusion_cpp.StableDiffusion(
        diffusion_model_path=args.transformer,
        clip_l_path=args.clip,
        t5xxl_path=args.t5,
        vae_path=args.vae,
        vae_decode_only=True,
        diffusion_flash_attn=False,  # a step takes a fifth longer with it
        n_threads=args.threads,
        verbose=False,
    )
    loaded = time.perf_counter()
    steps = []  # when the first began, and when each ended
    model.generate_image(
        prompt="a red circle above a blue square",
        width=args.size,
        height=args.size,
        sample_method="euler",
        sample_steps=args.steps,
        cfg_scale=1.0,
        seed=1,
        progress_callback=lambda *_: steps.append(time.perf_counter()),
    )
    result = {
        "version": importlib.metadata.version("stable-diffusion-cpp-python"),
        "system": stable_diffusion_cpp.sd_get_system_info().decode(),
        "load_seconds": loaded - start,
        "step_seconds": (steps[-1] - steps[0]) / args.steps,
        "image_seconds": time.perf_counter() - loaded,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result), file=output)


if __name__ == "__main__":
    main()
