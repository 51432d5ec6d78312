"""Repositories made with --quantization: what is served is what `generate` makes, to the byte."""

import numpy as np
import pytest
import server as serving
from PIL import Image

CHECKPOINT = serving.CHECKPOINTS / "tiny-dev"


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="models in Python are not quantised")
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_served_as_generated(dtype, tmp_path):
    precision = ["--dtype", dtype, "--quantization", "fp8"]
    serving.convert(CHECKPOINT, tmp_path / "models", *precision)
    expected = {}
    for quantization in ("fp8", "none"):
        image = tmp_path / f"{quantization}.png"
        serving.program(
            "generate", CHECKPOINT, "--dtype", dtype, "--quantization", quantization, "--prompt",
            "a cat", "--seed", 3, "--height", 32, "--width", 48, "--steps", 2, "-o", image,
        )  # fmt: skip
        expected[quantization] = np.asarray(Image.open(image))
    with serving.Server(tmp_path / "models", tmp_path / "log.txt") as server:
        _, answers = serving.start(server.grpc_client(), prompt="a cat", seed=3, height=32,
                                   width=48, num_inference_steps=2)  # fmt: skip
        found, error = answers.get(timeout=60)
        assert error is None
        assert (found.as_numpy("images")[0, 0] == expected["fp8"]).all()
        assert (expected["fp8"] != expected["none"]).any()
