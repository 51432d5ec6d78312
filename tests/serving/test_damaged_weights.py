"""Weights that are damaged after the conversion: an error that names the stage, and no NaN."""

import json
import shutil
import struct

import pytest
import server as serving
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.skipif(
    "clip_encoder" in serving.IN_PYTHON, reason="models in Python do not look at their results"
)


def spoil(file, ending):
    """Makes all values of a tensor NaN."""
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name.endswith(ending))
    begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
    data[begin:end] = b"\xff" * (end - begin)
    file.write_bytes(data)


def test_the_stage_is_named(repository, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(repository, models)
    file = next((models / "clip_encoder/1").glob("**/*.safetensors"))
    spoil(file, "final_layer_norm.bias")
    says = "output pooled_prompt_embeds of clip_encoder holds values that are not finite"
    text = serving.inputs(serving.grpcclient, prompt="a")
    with serving.Server(models, tmp_path / "log.txt") as server, server.grpc_client() as client:
        for model in ("clip_encoder", "bls"):
            with pytest.raises(InferenceServerException) as error:
                client.infer(model, text)
            assert says in error.value.message()
            assert error.value.status() == "StatusCode.INTERNAL"
        assert says in server.log()
        assert "please report" not in server.log()
