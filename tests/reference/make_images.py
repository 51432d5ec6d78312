"""Makes tests/golden/images: small image files of every kind, and what Pillow and diffusers make of them.

python tests/reference/make_images.py
"""

import io
import json
import warnings
from pathlib import Path

import image_files as files
import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from image_files import GREY, GREY_ALPHA, PALETTE, RGB, RGBA
from PIL import Image, ImageOps
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "images"
HEIGHT, WIDTH = 19, 23
RANDOM = np.random.default_rng(7)


def values(channels, depth, height=HEIGHT, width=WIDTH):
    """Gradients and noise over the whole range, and its ends."""
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = np.arange(1, channels + 1)
    made = (rows[..., None] * 5 * slopes + columns[..., None] * 7) / (height * 8 * channels + width * 7)
    made = made + RANDOM.normal(0, 0.15, made.shape)
    return (made.clip(0, 1) * (2**depth - 1)).round().astype(np.uint16)


def picture(channels=3, height=HEIGHT, width=WIDTH):
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    array = values(channels, 8, height, width).astype(np.uint8)
    return Image.fromarray(array.squeeze(-1) if channels == 1 else array, mode)


def palette(entries):
    return RANDOM.integers(0, 256, entries * 3, dtype=np.uint8).tobytes()


def png_files():
    made = {}
    for depth in (1, 2, 4, 8, 16):
        made[f"grey{depth}"] = files.png(values(1, depth), depth, GREY)
        made[f"grey{depth}_interlaced"] = files.png(values(1, depth), depth, GREY, interlaced=True)
    for depth in (1, 2, 4, 8):
        colours = (b"PLTE", palette(2**depth))
        made[f"palette{depth}"] = files.png(values(1, depth), depth, PALETTE, before=[colours])
        alphas = (b"tRNS", RANDOM.integers(0, 256, 2**depth - 1, dtype=np.uint8).tobytes())
        made[f"palette{depth}_transparent"] = files.png(
            values(1, depth), depth, PALETTE, interlaced=depth == 4, before=[colours, alphas])
    made["palette_one_hidden"] = files.png(
        values(1, 4), 4, PALETTE, before=[(b"PLTE", palette(16)), (b"tRNS", b"\xff\xff\0\xff")])
    made["palette_short"] = files.png(values(1, 8), 8, PALETTE, before=[(b"PLTE", palette(100))])
    for depth in (8, 16):
        for name, kind in (("rgb", RGB), ("grey_alpha", GREY_ALPHA), ("rgba", RGBA)):
            array = values(files.CHANNELS[kind], depth)
            made[f"{name}{depth}"] = files.png(array, depth, kind, parts=3)
            made[f"{name}{depth}_interlaced"] = files.png(array, depth, kind, interlaced=True)
    made["grey8_hidden"] = files.png(values(1, 8) // 64, 8, GREY, before=[(b"tRNS", b"\0\1")])
    made["rgb8_hidden"] = files.png(values(3, 8) // 128, 8, RGB, before=[(b"tRNS", b"\0\0\0\1\0\1")])
    for height, width in ((1, 1), (1, 9), (9, 1), (2, 3)):
        made[f"rgb_{height}x{width}_interlaced"] = files.png(values(3, 8, height, width), 8, RGB, interlaced=True)
    # Filters and compression as a real encoder chooses them.
    file = io.BytesIO()
    picture(3, 61, 47).save(file, "PNG", optimize=True)
    made["filtered"] = file.getvalue()
    small = values(3, 8, 5, 7)
    for orientation in range(9):
        chunk = (b"eXIf", files.exif(orientation))
        made[f"exif{orientation}"] = files.png(small, 8, RGB, before=[chunk])
    made["exif_after"] = files.png(small, 8, RGB, after=[(b"eXIf", files.exif(6, "<"))])
    text = b"\nexif\n%8d\n" % len(files.exif(8)) + b"\n".join(
        files.exif(8).hex().encode()[at : at + 72] for at in range(0, len(files.exif(8)) * 2, 72))
    made["exif_in_text"] = files.png(small, 8, RGB, before=[(b"tEXt", b"Raw profile type exif\0" + text + b"\n")])
    note = b"XML:com.adobe.xmp\0\0\0\0\0" + files.xmp(5)
    made["xmp5"] = files.png(small, 8, RGB, before=[(b"iTXt", note)])
    made["xmp_and_exif"] = files.png(small, 8, RGB, before=[(b"iTXt", note), (b"eXIf", files.exif(3))])
    made["other_chunks"] = files.png(
        small, 8, RGB, before=[(b"gAMA", b"\0\1\x86\xa0"), (b"prVt", b"abc")], after=[(b"tEXt", b"a\0b")])
    made["garbage_after"] = files.png(small, 8, RGB) + b"garbage after the end" * 9
    animated = [picture(4, 9, 11), picture(4, 9, 11), picture(4, 9, 11)]
    for name, default in (("animated", False), ("animated_default", True)):
        file = io.BytesIO()
        animated[0].save(file, "PNG", save_all=True, append_images=animated[1:], default_image=default)
        made[name] = file.getvalue()
    return {f"{name}.png": data for name, data in made.items()}


def jpeg_files():
    made = {}
    for name, options in (("444", {"subsampling": 0}), ("422", {"subsampling": 1}), ("420", {"subsampling": 2}),
                          ("progressive", {"progressive": True}), ("best", {"quality": 100, "subsampling": 0}),
                          ("worst", {"quality": 3}), ("rgb", {"keep_rgb": True}),
                          ("restarts", {"restart_marker_blocks": 1})):
        made[name] = files.jpeg(picture(3, 35, 45), **({"quality": 80} | options))
    for name, options in (("grey", {}), ("grey_progressive", {"progressive": True})):
        made[name] = files.jpeg(picture(1, 21, 34), **options)
    for height, width in ((1, 1), (1, 17), (17, 1), (8, 9)):
        made[f"{height}x{width}"] = files.jpeg(picture(3, height, width))
    # Colours halved downwards alone: a square file of the other kind, read so.
    halved = files.jpeg(picture(3, 32, 32), subsampling=1)
    at, _ = files.jpeg_marker(halved, 0xC0)
    assert halved[at + 11] == 0x21
    made["440"] = halved[: at + 11] + b"\x12" + halved[at + 12 :]
    inks = Image.fromarray(values(4, 8, 21, 27).astype(np.uint8), "CMYK")
    for name, options in (("cmyk", {}), ("cmyk_progressive", {"progressive": True})):
        made[name] = files.jpeg(inks, **options)
    at, size = files.jpeg_marker(made["cmyk"], 0xEE)
    assert made["cmyk"][at + 4 : at + 9] == b"Adobe"
    made["ycck"] = made["cmyk"][: at + size - 1] + b"\2" + made["cmyk"][at + size :]
    made["cmyk_without_adobe"] = made["cmyk"][:at] + made["cmyk"][at + size :]
    small = picture(3, 11, 16)
    exif = lambda *arguments: (0xE1, b"Exif\0\0" + files.exif(*arguments))
    for orientation in range(10):
        made[f"exif{orientation}"] = files.jpeg(small, [exif(orientation, "<>"[orientation % 2])])
    for name, kind in (("ascii", 2), ("byte", 1), ("long", 4), ("signed", 8), ("signed_long", 9)):
        made[f"exif_{name}"] = files.jpeg(small, [exif(6, ">", kind)])
    made["exif_two"] = files.jpeg(small, [exif(6, ">", 3, 2)])
    block = files.exif(8, "<")
    made["exif_divided"] = files.jpeg(small, [(0xE1, b"Exif\0\0" + block[:20]), (0xE1, b"Exif\0\0" + block[20:])])
    made["exif_twice"] = files.jpeg(small, [(0xE1, b"Exif\0\0Exif\0\0" + block)])
    made["exif_short"] = files.jpeg(small, [(0xE1, b"Exif\0\0" + block[:28])])
    name = b"http://ns.adobe.com/xap/1.0/\0"
    for as_element in (False, True):
        made[f"xmp{7 - as_element}"] = files.jpeg(small, [(0xE1, name + files.xmp(7 - as_element, as_element))])
    made["garbage_after"] = made["exif1"] + b"garbage" * 20
    return {f"{name}.jpg": data for name, data in made.items()}


def webp_files():
    made = {}

    def simple(channels, height=HEIGHT, width=WIDTH, **options):
        file = io.BytesIO()
        picture(channels, height, width).save(file, "WEBP", **({"method": 4} | options))
        return file.getvalue()

    made["lossy"] = simple(3, 33, 47, quality=70)
    made["lossless"] = simple(3, lossless=True)
    made["lossy_alpha"] = simple(4, quality=60)
    made["lossless_alpha"] = simple(4, lossless=True, exact=True)
    for height, width in ((1, 1), (1, 9), (9, 1)):
        made[f"{height}x{width}"] = simple(3, height, width)
    file = io.BytesIO()
    frames = [picture(4, 9, 11), picture(4, 9, 11)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True, exact=True)
    made["animated"] = file.getvalue()
    # A first frame that does not cover the picture.
    for name, channels, flags in (("animated_part", 3, 0), ("animated_part_alpha", 4, files.ALPHA)):
        part = files.chunks_of_webp(simple(channels, 5, 7, lossless=True, exact=True))
        made[name] = files.webp_file(files.webp_header(13, 11, files.ANIMATION | flags), files.ANIM,
                                     files.webp_frame(part, 4, 2, 7, 5), files.webp_frame(part, 0, 0, 7, 5))
    bitstream = files.chunks_of_webp(simple(3, 7, 10))
    for name, flag, chunk in (("exif6", files.EXIF, (b"EXIF", files.exif(6))),
                              ("exif_prefixed", files.EXIF, (b"EXIF", b"Exif\0\0" + files.exif(8, "<"))),
                              ("xmp5", files.XMP, (b"XMP ", files.xmp(5)))):
        made[name] = files.webp_file(files.webp_header(10, 7, flag), bitstream, files.webp_chunk(*chunk))
    made["garbage_after"] = made["1x9"] + b"garbage!" * 5
    return {f"{name}.webp": data for name, data in made.items()}


def decode(data, mode):
    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.simplefilter("ignore")
        return np.asarray(ImageOps.exif_transpose(image).convert(mode))


def hidden_files(expected):
    """Transparent colours of other depths, which Pillow compares after scaling the pixels."""
    made = {}
    for name, array, depth, kind, key in (("grey2_hidden", values(1, 2), 2, GREY, [1]),
                                          ("grey16_hidden", values(1, 1) * 500 + 7, 16, GREY, [507]),
                                          ("rgb16_hidden", values(3, 1) * 500 + 7, 16, RGB, [507, 7, 507])):
        name += ".png"
        data = files.png(array, depth, kind, before=[(b"tRNS", np.array(key, ">u2").tobytes())])
        made[name] = data
        alpha = np.where((array == key).all(-1), 0, 255).astype(np.uint8)
        expected[f"{name}/rgb"] = decode(data, "RGB")
        expected[f"{name}/l"] = decode(data, "L")
        expected[f"{name}/rgba"] = np.dstack([expected[f"{name}/rgb"], alpha])
    return made


def make_files():
    expected = {}
    made = hidden_files(expected)
    for name, data in (png_files() | jpeg_files() | webp_files()).items():
        made[name] = data
        for mode in ("RGB", "L", "RGBA"):
            expected[f"{name}/{mode.lower()}"] = decode(data, mode)
    for name, data in made.items():
        folder = GOLDEN / name.rsplit(".", 1)[1]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    save_file(expected, GOLDEN / "decoded.safetensors")


# Height and width of the source, then of the result, and the part of the source.
SIZES = [
    ((29, 41), (16, 16), None), ((29, 41), (64, 96), None), ((29, 41), (29, 80), None), ((29, 41), (50, 41), None),
    ((29, 41), (29, 41), None), ((29, 41), (1, 1), None), ((29, 41), (3, 160), None), ((29, 41), (150, 5), None),
    ((1, 1), (16, 16), None), ((1, 50), (16, 32), None), ((211, 30), (10, 29), None), ((211, 30), (10, 48), None),
    ((30, 211), (29, 10), None), ((64, 64), (16, 32), None), ((97, 3), (3, 97), None),
    ((29, 41), (16, 24), (3, 5, 31, 27)), ((29, 41), (16, 16), (0.5, 1.25, 40.75, 28.1)),
    ((29, 41), (8, 10), (7, 6, 17, 14)), ((29, 41), (29, 20), (0, 0, 20, 29)), ((211, 30), (9, 30), (0, 100, 30, 211)),
    ((29, 41), (5, 6), (10, 10, 10.5, 10.5)),
]


def make_resized():
    tensors, cases = {}, []
    for number, ((height, width), size, box) in enumerate(SIZES):
        for channels in (3, 1):
            name = f"{number}_{'l' if channels == 1 else 'rgb'}"
            array = values(channels, 8, height, width).astype(np.uint8)
            if number % 3 == 0:  # sums beyond both ends
                array = np.where(array > 127, 255, 0).astype(np.uint8)
            source = array.squeeze(-1) if channels == 1 else array
            result = Image.fromarray(source).resize(size[::-1], Image.Resampling.LANCZOS, box)
            tensors |= {f"{name}/source": source, f"{name}/result": np.asarray(result)}
            cases.append({"name": name, "height": size[0], "width": size[1], "box": box})
    save_file(tensors, GOLDEN / "resized.safetensors")
    (GOLDEN / "resized.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


def make_processed():
    """VaeImageProcessor's tensors, as FluxInpaintPipeline sets its two processors up."""
    tensors = {}
    images = VaeImageProcessor(vae_scale_factor=16, vae_latent_channels=16)
    masks = VaeImageProcessor(vae_scale_factor=16, vae_latent_channels=16, do_normalize=False, do_binarize=True,
                              do_convert_grayscale=True)
    for name, (height, width), size in (("smaller", (75, 53), (48, 32)), ("larger", (20, 30), (32, 64)),
                                        ("same", (32, 48), (32, 48))):
        image, mask, coloured = picture(3, height, width), picture(1, height, width), picture(3, height, width)
        tensors[f"{name}/image"] = np.asarray(image)
        tensors[f"{name}/image_processed"] = images.preprocess(image, *size)[0].numpy()
        for kind, given in (("mask", mask), ("coloured", coloured)):
            processed = masks.preprocess(given, *size)
            tensors[f"{name}/{kind}"] = np.asarray(given)
            tensors[f"{name}/{kind}_processed"] = processed[0].numpy()
            latent = torch.nn.functional.interpolate(processed, size=(size[0] // 8, size[1] // 8))
            tensors[f"{name}/{kind}_latent"] = latent[0].numpy()
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tensors["all/mask"] = grey
    tensors["all/mask_processed"] = masks.preprocess(Image.fromarray(grey), 16, 16)[0].numpy()
    plane = torch.arange(35 * 50, dtype=torch.float32).reshape(1, 1, 35, 50)
    for height, width in ((7, 13), (35, 50), (70, 100), (71, 33), (1, 1)):
        nearest = torch.nn.functional.interpolate(plane, size=(height, width))
        tensors[f"nearest/{height}x{width}"] = nearest[0].numpy()
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, GOLDEN / "processed.safetensors")


if __name__ == "__main__":
    make_files()
    make_resized()
    make_processed()
