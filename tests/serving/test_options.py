"""--backend-config=flux,...: what can be set, and what is refused before anything is served."""

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
