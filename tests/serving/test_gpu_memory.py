"""Out of memory on a GPU of which others take the memory: the smaller way or a clear error, the rest
goes on, and with memory again all is as before."""

import json
import re
import shutil
import subprocess
import time

import cuda_memory
import numpy as np
import pytest
import server as serving
from PIL import Image
from test_contract import generated
from test_gpu import needs_gpu
from test_stages import read_safetensors, write_safetensors
from tritonclient.utils import InferenceServerException

MIB = 1 << 20
SMALL = {"prompt": "a boat", "seed": 1, "num_inference_steps": 2, "max_sequence_length": 77}
# In f32 the scores of attention take 256 MiB, in each of two models.
LARGE = SMALL | {"prompt": "a harbour", "seed": 9, "height": 1024, "width": 1024}
EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")


def convert(checkpoint, repository):
    options = ("--default-size", "32x48", "--dtype", "f32")
    return serving.convert(checkpoint, repository, *options, device="cuda")


@pytest.fixture()
def gpu_server(checkpoint, tmp_path):
    """A new one for each test: what it has computed once, it has memory for."""
    repository = convert(checkpoint, tmp_path / "models")
    with serving.Server(repository, tmp_path / "log.txt", *EXPLICIT) as running:
        yield running
        assert running.process.poll() is None


def pixels(client, values):
    return serving.generate(client, **values).as_numpy("images")


# In process


def generate_command(checkpoint, output):
    """A command of flux-triton that needs some 200 MiB besides a CUDA context."""
    return [
        str(part)
        for part in (
            serving.PROGRAM, "generate", checkpoint, "--device", "cuda", "--dtype", "f32",
            "--prompt", "a boat", "--seed", 5, "--steps", 2, "--max-sequence-length", 77,
            "--height", 512, "--width", 512, "--output", output,
        )  # fmt: skip
    ]


def most_used(command):
    """The approximate peak of GPU memory that a command takes."""
    before = most = cuda_memory.used_bytes()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, cuda_memory.used_bytes())
            time.sleep(0.001)
    assert process.returncode == 0
    return most - before


def outcome(done, image, whole):
    """The outcome of a run, which must be one of those allowed."""
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("flux-triton: error: ")]
    warnings = [line for line in lines if line.startswith("flux-triton: warning: ")]
    others = [line for line in lines if line.startswith("flux-triton: info: ")]
    assert sorted(errors + warnings + others) == sorted(lines), done.stderr
    if done.returncode == 0:
        assert not errors
        if any("decoded in tiles" in line for line in warnings):
            assert Image.open(image).size == (512, 512)
            return "in tiles"
        assert image.read_bytes() == whole.read_bytes()
        return "whole"
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1 and re.search(r"out of memory.*; .*\bfree\b", errors[0]), done.stderr
    assert done.stdout == "" and list(image.parent.iterdir()) == []
    return "refused"


@needs_gpu
def test_a_program_generates_or_says_in_one_line_what_is_missing(checkpoint, tmp_path):
    """With nothing free, not even a CUDA context can be made; with ever more, memory ends in it, in
    the loading of kernels and weights, in the loop and in decoding."""
    whole = tmp_path / "whole.png"
    needed = most_used(generate_command(checkpoint, whole))
    parts = 16
    rooms = [needed * part // parts for part in range(parts)] + [needed + 128 * MIB]
    outcomes = []
    for index, room in enumerate(rooms):
        directory = tmp_path / str(index)
        directory.mkdir()
        image = directory / "image.png"
        with cuda_memory.only_free(room):
            done = subprocess.run(
                generate_command(checkpoint, image), capture_output=True, text=True, timeout=120
            )
        outcomes.append(outcome(done, image, whole))
        print(f"{room // MIB} MiB: {outcomes[-1]}: {done.stderr.strip()}")
    assert outcomes[0] == "refused" and outcomes[-1] == "whole", outcomes


# In the server


@needs_gpu
def test_what_does_not_fit_is_refused_and_the_rest_answered(gpu_server, checkpoint, tmp_path):
    directory = tmp_path / "generated"
    directory.mkdir()
    whole = generated(
        checkpoint, directory, "--device", "cuda", "--dtype", "f32", "--prompt", LARGE["prompt"],
        "--seed", 9, "--steps", 2, "--max-sequence-length", 77, "--height", 1024, "--width", 1024,
    )[0]  # fmt: skip
    with gpu_server.grpc_client() as client:
        small = pixels(client, SMALL)

        def check(result, error, expected):
            if error is not None:
                assert error.status() == "StatusCode.UNAVAILABLE", error
                assert re.search(r"out of memory on cuda:0: .*\bfree\b", error.message()), error
            elif expected is small or "decoded in tiles" not in gpu_server.log():
                assert (result.as_numpy("images") == expected).all()

        for room in (64, 128, 256, 384, 512):
            with cuda_memory.only_free(room * MIB):
                _, large_answer = serving.start(client, **LARGE)
                answers = [serving.start(client, **SMALL)[1] for _ in range(4)]
                result, error = large_answer.get(timeout=120)
                check(result, error, whole)
                assert error is not None or room >= 256
                for answer in answers:  # beside the large one memory may end for them, too
                    check(*answer.get(timeout=120), small)
                # Nothing of the one that was refused is in their way afterwards.
                assert (pixels(client, SMALL) == small).all()
        assert (pixels(client, LARGE)[0, 0] == whole).all()
        assert (pixels(client, SMALL) == small).all()


@needs_gpu
def test_what_does_not_fit_whole_is_decoded_in_tiles(gpu_server, checkpoint, tmp_path):
    latents = np.random.default_rng(3).standard_normal((1, 6, 128, 128)).astype(np.float32)
    given = tmp_path / "latents.safetensors"
    write_safetensors(given, {"latents": latents})

    def decoded(*options):
        output = tmp_path / "image.safetensors"
        serving.program(
            "run-stage", checkpoint, "vae_decoder", "--input", given, "--output", output,
            "--device", "cuda", "--dtype", "f32", *options,
        )  # fmt: skip
        return read_safetensors(output)["image"]

    whole = decoded()
    in_tiles = decoded("--gpu-memory", "150MiB")
    assert (whole != in_tiles).any()
    with gpu_server.grpc_client() as client:

        def ask():
            made = [serving.tensor(serving.grpcclient, "latents", latents, "FP32")]
            return client.infer("vae_decoder", made).as_numpy("image")

        small = pixels(client, SMALL)
        with cuda_memory.only_free(200 * MIB):
            assert (ask() == in_tiles).all()
            assert "1024x1024 pixels are decoded in tiles of" in gpu_server.log()
            assert (pixels(client, SMALL) == small).all()
        assert (ask() == whole).all()
        assert (pixels(client, SMALL) == small).all()


# Loading

WIDTH = 1 << 17  # of T5's feed-forward: 60 MiB a layer in f32, of two layers
LAYER_BYTES = 60 * MIB


def with_a_large_encoder(checkpoint, copy):
    """The checkpoint, with zeros added to its T5 encoder: it computes the same."""
    shutil.copytree(checkpoint, copy)
    config = copy / "text_encoder_2/config.json"
    settings = json.loads(config.read_text())
    added = WIDTH - settings["d_ff"]
    config.write_text(json.dumps(settings | {"d_ff": WIDTH}))
    weights = copy / "text_encoder_2/model.safetensors"
    tensors = read_safetensors(weights)
    for name, array in tensors.items():
        if ".DenseReluDense.wi_" in name:
            tensors[name] = np.pad(array, ((0, added), (0, 0)))
        elif ".DenseReluDense.wo." in name:
            tensors[name] = np.pad(array, ((0, 0), (0, added)))
    write_safetensors(weights, tensors)
    return copy


def failure_to_load(client, model):
    with pytest.raises(InferenceServerException):
        client.load_model(model)
    index = client.get_model_repository_index(as_json=True)["models"]
    return next(each.get("reason", "") for each in index if each["name"] == model)


@needs_gpu
def test_a_load_that_fails_half_way_gives_all_memory_back(checkpoint, tmp_path):
    large = with_a_large_encoder(checkpoint, tmp_path / "checkpoint")
    repository = convert(large, tmp_path / "models")
    with (
        serving.Server(repository, tmp_path / "log.txt", *EXPLICIT) as running,
        running.grpc_client() as client,
    ):
        expected = pixels(client, SMALL)
        loaded = cuda_memory.used_bytes()
        client.unload_model("t5_encoder")
        assert serving.wait_until(lambda: cuda_memory.used_bytes() <= loaded - 2 * LAYER_BYTES)
        with cuda_memory.only_free(LAYER_BYTES + 20 * MIB):
            before = cuda_memory.used_bytes()
            for _ in range(3):
                reason = failure_to_load(client, "t5_encoder")
                assert re.search(r"out of memory on cuda:0: .*\bfree\b", reason), reason
                assert serving.wait_until(lambda: cuda_memory.used_bytes() <= before + 8 * MIB)
            with pytest.raises(InferenceServerException, match="t5_encoder"):
                serving.generate(client, **SMALL)
        client.load_model("t5_encoder")
        assert (pixels(client, SMALL) == expected).all()
        assert cuda_memory.used_bytes() <= loaded + 32 * MIB
