"""Tests the inputs and outputs of bls over HTTP and gRPC, and that it equals `flux-triton generate`."""

import base64
import io
import subprocess

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from PIL import Image

SMALL = {"num_inference_steps": 2, "max_sequence_length": 64, "seed": 7}
LONG = "a red cat " * 40  # more than CLIP's 77 tokens, and less than 512 of T5


def generated(checkpoint, directory, *options):
    """The images of `flux-triton generate`, as arrays."""
    output = directory / "image.png"
    serving.program("generate", checkpoint, "--output", output, *options)
    return [np.array(Image.open(file)) for file in sorted(directory.glob("image*.png"))]


def test_equals_generate_byte_by_byte(client, checkpoint, tmp_path):
    prompts = ["a photo of a red cat", "un café à la crème, it's déjà l'été 🐱"]
    result = serving.generate(
        client,
        prompt=prompts,
        seed=[11, 13],
        height=48,
        width=80,
        num_inference_steps=3,
        guidance_scale=2.5,
        max_sequence_length=77,
        num_images_per_prompt=2,
    )
    images = result.as_numpy("images")
    assert images.shape == (2, 2, 48, 80, 3) and images.dtype == np.uint8
    assert result.as_numpy("seed").tolist() == [[11], [13]]
    expected = generated(
        checkpoint, tmp_path, "--prompt", prompts[0], "--prompt", prompts[1], "--seed", 11,
        "--height", 48, "--width", 80, "--steps", 3, "--guidance", 2.5,
        "--max-sequence-length", 77, "--images", 2,
    )  # fmt: skip
    for found, wanted in zip(images.reshape(4, 48, 80, 3), expected):
        assert serving.same(found, wanted)


def test_true_cfg_and_prompt_2_equal_generate(client, checkpoint, tmp_path):
    values = {"prompt": "a castle", "prompt_2": "a quiet street", "negative_prompt": "dark"}
    result = serving.generate(client, true_cfg_scale=2.5, height=32, width=48, **SMALL, **values)
    expected = generated(
        checkpoint, tmp_path, "--prompt", "a castle", "--prompt-2", "a quiet street",
        "--negative-prompt", "dark", "--true-cfg-scale", 2.5, "--height", 32, "--width", 48,
        "--steps", 2, "--max-sequence-length", 64, "--seed", 7,
    )  # fmt: skip
    assert serving.same(result.as_numpy("images")[0, 0], expected[0])


def test_http_equals_grpc(server, client):
    over_grpc = serving.generate(client, prompt="a boat", **SMALL).as_numpy("images")
    with server.http_client() as http:
        over_http = serving.generate(http, httpclient, prompt="a boat", **SMALL).as_numpy("images")
    assert (over_grpc == over_http).all()


def test_defaults(client):
    first = serving.generate(client, prompt="a boat")
    second = serving.generate(client, prompt="a boat")
    assert first.as_numpy("images").shape == (1, 1, 32, 48, 3)  # the repository's default size
    assert first.as_numpy("seed").tolist() != second.as_numpy("seed").tolist()
    seed = int(first.as_numpy("seed")[0, 0])
    again = serving.generate(client, prompt="a boat", seed=seed)
    assert (again.as_numpy("images") == first.as_numpy("images")).all()


def test_png_and_base64_hold_the_raw_pixels(client):
    raw = serving.generate(client, prompt="a boat", **SMALL).as_numpy("images")[0, 0]
    png = serving.generate(client, prompt="a boat", output_format="png", **SMALL)
    text = serving.generate(client, prompt="a boat", output_format="png_base64", **SMALL)
    assert png.as_numpy("images") is None and raw is not None
    data = png.as_numpy("encoded_images")[0, 0]
    assert base64.b64decode(text.as_numpy("encoded_images")[0, 0]) == data
    assert (np.array(Image.open(io.BytesIO(data))) == raw).all()


def test_encoded_rows_may_differ_in_size(client):
    result = serving.generate(
        client, prompt=["a", "b"], height=[16, 48], width=[32, 16], output_format="png", **SMALL
    )
    sizes = [Image.open(io.BytesIO(d)).size for d in result.as_numpy("encoded_images")[:, 0]]
    assert sizes == [(32, 16), (16, 48)]


def test_only_requested_outputs_are_made(client):
    wanted = {"outputs": [grpcclient.InferRequestedOutput("seed")]}
    result = serving.generate(client, options=wanted, prompt="a boat", **SMALL)
    assert result.as_numpy("images") is None and result.as_numpy("seed").tolist() == [[7]]


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_inference_steps": 2, "seed": 7, "max_sequence_length": 64, "height": 32, "width": 48},
        {"num_inference_steps": "2", "seed": "7", "max_sequence_length": "64"},
    ],
)
def test_parameters_stand_in_for_inputs(client, parameters):
    expected = serving.generate(client, prompt="a boat", **SMALL).as_numpy("images")
    found = serving.generate(client, options={"parameters": parameters}, prompt="a boat")
    assert (found.as_numpy("images") == expected).all()


def test_an_input_wins_over_a_parameter(client):
    found = serving.generate(client, options={"parameters": {"seed": 99}}, prompt="a boat", **SMALL)
    assert found.as_numpy("seed").tolist() == [[7]]


def test_generate_endpoint_with_curl(server):
    body = '{"prompt": "a boat", "num_inference_steps": 2, "output_format": "png_base64"}'
    url = f"http://127.0.0.1:{server.http}/v2/models/bls/generate"
    done = subprocess.run(["curl", "-s", "-d", body, url], capture_output=True, check=True)
    import json

    answer = json.loads(done.stdout)
    assert Image.open(io.BytesIO(base64.b64decode(answer["encoded_images"]))).size == (48, 32)


def test_rows_are_the_same_alone_and_in_company(client):
    together = serving.generate(
        client, prompt=["one", "two", "three"], seed=[1, 2, 3], num_inference_steps=[2, 5, 3],
        max_sequence_length=[16, 64, 512], guidance_scale=[1.0, 3.5, 7.0],
    )  # fmt: skip
    for row, (prompt, seed, steps, length, guidance) in enumerate(
        [("one", 1, 2, 16, 1.0), ("two", 2, 5, 64, 3.5), ("three", 3, 3, 512, 7.0)]
    ):
        alone = serving.generate(
            client, prompt=prompt, seed=seed, num_inference_steps=steps,
            max_sequence_length=length, guidance_scale=guidance,
        )  # fmt: skip
        assert (alone.as_numpy("images")[0] == together.as_numpy("images")[row]).all()


def test_a_long_prompt_is_cut_and_says_so(server, client):
    logged = server.log().count("was cut")
    short = serving.generate(client, prompt="a cat", **SMALL)
    assert server.log().count("was cut") == logged
    long = serving.generate(client, prompt="a red cat " * 200, **SMALL)
    assert serving.wait_until(lambda: server.log().count("was cut") > logged)
    assert "truncated" not in short.get_response().parameters
    # The Python backend of 2.51 knows no response parameters.
    if "bls" not in serving.IN_PYTHON and not {"clip_encoder", "t5_encoder"} <= set(serving.IN_PYTHON):
        parameters = long.get_response().parameters
        assert parameters["truncated"].bool_param
        assert parameters["truncated_by"].string_param == "clip,t5"


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="the Python backend of 2.51 knows no parameters")
@pytest.mark.parametrize(
    "values, by",
    [
        ({"prompt": LONG, "max_sequence_length": 512}, "clip"),
        ({"prompt": "a cat", "prompt_2": LONG, "max_sequence_length": 64}, "t5"),
        ({"prompt": ["a cat", LONG], "prompt_2": ["a cat", "a cat"]}, "clip"),
        ({"prompt": [LONG, "a cat"], "prompt_2": ["a cat", LONG]}, "clip,t5"),
        ({"prompt": "a cat", "negative_prompt": LONG, "max_sequence_length": 512}, None),
        ({"prompt": "a cat", "negative_prompt": LONG, "true_cfg_scale": 2.0}, "clip,t5"),
        ({"prompt": "a cat", "negative_prompt": LONG, "true_cfg_scale": 2.0,
          "max_sequence_length": 512}, "clip"),
    ],
)  # fmt: skip
def test_a_cut_prompt_names_the_encoder(client, values, by):
    parameters = serving.generate(client, **(SMALL | values)).get_response().parameters
    assert ("truncated" in parameters) == ("truncated_by" in parameters) == (by is not None)
    if by is not None:
        assert parameters["truncated"].bool_param
        assert parameters["truncated_by"].string_param == by


def test_statistics_and_metrics_count(server, client):
    def count(model):
        stats = client.get_inference_statistics(model).model_stats[0]
        return stats.inference_count, stats.execution_count

    before = {model: count(model) for model in serving.MODELS}
    copied = {m: server.metric("flux_input_bytes_copied_total", m) for m in serving.MODELS}
    images = server.metric("flux_images_total", "bls")
    steps = server.metric("flux_steps_total", "bls")
    serving.generate(client, prompt=["a", "b"], **{**SMALL, "num_inference_steps": 3})
    for model, rows in [("bls", 2), ("clip_encoder", 2), ("t5_encoder", 2), ("vae_decoder", 2),
                        ("dit_transformer", 6)]:  # fmt: skip
        # The server counts an execution when it has ended, which may be after its answer.
        wanted = before[model][0] + rows
        assert serving.wait_until(lambda: count(model)[0] >= wanted), model  # noqa: B023
        after = count(model)
        assert after[0] == wanted, model
        assert 1 <= after[1] - before[model][1] <= rows, model
        # Tensors pass from model to model where they are, but for the Python backend's, which lie in
        # its shared memory unaligned.
        if not serving.IN_PYTHON:
            assert server.metric("flux_input_bytes_copied_total", model) == copied[model]
    assert server.metric("flux_images_total", "bls") == images + 2
    assert server.metric("flux_steps_total", "bls") == steps + 3
    assert server.metric("flux_stage_rows_total", "dit_transformer") >= 6
