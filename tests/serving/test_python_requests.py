"""Tests how the Python bls reads requests, on the server's Python backend without torch: the rules
and words of the native one. `make test-python` tests the rest of the Python models."""

import json
import shutil
import sys
import sysconfig

import numpy as np
import pytest
import server as serving
import test_errors
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A server whose bls answers what it read."""
    directory = tmp_path_factory.mktemp("reader")
    repository = directory / "models"
    options = ("--stage", "bls=python", "--default-size", "32x48")
    serving.convert(serving.CHECKPOINTS / "tiny-dev", repository, *options)
    shutil.copy(serving.ROOT / "tests/serving/request_reader.py", repository / "bls/1/model.py")
    # It needs numpy alone, and serve asks this Python for no more.
    python = sys.executable
    with serving.Server(repository, directory / "log.txt", python=python) as running:
        with running.grpc_client() as client:
            running.client = client
            yield running
            assert client.is_server_ready()


def read(server, parameters=None, **values):
    """The values that were read from each row."""
    options = {"parameters": parameters} if parameters else {}
    result = serving.generate(server.client, options=options, **values)
    return [json.loads(text) for text in result.as_numpy("encoded_images")[:, 0]]


def cases_of(test):
    (mark,) = test.pytestmark
    return pytest.mark.parametrize(*mark.args)


@cases_of(test_errors.test_values_out_of_range)
def test_values_out_of_range(reader, values, says):
    with pytest.raises(InferenceServerException) as error:
        read(reader, **values)
    assert says in error.value.message()
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


@cases_of(test_errors.test_parameters_of_the_wrong_kind)
def test_parameters_of_the_wrong_kind(reader, parameters, says):
    with pytest.raises(InferenceServerException) as error:
        read(reader, parameters, prompt="a")
    assert says in error.value.message()


def test_defaults(reader):
    (row,) = read(reader, prompt="a")
    seed = row.pop("seed")
    assert 0 <= seed < 2**32 and read(reader, prompt="a")[0]["seed"] != seed
    assert row == {
        "prompt": "a", "prompt_2": "a", "negative_prompt": None, "true_cfg_scale": 1.0,
        "num_inference_steps": 28, "guidance_scale": 3.5, "height": 32, "width": 48,
        "num_images_per_prompt": 1, "max_sequence_length": 512, "format": "raw", "steps": 28,
        "microseconds": 0, "quality": 95,
    }  # fmt: skip


def test_rows_and_texts(reader):
    rows = read(
        reader, prompt=["a 🐱", "b"], prompt_2="c", negative_prompt=["", "n"],
        true_cfg_scale=[1.0, 2.5], num_inference_steps=[3, 1000], seed=[0, 2**63 - 1],
        height=[16, 2048], output_format="png",
    )  # fmt: skip
    assert [row["prompt"] for row in rows] == ["a 🐱", "b"]
    assert [row["prompt_2"] for row in rows] == ["c", "c"]
    assert [row["negative_prompt"] for row in rows] == [None, "n"]  # only for true CFG
    assert [row["seed"] for row in rows] == [0, 2**63 - 1]
    assert [row["height"] for row in rows] == [16, 2048]
    assert rows[0]["steps"] == 1000 and rows[0]["format"] == "png"


@pytest.mark.parametrize("value", [7, "7", 7.0])
def test_parameters_stand_in_for_inputs(reader, value):
    if isinstance(value, float):  # which gRPC cannot send
        prompt = {"name": "prompt", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
        body = {"inputs": [prompt], "parameters": {"num_inference_steps": value}}
        status, answer = serving.post(reader, "/v2/models/bls/infer", body)
        assert status == 200, answer
        assert json.loads(answer["outputs"][0]["data"][0])["steps"] == 7
        return
    (row,) = read(reader, {"num_inference_steps": value, "guidance_scale": "2.5"}, prompt="a")
    assert row["num_inference_steps"] == 7 and row["guidance_scale"] == 2.5
    (row,) = read(reader, {"seed": 99, "prompt_2": "p"}, prompt="a", seed=3)
    assert row["seed"] == 3 and row["prompt_2"] == "p"  # an input wins


def test_adapters_are_refused(reader):
    says = "lora is \"style:0.5\": bls in Python takes no adapters; convert again with --stage bls=native"
    for given in ({"lora": "style:0.5"}, {"parameters": {"lora": "style:0.5"}}):
        with pytest.raises(InferenceServerException) as error:
            read(reader, prompt="a", **given)
        assert says in error.value.message()
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert len(read(reader, prompt="a", lora=" ")) == 1  # none


def test_timeouts(reader):
    result = serving.generate(reader.client, options={"timeout": 10**7}, prompt="a")
    row = json.loads(result.as_numpy("encoded_images")[0, 0])
    assert 0 < row["microseconds"] <= 10**7
    for value in (0, -5, "soon", 1.5, 10**18):
        status, answer = serving.generate_json(reader, {"prompt": "a", "timeout": value})
        assert status == 400 and "parameter timeout is" in answer["error"]


def test_a_missing_package_ends_serve_with_one_line(tmp_path):
    """The real model.py, in a Python without torch, of which serve is told that it has all."""
    repository = tmp_path / "models"
    serving.convert(serving.CHECKPOINTS / "tiny-dev", repository, "--backend", "python")
    site = sysconfig.get_paths()["purelib"]
    said = ["{}.{}".format(*sys.version_info), "", "", sys.base_prefix, np.__version__, site]
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in said))
    python.chmod(0o755)
    with serving.Server(repository, tmp_path / "log.txt", ready=False, python=python) as own:
        assert own.process.wait(60) == 1
        last = own.log().splitlines()[-1]
    assert "failed to load '" in last and last.startswith("flux-triton: error: ")
    assert "has no torch, " in last and last.endswith("start the server with another Python")


def test_serve_names_what_a_python_lacks(tmp_path):
    repository = tmp_path / "models"
    serving.convert(serving.CHECKPOINTS / "tiny-dev", repository, "--stage", "bls=python")
    with serving.Server(repository, tmp_path / "log.txt", ready=False, python=sys.executable) as own:
        assert own.process.wait(60) == 1
        assert "has no torch, diffusers; install what is in" in own.log()


@cases_of(test_errors.test_an_unknown_parameter_is_refused)
def test_an_unknown_parameter_is_refused(reader, name, meant):
    test_errors.test_an_unknown_parameter_is_refused(reader, name, meant)


def test_the_words_of_the_command_line_are_taken(reader):
    words = {"steps": 2, "guidance": 2.0, "images": 3}
    (row,) = read(reader, words, prompt="a")
    assert (row["num_inference_steps"], row["guidance_scale"]) == (2, 2.0)
    assert row["num_images_per_prompt"] == 3
    with pytest.raises(InferenceServerException, match="mean the same and are both given"):
        read(reader, {"steps": 1, "num_inference_steps": 1}, prompt="a")


def test_an_output_that_the_format_does_not_make_is_refused(reader):
    test_errors.test_an_output_that_the_format_does_not_make_is_refused(reader.client)
