#!/usr/bin/env python3
"""Draws the README's contact sheet with flux-triton and the demo checkpoint. Needs Pillow.

python3 demo/contact_sheet.py [FILE.png]
"""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE, GAP, CAPTION, COLUMNS = 128, 6, 26, 4
PROMPTS = (
    "a large red circle on the left on a yellow background",
    "a blue star above a pink heart on a soft green gradient background",
    "three orange triangles in a row on a white background",
    "a small white square inside a large purple circle on a gray background",
    "a cyan ring to the right of a brown star on a black background",
    "a yellow heart in the top left corner on a blue background",
    "two green squares side by side on an orange background",
    "a red star, a white circle and a blue ring in a column on a cyan background",
)


def wrapped(text):
    """Two lines of nearly the same length."""
    words = text.split()
    at = min(range(len(words)), key=lambda i: abs(len(" ".join(words[:i])) - len(text) / 2))
    return " ".join(words[:at]) + "\n" + " ".join(words[at:])


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs/contact_sheet.png"
    rows = -(-len(PROMPTS) // COLUMNS)
    cell = SIDE + 80
    sheet = Image.new("RGB", (COLUMNS * cell, rows * (SIDE + CAPTION + 2 * GAP)), "white")
    canvas = ImageDraw.Draw(sheet)
    with tempfile.TemporaryDirectory() as directory:
        output = pathlib.Path(directory) / "image.png"
        command = [ROOT / "build/cli/flux-triton", "generate", ROOT / "demo/shapes"]
        command += ["--height", SIDE, "--width", SIDE, "--steps", 12, "--seed", 2]
        command += ["--max-sequence-length", 64, "--output", output]
        for prompt in PROMPTS:
            command += ["--prompt", prompt]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        for i, prompt in enumerate(PROMPTS):
            x, y = i % COLUMNS * cell, i // COLUMNS * (SIDE + CAPTION + 2 * GAP)
            picture = Image.open(output.with_name(f"image_{i}.png"))
            sheet.paste(picture, (x + (cell - SIDE) // 2, y + GAP))
            canvas.multiline_text(
                (x + cell // 2, y + GAP + SIDE + 2),
                wrapped(prompt),
                fill="black",
                anchor="ma",
                align="center",
                spacing=1,
                font_size=9,
            )
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main()
