"""Files of images, with what they say of their making: PNG, JPEG and WebP, by pillow.

Beside bls/1/model.py. The keys and the text `parameters` are those of the native bls; the bytes are
pillow's.
"""

import base64
import io
import json

import PIL.Image
import PIL.PngImagePlugin

KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
FULL_COLOUR_QUALITY = 90  # JPEG's colours are halved both ways below
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
SOFTWARE = "flux-triton, models in Python"


def encoded(pixels, output_format, row, seed, origin):
    """A file's bytes, or their base64. `origin`: dtype and checkpoint, as entries of a dict."""
    kind = output_format.removesuffix("_base64")
    image, file = PIL.Image.fromarray(pixels), io.BytesIO()
    if kind == "png":
        image.save(file, "PNG", pnginfo=png_texts(row, seed, origin))
    else:
        subsampling = {"subsampling": 0 if row.quality >= FULL_COLOUR_QUALITY else 2}
        more = subsampling if kind == "jpeg" else {}
        exif = exif_of(parameters(row, seed, origin))
        image.save(file, KINDS[kind], quality=row.quality, exif=exif, **more)
    data = file.getvalue()
    return base64.b64encode(data) if output_format.endswith("_base64") else data


def png_texts(row, seed, origin):
    texts = {"prompt": row.prompt}
    if row.prompt_2 != row.prompt:
        texts["prompt_2"] = row.prompt_2
    if row.negative_prompt is not None:
        texts["negative_prompt"] = row.negative_prompt
        texts["true_cfg_scale"] = f"{row.true_cfg_scale:g}"
    texts |= {
        "seed": str(seed),
        "steps": str(row.num_inference_steps),
        "guidance": f"{row.guidance_scale:g}",
        "size": f"{row.width}x{row.height}",
        "max_sequence_length": str(row.max_sequence_length),
        **origin,
        "Software": SOFTWARE,
        "parameters": parameters(row, seed, origin),
    }
    info = PIL.PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return info


def parameters(row, seed, origin):
    """The settings in the form of AUTOMATIC1111's web UI."""
    lines = [row.prompt]
    if row.negative_prompt is not None:
        lines.append(f"Negative prompt: {row.negative_prompt}")
    settings = {
        "Steps": str(row.num_inference_steps),
        "Sampler": "Euler",
        "CFG scale": f"{row.true_cfg_scale:g}",
        "Distilled CFG Scale": f"{row.guidance_scale:g}",
        "Seed": str(seed),
        "Size": f"{row.width}x{row.height}",
        "Model": origin["checkpoint"],
    }
    if row.prompt_2 != row.prompt:
        settings["Prompt 2"] = row.prompt_2
    settings["Version"] = SOFTWARE
    lines.append(", ".join(f"{name}: {plain(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def plain(value):
    """Quoted where its characters have a meaning in the line of settings."""
    quoted = any(mark in value for mark in ',:"\n')
    return json.dumps(value, ensure_ascii=False) if quoted else value


def exif_of(comment):
    exif = PIL.Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + comment[:30000].encode("utf_16_be")
    return exif
