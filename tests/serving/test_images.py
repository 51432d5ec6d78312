"""Images as files: the formats of `bls` and of `generate`, and what the files say of their making, as
readers of metadata see it."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import sd_parsers
import server as serving
from PIL import Image
from tritonclient.utils import InferenceServerException

WISH = {"prompt": "a boat, red: \"old\"", "seed": 11, "num_inference_steps": 2, "guidance_scale": 2.5,
        "height": 64, "width": 96}  # fmt: skip
KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286


def psnr(found, wanted):
    error = np.mean((found.astype(np.float64) - wanted.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def file_of(client, output_format, **more):
    result = serving.generate(client, output_format=output_format, **WISH, **more)
    return result.as_numpy("encoded_images")[0, 0]


def parameters_of(image):
    """The text of all settings."""
    if image.format == "PNG":
        return image.text["parameters"]
    comment = image.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf_16_be")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_format(client, kind):
    raw = serving.generate(client, **WISH).as_numpy("images")[0, 0]
    data = file_of(client, kind)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == (KINDS[kind], (96, 64))
    pixels = np.asarray(image.convert("RGB"))
    if kind == "png":
        assert (pixels == raw).all()
    else:
        assert psnr(pixels, raw) > 25  # the tiny model generates noise, the hardest of images
        small = file_of(client, kind, quality=20)
        assert len(small) < len(data) * 0.7
    assert base64.b64decode(file_of(client, f"{kind}_base64")) == data
    text = parameters_of(image)
    assert text.startswith(WISH["prompt"] + "\nSteps: 2, Sampler: Euler, ")
    for said in ("Seed: 11, ", "Size: 96x64, ", "Distilled CFG Scale: 2.5, ", "Model: tiny-dev"):
        assert said in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_as_generate(client, checkpoint, repository, tmp_path, kind):
    """Of the checkpoint and of the repository, which keeps the checkpoint's name."""
    if serving.IN_PYTHON:
        pytest.skip("pillow writes other files")
    file = tmp_path / f"image.{'jpg' if kind == 'jpeg' else kind}"
    for source in (checkpoint, repository):
        serving.program(
            "generate", source, "--prompt", WISH["prompt"], "--seed", 11, "--steps", 2,
            "--guidance", 2.5, "--height", 64, "--width", 96, "-o", file, "--quality", 80,
        )  # fmt: skip
        assert file.read_bytes() == file_of(client, kind, quality=80)


def test_a_repository_without_the_name_of_its_checkpoint(repository, tmp_path):
    """One of an older version: the name is that of its directory."""
    models = tmp_path / "older"
    shutil.copytree(repository, models)
    file = models / "bls/1/model_index.json"
    index = json.loads(file.read_text())
    del index["flux_triton"]["name"]
    file.write_text(json.dumps(index))
    with serving.Server(models, tmp_path / "log.txt") as server, server.grpc_client() as client:
        assert b"Model: older" in file_of(client, "png")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_of_metadata_understands_it(client, kind):
    parsed = sd_parsers.ParserManager().parse(io.BytesIO(file_of(client, kind)))
    assert parsed is not None
    assert [prompt.value for prompt in parsed.prompts] == [WISH["prompt"]]
    (sampler,) = parsed.samplers
    assert (sampler.name, int(sampler.parameters["seed"]), int(sampler.parameters["steps"])) == (
        "Euler", 11, 2,
    )  # fmt: skip


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_quality_is_checked(client, quality):
    with pytest.raises(InferenceServerException, match="quality is .*: must be from 1 to 100"):
        file_of(client, "jpeg", quality=quality)
