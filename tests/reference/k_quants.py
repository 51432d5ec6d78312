"""Encodes float32 rows as GGUF's Q2_K to Q6_K, which `gguf.quants` only decodes.

A super-block has 256 values. Q2_K and Q4_K, Q5_K store scale * q - minimum for parts of 16 and of 32 values, Q3_K and
Q6_K scale * (q - offset) for parts of 16; the parts' scales are small integers times a float16. Rounding is to nearest,
without the search for better scales of llama.cpp.
"""

import numpy as np
from gguf import GGMLQuantizationType as Type

BLOCK = 256
BYTES = {Type.Q2_K: 84, Type.Q3_K: 110, Type.Q4_K: 144, Type.Q5_K: 176, Type.Q6_K: 210}


def half(values):
    """float16 of the values, as bytes [blocks, 2]."""
    return values.astype(np.float16).reshape(-1, 1).view(np.uint8)


def rounded_half(values):
    return values.astype(np.float16).astype(np.float32)


def safe(divisor):
    return np.where(divisor == 0, np.float32(1), divisor)


def with_minimum(parts, largest_q, largest_scale):
    """q, integer scales and minima, and their two float16 factors, for values = d * scale * q - dmin * minimum."""
    low = np.minimum(parts.min(-1), 0)
    scale = (parts.max(-1).clip(0) - low) / largest_q
    d = rounded_half(scale.max(-1) / largest_scale)
    dmin = rounded_half(-low.min(-1) / largest_scale)
    scales = np.rint(scale / safe(d)[:, None]).clip(0, largest_scale).astype(np.uint8)
    minima = np.rint(-low / safe(dmin)[:, None]).clip(0, largest_scale).astype(np.uint8)
    step = d[:, None] * scales
    shifted = parts + (dmin[:, None] * minima)[..., None]
    q = np.rint(shifted / safe(step)[..., None]).clip(0, largest_q).astype(np.uint8)
    return q.reshape(-1, BLOCK), scales, minima, d, dmin


def without_minimum(parts, half_range, largest_scale):
    """q + half_range, integer scales and their float16 factor, for values = d * scale * q.

    q is from -half_range to half_range - 1. The value of a part that is largest in size becomes -half_range exactly, so a scale may be negative.
    """
    index = np.abs(parts).argmax(-1)[..., None]
    scale = -np.take_along_axis(parts, index, -1)[..., 0] / half_range
    largest = np.take_along_axis(scale, np.abs(scale).argmax(-1)[:, None], -1)[:, 0]
    d = rounded_half(-largest / (largest_scale + 1))
    scales = np.rint(scale / safe(d)[:, None]).clip(-largest_scale - 1, largest_scale)
    step = d[:, None] * scales.astype(np.float32)
    q = np.rint(parts / safe(step)[..., None]).clip(-half_range, half_range - 1)
    return (q + half_range).astype(np.uint8).reshape(-1, BLOCK), scales.astype(np.int8), d


def six_bit_pairs(scales, minima):
    """Eight scales and eight minima of six bits each in twelve bytes: Q4_K and Q5_K."""
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    third = (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], 1).astype(np.uint8)


def two_bits(q):
    """Byte 32 h + l holds bits of the values 128 h + l, + 32, + 64 and + 96, from the lowest bits on."""
    q = q.reshape(-1, 2, 4, 32)
    return (q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6).reshape(-1, 64)


def encode_q2(values):
    q, scales, minima, d, dmin = with_minimum(values.reshape(-1, 16, 16), 3, 15)
    return [scales | minima << 4, two_bits(q), half(d), half(dmin)]


def encode_q3(values):
    q, scales, d = without_minimum(values.reshape(-1, 16, 16), 4, 31)
    high = (q >> 2).reshape(-1, 8, 32)
    mask = sum(high[:, bit] << bit for bit in range(8)).astype(np.uint8)
    s = (scales.astype(np.int16) + 32).astype(np.uint8)
    low = (s[:, :8] & 15) | (s[:, 8:] & 15) << 4
    top = sum((s[:, 4 * i : 4 * i + 4] >> 4) << 2 * i for i in range(4)).astype(np.uint8)
    return [mask, two_bits(q & 3), low, top, half(d)]


def nibbles(q):
    """Byte 32 c + l holds the values 64 c + l and 64 c + 32 + l."""
    q = q.reshape(-1, 4, 2, 32)
    return (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)


def encode_q4(values):
    q, scales, minima, d, dmin = with_minimum(values.reshape(-1, 8, 32), 15, 63)
    return [half(d), half(dmin), six_bit_pairs(scales, minima), nibbles(q)]


def encode_q5(values):
    q, scales, minima, d, dmin = with_minimum(values.reshape(-1, 8, 32), 31, 63)
    fifth = (q >> 4).reshape(-1, 8, 32)
    high = sum(fifth[:, bit] << bit for bit in range(8)).astype(np.uint8)
    return [half(d), half(dmin), six_bit_pairs(scales, minima), high, nibbles(q & 15)]


def encode_q6(values):
    q, scales, d = without_minimum(values.reshape(-1, 16, 16), 32, 127)
    low = (q & 15).reshape(-1, 2, 2, 2, 32)  # half, upper nibble, second 32, value
    low = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)
    return [low, two_bits(q >> 4), scales.view(np.uint8), half(d)]


ENCODERS = {
    Type.Q2_K: encode_q2,
    Type.Q3_K: encode_q3,
    Type.Q4_K: encode_q4,
    Type.Q5_K: encode_q5,
    Type.Q6_K: encode_q6,
}


def quantize(values, kind):
    """The bytes [rows, bytes of a row] of float32 values [rows, columns], columns a multiple of 256."""
    if values.shape[-1] % BLOCK:
        raise ValueError(f"rows of {values.shape[-1]} values are no multiple of {BLOCK}")
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK)
    encoded = np.concatenate(ENCODERS[kind](blocks), 1)
    return encoded.reshape(values.shape[0], values.shape[-1] // BLOCK * BYTES[kind])
