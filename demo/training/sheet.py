"""Makes pages of images."""

import numpy as np
from PIL import Image, ImageDraw

GAP, LINE, FONT_SIZE = 6, 11, 9


def _wrapped(canvas, text, width):
    """The text in lines of at most so many pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and canvas.textlength(longer, font_size=FONT_SIZE) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def sheet(images, path, captions=None, columns=8, margin=0):
    """Writes uint8 images as one PNG, row by row; with captions, each below its image, which may
    be wider by `margin` on both sides."""
    height, width = max(i.shape[0] for i in images), max(i.shape[1] for i in images) + 2 * margin
    rows = [range(k, min(k + columns, len(images))) for k in range(0, len(images), columns)]
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    texts = [_wrapped(canvas, text, width) for text in captions or [""] * len(images)]
    lines = [max(texts[k].count("\n") + 1 for k in row) if captions else 0 for row in rows]
    tall = sum(height + LINE * n + (GAP if captions else 0) for n in lines)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, tall + GAP * (len(rows) + 1)), "white")
    canvas, y = ImageDraw.Draw(page), GAP
    for row, n in zip(rows, lines):
        for column, k in enumerate(row):
            x = GAP + column * (width + GAP)
            page.paste(Image.fromarray(images[k]), (x + (width - images[k].shape[1]) // 2, y))
            place = (x + width // 2, y + height + 2)
            how = {"anchor": "ma", "align": "center", "spacing": 1, "font_size": FONT_SIZE}
            canvas.multiline_text(place, texts[k], fill="black", **how)
        y += height + LINE * n + (2 * GAP if captions else GAP)
    page.save(path, optimize=True)
