"""Images of the demo model through models in Python, compared with those of the engine."""

import numpy as np
import pytest
import server as serving
from PIL import Image

PROMPTS = ["a large red circle on the left on a yellow background", "a blue star"]


@pytest.mark.parametrize("dtype, least", [("f32", 60), ("bf16", 40)])
def test_demo_images(tmp_path, dtype, least):
    """Decibels of PSNR at least."""
    repository = tmp_path / "models"
    serving.convert(serving.ROOT / "demo/shapes", repository, "--dtype", dtype)
    values = {"num_inference_steps": 4, "height": 128, "width": 128, "max_sequence_length": 64}
    with serving.Server(repository, tmp_path / "log.txt") as running:
        with running.grpc_client() as client:
            result = serving.generate(client, prompt=PROMPTS, seed=[7, 8], **values)
            found = result.as_numpy("images")
    for row, prompt in enumerate(PROMPTS):
        file = tmp_path / f"{row}.png"
        serving.program(
            "generate", serving.ROOT / "demo/shapes", "--prompt", prompt, "--seed", 7 + row,
            "--steps", 4, "--height", 128, "--width", 128, "--max-sequence-length", 64,
            "--dtype", dtype, "--output", file,
        )  # fmt: skip
        with Image.open(file) as image:
            wanted = np.array(image)
        error = np.mean((found[row, 0].astype(float) - wanted) ** 2)
        psnr = 10 * np.log10(255**2 / max(error, 1e-9))
        print(f"{dtype} {prompt!r}: {psnr:.1f} dB")
        Image.fromarray(found[row, 0]).save(tmp_path / f"python-{row}.png")
        assert psnr > least and wanted.std() > 20
