"""Starts from a picture with the demo model: at four strengths, and with a corner made anew.

    .venv-serving/bin/python demo/image_to_image.py [--program build/cli/flux-triton] [--output FILE]

Writes a contact sheet: the picture, what comes of it for another prompt, and the corner.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "demo"))
from training.sheet import sheet  # noqa: E402

SIDE = 128
FIRST = "a large red circle on the left on a yellow background"
SECOND = "a large blue star on the left on a yellow background"
CORNER = "a small green square in the bottom right corner on a yellow background"
STRENGTHS = (0.3, 0.5, 0.7, 0.9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default=str(ROOT / "build/cli/flux-triton"))
    parser.add_argument("--output", default="image_to_image.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)

        def generate(name, prompt, *more):
            file = directory / f"{name}.png"
            subprocess.run(
                [
                    options.program, "generate", ROOT / "demo/shapes", "--prompt", prompt,
                    "--height", str(SIDE), "--width", str(SIDE), "--steps", "28", "--seed", "3",
                    "--max-sequence-length", "64", "-o", file, *map(str, more),
                ],
                check=True,
            )  # fmt: skip
            return file

        first = generate("first", FIRST)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[SIDE // 2 :, SIDE // 2 :] = 255
        Image.fromarray(mask).save(directory / "mask.png")
        files = [first]
        captions = [FIRST]
        for strength in STRENGTHS:
            more = ("--image", first, "--strength", strength)
            files.append(generate(f"strength_{strength}", SECOND, *more))
            captions.append(f"strength {strength}: {SECOND}")
        more = ("--image", first, "--mask", directory / "mask.png", "--strength", 1)
        files.append(generate("corner", CORNER, *more))
        captions.append(f"the corner: {CORNER}")
        images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        sheet(images, options.output, captions, columns=len(images))


if __name__ == "__main__":
    main()
