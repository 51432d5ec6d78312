"""Two checkpoints in one server with room for the weights of one: those that nobody asks for leave,
and come back."""

import queue

import pytest
import server as serving
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

pytestmark = [
    pytest.mark.skipif(bool(serving.IN_PYTHON), reason="Python models keep their weights"),
    pytest.mark.skipif(serving.DEVICE != "cpu", reason="the budget is of weights on the CPU"),
]
NAMES = ("dev", "schnell")
STAGES = ("clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder")
REQUEST = {"prompt": "a castle", "num_inference_steps": 3, "height": 48, "width": 32}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A repository of two checkpoints, in float32 and bfloat16."""
    repository = tmp_path_factory.mktemp("both") / "models"
    for name, dtype in zip(NAMES, ("f32", "bf16")):
        source = serving.CHECKPOINTS / f"tiny-{name}"
        serving.convert(source, repository, "--name", name, "--dtype", dtype)
    return repository


def image_of(client, name, seed):
    inputs = serving.inputs(grpcclient, seed=seed, **REQUEST)
    return client.infer(f"{name}_bls", inputs).as_numpy("images")


def weight_bytes(server):
    return {
        f"{name}_{stage}": int(server.metric("flux_weight_bytes", f"{name}_{stage}"))
        for name in NAMES
        for stage in STAGES
    }


def loads(server):
    return sum(
        server.metric("flux_weight_loads_total", f"{name}_{stage}")
        for name in NAMES
        for stage in STAGES
    )


@pytest.fixture(scope="module")
def roomy(both, tmp_path_factory):
    """What the weights take where all are there, and the images."""
    with serving.Server(both, tmp_path_factory.mktemp("roomy") / "log.txt") as running:
        with running.grpc_client() as client:
            images = {(n, seed): image_of(client, n, seed) for n in NAMES for seed in range(3)}
        assert loads(running) == len(NAMES) * len(STAGES)
        return weight_bytes(running), images


def budget_for_one(sizes):
    """Room for the larger of the checkpoints, and for no transformer beside it."""
    return max(sum(v for k, v in sizes.items() if k.startswith(name)) for name in NAMES)


def test_weights_take_turns(both, roomy, tmp_path):
    sizes, images = roomy
    budget = budget_for_one(sizes)
    assert all(size > 0 for size in sizes.values()) and sum(sizes.values()) > budget
    log = tmp_path / "log.txt"
    with serving.Server(both, log, f"--backend-config=flux,weight_memory={budget}") as server:
        with server.grpc_client() as client:
            for seed in range(3):
                for name in NAMES:
                    assert (image_of(client, name, seed) == images[name, seed]).all()
                    held = weight_bytes(server)
                    assert sum(held.values()) <= budget
                    assert held[f"{name}_vae_decoder"] == sizes[f"{name}_vae_decoder"]
        assert loads(server) > len(NAMES) * len(STAGES)
        left = "dit_transformer: its weights leave for those of schnell_dit_transformer"
        assert left in server.log()


def test_requests_of_both_at_once(both, roomy, tmp_path):
    sizes, images = roomy
    option = f"--backend-config=flux,weight_memory={budget_for_one(sizes)}"
    with serving.Server(both, tmp_path / "log.txt", option) as server:
        with server.grpc_client() as client:
            before = loads(server)
            answers = queue.Queue()
            for seed in range(3):
                for name in NAMES:
                    client.async_infer(
                        f"{name}_bls",
                        serving.inputs(grpcclient, seed=seed, **REQUEST),
                        callback=lambda result, error, key=(name, seed): answers.put(
                            (key, result, error)
                        ),
                    )
            for _ in range(3 * len(NAMES)):
                key, result, error = answers.get(timeout=60)
                assert error is None, (key, error)
                assert (result.as_numpy("images") == images[key]).all()
            # Eighteen steps and six images: a model goes on while its weights are there.
            assert loads(server) - before <= 18


def test_weights_come_back_from_the_same_file(both, roomy, tmp_path):
    sizes, images = roomy
    option = f"--backend-config=flux,weight_memory={budget_for_one(sizes)}"
    weights = next((both / "dev_dit_transformer").rglob("*.safetensors"))
    kept = weights.read_bytes()
    try:
        with serving.Server(both, tmp_path / "log.txt", option) as server:
            with server.grpc_client() as client:
                assert (image_of(client, "schnell", 0) == images["schnell", 0]).all()
                assert weight_bytes(server)["dev_dit_transformer"] == 0
                weights.write_bytes(kept[:-8] + bytes(8))  # in place, of the same size
                with pytest.raises(InferenceServerException) as error:
                    image_of(client, "dev", 0)
                assert "changed" in error.value.message() and weights.name in error.value.message()
                assert (image_of(client, "schnell", 1) == images["schnell", 1]).all()
    finally:
        weights.write_bytes(kept)


def test_a_budget_below_one_models_weights(both, tmp_path):
    option = "--backend-config=flux,weight_memory=1KiB"
    server = serving.Server(both, tmp_path / "log.txt", option, ready=False)
    server.process.wait(30)
    assert server.process.returncode != 0
    assert "may be on the device; allow it more" in server.log()
