"""Cancellation, timeouts, unloading, failed loads, load and shutdown."""

import queue
import shutil
import threading
import time

import pytest
import server as serving
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

MANY_STEPS = {"prompt": "a boat", "num_inference_steps": 1000, "height": 128, "width": 128}


def wait_until(condition, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def start(client, **values):
    """Sends a request and returns its context and a queue for the answer."""
    answers = queue.Queue()
    context = client.async_infer(
        "bls",
        serving.inputs(grpcclient, **values),
        callback=lambda result, error: answers.put((result, error)),
    )
    return context, answers


def steps(server):
    return server.metric("flux_steps_total", "bls")


def test_cancelled_work_stops(server, client):
    before = steps(server)
    cancelled = server.metric("flux_steps_cancelled_total", "bls")
    context, answers = start(client, **MANY_STEPS)
    assert wait_until(lambda: steps(server) > before + 2)
    context.cancel()
    _, error = answers.get(timeout=20)
    assert error is not None and "CANCEL" in str(error).upper()
    assert wait_until(lambda: server.metric("flux_steps_cancelled_total", "bls") > cancelled)
    stopped = steps(server)
    time.sleep(0.5)
    assert steps(server) == stopped  # nothing goes on
    assert stopped < before + 900


def test_a_closed_connection_stops_work(server):
    # gRPC only: server 2.51 does not look at an HTTP connection while its request is computed.
    before = steps(server)
    cancelled = server.metric("flux_steps_cancelled_total", "bls")
    own = server.grpc_client()
    start(own, **MANY_STEPS)
    assert wait_until(lambda: steps(server) > before + 2)
    own.close()
    assert wait_until(lambda: server.metric("flux_steps_cancelled_total", "bls") > cancelled)


def test_timeout_stops_work(server, client):
    cancelled = server.metric("flux_steps_cancelled_total", "bls")
    with pytest.raises(InferenceServerException) as error:
        serving.draw(client, options={"timeout": 500_000}, **MANY_STEPS)
    assert "timeout" in error.value.message()
    assert error.value.status() == "StatusCode.UNAVAILABLE"
    assert wait_until(lambda: server.metric("flux_steps_cancelled_total", "bls") > cancelled)


def test_neighbours_of_a_cancelled_request_get_their_picture(server, client):
    values = {"prompt": "a cat", "seed": 3, "num_inference_steps": 6}
    expected = serving.draw(client, **values).as_numpy("images")
    before = steps(server)
    context, _ = start(client, **MANY_STEPS)
    assert wait_until(lambda: steps(server) > before)
    _, answers = start(client, **values)
    context.cancel()
    result, error = answers.get(timeout=60)
    assert error is None and (result.as_numpy("images") == expected).all()


def test_clients_at_once_with_mixed_sizes(server, client):
    """Every picture equals the one drawn alone, whatever runs beside it."""
    kinds = [
        {"prompt": f"picture {i}", "seed": i, "num_inference_steps": 1 + i % 4,
         "height": 16 * (1 + i % 3), "width": 16 * (1 + i % 5),
         "max_sequence_length": (16, 64, 77)[i % 3]}
        for i in range(12)
    ]  # fmt: skip
    alone = [serving.draw(client, **kind).as_numpy("images") for kind in kinds]
    failures = []

    def work(offset):
        with server.grpc_client() as own:
            for i in range(24):
                kind = (i * 5 + offset) % len(kinds)
                found = serving.draw(own, **kinds[kind]).as_numpy("images")
                if not (found == alone[kind]).all():
                    failures.append(kind)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    assert not failures


def test_memory_and_threads_stay_flat(server, client):
    """Also with errors and cancellations among the requests."""
    tiny = {"num_inference_steps": 1, "height": 16, "width": 16, "max_sequence_length": 8}

    def round_of_requests(count):
        for i in range(count):
            if i % 4 == 1:
                with pytest.raises(InferenceServerException):
                    serving.draw(client, prompt="a", height=7)
            elif i % 8 == 2:
                context, answers = start(client, **MANY_STEPS)
                time.sleep(0.02)
                context.cancel()
                answers.get(timeout=20)
            else:
                serving.draw(client, prompt="a", **tiny)

    round_of_requests(200)
    memory, threads = server.resident_bytes(), server.threads()
    round_of_requests(400)
    assert server.resident_bytes() < memory + (24 << 20)
    assert server.threads() <= threads + 2


@pytest.fixture()
def own_server(repository, tmp_path):
    """A server for a test that changes it: explicit model control, a copy of the repository."""
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    with serving.Server(
        copy, tmp_path / "log.txt", "--model-control-mode=explicit", "--load-model=*"
    ) as running:
        running.repository = copy
        yield running


@pytest.mark.parametrize("stage", ["clip_encoder", "dit_transformer", "vae_decoder"])
def test_a_stage_that_is_not_loaded(own_server, stage):
    with own_server.grpc_client() as client:
        expected = serving.draw(client, prompt="a", seed=1, num_inference_steps=1)
        client.unload_model(stage)
        assert wait_until(lambda: not client.is_model_ready(stage))
        with pytest.raises(InferenceServerException) as error:
            serving.draw(client, prompt="a", seed=1, num_inference_steps=1)
        assert stage in error.value.message()
        assert error.value.status() == "StatusCode.UNAVAILABLE"
        client.load_model(stage)
        again = serving.draw(client, prompt="a", seed=1, num_inference_steps=1)
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
        assert "diffusion_pytorch_model.safetensors" in reason and "do not fit" in reason
        weights.write_bytes(whole)
        client.load_model("vae_decoder")
        serving.draw(client, prompt="a", num_inference_steps=1)


def test_unloading_under_load(own_server):
    """Requests in flight end with a picture or with UNAVAILABLE; later ones work again."""
    outcomes = queue.Queue()
    stop = threading.Event()

    def work():
        with own_server.grpc_client() as client:
            while not stop.is_set():
                try:
                    serving.draw(client, prompt="a", num_inference_steps=3, seed=1)
                    outcomes.put("picture")
                except InferenceServerException as error:
                    outcomes.put(error.status())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    with own_server.grpc_client() as client:
        for _ in range(5):
            client.unload_model("dit_transformer")
            time.sleep(0.2)
            client.load_model("dit_transformer")
            time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join(60)
        found = set()
        while not outcomes.empty():
            found.add(outcomes.get())
        assert "picture" in found
        assert found <= {"picture", "StatusCode.UNAVAILABLE"}
        serving.draw(client, prompt="a", num_inference_steps=1)


def test_stopping_with_work_in_flight(repository, tmp_path):
    with serving.Server(repository, tmp_path / "log.txt", "--exit-timeout-secs=20") as own:
        client = own.grpc_client()
        _, answers = start(client, **MANY_STEPS)
        assert wait_until(lambda: steps(own) > 2)
        own.stop(40)
        _, error = answers.get(timeout=20)
        assert error is not None
    assert own.process.returncode is not None


