"""Cancellation, timeouts, missing stages, failed loads and shutdown."""

import os
import queue
import re
import shutil
import threading
import time

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from server import start, wait_until
from tritonclient.utils import InferenceServerException

MANY_STEPS = {"prompt": "a boat", "num_inference_steps": 1000, "height": 128, "width": 128}


def test_cancelled_work_stops(server, client):
    before = server.steps()
    cancelled = server.metric("flux_steps_cancelled_total", "bls")
    context, answers = start(client, **MANY_STEPS)
    assert wait_until(lambda: server.steps() > before + 2)
    context.cancel()
    _, error = answers.get(timeout=20)
    assert error is not None and "CANCEL" in str(error).upper()
    assert wait_until(lambda: server.metric("flux_steps_cancelled_total", "bls") > cancelled)
    stopped = server.steps()
    time.sleep(0.5)
    assert server.steps() == stopped  # nothing goes on
    assert stopped < before + 900
    assert wait_until(lambda: re.search(r"cancelled after step \d+ of 1000", server.log()))


def test_a_closed_connection_stops_work(server):
    # gRPC only: server 2.51 does not look at an HTTP connection while its request is computed.
    before = server.steps()
    cancelled = server.metric("flux_steps_cancelled_total", "bls")
    own = server.grpc_client()
    start(own, **MANY_STEPS)
    assert wait_until(lambda: server.steps() > before + 2)
    own.close()
    assert wait_until(lambda: server.metric("flux_steps_cancelled_total", "bls") > cancelled)


LATENTS = np.zeros((4, 6, 32, 32), np.float32)
PROMPTS = np.array([[b"a boat"]] * 8, object)


@pytest.mark.parametrize(
    "stage, inputs",
    [
        ("clip_encoder", [("prompt", PROMPTS, "BYTES")]),
        ("t5_encoder", [("prompt", PROMPTS, "BYTES")]),
        (
            "dit_transformer",
            [
                ("hidden_states", np.zeros((4, 1024, 24), np.float32), "FP32"),
                ("timestep", np.full((4, 1), 0.5, np.float32), "FP32"),
                ("guidance", np.full((4, 1), 3.5, np.float32), "FP32"),
                ("pooled_projections", np.zeros((4, 24), np.float32), "FP32"),
                ("encoder_hidden_states", np.zeros((4, 64, 40), np.float32), "FP32"),
                ("img_ids", np.zeros((4, 1024, 3), np.float32), "FP32"),
                ("txt_ids", np.zeros((4, 64, 3), np.float32), "FP32"),
            ],
        ),
        ("vae_decoder", [("latents", LATENTS, "FP32")]),
    ],
)
def test_cancelled_stages_do_not_compute(server, client, stage, inputs):
    made = [serving.tensor(grpcclient, *each) for each in inputs]
    client.infer(stage, made)
    before = server.metric("flux_stage_rows_total", stage)
    answers = queue.Queue()
    count = 24
    contexts = [
        client.async_infer(stage, made, callback=lambda result, error: answers.put(error))
        for _ in range(count)
    ]
    for context in contexts:
        context.cancel()
    errors = [answers.get(timeout=60) for _ in range(count)]
    assert any(error is not None and "CANCEL" in str(error).upper() for error in errors)
    client.infer(stage, made)  # after all of them in the queue
    rows = inputs[0][1].shape[0]
    computed = server.metric("flux_stage_rows_total", stage) - before
    assert rows <= computed < count * rows  # this last one, and what was through before the call


def test_timeout_stops_work(repository, tmp_path):
    """Also where nobody knows what steps cost: with other policies such a request is refused."""
    with serving.Server(repository, tmp_path / "log.txt", "--backend-config=flux,policy=share") as own:
        with pytest.raises(InferenceServerException) as error:
            serving.generate(own.grpc_client(), options={"timeout": 500_000}, **MANY_STEPS)
        assert re.search("timeout passed: cancelled after step \\d+ of 1000", error.value.message())
        assert error.value.status() == "StatusCode.UNAVAILABLE"
        assert wait_until(lambda: (own.metric("flux_steps_cancelled_total", "bls") or 0) > 0)


def test_timeout_of_the_generate_endpoint(server):
    body = MANY_STEPS | {"output_format": "png_base64"}
    status, answer = serving.generate_json(server, body | {"timeout": 300_000})
    assert status == 400 and re.search("timeout (passed|cannot be met)", answer["error"])
    for value in (0, -5, "soon", 1.5, 10**18):
        status, answer = serving.generate_json(server, body | {"timeout": value})
        assert status == 400 and "parameter timeout is" in answer["error"]


def test_neighbours_of_a_cancelled_request_get_their_image(server, client):
    values = {"prompt": "a cat", "seed": 3, "num_inference_steps": 6}
    expected = serving.generate(client, **values).as_numpy("images")
    before = server.steps()
    context, _ = start(client, **MANY_STEPS)
    assert wait_until(lambda: server.steps() > before)
    _, answers = start(client, **values)
    context.cancel()
    result, error = answers.get(timeout=60)
    assert error is None and (result.as_numpy("images") == expected).all()


@pytest.mark.parametrize("stage", ["clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder"])
def test_a_stage_that_is_not_loaded(own_server, stage):
    with own_server.grpc_client() as client:
        expected = serving.generate(client, prompt="a", seed=1, num_inference_steps=1)
        client.unload_model(stage)
        assert wait_until(lambda: not client.is_model_ready(stage))
        with pytest.raises(InferenceServerException) as error:
            serving.generate(client, prompt="a", seed=1, num_inference_steps=1)
        assert stage in error.value.message()
        assert error.value.status() == "StatusCode.UNAVAILABLE"
        # Only /infer has the code: the server answers every failed /generate with 400.
        prompt = {"name": "prompt", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
        status, answer = serving.post(own_server, "/v2/models/bls/infer", {"inputs": [prompt]})
        assert status == 503 and stage in answer["error"]
        client.load_model(stage)
        again = serving.generate(client, prompt="a", seed=1, num_inference_steps=1)
        assert (again.as_numpy("images") == expected.as_numpy("images")).all()


def test_a_failed_load_says_why(own_server):
    weights = own_server.repository / "vae_decoder/1/vae/diffusion_pytorch_model.safetensors"
    with own_server.grpc_client() as client:
        client.unload_model("vae_decoder")
        assert wait_until(lambda: not client.is_model_ready("vae_decoder"))
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InferenceServerException):
            client.load_model("vae_decoder")
        index = client.get_model_repository_index(as_json=True)["models"]
        reason = next(m.get("reason", "") for m in index if m["name"] == "vae_decoder")
        python = "vae_decoder" in serving.IN_PYTHON  # the words are diffusers' then
        assert ("vae_decoder" if python else "diffusion_pytorch_model.safetensors") in reason
        assert ("Unable to load weights" if python else "do not fit") in reason
        weights.write_bytes(whole)
        client.load_model("vae_decoder")
        serving.generate(client, prompt="a", num_inference_steps=1)


def test_stopping_with_work_in_flight(repository, tmp_path):
    with serving.Server(repository, tmp_path / "log.txt", "--exit-timeout-secs=20") as own:
        client = own.grpc_client()
        _, answers = start(client, **MANY_STEPS)
        assert wait_until(lambda: own.steps() > 2)
        own.stop(40)
        _, error = answers.get(timeout=20)
        assert error is not None
    assert own.process.returncode is not None


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="torch maps the files of models in Python")
def test_a_loaded_model_does_not_depend_on_its_files(repository, tmp_path):
    """Whoever overwrites a file in place does not change, or crash, what is loaded."""
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    values = {"prompt": "a red circle", "seed": 7, "num_inference_steps": 1}
    with serving.Server(copy, tmp_path / "log.txt") as running, running.grpc_client() as own:
        before = serving.generate(own, **values).as_numpy("images")
        files = sorted(copy.rglob("*.safetensors"))
        assert len(files) >= 4
        for file in files:
            with open(file, "r+b") as opened:
                opened.write(bytes(file.stat().st_size))
        values["prompt"] = "a blue square"
        assert not np.array_equal(serving.generate(own, **values).as_numpy("images"), before)
        for file in files:
            os.truncate(file, 0)
        values["prompt"] = "a red circle"
        assert np.array_equal(serving.generate(own, **values).as_numpy("images"), before)
        assert running.process.poll() is None


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="torch maps the files of models in Python")
def test_files_that_are_rewritten_during_loads(own_server):
    """Loads may fail then; the server goes on, and loads again what is whole."""
    weights = own_server.repository.rglob("*.safetensors")
    whole = {file: file.read_bytes() for file in weights}
    stages = ["clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder"]
    done = threading.Event()

    def rewrite():
        while not done.is_set():
            for file in whole:
                file.write_bytes(b"")
            time.sleep(0.003)
            for file, content in whole.items():
                file.write_bytes(content)
            time.sleep(0.012)

    values = {"prompt": "a red circle", "seed": 7, "num_inference_steps": 1}
    with own_server.grpc_client() as own:
        before = serving.generate(own, **values).as_numpy("images")
        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            end = time.monotonic() + 10
            failures = []
            while time.monotonic() < end and own_server.process.poll() is None:
                for stage in stages:
                    own.unload_model(stage)
                    try:
                        own.load_model(stage)
                    except InferenceServerException as error:
                        failures.append(error.message())
        finally:
            done.set()
            writer.join()
        assert own_server.process.poll() is None
        assert failures
        for stage in stages:
            own.unload_model(stage)
            assert wait_until(lambda stage=stage: not own.is_model_ready(stage))
            own.load_model(stage)
        assert np.array_equal(serving.generate(own, **values).as_numpy("images"), before)
        assert "changed while it was loaded" in own_server.log()
