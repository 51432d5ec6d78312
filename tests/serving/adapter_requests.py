"""Requests with adapters, and what is right for them."""

import json
import threading

import pytest
import server as serving
from adapter_files import T5, TRANSFORMER, made, put
from tritonclient.utils import InferenceServerException

SMALL = {"prompt": "a red cat", "num_inference_steps": 3, "height": 32, "width": 48,
         "max_sequence_length": 16, "seed": 7}  # fmt: skip
STAGES = ("clip_encoder", "t5_encoder", "dit_transformer")
# kohya changes norm1.linear, whose results a GPU keeps from step to step, and CLIP; lycoris_dora has
# factors of outputs; peft_bias changes biases, too.
NAMES = ("kohya", "lycoris_dora", "peft_bias", "xlabs")
MIB = 1 << 20
IN_NATIVE_MODELS = pytest.mark.skipif(
    bool(serving.IN_PYTHON), reason="models in Python take no adapters"
)


def fill(repository, pipeline="bls"):
    """Puts adapters in; returns the directory."""
    directory = repository / pipeline / "loras"
    for name in NAMES:
        put(directory, name)
    (directory / "t5.safetensors").write_bytes(made([T5]))
    unheard = ["lora_unet_unheard_of.alpha", "lora_unet_a,b\".alpha"]
    (directory / "partly.safetensors").write_bytes(made([TRANSFORMER], extra=unheard))
    return directory


def file_of(client, lora=None, **values):
    """The PNG file of a request."""
    given = {} if lora is None else {"lora": lora}
    asked = SMALL | {"output_format": "png"} | given | values
    return serving.generate(client, **asked).as_numpy("encoded_images")[0, 0]


def pixels_of(client, lora=None, **values):
    given = {} if lora is None else {"lora": lora}
    return serving.generate(client, **(SMALL | given | values)).as_numpy("images")


class Generated:
    """What `generate --lora` makes of SMALL and a text of a request: the file, and the object that
    --json prints. `directory`: of the adapters."""

    def __init__(self, checkpoint, directory, image):
        self.checkpoint, self.directory, self.image = checkpoint, directory, image
        self.known = {}
        self.lock = threading.Lock()

    def __call__(self, lora):
        with self.lock:
            return self.made(lora)

    def made(self, lora):
        if lora not in self.known:
            flags = []
            for each in filter(None, lora.replace(" ", "").split(",")):
                name, _, scale = each.partition(":")
                file = self.directory / f"{name}.safetensors"
                flags += ["--lora", f"{file}:{scale}" if scale else file]
            said = serving.program(
                "generate", self.checkpoint, "--prompt", SMALL["prompt"], "--steps", 3, "--height",
                32, "--width", 48, "--max-sequence-length", 16, "--seed", 7, "-o", self.image,
                "--json", *flags,
            )  # fmt: skip
            self.known[lora] = self.image.read_bytes(), json.loads(said)
        return self.known[lora]


def refused(client, says, **values):
    """The message of a refusal; it is one line, and names no directory."""
    with pytest.raises(InferenceServerException) as error:
        serving.generate(client, **(SMALL | values))
    message = error.value.message()
    assert says in message, message
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT", message
    assert message.startswith("lora") and "\n" not in message and "/models/" not in message
    return message


def lora_metrics(server, metric):
    return {stage: server.metric(metric, stage) for stage in STAGES}
