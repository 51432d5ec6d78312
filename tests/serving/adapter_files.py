"""Adapters for tests: those of tests/golden, and made ones."""

import json
import pathlib
import random
import shutil
import struct

import server as serving

GOLDEN = serving.ROOT / "tests/golden/adapters"
# Of the transformer of tiny-dev, whose hidden size is 36, and its T5.
TRANSFORMER = ("lora_unet_double_blocks_0_img_attn_proj", 36, 36)
T5 = ("lora_te3_encoder_block_1_layer_0_SelfAttention_q", 36, 40)


def put(directory: pathlib.Path, name: str, source: str | None = None) -> pathlib.Path:
    """Puts a golden adapter in a directory of adapters, over one of that name, as users should."""
    file = directory / f"{name}.safetensors"
    new = directory / "new.tmp"
    shutil.copy(GOLDEN / f"{source or name}.safetensors", new)
    return new.replace(file)


def tensor_bytes(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def made(modules, rank=4, seed=1, extra=()) -> bytes:
    """A kohya file of (module, rows, columns), and further names of tensors that nothing has."""
    values = random.Random(seed)
    header, data = {}, b""

    def add(name, shape):
        nonlocal data
        count = shape[0] * shape[1]
        piece = struct.pack(f"<{count}f", *(values.uniform(-0.3, 0.3) for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece

    for module, rows, columns in modules:
        add(f"{module}.lora_down.weight", [rank, columns])
        add(f"{module}.lora_up.weight", [rows, rank])
    for name in extra:
        add(name, [1, 1])
    return tensor_bytes(header, data)


def with_values(file: bytes, value: float) -> bytes:
    """The same file with all values replaced."""
    (length,) = struct.unpack("<Q", file[:8])
    count = (len(file) - 8 - length) // 4
    return file[: 8 + length] + struct.pack("<f", value) * count
