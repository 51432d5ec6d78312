"""Requests with images to `bls`, and what `flux-triton generate` makes of the same files."""

import io

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException

SMALL = {"prompt": "a red cat", "num_inference_steps": 5, "height": 32, "width": 48,
         "max_sequence_length": 16, "seed": 7, "output_format": "png"}  # fmt: skip
TYPES = serving.TYPES | {"encoded_image": "BYTES", "encoded_mask": "BYTES", "strength": "FP32"}


def pixels(height, width, seed=0, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def ask(client, module=grpcclient, model="bls", image=None, mask_image=None, options=None, **values):
    """A result. `image`, `mask_image`: pixels of all rows, with their first dimension."""
    made = serving.inputs(module, TYPES, **(SMALL | values))
    for name, array in (("image", image), ("mask_image", mask_image)):
        if array is not None:
            made.append(serving.tensor(module, name, array, "UINT8"))
    return client.infer(model, made, **(options or {}))


def file_of(client, **values):
    """The first file."""
    return ask(client, **values).as_numpy("encoded_images")[0, 0]


def refused(client, says, **values):
    """The message of a refusal, which is one line and begins with `says`."""
    with pytest.raises(InferenceServerException) as error:
        ask(client, **values)
    message = error.value.message()
    assert message.startswith(says) and "\n" not in message, message
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT", message
    return message


class Generated:
    """The files of `generate --image` for SMALL."""

    def __init__(self, source, directory, *parts):
        self.source, self.directory, self.parts = source, directory, parts

    def all(self, *options, image=None, mask=None, **values):
        """The files, in order. `image`, `mask`: bytes of files."""
        for name, data in (("image", image), ("mask", mask)):
            if data is not None:
                (self.directory / name).write_bytes(data)
                options += (f"--{name}", self.directory / name)
        asked = {name: value for name, value in (SMALL | values).items() if name != "output_format"}
        for name, value in asked.items():
            options += (f"--{name.replace('_', '-')}", value)
        for old in self.directory.glob("*.png"):
            old.unlink()
        serving.program("generate", self.source, *self.parts, *options, "-o", self.directory / "i.png")
        return [file.read_bytes() for file in sorted(self.directory.glob("*.png"))]

    def __call__(self, *options, **values):
        return self.all(*options, **values)[0]
