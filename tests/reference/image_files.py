"""Builds image files that Pillow itself does not write: PNG of every kind, WebP chunk by chunk, patched JPEG."""

import io
import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
# First row and column, and their steps, of Adam7's passes.
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pack_rows(values, depth):
    """Rows of [height, width x channels] as PNG stores them, without filters."""
    out = b""
    for row in values:
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        elif depth == 8:
            packed = row.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(value), f"0{depth}b") for value in row)
            bits += "0" * (-len(bits) % 8)
            packed = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
        out += b"\0" + packed
    return out


def png(values, depth, kind, interlaced=False, before=(), after=(), parts=1):
    """values: [height, width, channels] as stored. before, after: chunks around the image data."""
    height, width = values.shape[:2]
    flat = lambda part: part.reshape(part.shape[0], -1)
    if interlaced:
        passes = [values[row::rows, column::columns] for row, column, rows, columns in PASSES]
        raw = b"".join(pack_rows(flat(part), depth) for part in passes if part.size)
    else:
        raw = pack_rows(flat(values), depth)
    data = zlib.compress(raw, 9)
    size = -(-len(data) // parts)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    chunks = [png_chunk(b"IHDR", header), *(png_chunk(*chunk) for chunk in before)]
    chunks += [png_chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size)]
    chunks += [*(png_chunk(*chunk) for chunk in after), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def exif(orientation, endian=">", kind=3, count=1):
    """A TIFF file with an orientation between two other tags."""
    value = {1: "B3x", 3: "H2x", 4: "I", 6: "b3x", 8: "h2x", 9: "i", 2: "B3x"}[kind]
    entries = struct.pack(endian + "HHI", 0x010F, 2, 4) + b"abc\0"
    entries += struct.pack(endian + "HHI" + value, 0x0112, kind, count, orientation)
    entries += struct.pack(endian + "HHIH2x", 0x0128, 3, 1, 2)
    head = b"MM\0*" if endian == ">" else b"II*\0"
    return head + struct.pack(endian + "IH", 8, 3) + entries + bytes(4)


def xmp(orientation, as_element=False):
    inside = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if as_element else ""
    attribute = "" if as_element else f' tiff:Orientation="{orientation}"'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{inside}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def jpeg(image, markers=(), **options):
    """A JPEG by Pillow, with (marker, bytes) after its first."""
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    data = file.getvalue()
    added = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in markers)
    return data[:2] + added + data[2:]


def jpeg_marker(data, marker):
    """Where a marker begins, and its length with its own two bytes."""
    at = data.index(b"\xff" + bytes([marker]))
    return at, 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def webp_chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def webp_file(*chunks):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_header(width, height, flags):
    return webp_chunk(b"VP8X", struct.pack("<I", flags) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3])


def webp_frame(chunks, x, y, width, height):
    """A frame of an animation; x and y are even."""
    numbers = (x // 2, y // 2, width - 1, height - 1, 100)
    return webp_chunk(b"ANMF", b"".join(struct.pack("<I", number)[:3] for number in numbers) + b"\0" + chunks)


ANIMATION, XMP, EXIF, ALPHA = 2, 4, 8, 16
ANIM = webp_chunk(b"ANIM", struct.pack("<IH", 0xFF00FF00, 0))


def chunks_of_webp(data):
    """What a simple WebP file holds."""
    return data[12:]
