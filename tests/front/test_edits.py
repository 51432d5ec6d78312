"""Edited images through the front: the bytes of gRPC to `bls`, for OpenAI's own client."""

import base64
import io
import urllib.request

import front as fronts
import numpy as np
import openai
import pytest
import server as serving
from PIL import Image

WISH = {"prompt": "a red boat", "extra_body": {"seed": 5, "steps": 4, "strength": 0.75}}
VALUES = {"prompt": "a red boat", "seed": 5, "num_inference_steps": 4}
TYPES = serving.TYPES | {"encoded_image": "BYTES", "encoded_mask": "BYTES", "strength": "FP32"}


def encoded(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


PIXELS = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
PICTURE = encoded(PIXELS)
MASK = np.zeros((40, 56), np.uint8)
MASK[:, 28:] = 255
WITH_ALPHA = encoded(np.dstack([PIXELS, 255 - MASK]))  # transparent is what is edited
WHITE_WITH_ALPHA = encoded(np.dstack([np.full_like(PIXELS, 255), 255 - MASK]))


@pytest.fixture()
def client(front):
    with openai.OpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0) as connected:
        yield connected


def from_bls(server, **values):
    """The files of gRPC to `bls`."""
    with server.grpc_client() as client:
        result = serving.generate(client, types=TYPES, output_format="png",
                                  **(VALUES | {"strength": 0.75, "encoded_image": PICTURE} | values))  # fmt: skip
        return [bytes(file) for file in result.as_numpy("encoded_images").reshape(-1)]


def files_of(answer):
    return [base64.b64decode(image.b64_json) for image in answer.data]


# An image in, an image out, as OpenAI's client sends it: with a name or without, alone or in a list.
def test_an_image(client, server):
    expected = from_bls(server)
    assert files_of(client.images.edit(image=PICTURE, **WISH)) == expected
    assert files_of(client.images.edit(image=[("photo.png", PICTURE)], **WISH)) == expected
    assert files_of(client.images.edit(image=io.BytesIO(PICTURE), **WISH)) == expected
    jpeg = encoded(PIXELS, "JPEG")
    assert files_of(client.images.edit(image=jpeg, **WISH)) == from_bls(server, encoded_image=jpeg)


def test_fields(client, server):
    answer = client.images.edit(
        image=PICTURE, prompt="a red boat", n=2, size="32x32", quality="high", model="bls",
        background="auto", output_format="png", response_format="b64_json", user="someone",
        input_fidelity="high", extra_body={"seed": 5, "steps": 4, "guidance": 2.0},
    )  # fmt: skip
    expected = from_bls(server, strength=0.6, num_images_per_prompt=2, height=32, width=32,
                        guidance_scale=2.0)  # fmt: skip
    assert files_of(answer) == expected
    assert answer.size == "32x32" and [image.seed for image in answer.data] == [5, 6]


# What is transparent in the mask is edited, or what is white in a mask without transparency; without a
# mask what is transparent in the image.
def test_masks(client, server):
    expected = from_bls(server, encoded_mask=encoded(MASK))
    assert expected != from_bls(server)
    assert files_of(client.images.edit(image=PICTURE, mask=encoded(MASK), **WISH)) == expected
    assert files_of(client.images.edit(image=PICTURE, mask=WHITE_WITH_ALPHA, **WISH)) == expected
    assert files_of(client.images.edit(image=WITH_ALPHA, **WISH)) == expected
    opaque = encoded(np.dstack([PIXELS, np.full_like(MASK, 255)]))
    assert files_of(client.images.edit(image=opaque, **WISH)) == from_bls(server)


def test_a_stream(client, server):
    kinds, files = [], []
    with client.images.edit(image=[PICTURE], stream=True, partial_images=2, **WISH) as events:
        for event in events:
            kinds.append(event.type)
            files.append(base64.b64decode(event.b64_json))
    assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert files[-1:] == from_bls(server)


def test_a_file_in_json(front, server):
    """Beyond OpenAI's: generations take a file as base64 under the pipeline's own name."""
    body = VALUES | {"strength": 0.75, "encoded_image": base64.b64encode(PICTURE).decode()}
    assert front.files(**body) == from_bls(server)


REFUSED = [
    ({"image": [PICTURE, PICTURE]}, "image", "image is given more than once: one is taken here"),
    ({"image": b"no picture"}, "image", "encoded_image"),
    ({"image": PICTURE[:-20]}, "image", "encoded_image"),
    ({"image": PICTURE, "mask": b"no picture"}, "mask", "encoded_mask"),
    ({"image": b""}, "image", "image is an empty file"),
    ({"image": PICTURE, "n": 11}, "n", "n is 11: must be a whole number from 1 to 10"),
    ({"image": PICTURE, "extra_body": {"strength": 2}}, "strength", "strength is 2: must be a number above 0"),
    ({"image": PICTURE, "extra_body": {"strength": "x"}}, "strength", 'strength is "x": must be a number'),
    ({"image": PICTURE, "extra_body": {"strenght": 1}}, "strenght", "did you mean strength?"),
]  # fmt: skip


@pytest.mark.parametrize("values, param, says", REFUSED)
def test_what_is_refused(client, values, param, says):
    with pytest.raises(openai.BadRequestError) as error:
        client.images.edit(prompt="a", **values)
    assert says in error.value.body["message"] and "\n" not in error.value.body["message"]
    assert error.value.param == param


def test_bodies_that_are_no_form(front):
    for kind, body, says in (
        ("application/json", b"{}", "Content-Type is 'application/json': must be multipart/form-data"),
        ("multipart/form-data", b"--x--", "Content-Type must give a boundary"),
        ("multipart/form-data; boundary=x", b"--x--", "image is missing"),
        ("multipart/form-data; boundary=x", b"", "its boundary is nowhere"),
    ):
        headers = {"Content-Type": kind}
        status, _, answer = front.request("POST", "/v1/images/edits", body, headers)
        assert status == 400 and says in answer["error"]["message"], answer


# Bodies are bounded, before they are read where their length is told; other paths keep their own bound.
def test_bounds(server, tmp_path):
    with fronts.Front(server, tmp_path / "log.txt", "--max-upload", "100000") as front:
        head = b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        with front.connect() as connection:
            connection.sendall(head + b"Content-Length: 100001\r\n\r\n")
            assert b"413" in fronts.read_all(connection).split(b"\r\n")[0]
        with front.connect() as connection:
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n186a1\r\n" + bytes(1000))
            assert b"413" in fronts.read_all(connection).split(b"\r\n")[0]
        large = urllib.request.Request(front.url + "/v1/images/generations", bytes((1 << 20) + 1))
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(large)
        assert error.value.code == 413
    with fronts.Front(server, tmp_path / "log.txt") as front:
        with front.connect() as connection:
            connection.sendall(head + b"Content-Length: 67108865\r\n\r\n")
            assert b"413" in fronts.read_all(connection).split(b"\r\n")[0]
        # 16 of 64 MiB are 1 GiB: there is no room for more until one of them is gone.
        connections = [front.connect() for _ in range(16)]
        for connection in connections:
            connection.sendall(head + b"Content-Length: 67108864\r\n\r\n--x")

        def refused():
            with front.connect() as connection:
                connection.sendall(head + b"Content-Length: 1000\r\n\r\n")
                connection.settimeout(2)
                try:
                    return b"503" in connection.recv(100)
                except TimeoutError:
                    return False

        assert serving.wait_until(refused)
        for connection in connections:
            connection.close()
        assert serving.wait_until(lambda: not refused())
