"""Writes the parts of an all-in-one file as the files in which they are also shared, with the standard library alone.

python tests/reference/split_all_in_one.py tests/golden/single_files/flux1-dev-fp8.safetensors DIRECTORY
"""

import argparse
import json
import struct
from pathlib import Path

PARTS = {
    "flux1-dev-fp8-transformer.safetensors": "model.diffusion_model.",
    "clip_l.safetensors": "text_encoders.clip_l.transformer.text_model.",
    "t5xxl_fp8_e4m3fn.safetensors": "text_encoders.t5xxl.transformer.",
    "ae.safetensors": "vae.",
}
KEPT = {"clip_l.safetensors": "text_model."}  # the end of the prefix that stays


def read(path):
    """(header without metadata, bytes of the tensors) of a safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, content[8 + length :]


def write(path, tensors):
    """Writes tensors, a dictionary name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def split(path, folder):
    folder.mkdir(parents=True, exist_ok=True)
    header, data = read(path)
    in_order = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    for file, prefix in PARTS.items():
        tensors = {}
        for name, entry in in_order:
            if name.startswith(prefix):
                begin, end = entry["data_offsets"]
                short = KEPT.get(file, "") + name.removeprefix(prefix)
                tensors[short] = (entry["dtype"], entry["shape"], data[begin:end])
        write(folder / file, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    split(args.file, args.folder)


if __name__ == "__main__":
    main()
