"""Writes a FLUX.1 transformer with random weights as people's files store it, for benchmarks.

  make_quantized_file.py --type Q4_K --output flux1-dev-Q4_K.gguf [--schnell] [--blocks 19 38]
  make_quantized_file.py --part t5 --type Q8_0 --output t5.gguf  (clip and vae likewise, in BF16)

GGUF types: Q8_0, Q5_0, Q5_1, Q4_0, Q4_1, Q2_K to Q6_K; fp8-scaled: ComfyUI's safetensors; BF16: Black
Forest Labs' safetensors; fp8-all-in-one: ComfyUI's, with text encoders and autoencoder. The linears of the blocks have the type, the rest is BF16 (F32 in GGUF where it
is one-dimensional), as in published files. Values are about normal with the deviation that keeps
activations near 1. Needs numpy alone.
"""

import argparse
import json
import pathlib
import struct

import numpy

WIDTH, TEXT, POOLED, CHANNELS, HEAD = 3072, 4096, 768, 64, 128
ALIGNMENT = 32
REPEATED_BYTES = 64 << 20  # of random blocks, which are repeated
F32, BF16 = 0, 30
# Type: ggml's number, values and bytes of a block.
BLOCKS = {
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
}


def tensors(double: int, single: int, guidance: bool) -> list:
    """(name, shape) of every tensor, by Black Forest Labs' names."""
    found = []

    def linear(name: str, out: int, inputs: int) -> None:
        found.extend([(f"{name}.weight", (out, inputs)), (f"{name}.bias", (out,))])

    linear("img_in", WIDTH, CHANNELS)
    linear("txt_in", WIDTH, TEXT)
    for name, inputs in [("time_in", 256), ("vector_in", POOLED)] + [("guidance_in", 256)] * guidance:
        linear(f"{name}.in_layer", WIDTH, inputs)
        linear(f"{name}.out_layer", WIDTH, WIDTH)
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            linear(f"{block}_mod.lin", 6 * WIDTH, WIDTH)
            linear(f"{block}_attn.qkv", 3 * WIDTH, WIDTH)
            linear(f"{block}_attn.proj", WIDTH, WIDTH)
            linear(f"{block}_mlp.0", 4 * WIDTH, WIDTH)
            linear(f"{block}_mlp.2", WIDTH, 4 * WIDTH)
            for kind in ("query_norm", "key_norm"):
                found.append((f"{block}_attn.norm.{kind}.scale", (HEAD,)))
    for i in range(single):
        block = f"single_blocks.{i}"
        linear(f"{block}.modulation.lin", 3 * WIDTH, WIDTH)
        linear(f"{block}.linear1", 7 * WIDTH, WIDTH)
        linear(f"{block}.linear2", WIDTH, 5 * WIDTH)
        for kind in ("query_norm", "key_norm"):
            found.append((f"{block}.norm.{kind}.scale", (HEAD,)))
    linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    linear("final_layer.linear", CHANNELS, WIDTH)
    return found


def t5_tensors() -> list:
    width, inner, heads = 4096, 10240, 64
    found = [("shared.weight", (32128, width)), ("encoder.final_layer_norm.weight", (width,))]
    for i in range(24):
        block = f"encoder.block.{i}.layer"
        for name in "qkvo":
            found.append((f"{block}.0.SelfAttention.{name}.weight", (width, width)))
        if i == 0:
            found.append((f"{block}.0.SelfAttention.relative_attention_bias.weight", (32, heads)))
        for part in (0, 1):
            found.append((f"{block}.{part}.layer_norm.weight", (width,)))
        for name in ("wi_0", "wi_1"):
            found.append((f"{block}.1.DenseReluDense.{name}.weight", (inner, width)))
        found.append((f"{block}.1.DenseReluDense.wo.weight", (width, inner)))
    return found


def clip_tensors() -> list:
    width, inner = POOLED, 3072
    found = [
        ("embeddings.token_embedding.weight", (49408, width)),
        ("embeddings.position_embedding.weight", (77, width)),
    ]
    for i in range(12):
        layer = f"encoder.layers.{i}"
        for name, out, inputs in [(f"self_attn.{kind}_proj", width, width) for kind in ("q", "k", "v", "out")] + [
            ("mlp.fc1", inner, width),
            ("mlp.fc2", width, inner),
        ]:  # fmt: skip
            found += [(f"{layer}.{name}.weight", (out, inputs)), (f"{layer}.{name}.bias", (out,))]
        for norm in ("layer_norm1", "layer_norm2"):
            found += [(f"{layer}.{norm}.{kind}", (width,)) for kind in ("weight", "bias")]
    found += [(f"final_layer_norm.{kind}", (width,)) for kind in ("weight", "bias")]
    return [(f"text_model.{name}", shape) for name, shape in found]


def vae_tensors() -> list:
    """The decoder, by Black Forest Labs' names."""
    found = []

    def both(name: str, shape: tuple) -> None:
        found.extend([(f"{name}.weight", shape), (f"{name}.bias", shape[:1])])

    def resnet(name: str, inputs: int, out: int) -> None:
        both(f"{name}.norm1", (inputs,))
        both(f"{name}.conv1", (out, inputs, 3, 3))
        both(f"{name}.norm2", (out,))
        both(f"{name}.conv2", (out, out, 3, 3))
        if inputs != out:
            both(f"{name}.nin_shortcut", (out, inputs, 1, 1))

    channels = [128, 256, 512, 512]
    both("conv_in", (512, 16, 3, 3))
    resnet("mid.block_1", 512, 512)
    both("mid.attn_1.norm", (512,))
    for name in ("q", "k", "v", "proj_out"):
        both(f"mid.attn_1.{name}", (512, 512, 1, 1))
    resnet("mid.block_2", 512, 512)
    inputs = 512
    for level in (3, 2, 1, 0):
        for block in range(3):
            resnet(f"up.{level}.block.{block}", inputs, channels[level])
            inputs = channels[level]
        if level > 0:
            both(f"up.{level}.upsample.conv", (inputs, inputs, 3, 3))
    both("norm_out", (128,))
    both("conv_out", (3, 128, 3, 3))
    return [(f"decoder.{name}", shape) for name, shape in found]


# The other parts: their tensors, and the architecture that GGUF names.
PARTS = {
    "t5": (t5_tensors(), "t5encoder"),
    "clip": (clip_tensors(), "clip"),
    "vae": (vae_tensors(), "vae"),
}


def deviation(name: str, inputs: int) -> float:
    residual = any(part in name for part in ("attn.proj", "mlp.2", "linear2", ".o.", ".wo."))
    return inputs**-0.5 * (0.3 if residual else 1.0)


def is_block_linear(name: str, shape: tuple) -> bool:
    blocks = ("double_blocks", "single_blocks", "encoder.block")
    return len(shape) == 2 and name.startswith(blocks) and "relative_attention_bias" not in name


def to_bf16(values: numpy.ndarray) -> numpy.ndarray:
    bits = values.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


class Source:
    """Random bytes of tensors."""

    def __init__(self) -> None:
        self.random = numpy.random.default_rng(20)
        self.normal = self.random.standard_normal(16 << 20, dtype="f4")
        self.blocks = {}

    def floats(self, name: str, shape: tuple) -> numpy.ndarray:
        count = int(numpy.prod(shape))
        values = numpy.resize(self.normal, count)
        if len(shape) == 1:
            return values * 0.02 + (0 if name.endswith("bias") else 1)
        return values * deviation(name, count // shape[0])

    def encoded(self, kind: str, name: str, shape: tuple) -> bytes:
        """Random quants; the scales make the values about normal."""
        _, values, size = BLOCKS[kind]
        wanted = shape[0] * shape[1] // values * size
        scale = deviation(name, shape[1])
        key = (kind, scale)
        if key not in self.blocks:
            count = REPEATED_BYTES // size
            blocks = self.random.integers(0, 256, (count, size), dtype="u1")
            self.set_scales(kind, blocks, scale)
            self.blocks[key] = blocks.tobytes()
        data = self.blocks[key]
        return (data * (wanted // len(data) + 1))[:wanted]

    def set_scales(self, kind: str, blocks: numpy.ndarray, deviation: float) -> None:
        """The half precision scales of blocks; quants are uniform over their range."""

        def put(at: int, value: float) -> None:
            blocks[:, at : at + 2] = numpy.frombuffer(numpy.float16(value).tobytes(), "u1")

        bits = int(kind[1])
        step = deviation * 12**0.5 / 2**bits  # a uniform quant deviates by 2^bits / sqrt(12)
        middle = step * (2**bits - 1) / 2
        if kind in ("Q4_0", "Q5_0", "Q8_0"):
            put(0, step)
        elif kind in ("Q4_1", "Q5_1"):
            put(0, step)
            put(2, -middle)
        elif kind in ("Q4_K", "Q5_K"):  # sub-blocks: 6-bit scales and minima, both 32 of 63
            put(0, step / 32)
            put(2, middle / 32)
            blocks[:, 4:16] = numpy.frombuffer(bytes([32] * 8 + [0] * 4), "u1")
            blocks[:, 4:12] |= 0x80  # the upper bits of sub-blocks 4 to 7
        elif kind == "Q2_K":  # 4-bit scales and minima, 8 of 15
            put(80, step / 8)
            put(82, middle / 8)
            blocks[:, 0:16] = 0x88
        elif kind == "Q3_K":  # 6-bit scales, 48 - 32
            put(108, step / 16)
            blocks[:, 96:104] = 0
            blocks[:, 104:108] = 0xFF
        elif kind == "Q6_K":
            put(208, step / 16)
            blocks[:, 192:208] = 16

    def e4m3(self, shape: tuple, deviation: float) -> numpy.ndarray:
        """Bytes of normal numbers, rounded to e4m3."""
        key = ("e4m3", deviation)
        if key not in self.blocks:
            values = numpy.abs(self.normal) * deviation
            exponent = numpy.floor(numpy.log2(numpy.maximum(values, 2.0**-6))).clip(-6, 8)
            normal = (exponent + 7) * 8 + numpy.round((values / 2.0**exponent - 1) * 8)
            code = numpy.where(values < 2.0**-6, numpy.round(values * 512), normal).clip(0, 126)
            self.blocks[key] = code.astype("u1") | ((self.normal < 0).astype("u1") << 7)
        return numpy.resize(self.blocks[key], shape)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path: pathlib.Path, kind: str, architecture: str, wanted: list) -> None:
    source = Source()
    header = b"GGUF" + struct.pack("<IQQ", 3, len(wanted), 1)
    header += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    offset, sizes = 0, []
    for name, shape in wanted:
        if is_block_linear(name, shape):
            number, values, block = BLOCKS[kind]
            size = shape[0] * shape[1] // values * block
        else:
            number = F32 if len(shape) == 1 else BF16
            size = int(numpy.prod(shape)) * (4 if number == F32 else 2)
        header += text(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        header += struct.pack("<IQ", number, offset)
        sizes.append(size)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for (name, shape), size in zip(wanted, sizes):
            if is_block_linear(name, shape):
                data = source.encoded(kind, name, shape)
            else:
                values = source.floats(name, shape)
                data = (values.astype("<f4") if len(shape) == 1 else to_bf16(values)).tobytes()
            assert len(data) == size, name
            file.write(data + bytes(-size % ALIGNMENT))


def write_all_in_one(path: pathlib.Path, wanted: list) -> None:
    """The transformer and T5 as e4m3 without scales, CLIP and the autoencoder in BF16."""
    prefixes = [
        ("model.diffusion_model.", wanted, True),
        ("text_encoders.t5xxl.transformer.", t5_tensors(), True),
        ("text_encoders.clip_l.transformer.", clip_tensors(), False),
        ("vae.", vae_tensors(), False),
    ]
    entries = [(prefix + name, shape, fp8) for prefix, part, fp8 in prefixes for name, shape in part]
    source = Source()
    header, offset = {}, 0
    for name, shape, fp8 in entries:
        size = int(numpy.prod(shape)) * (1 if fp8 else 2)
        header[name] = {
            "dtype": "F8_E4M3" if fp8 else "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, shape, fp8 in entries:
            if not fp8:
                file.write(to_bf16(source.floats(name, shape)).tobytes())
            elif len(shape) == 1:  # norms about 1, biases about 0
                code = 0 if name.endswith("bias") else 0x38
                file.write(bytes([code]) * shape[0])
            else:
                file.write(source.e4m3(shape, deviation(name, shape[1])).tobytes())


def write_safetensors(path: pathlib.Path, scaled_fp8: bool, wanted: list) -> None:
    source = Source()
    header, offset = {}, 0
    parts = []  # what makes the data of each entry

    def add(name: str, dtype: str, shape: tuple, size: int, make) -> None:
        nonlocal offset
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
        parts.append(make)

    if scaled_fp8:
        # ComfyUI's older form: an empty marker, and a scale beside each weight.
        add("scaled_fp8", "F8_E4M3", (0,), 0, lambda: b"")
        for name, shape in wanted:
            if not is_block_linear(name, shape):
                continue
            scale = deviation(name, shape[1]) / 64
            add(name.removesuffix("weight") + "scale_weight", "F32", (), 4,
                lambda scale=scale: struct.pack("<f", scale))  # fmt: skip
    for name, shape in wanted:
        count = int(numpy.prod(shape))
        if scaled_fp8 and is_block_linear(name, shape):
            add(name, "F8_E4M3", shape, count, lambda shape=shape: source.e4m3(shape, 64).tobytes())
        else:
            add(name, "BF16", shape, 2 * count,
                lambda name=name, shape=shape: to_bf16(source.floats(name, shape)).tobytes())  # fmt: skip
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for make in parts:
            file.write(make())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", choices=[*BLOCKS, "fp8-scaled", "fp8-all-in-one", "BF16"], required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--part", choices=["transformer", *PARTS], default="transformer")
    parser.add_argument("--schnell", action="store_true", help="without guidance embeddings")
    parser.add_argument("--blocks", type=int, nargs=2, default=(19, 38), metavar=("DOUBLE", "SINGLE"))
    args = parser.parse_args()
    if args.part == "transformer":
        wanted, architecture = tensors(*args.blocks, not args.schnell), "flux"
    else:
        wanted, architecture = PARTS[args.part]
    if args.type in BLOCKS:
        write_gguf(args.output, args.type, architecture, wanted)
    elif args.type == "fp8-all-in-one":
        write_all_in_one(args.output, wanted)
    else:
        write_safetensors(args.output, args.type == "fp8-scaled", wanted)


if __name__ == "__main__":
    main()
