"""Many clients, many requests, models that come and go: right images, nothing that grows."""

import collections
import random
import threading
import time

import pytest
import server as serving
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from server import start, wait_until
from tritonclient.utils import InferenceServerException

STAGES = [model for model in serving.MODELS if model != "bls"]
KINDS = [
    {"prompt": f"image {i}", "seed": i, "num_inference_steps": 1 + i % 4,
     "height": 16 * (1 + i % 3), "width": 16 * (1 + i % 5),
     "max_sequence_length": (16, 64, 77)[i % 3]}
    for i in range(12)
]  # fmt: skip
MANY_STEPS = {"prompt": "a boat", "num_inference_steps": 1000, "height": 128, "width": 128}
TINY = {"num_inference_steps": 1, "height": 16, "width": 16, "max_sequence_length": 8}
MINUTE = 60


def test_sixteen_clients_for_a_minute(server, client):
    """Every image equals the one generated alone, whatever runs beside it."""
    alone = [serving.generate(client, **kind).as_numpy("images") for kind in KINDS]
    end = time.monotonic() + MINUTE
    answered = collections.Counter()

    def work(number):
        module = httpclient if number % 4 == 0 else grpcclient
        at = number
        with server.http_client() if module is httpclient else server.grpc_client() as own:
            while time.monotonic() < end:
                at = (at + 5) % len(KINDS)
                found = serving.generate(own, module, **KINDS[at]).as_numpy("images")
                assert (found == alone[at]).all(), KINDS[at]
                answered[number] += 1

    serving.run_threads(*[lambda number=number: work(number) for number in range(16)])
    assert len(answered) == 16 and min(answered.values()) >= 5, answered  # nobody starves


def test_nothing_grows(server, client):
    """2,000 requests, with errors and cancellations among them."""

    def round_of_requests(count):
        for i in range(count):
            if i % 4 == 1:
                with pytest.raises(InferenceServerException):
                    serving.generate(client, prompt="a", height=7)
            elif i % 8 == 2:
                context, answers = start(client, **MANY_STEPS)
                time.sleep(0.005)
                context.cancel()
                answers.get(timeout=20)
            elif i % 16 == 6:
                with pytest.raises(InferenceServerException):
                    serving.generate(client, options={"timeout": 10_000}, **MANY_STEPS)
            else:
                serving.generate(client, prompt="a", **TINY)

    round_of_requests(300)
    memory, threads, files = server.resident_bytes(), server.threads(), server.open_files()
    round_of_requests(2000)
    assert server.resident_bytes() < memory + (24 << 20)
    assert server.threads() <= threads + 2
    assert server.open_files() <= files + 2


def generate_until(server, stopped, outcomes, expected):
    """Asks until `stopped`; counts images and errors. An image must be the right one."""
    with server.grpc_client() as client:
        while not stopped.is_set():
            try:
                found = serving.generate(client, prompt="a", num_inference_steps=3, seed=1, **SMALL)
                assert (found.as_numpy("images") == expected).all()
                outcomes["image"] += 1
            except InferenceServerException as error:
                outcomes[error.status(), error.message()] += 1


SMALL = {"height": 32, "width": 32, "max_sequence_length": 16}


def reload_for(client, model, seconds, seed):
    """Unloads, loads and loads again, with pauses that differ."""
    pauses = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if pauses.random() < 0.7:
            client.unload_model(model)
            time.sleep(pauses.random() * 0.1)
        client.load_model(model)
        time.sleep(pauses.random() * 0.2)


def test_a_storm_of_reloads(own_server):
    """Requests in flight end with the right image or with UNAVAILABLE naming the stage."""
    outcomes, stopped = collections.Counter(), threading.Event()
    with own_server.grpc_client() as client:
        values = {"prompt": "a", "num_inference_steps": 3, "seed": 1, **SMALL}
        expected = serving.generate(client, **values).as_numpy("images")

    def storm():
        try:
            works = []
            for seed, stage in enumerate(STAGES):
                connected = own_server.grpc_client()
                works.append(lambda c=connected, s=stage, n=seed: reload_for(c, s, 10, n))
            serving.run_threads(*works)
            time.sleep(0.5)  # images again, now that all is quiet
        finally:
            stopped.set()

    askers = [lambda: generate_until(own_server, stopped, outcomes, expected) for _ in range(4)]
    serving.run_threads(storm, *askers)
    assert outcomes.pop("image") > 0
    for status, message in outcomes:
        assert status == "StatusCode.UNAVAILABLE", (status, message)
        assert any(stage in message for stage in STAGES), message
    memory = own_server.resident_bytes()
    with own_server.grpc_client() as client:
        for _ in range(30):
            client.unload_model("dit_transformer")
            client.load_model("dit_transformer")
        found = serving.generate(client, **values).as_numpy("images")
        assert (found == expected).all()
    assert own_server.resident_bytes() < memory + (32 << 20)


def test_bls_itself_comes_and_goes(own_server):
    """Triton answers for a model that is not there; work that has begun is finished."""
    outcomes, stopped = collections.Counter(), threading.Event()
    with own_server.grpc_client() as client:
        values = {"prompt": "a", "num_inference_steps": 3, "seed": 1, **SMALL}
        expected = serving.generate(client, **values).as_numpy("images")

    def storm():
        with own_server.grpc_client() as client:
            reload_for(client, "bls", 4, 1)
        stopped.set()

    askers = [lambda: generate_until(own_server, stopped, outcomes, expected) for _ in range(4)]
    serving.run_threads(storm, *askers)
    assert outcomes.pop("image") > 0
    for status, message in outcomes:
        assert status in ("StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND"), (status, message)
        assert "bls" in message


def test_requests_while_the_models_load(repository, tmp_path):
    """bls first, then one stage after another: refused with the stage's name until all are there."""
    options = ("--model-control-mode=explicit", "--load-model=bls")
    with serving.Server(repository, tmp_path / "log.txt", *options) as own:
        outcomes, stopped = collections.Counter(), threading.Event()
        missing = []

        def ask():
            with own.grpc_client() as client:
                while not stopped.is_set():
                    try:
                        serving.generate(client, prompt="a", **TINY)
                        outcomes["image"] += 1
                    except InferenceServerException as error:
                        assert error.status() == "StatusCode.UNAVAILABLE", error
                        missing.append(error.message())

        def load():
            try:
                with own.grpc_client() as client:
                    for stage in STAGES:
                        named = len(missing)
                        assert wait_until(lambda count=named: len(missing) > count + 3)
                        assert outcomes["image"] == 0
                        client.load_model(stage)
                assert wait_until(lambda: outcomes["image"] > 20)
            finally:
                stopped.set()

        serving.run_threads(load, ask, ask, ask)
        for stage in STAGES:
            assert any(f"'{stage}'" in message for message in missing), stage
