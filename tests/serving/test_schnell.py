"""The other kind of model: no guidance embeddings, in bfloat16."""

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def schnell(tmp_path_factory):
    directory = tmp_path_factory.mktemp("schnell")
    source = serving.CHECKPOINTS / "tiny-schnell"
    repository = serving.convert(
        source, directory / "models", "--dtype", "bf16", "--default-size", "48x32"
    )
    with serving.Server(repository, directory / "log.txt") as running:
        running.source = source
        with running.grpc_client() as client:
            yield running, client


def test_defaults_equal_generate(schnell, tmp_path):
    server, client = schnell
    found = serving.generate(client, prompt="a castle", seed=5).as_numpy("images")
    serving.program(
        "generate", server.source, "--prompt", "a castle", "--seed", 5, "--dtype", "bf16",
        "--height", 48, "--width", 32, "--output", tmp_path / "image.png",
    )  # fmt: skip
    with Image.open(tmp_path / "image.png") as image:
        assert serving.same(found[0, 0], np.array(image), bf16=True)
    assert server.metric("flux_steps_total", "bls") == 4


def test_true_cfg_rows_in_company(schnell):
    _, client = schnell
    values = {"prompt": ["a", "b"], "seed": [1, 2], "true_cfg_scale": [1.0, 3.0]}
    together = serving.generate(client, negative_prompt="dark", **values).as_numpy("images")
    for row in range(2):
        alone = {name: column[row] for name, column in values.items()}
        found = serving.generate(client, negative_prompt="dark", **alone).as_numpy("images")
        assert (found[0] == together[row]).all()


def test_types_and_lengths(schnell):
    _, client = schnell
    for model, output in [("clip_encoder", "pooled_prompt_embeds"), ("t5_encoder", "prompt_embeds")]:
        metadata = client.get_model_metadata(model)
        assert {o.name: o.datatype for o in metadata.outputs} == {output: "BF16"}
    prompt = serving.tensor(grpcclient, "prompt", np.array([[b"a"]], object), "BYTES")
    embeds = client.infer("t5_encoder", [prompt]).as_numpy("prompt_embeds")
    assert embeds.shape[:2] == (1, 256)


def test_guidance_is_refused(schnell):
    _, client = schnell
    sizes = {i.name: list(i.shape) for i in client.get_model_metadata("dit_transformer").inputs}
    made = []
    for name, shape in sizes.items():
        shape = [1] + [size if size > 0 else 6 for size in shape[1:]]
        kind = "FP32" if name in ("timestep", "guidance", "img_ids", "txt_ids") else "BF16"
        made.append(serving.tensor(grpcclient, name, np.zeros(shape, np.float32), kind))
    with pytest.raises(InferenceServerException) as error:
        client.infer("dit_transformer", made)
    assert "guidance is given: this model has no guidance embeddings" in error.value.message()
    client.infer("dit_transformer", [m for m in made if m.name() != "guidance"])
