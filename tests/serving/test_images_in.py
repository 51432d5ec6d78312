"""Images as inputs of `bls` and `bls_stream`, and the stage that encodes them: the bytes of `generate
--image`, alone and in company, and what is refused."""

import base64
import shutil
import struct
import zlib

import image_requests
import numpy as np
import pytest
import server as serving
import stream_client
import tritonclient.http as httpclient
import tritonclient.utils.shared_memory as shared_memory
from image_requests import SMALL, ask, encoded, file_of, pixels, refused

pytestmark = pytest.mark.skipif(
    bool(serving.IN_PYTHON), reason="models in Python take no images"
)

PICTURE = pixels(40, 56)
FILE = encoded(PICTURE)
MASK = np.zeros((40, 56), np.uint8)
MASK[:, :25] = 255


@pytest.fixture(scope="module")
def generated(checkpoint, tmp_path_factory):
    return image_requests.Generated(checkpoint, tmp_path_factory.mktemp("generated"))


# A server that nobody has sent an image holds no weights of the encoder: text to image pays nothing.
def test_the_encoder_is_loaded_by_the_first_image(repository, tmp_path):
    with serving.Server(repository, tmp_path / "log.txt") as server, server.grpc_client() as client:
        assert client.is_model_ready("vae_encoder")
        ask(client)
        assert not server.metric("flux_weight_bytes", "vae_encoder")
        assert server.metric("flux_weight_bytes", "vae_decoder") > 0
        file_of(client, encoded_image=FILE)
        assert server.metric("flux_weight_bytes", "vae_encoder") > 0


# Image to image and inpainting give the bytes of the program, whether pixels or a file come in, as
# bytes or as base64, as a tensor or as a request parameter.
@pytest.mark.parametrize("strength", [None, 0.3, 0.55, 1.0])
def test_image_to_image_equals_generate(client, generated, strength):
    values = {} if strength is None else {"strength": strength}
    expected = generated(image=FILE, **values)
    assert file_of(client, encoded_image=FILE, **values) == expected
    assert file_of(client, encoded_image=base64.b64encode(FILE), **values) == expected
    assert file_of(client, image=PICTURE[None], **values) == expected
    parameters = values | {"encoded_image": base64.b64encode(FILE).decode()}
    assert file_of(client, options={"parameters": parameters}) == expected
    assert expected != generated()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_files(client, generated, kind):
    file = encoded(PICTURE, kind)
    assert file_of(client, encoded_image=file) == generated(image=file)


def test_inpainting_equals_generate(client, generated):
    mask = encoded(MASK)
    expected = generated(image=FILE, mask=mask, strength=0.8)
    given = {"strength": 0.8}
    assert file_of(client, encoded_image=FILE, encoded_mask=mask, **given) == expected
    assert file_of(client, image=PICTURE[None], mask_image=MASK[None], **given) == expected
    text = base64.b64encode(mask).decode()
    mixed = {"parameters": {"encoded_mask": text}}
    assert file_of(client, encoded_image=FILE, options=mixed, **given) == expected
    assert expected != generated(image=FILE, strength=0.8)


def test_true_cfg_and_several_images(client, generated):
    values = {"negative_prompt": "a dog", "true_cfg_scale": 2.0}
    expected = generated.all("--images", 3, image=FILE, mask=encoded(MASK), **values)
    result = ask(client, encoded_image=FILE, encoded_mask=encoded(MASK), num_images_per_prompt=3,
                 **values)  # fmt: skip
    assert result.as_numpy("encoded_images")[0].tolist() == expected


# A strength of float32 means the shortest decimal that rounds to it: 0.55 of 20 steps is 11, and 12
# if it were taken as the float32 that it is.
def test_strength_is_the_decimal_that_was_meant(server, generated):
    values = {"encoded_image": base64.b64encode(FILE).decode(), "strength": 0.55}
    said = stream_client.answers(server, {"parameters": values}, **(SMALL | {"num_inference_steps": 20}))
    assert int(said[-1].outputs["total_steps"][0, 0]) == 11
    body = SMALL | values | {"output_format": "png_base64", "num_inference_steps": 20}
    status, answer = serving.generate_json(server, body)
    assert status == 200, answer
    found = base64.b64decode(answer["encoded_images"])
    assert found == generated(image=FILE, strength=0.55, num_inference_steps=20)


def test_without_a_size_the_default_is_drawn(client, generated):
    """Whatever the image's size is, as in diffusers."""
    result = client.infer("bls", serving.inputs(
        image_requests.grpcclient, image_requests.TYPES, prompt="a", encoded_image=FILE, seed=1,
        num_inference_steps=2, max_sequence_length=8))  # fmt: skip
    assert result.as_numpy("images").shape == (1, 1, 32, 48, 3)


# Rows of a request and requests of many users: each gets what it gets alone, with images, with masks and
# without any.
def test_rows_have_their_own_images(client, generated):
    others = [encoded(pixels(20, 30, seed)) for seed in (1, 2)]
    files = [others[0], b"", FILE, others[1]]
    masks = [b"", b"", encoded(MASK), b""]
    result = ask(client, prompt=["a red cat"] * 4, encoded_image=files, encoded_mask=masks,
                 strength=[0.5, 0.9, 0.8, 1.0])  # fmt: skip
    found = result.as_numpy("encoded_images")[:, 0].tolist()
    assert found == [
        generated(image=files[0], strength=0.5),
        generated(),
        generated(image=FILE, mask=masks[2], strength=0.8),
        generated(image=files[3], strength=1.0),
    ]


def test_rows_of_pixels(client, generated):
    rows = np.stack([PICTURE, pixels(40, 56, 3)])
    result = ask(client, prompt=["a red cat"] * 2, image=rows)
    found = result.as_numpy("encoded_images")[:, 0].tolist()
    assert found == [generated(image=encoded(row)) for row in rows]


def test_users_beside_one_another(server, generated):
    wanted = {
        "text": ({}, generated()),
        "image": ({"encoded_image": FILE}, generated(image=FILE)),
        "mask": (
            {"encoded_image": FILE, "encoded_mask": encoded(MASK), "strength": 0.9},
            generated(image=FILE, mask=encoded(MASK), strength=0.9),
        ),
    }

    def user(values, expected):
        with server.grpc_client() as own:
            for _ in range(3):
                assert file_of(own, **values) == expected

    serving.run_threads(*[lambda pair=pair: user(*pair) for pair in wanted.values()])


def test_pixels_in_shared_memory(server, generated):
    region = shared_memory.create_shared_memory_region("picture", "/flux_test_picture", PICTURE.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [PICTURE])
        with server.http_client() as client:
            client.register_system_shared_memory("picture", "/flux_test_picture", PICTURE.nbytes)
            picture = httpclient.InferInput("image", [1, *PICTURE.shape], "UINT8")
            picture.set_shared_memory("picture", PICTURE.nbytes)
            made = serving.inputs(httpclient, image_requests.TYPES, **SMALL) + [picture]
            result = client.infer("bls", made)
            client.unregister_system_shared_memory("picture")
    finally:
        shared_memory.destroy_shared_memory_region(region)
    assert result.as_numpy("encoded_images")[0, 0] == generated(image=FILE)


def test_the_stream_gives_the_same_bytes(server, generated):
    parameters = {"encoded_image": base64.b64encode(FILE).decode(), "strength": 0.6}
    answers = stream_client.answers(server, {"parameters": parameters}, **SMALL)
    assert answers[-1].outputs["encoded_images"][0, 0] == generated(image=FILE, strength=0.6)
    # 3 of the 5 steps are done: one answer at once, and one after each.
    assert [answer.step for answer in answers] == [0, 1, 2, 3]
    assert [answer.previews() is not None for answer in answers] == [False, True, True, False]


# The stage alone: what run-stage gives, for rows of its own.
@pytest.mark.parametrize("seeds", [None, [5, 6]])
def test_the_stage(client, seeds):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 24, 16)).astype(np.float32)

    def encode(rows, own_seeds):
        made = [serving.tensor(image_requests.grpcclient, "image", rows, "FP32")]
        if own_seeds:
            column = np.array([[seed] for seed in own_seeds], np.int64)
            made.append(serving.tensor(image_requests.grpcclient, "seed", column, "INT64"))
        return client.infer("vae_encoder", made)

    both = encode(images, seeds)
    assert both.as_numpy("latents").shape == (2, 6, 3, 2)
    assert both.as_numpy("moments").shape == (2, 12, 3, 2)
    for row in range(2):
        alone = encode(images[row : row + 1], seeds and seeds[row : row + 1])
        for name in ("latents", "moments"):
            assert (alone.as_numpy(name)[0] == both.as_numpy(name)[row]).all()
    means = both.as_numpy("moments")[:, :6]
    assert (both.as_numpy("latents") == means).all() == (seeds is None)


BAD_STAGE = [
    ({"image": np.zeros((1, 3, 12, 8), np.float32)}, "image has a height of 12: must be a multiple of 8"),
    ({"image": np.zeros((1, 3, 8, 8), np.float32), "seed": np.array([[-1]])}, "seed is -1: must be 0 or more"),
    ({"image": np.full((1, 3, 8, 8), np.nan, np.float32)}, "input image holds values that are not finite"),
    ({"image": np.zeros((1, 3, 8, 8 * 1025), np.float32)}, "image has a width of 8200: must be a multiple of 8, at"),
]  # fmt: skip


@pytest.mark.parametrize("arrays, says", BAD_STAGE)
def test_what_the_stage_refuses(client, arrays, says):
    made = [
        serving.tensor(
            image_requests.grpcclient, name, array, "INT64" if name == "seed" else "FP32"
        )
        for name, array in arrays.items()
    ]
    with pytest.raises(image_requests.InferenceServerException) as error:
        client.infer("vae_encoder", made)
    assert error.value.message().startswith(says), error.value.message()


# What is refused names the input and what is allowed.
REFUSED = [
    ({"image": PICTURE[None], "encoded_image": FILE}, "image and encoded_image are both given: give one"),
    ({"image": PICTURE[None], "mask_image": MASK[None], "encoded_mask": FILE},
     "mask_image and encoded_mask are both given: give one"),
    ({"encoded_mask": FILE}, "encoded_mask is given without image: give the image that it is of, too"),
    ({"mask_image": MASK[None]}, "mask_image is given without image"),
    ({"strength": 0.5}, "strength is 0.5 without image: give the image to start from, too"),
    ({"encoded_image": FILE, "strength": 0.0}, "strength is 0: must be a number above 0, at most 1"),
    ({"encoded_image": FILE, "strength": 1.1}, "strength is 1.1: must be a number above 0, at most 1"),
    ({"encoded_image": FILE, "strength": float("nan")}, "strength is nan: must be a number above 0"),
    ({"encoded_image": FILE, "strength": 1e-20}, "strength is 1e-20: too small for 5 steps, none is left"),
    ({"image": np.zeros((1, 1, 40000, 3), np.uint8)}, "image is 40000x1: sides must be from 1 to 32768"),
    ({"image": np.zeros((1, 1, 300, 3), np.uint8)}, "image is 300x1: the longer side may be at most 256 times"),
    ({"prompt": ["a", "b"], "encoded_image": [FILE, b"no picture"]}, "encoded_image row 1"),
    ({"options": {"parameters": {"image": "x"}}}, "parameter image is not known: give the pixels as the input image"),
    ({"options": {"parameters": {"encoded_image": 1}}}, "parameter encoded_image is 1: must be a string"),
]  # fmt: skip


@pytest.mark.parametrize("values, says", REFUSED)
def test_what_is_refused(client, values, says):
    refused(client, says, **values)


def cut(data, share):
    return data[: int(len(data) * share)]


def with_byte(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1 :]


def huge_png(width, height):
    """The head of a PNG file that asks for much."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    return b"\x89PNG\r\n\x1a\n" + head + FILE[33:]


JPEG, WEBP = encoded(PICTURE, "JPEG"), encoded(PICTURE, "WEBP")
BAD_FILES = {
    "text": b"no picture",
    "base64 of text": base64.b64encode(b"no picture at all"),
    "one byte": b"\x89",
    "signature of PNG": FILE[:8],
    "head of PNG": FILE[:33],
    "half of PNG": cut(FILE, 0.5),
    "PNG without end": FILE[:-12],
    "PNG with a wrong checksum": with_byte(FILE, 30, FILE[30] ^ 1),
    "PNG with wrong data": with_byte(FILE, 60, FILE[60] ^ 255),
    "PNG of no width": huge_png(0, 8),
    "PNG of 100000 x 100000": huge_png(100000, 100000),
    "PNG of 30000 x 30000": huge_png(30000, 30000),
    "PNG of 30000 x 1": huge_png(30000, 1),
    "PNG of 2^31 - 1": huge_png(2**31 - 1, 1),
    "signature of JPEG": JPEG[:3],
    "head of JPEG": JPEG[:20],
    "half of JPEG": cut(JPEG, 0.5),
    "JPEG without end": JPEG[:-2],
    "zeros after the signature of JPEG": JPEG[:4] + bytes(200),
    "signature of WebP": WEBP[:12],
    "half of WebP": cut(WEBP, 0.5),
    "zeros after the signature of WebP": WEBP[:16] + bytes(200),
    "GIF": encoded(PICTURE[:, :, 0], "GIF"),
    "BMP": encoded(PICTURE, "BMP"),
    "TIFF": encoded(PICTURE, "TIFF"),
    "base64 cut": base64.b64encode(FILE)[:-3],
    "base64 with a hole": base64.b64encode(FILE)[:200] + b"*" + base64.b64encode(FILE)[201:],
    "data URL of text": b"data:text/plain,hello",
    "NULs": bytes(64),
}


# Files that cannot be used are refused in a line with the input's name, as image and as mask, and the
# server goes on with the same memory.
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(client, name):
    refused(client, "encoded_image", encoded_image=BAD_FILES[name])
    refused(client, "encoded_mask", encoded_image=FILE, encoded_mask=BAD_FILES[name])


def test_bad_files_leave_nothing_behind(server, client):
    def all_of_them():
        for data in BAD_FILES.values():
            refused(client, "encoded_image", encoded_image=data)

    all_of_them()
    before, files = server.resident_bytes(), server.open_files()
    for _ in range(5):
        all_of_them()
    assert server.resident_bytes() - before < 16 << 20
    assert server.open_files() == files
    file_of(client, encoded_image=FILE)


def test_a_repository_of_an_older_convert(repository, tmp_path):
    """Without the stage text to image goes on, and images are refused by its name."""
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    shutil.rmtree(copy / "vae_encoder")
    with serving.Server(copy, tmp_path / "log.txt") as server, server.grpc_client() as client:
        file_of(client)
        with pytest.raises(image_requests.InferenceServerException) as error:
            file_of(client, encoded_image=FILE)
        assert "stage 'vae_encoder' is not loaded" in error.value.message()
        assert error.value.status() == "StatusCode.UNAVAILABLE"
