"""Repositories of single files: what is served is what `generate` makes of the files, to the byte."""

import numpy as np
import pytest
import server as serving
from PIL import Image

FILES = serving.ROOT / "tests/golden/single_files"
ALL_IN_ONE = FILES / "flux1-dev-fp8.safetensors"
TOKENIZERS = ["--tokenizers", serving.ROOT / "tests/golden/checkpoints/tiny-dev"]
OTHERS = [*TOKENIZERS, "--vae", ALL_IN_ONE, "--clip", ALL_IN_ONE, "--t5",
          FILES / "t5-v1_1-encoder-Q8_0.gguf"]  # fmt: skip
SOURCES = {
    "all-in-one-fp8": [ALL_IN_ONE, *TOKENIZERS],
    "gguf": [FILES / "flux1-dev-Q2_K.gguf", *OTHERS],
    "scaled-fp8": [FILES / "flux1-schnell-fp8-scaled.safetensors", *OTHERS],
}


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="models in Python need a diffusers checkpoint")
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", SOURCES)
def test_served_as_generated(name, dtype, tmp_path):
    source, *parts = SOURCES[name]
    repository = tmp_path / "models"
    serving.convert(source, repository, *parts, "--dtype", dtype)
    rows = [("a cat", 3, 32, 48), ("a dog", 4, 32, 48)]
    expected = []
    for prompt, seed, height, width in rows:
        serving.program(
            "generate", source, *parts, "--dtype", dtype, "--prompt", prompt, "--seed", seed,
            "--height", height, "--width", width, "--steps", 2, "-o", tmp_path / "image.png",
        )  # fmt: skip
        expected.append(np.asarray(Image.open(tmp_path / "image.png")))
    with serving.Server(repository, tmp_path / "log.txt") as server:
        client = server.grpc_client()
        calls = [
            serving.start(client, prompt=prompt, seed=seed, height=height, width=width,
                          num_inference_steps=2)
            for prompt, seed, height, width in rows
        ]  # fmt: skip
        for (_, answers), image in zip(calls, expected):
            found, error = answers.get(timeout=60)
            assert error is None
            assert (found.as_numpy("images")[0, 0] == image).all()
