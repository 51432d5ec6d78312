"""--policy: who takes the next step, which changes no image."""

import queue
import time

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.skipif("bls" in serving.IN_PYTHON, reason="bls in Python shares all steps")
LONG = {"prompt": "long", "seed": 1, "num_inference_steps": 1000, "height": 64, "width": 64}
LEAST_WORK = "--backend-config=flux,policy=least-work"
SHORT = {"prompt": "short", "seed": 2, "num_inference_steps": 2}


def answer(answers, seconds=120):
    result, error = answers.get(timeout=seconds)
    assert error is None, error
    return result.as_numpy("images")


@pytest.mark.parametrize("policy", ["share", "fifo", "least-work"])
def test_images_are_the_same(repository, tmp_path, client, policy):
    requests = [dict(SHORT, seed=seed, num_inference_steps=1 + seed) for seed in range(6)]
    expected = [serving.generate(client, **request).as_numpy("images") for request in requests]
    with serving.Server(repository, tmp_path / "log.txt", f"--backend-config=flux,policy={policy}") as own:
        started = [serving.start(own.grpc_client(), **request) for request in requests]
        for (_, answers), images in zip(started, expected):
            assert (answer(answers) == images).all()


def test_a_short_request_goes_between_the_steps_of_a_long_one(repository, tmp_path):
    with serving.Server(repository, tmp_path / "log.txt", LEAST_WORK) as own:
        _, slow = serving.start(own.grpc_client(), **LONG)
        time.sleep(0.2)
        _, quick = serving.start(own.grpc_client(), **SHORT)
        assert answer(quick).shape[0] == 1
        with pytest.raises(queue.Empty):
            slow.get_nowait()
        assert np.asarray(answer(slow)).shape[2:4] == (64, 64)


def test_a_timeout_that_cannot_be_met_is_refused_at_once(repository, tmp_path):
    with serving.Server(repository, tmp_path / "log.txt", "--backend-config=flux,policy=fifo") as own:
        client = own.grpc_client()
        start = time.monotonic()
        inputs = serving.inputs(grpcclient, **dict(LONG, num_inference_steps=500))
        client.infer("bls", inputs)
        alone = time.monotonic() - start
        start = time.monotonic()
        with pytest.raises(InferenceServerException) as error:
            client.infer("bls", inputs, timeout=int(0.5e6 * alone))
        assert "the request's timeout cannot be met: its steps take" in error.value.message()
        assert time.monotonic() - start < 0.4 * alone


@pytest.mark.skipif(serving.DEVICE != "cpu", reason="a GPU gains from taking small steps together")
def test_a_higher_class_goes_first(repository, tmp_path):
    """Whatever work it has, and whoever came first."""
    middle = dict(LONG, num_inference_steps=300)
    with serving.Server(repository, tmp_path / "log.txt", LEAST_WORK) as own:
        _, late = serving.start(own.grpc_client(), options={"priority": 10}, **SHORT | middle)
        time.sleep(0.2)
        _, urgent = serving.start(own.grpc_client(), options={"priority": 1}, **LONG)
        time.sleep(0.2)
        _, normal = serving.start(own.grpc_client(), **SHORT)
        assert answer(urgent).shape[0] == 1
        for waits in (late, normal):
            with pytest.raises(queue.Empty):
                waits.get_nowait()
        answer(normal)
        with pytest.raises(queue.Empty):
            late.get_nowait()
        answer(late)


def test_priority_as_a_parameter_of_generate(server):
    body = {"prompt": "a", "seed": 1, "num_inference_steps": 1, "output_format": "png_base64"}
    for given, ok in [(1, True), (10, True), (0, False), (11, False), ("high", False), (1.5, False)]:
        status, reply = serving.generate_json(server, body | {"priority": given})
        assert (status == 200) == ok, reply
        if not ok:
            assert "must be a whole number from 1, which goes first, to 10" in reply["error"]


def test_gauges_of_the_steps(repository, tmp_path):
    with serving.Server(repository, tmp_path / "log.txt", LEAST_WORK) as own:
        _, slow = serving.start(own.grpc_client(), **LONG)
        _, other = serving.start(own.grpc_client(), **dict(LONG, seed=3))
        assert serving.wait_until(lambda: own.metric("flux_steps_waiting_requests", "bls") == 1)
        # Once the first step has shown what steps cost.
        assert serving.wait_until(lambda: own.metric("flux_steps_ahead_seconds", "bls") > 0)
        answer(slow)
        answer(other)
        assert serving.wait_until(lambda: own.metric("flux_steps_ahead_seconds", "bls") == 0)
        assert own.metric("flux_steps_waiting_requests", "bls") == 0
        assert 0 <= own.metric("flux_step_estimate_error", "bls") < 1
