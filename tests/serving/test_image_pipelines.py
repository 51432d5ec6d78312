"""The pipelines that always take an image: Kontext, Fill and Control, served beside one another, give the
bytes of `generate`."""

import image_requests
import numpy as np
import pytest
import server as serving
from image_requests import encoded, file_of, pixels, refused

pytestmark = pytest.mark.skipif(bool(serving.IN_PYTHON), reason="models in Python take no images")

DEV = serving.CHECKPOINTS / "tiny-dev"
PARTS = ("--vae", DEV / "vae", "--clip", DEV / "text_encoder", "--t5", DEV / "text_encoder_2",
         "--tokenizers", DEV)  # fmt: skip
KINDS = {"kontext": ("--transformer", DEV / "transformer"), "fill": (), "control": ()}
FILE = encoded(pixels(40, 56))
MASK = np.zeros((40, 56), np.uint8)
MASK[10:30, 20:] = 255
MASK_FILE = encoded(MASK)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """A server with all three, and what `generate` makes with each."""
    directory = tmp_path_factory.mktemp("pipelines")
    generated = {}
    for kind, own in KINDS.items():
        source = serving.CHECKPOINTS / f"tiny-{kind}"
        options = (*PARTS, *own)
        serving.convert(source, directory / "models", "--name", kind, *options)
        (directory / kind).mkdir()
        generated[kind] = image_requests.Generated(source, directory / kind, *options)
    with serving.Server(directory / "models", directory / "log.txt") as running:
        running.generated = generated
        yield running


@pytest.fixture()
def client(pipelines):
    with pipelines.grpc_client() as connected:
        yield connected
        assert connected.is_server_ready()


CASES = [
    ("kontext", {"encoded_image": FILE}, {"image": FILE}),
    ("kontext", {}, {}),
    ("fill", {"encoded_image": FILE, "encoded_mask": MASK_FILE}, {"image": FILE, "mask": MASK_FILE}),
    ("fill", {"encoded_image": FILE, "encoded_mask": MASK_FILE, "strength": 0.7},
     {"image": FILE, "mask": MASK_FILE, "strength": 0.7}),
    ("control", {"encoded_image": FILE}, {"image": FILE}),
]  # fmt: skip


@pytest.mark.parametrize("kind, values, wanted", CASES)
def test_bytes_are_those_of_generate(pipelines, client, kind, values, wanted):
    model = f"{kind}_bls"
    few = {"num_inference_steps": 2}
    assert file_of(client, model=model, **few, **values) == pipelines.generated[kind](**few, **wanted)


# Rows with a reference beside rows without one, in the same steps, with true CFG.
def test_rows_of_kontext(pipelines, client):
    few = {"num_inference_steps": 2, "negative_prompt": "a dog", "true_cfg_scale": 2.0}
    result = image_requests.ask(
        client, model="kontext_bls", prompt=["a red cat"] * 2, encoded_image=[FILE, b""], **few
    )
    generated = pipelines.generated["kontext"]
    expected = [generated(image=FILE, **few), generated(**few)]
    assert result.as_numpy("encoded_images")[:, 0].tolist() == expected


REFUSED = [
    ("kontext", {"encoded_image": FILE, "encoded_mask": MASK_FILE},
     "encoded_mask is given: FluxKontextPipeline takes none"),
    ("kontext", {"encoded_image": FILE, "strength": 0.5},
     "strength is 0.5: FluxKontextPipeline takes none"),
    ("fill", {}, "image is missing: FluxFillPipeline needs it"),
    ("fill", {"encoded_image": FILE}, "mask_image is missing: FluxFillPipeline needs it"),
    ("control", {}, "image is missing: FluxControlPipeline needs it"),
    ("control", {"encoded_image": FILE, "mask_image": MASK[None]},
     "mask_image is given: FluxControlPipeline takes none"),
]  # fmt: skip


@pytest.mark.parametrize("kind, values, says", REFUSED)
def test_what_is_refused(client, kind, values, says):
    refused(client, says, model=f"{kind}_bls", **values)
