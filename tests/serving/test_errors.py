"""Every error says the input, the value and what is allowed; none hurts the server."""

import urllib.error
import urllib.request

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from server import tensor
from tritonclient.utils import InferenceServerException

LONG = "x" * 65537


@pytest.mark.parametrize(
    "values, says",
    [
        ({"prompt": " \t "}, "prompt is blank"),
        ({"prompt": ""}, "prompt is blank"),
        ({"prompt": b"ab\xff"}, "prompt is not valid UTF-8: byte 2 is 0xff"),
        ({"prompt": b"a\x00b"}, "NUL"),
        ({"prompt": LONG}, "prompt has 65537 bytes: at most 65536"),
        ({"prompt": "x" * (1 << 20)}, "prompt has 1048576 bytes"),
        ({"prompt": "a", "prompt_2": b"\xc0\xaf"}, "prompt_2 is not valid UTF-8"),
        ({"prompt": "a", "negative_prompt": b"\xed\xa0\x80"}, "negative_prompt is not valid"),
        ({"prompt": "a", "height": 100}, "height is 100: must be a multiple of 16 from 16"),
        ({"prompt": "a", "width": 0}, "width is 0: must be a multiple of 16"),
        ({"prompt": "a", "height": -16}, "height is -16"),
        ({"prompt": "a", "width": 2147483632}, "width is 2147483632"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps is 0: must be from 1"),
        ({"prompt": "a", "num_inference_steps": 1001}, "num_inference_steps is 1001"),
        ({"prompt": "a", "guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"prompt": "a", "guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"prompt": "a", "guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"prompt": "a", "true_cfg_scale": 0.5}, "true_cfg_scale is 0.5"),
        ({"prompt": "a", "true_cfg_scale": 1e38}, "true_cfg_scale is"),
        ({"prompt": "a", "seed": -1}, "seed is -1: must be 0 or more"),
        (
            {"prompt": "a", "seed": 2**63 - 1, "num_images_per_prompt": 2},
            "seed is 9223372036854775807: too large for 2 images, which count up from it",
        ),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"prompt": "a", "num_images_per_prompt": 17}, "num_images_per_prompt is 17"),
        ({"prompt": "a", "max_sequence_length": 513}, "max_sequence_length is 513"),
        ({"prompt": "a", "output_format": "gif"}, "output_format is 'gif': must be raw, png, jpeg, webp, png_base64"),
        ({"prompt": ["a", "b"], "height": [16, 32]}, "rows disagree"),
        ({"prompt": ["a", "b"], "num_images_per_prompt": [1, 2]}, "rows disagree"),
    ],
)
def test_values_out_of_range(client, values, says):
    with pytest.raises(InferenceServerException) as error:
        serving.generate(client, **values)
    assert says in error.value.message()
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({"height": "tall"}, "parameter height is"),
        ({"height": True}, "parameter height is true"),
        ({"seed": "1.5"}, "parameter seed is '1.5': must be an integer"),
        ({"guidance_scale": "much"}, "parameter guidance_scale is"),
        ({"prompt_2": 7}, "parameter prompt_2 is 7: must be a string"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ],
)
def test_parameters_of_the_wrong_kind(client, parameters, says):
    with pytest.raises(InferenceServerException) as error:
        serving.generate(client, options={"parameters": parameters}, prompt="a")
    assert says in error.value.message()


@pytest.mark.parametrize(
    "name, meant",
    [
        ("step", "num_inference_steps"),
        ("num_inference_step", "num_inference_steps"),
        ("guidence", "guidance_scale"),
        ("hight", "height"),
    ],
)
def test_an_unknown_parameter_is_refused(server, name, meant):
    status, answer = serving.generate_json(server, {"prompt": "a", name: 2})
    assert status == 400
    assert f"parameter {name} is not known: the nearest that is known is {meant}" in answer["error"]


@pytest.mark.parametrize("name", ["foo", "headers", "favourite_colour", "x" * 3000])
def test_what_is_like_no_parameter_gets_a_list(server, name):
    status, answer = serving.generate_json(server, {"prompt": "a", name: 2})
    assert status == 400
    assert " is not known: known are prompt, prompt_2, " in answer["error"]
    assert len(answer["error"]) < 600


def test_unknown_parameters_of_stages_are_refused(client):
    prompt = serving.inputs(grpcclient, prompt="a")
    latents = [tensor(grpcclient, "latents", np.zeros((1, 6, 2, 2), np.float32), "FP32")]
    for stage, made, known in (
        ("clip_encoder", prompt, "no parameters"),
        ("t5_encoder", prompt, "no parameters"),
        ("dit_transformer", dit_inputs(), "timesteps, step"),
        ("vae_decoder", latents, "no parameters"),
    ):
        client.infer(stage, made, parameters={"timeout": 10**9})
        with pytest.raises(InferenceServerException) as error:
            client.infer(stage, made, parameters={"colour": "red"})
        assert f"parameter colour is not known: {stage} takes {known}" in error.value.message()
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    client.infer("dit_transformer", dit_inputs(), parameters={"timesteps": "[1, 0.5]", "step": 1})
    if "dit_transformer" in serving.IN_PYTHON:
        return  # it has no use for a schedule
    with pytest.raises(InferenceServerException) as error:
        client.infer("dit_transformer", dit_inputs(), parameters={"step": 1})
    assert "parameter timesteps is missing" in error.value.message()


def test_the_words_of_the_command_line_are_taken(server):
    def image(**values):
        body = {"prompt": "a", "seed": 3, "output_format": "png_base64", **values}
        status, answer = serving.generate_json(server, body)
        assert status == 200, answer
        return answer["encoded_images"]

    long_names = {"num_inference_steps": 2, "guidance_scale": 2.0, "num_images_per_prompt": 2}
    assert image(steps=2, guidance=2.0, images=2) == image(**long_names)
    both = {"prompt": "a", "steps": 1, "num_inference_steps": 1}
    status, answer = serving.generate_json(server, both)
    assert status == 400
    assert "num_inference_steps and steps mean the same and are both given" in answer["error"]


def test_an_output_that_the_format_does_not_make_is_refused(client):
    for output, form, says in (
        ("encoded_images", "raw", "encoded_images is asked for, but output_format is raw"),
        ("images", "png", "images is asked for, but output_format is png"),
    ):
        for names in ([output], ["images", "encoded_images"]):
            outputs = [grpcclient.InferRequestedOutput(name) for name in names]
            with pytest.raises(InferenceServerException) as error:
                options = {"outputs": outputs}
                serving.generate(client, options=options, prompt="a", output_format=form)
            assert says in error.value.message()
            assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_errors_are_short_utf8(server, client):
    """gRPC drops an error that is no UTF-8 or longer than a header."""
    with pytest.raises(InferenceServerException) as error:
        serving.generate(client, prompt="a", output_format=b"\xff\xfe")
    says = "output_format is '\\xff\\xfe': must be raw, png"
    if "bls" in serving.IN_PYTHON:
        says = "output_format is not valid UTF-8: byte 0 is 0xff"
    assert says in error.value.message()
    with pytest.raises(InferenceServerException) as error:
        serving.generate(client, prompt="a", output_format="x" * 20000)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "x... (20000 bytes)': must be raw, png, jpeg, webp, png_base64" in error.value.message()
    assert len(error.value.message()) < 400
    for body in (b'{"prompt":"a","output_format":"\xff"}', b'{"prompt":"a","timeout":"\xff"}'):
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.http}/v2/models/bls/generate",
            body,
            {"Content-Type": "application/json"},
        )
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(request, timeout=60)
        assert failed.value.code == 400
        failed.value.read().decode()  # raises for what is no UTF-8


def test_the_log_names_requests_by_their_ids(server, client):
    for name, begin in (("", ""), ("my own", "request 'my own': "), ("y" * 50000, "request 'yy")):
        options = {"request_id": name}
        with pytest.raises(InferenceServerException):
            serving.generate(client, options=options, prompt=" ", prompt_2=f"{len(name)}")
        lines = [line for line in server.log().splitlines() if "prompt is blank" in line]
        assert f"bls: {begin}" in lines[-1] and "request ''" not in lines[-1]
        assert len(lines[-1]) < 400


def test_parameters_over_http(server):
    status, answer = serving.generate_json(server, {"prompt": "a", "height": 7})
    assert status == 400 and "height is 7" in answer["error"]
    status, answer = serving.generate_json(server, {"num_inference_steps": 1})
    assert status == 400
    body = {"prompt": "a", "num_inference_steps": 1, "guidance_scale": 2, "output_format": "png_base64"}
    assert serving.generate_json(server, body)[0] == 200


def dit_inputs(image=6, text=5, **changes):
    """Inputs of tiny-dev's dit_transformer, with some replaced."""
    arrays = {
        "hidden_states": np.zeros((1, image, 24), np.float32),
        "timestep": np.full((1, 1), 0.5, np.float32),
        "guidance": np.full((1, 1), 3.5, np.float32),
        "pooled_projections": np.zeros((1, 24), np.float32),
        "encoder_hidden_states": np.zeros((1, text, 40), np.float32),
        "img_ids": np.zeros((1, image, 3), np.float32),
        "txt_ids": np.zeros((1, text, 3), np.float32),
    }
    arrays.update(changes)
    return [
        tensor(grpcclient, name, a, "INT32" if a.dtype == np.int32 else "FP32")
        for name, a in arrays.items()
        if a is not None
    ]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"hidden_states": np.zeros((1, 6, 23), np.float32)}, "hidden_states"),
        ({"hidden_states": np.zeros((1, 0, 24), np.float32)}, "hidden_states has shape [1, 0, 24]"),
        ({"hidden_states": np.zeros((2, 6, 24), np.float32)}, ""),
        ({"hidden_states": np.zeros((1, 6, 24), np.int32)}, "hidden_states"),
        ({"hidden_states": np.zeros((144,), np.float32)}, ""),
        ({"img_ids": np.zeros((1, 5, 3), np.float32)}, "img_ids has 5 tokens: hidden_states has 6"),
        ({"txt_ids": np.zeros((1, 6, 3), np.float32)}, "txt_ids has 6 tokens"),
        ({"timestep": np.full((1, 1), 2.0, np.float32)}, "timestep is 2: must be from 0 to 1"),
        ({"timestep": np.full((1, 1), np.nan, np.float32)}, "timestep is nan"),
        ({"guidance": np.full((1, 1), np.nan, np.float32)}, "guidance is nan"),
        ({"guidance": None}, "guidance is missing: this model has guidance embeddings"),
        ({"pooled_projections": np.zeros((1, 25), np.float32)}, "pooled_projections"),
        ({"encoder_hidden_states": None}, "encoder_hidden_states"),
    ],
)
def test_hostile_transformer_inputs(client, changes, says):
    with pytest.raises(InferenceServerException) as error:
        client.infer("dit_transformer", dit_inputs(**changes))
    assert says in error.value.message()
    client.infer("dit_transformer", dit_inputs())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name, shape",
    [
        ("hidden_states", (1, 6, 24)),
        ("encoder_hidden_states", (1, 5, 40)),
        ("pooled_projections", (1, 24)),
        ("img_ids", (1, 6, 3)),
        ("txt_ids", (1, 5, 3)),
    ],
)
def test_transformer_inputs_that_are_not_finite(client, name, shape, value):
    array = np.zeros(shape, np.float32)
    array.flat[-1] = value
    with pytest.raises(InferenceServerException) as error:
        client.infer("dit_transformer", dit_inputs(**{name: array}))
    assert f"input {name} holds values that are not finite" in error.value.message()
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "shape", [(1, 6, 0, 2), (1, 5, 2, 2), (1, 6, 2), (9, 6, 2, 2), (1, 6, 4096, 2)]
)
def test_hostile_latents(client, shape):
    with pytest.raises(InferenceServerException):
        latents = tensor(grpcclient, "latents", np.zeros(shape, np.float32), "FP32")
        client.infer("vae_decoder", [latents])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite(client, value):
    latents = np.zeros((1, 6, 2, 2), np.float32)
    latents[0, 1, 0, 1] = value
    with pytest.raises(InferenceServerException) as error:
        client.infer("vae_decoder", [tensor(grpcclient, "latents", latents, "FP32")])
    assert "input latents holds values that are not finite" in error.value.message()


def test_results_that_are_not_finite(client):
    """Of finite inputs whose squares are too large."""
    latents = tensor(grpcclient, "latents", np.full((1, 6, 2, 2), 3e38, np.float32), "FP32")
    hidden = np.linspace(-3e38, 3e38, 144, dtype=np.float32).reshape(1, 6, 24)
    for stage, output, asked in (
        ("vae_decoder", "image", [latents]),
        ("dit_transformer", "noise_pred", dit_inputs(hidden_states=hidden)),
    ):
        with pytest.raises(InferenceServerException) as error:
            client.infer(stage, asked)
        says = f"output {output} of {stage} holds values that are not finite: the weights are "
        assert says in error.value.message()
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_unknown_and_missing_inputs(client):
    with pytest.raises(InferenceServerException):
        client.infer("bls", [tensor(grpcclient, "nonsense", np.zeros((1, 1), np.float32), "FP32")])
    prompt = serving.inputs(grpcclient, prompt="a")
    extra = tensor(grpcclient, "nonsense", np.zeros((1, 1), np.float32), "FP32")
    with pytest.raises(InferenceServerException):
        client.infer("bls", prompt + [extra])
    with pytest.raises(InferenceServerException):
        serving.generate(client, prompt=["a"] * 9)  # max_batch_size is 8


def test_t5_lengths_of_one_request_must_agree(client):
    def encode(lengths):
        return client.infer(
            "t5_encoder",
            [
                tensor(grpcclient, "prompt", np.array([[b"a"]] * len(lengths), object), "BYTES"),
                tensor(
                    grpcclient,
                    "max_sequence_length",
                    np.array([[n] for n in lengths], np.int32),
                    "INT32",
                ),
            ],
        ).as_numpy("prompt_embeds")

    assert encode([16, 16]).shape == (2, 16, 40)
    for lengths in ([16, 17], [0], [513], [-1]):
        with pytest.raises(InferenceServerException) as error:
            encode(lengths)
        assert "max_sequence_length" in error.value.message()
