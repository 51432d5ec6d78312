"""Each model asked alone equals `flux-triton run-stage`, to the byte."""

import json
import struct

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from server import tensor

DTYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64}


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header, offset = {}, 0
    for name, array in tensors.items():
        entry = {"dtype": names[array.dtype], "shape": array.shape}
        header[name] = entry | {"data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "stage, file, output",
    [
        ("dit_transformer", "transformer_2x3_batch2_f32", "noise_pred"),
        ("dit_transformer", "transformer_13x7_f32", "noise_pred"),
        ("vae_decoder", "vae_6x2_batch2_f32", "image"),
    ],
)
def test_tensor_stages(client, checkpoint, tmp_path, stage, file, output):
    arrays = read_safetensors(checkpoint.parents[1] / "tiny-dev" / f"{file}.safetensors")
    arrays.pop(output)
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    write_safetensors(source, arrays)
    serving.program("run-stage", checkpoint, stage, "--input", source, "--output", target)
    expected = read_safetensors(target)[output]
    made = [tensor(grpcclient, name, array, "FP32") for name, array in arrays.items()]
    found = client.infer(stage, made).as_numpy(output)
    assert found.dtype == np.float32 and serving.same(found, expected)


def test_text_stages(client, checkpoint, tmp_path):
    prompts = ["a photo of a red cat", "猫が机の上に 🐱"]
    flags = [part for prompt in prompts for part in ("--prompt", prompt)]
    text = tensor(
        grpcclient, "prompt", np.array([[p.encode()] for p in prompts], object), "BYTES"
    )
    for stage, output in [("clip_encoder", "pooled_prompt_embeds"), ("t5_encoder", "prompt_embeds")]:
        out = tmp_path / f"{stage}.safetensors"
        serving.program("run-stage", checkpoint, stage, *flags, "--output", out)
        expected = read_safetensors(out)[output]
        found = client.infer(stage, [text]).as_numpy(output)
        assert serving.same(found, expected)
