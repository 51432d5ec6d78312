"""--backend-config=flux,...: what can be set, and what is refused before anything is served; and the
options of convert about the queue."""

import time

import pytest
import server as serving
from tritonclient.utils import InferenceServerException


def start(repository, tmp_path, *settings, ready=True):
    options = [f"--backend-config=flux,{setting}" for setting in settings]
    return serving.Server(repository, tmp_path / "log.txt", *options, ready=ready)


def test_limits_are_heeded(repository, tmp_path):
    settings = ("max_side=48", "max_steps=3", "max_images=2", "threads=1", "computations=2")
    with start(repository, tmp_path, *settings) as own, own.grpc_client() as client:
        allowed = {"height": 48, "num_inference_steps": 3, "num_images_per_prompt": 2}
        images = serving.generate(client, prompt="a", seed=1, **allowed).as_numpy("images")
        assert images.shape == (1, 2, 48, 48, 3)
        defaults = serving.generate(client, prompt="a", seed=1).as_numpy("images")
        assert (defaults[0, 0] != images[0, 0, :32]).any()
        for name, value, says in [
            ("height", 64, "height is 64: must be a multiple of 16 from 16 to 48"),
            ("num_inference_steps", 4, "num_inference_steps is 4: must be from 1 to 3"),
            ("num_images_per_prompt", 3, "num_images_per_prompt is 3: must be from 1 to 2"),
        ]:
            with pytest.raises(InferenceServerException) as error:
                serving.generate(client, prompt="a", **{name: value})
            assert says in error.value.message()
        assert "2 at once on the CPU, each with 1 threads" in own.log()


def test_results_do_not_depend_on_them(repository, tmp_path, client):
    values = {"prompt": ["a", "b"], "seed": [1, 2], "num_inference_steps": 2}
    expected = serving.generate(client, **values).as_numpy("images")
    with start(repository, tmp_path, "threads=3", "computations=4") as own:
        with own.grpc_client() as other:
            assert (serving.generate(other, **values).as_numpy("images") == expected).all()


def test_a_setting_for_other_backends_is_no_error(repository, tmp_path):
    with start(repository, tmp_path, "shm-default-byte-size=1048576") as own:
        assert "flux,shm-default-byte-size: not a setting of this backend; it has" in own.log()


@pytest.mark.parametrize(
    "setting, says",
    [
        ("threads=0", "flux,threads=0: must be a whole number from 1 to 1024"),
        ("threads=4x", "flux,threads=4x: must be"),
        ("threads=99999999999999999999", "flux,threads=99999999999999999999: must be"),
        ("computations=-1", "flux,computations=-1: must be a whole number from 1 to 64"),
        ("policy=lifo", "flux,policy: policy 'lifo' is not known: use share, fifo or least-work"),
        ("max_slowdown=1", "flux,max_slowdown=1: must be a whole number from 2 to 1000"),
        ("weight_memory=0", "flux,weight_memory: '0' is no size"),
        ("weight_memory=much", "flux,weight_memory: 'much' is no size"),
        ("max_side=8193", "flux,max_side=8193: must be a whole number from 16 to 8192"),
        ("max_steps=1.5", "flux,max_steps=1.5: must be"),
        ("max_images=17", "flux,max_images=17: must be a whole number from 1 to 16"),
        ("max_side=32", "a request that leaves all to the defaults would be refused: width is 48"),
    ],
)
def test_bad_values_are_refused(repository, tmp_path, setting, says):
    with start(repository, tmp_path, setting, ready=False) as own:
        assert own.process.wait(30) != 0
        assert says in own.log()


def one_at_a_time(checkpoint, path, *options):
    """A repository whose pipeline has one instance, so that a second request waits."""
    repository = serving.convert(checkpoint, path, "--max-batch-size", "1", *options)
    config = repository / "bls/config.pbtxt"
    text = config.read_text()
    count = 4 if "bls" in serving.IN_PYTHON else 32
    assert f"count: {count} " in text
    config.write_text(text.replace(f"count: {count} ", "count: 1 "))
    return repository


def waiting(server):
    return server.metric("nv_inference_pending_request_count", "bls")


LONG = {"num_inference_steps": 1000, "height": 128, "width": 128, "seed": 1}
TINY = {"num_inference_steps": 1, "height": 16, "width": 16, "max_sequence_length": 8, "seed": 1}


def test_a_request_beyond_the_queue_is_refused_at_once(checkpoint, tmp_path):
    repository = one_at_a_time(checkpoint, tmp_path / "models", "--max-queue-size", "2")
    with start(repository, tmp_path) as own, own.grpc_client() as client:
        expected = serving.generate(client, prompt="a", **TINY).as_numpy("images")
        context, long = serving.start(client, prompt="a", **LONG)
        assert serving.wait_until(lambda: own.steps() > 1)
        answers = [serving.start(client, prompt="a", **TINY)[1] for _ in range(2)]
        assert serving.wait_until(lambda: waiting(own) == 2)
        began = time.monotonic()
        with pytest.raises(InferenceServerException) as error:
            serving.generate(client, prompt="a", **TINY)
        assert error.value.status() == "StatusCode.UNAVAILABLE"
        assert "Exceeds maximum queue size" in error.value.message()
        body = {"prompt": "a", "output_format": "png_base64"}
        status, answer = serving.generate_json(own, body)
        assert status == 503 and "Exceeds maximum queue size" in answer["error"]
        assert time.monotonic() - began < 1
        assert long.empty() and all(queue.empty() for queue in answers)
        context.cancel()
        assert "cancelled" in long.get(timeout=20)[1].message().lower()
        for queue in answers:
            result, failed = queue.get(timeout=20)
            assert failed is None
            assert serving.same(result.as_numpy("images"), expected)


def test_a_request_that_waits_too_long_is_refused(checkpoint, tmp_path):
    """Those that are computed go on, and a shorter timeout of a request wins."""
    options = ("--max-queue-size", "0", "--queue-timeout", "1500ms")
    repository = one_at_a_time(checkpoint, tmp_path / "models", *options)
    with start(repository, tmp_path) as own, own.grpc_client() as client:
        context, long = serving.start(client, prompt="a", **LONG)
        assert serving.wait_until(lambda: (own.steps() or 0) > 0)
        for given, shortest, longest in [({}, 1.5, 2.5), ({"timeout": 200_000}, 0.2, 1.2)]:
            began = time.monotonic()
            with pytest.raises(InferenceServerException) as error:
                serving.generate(client, options=given, prompt="a", **TINY)
            assert error.value.status() == "StatusCode.UNAVAILABLE"
            assert "Request timeout expired" in error.value.message()
            assert shortest <= time.monotonic() - began < longest
        assert long.empty()
        context.cancel()
        long.get(timeout=20)
        assert serving.generate(client, prompt="a", **TINY).as_numpy("images").shape[2:] == (16, 16, 3)
