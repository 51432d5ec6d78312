"""A traced request shows its stages: each nested request is a trace below that of `bls`."""

import json

import pytest
import server as serving


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="the native bls")
def test_stages_are_below_their_request(repository, tmp_path):
    file = tmp_path / "trace.json"
    options = ("--trace-config=mode=triton", f"--trace-config=triton,file={file}",
               "--trace-config=level=TIMESTAMPS", "--trace-config=rate=1")  # fmt: skip
    with serving.Server(repository, tmp_path / "log.txt", *options) as own:
        with own.grpc_client() as client:
            serving.generate(client, prompt="a", num_inference_steps=3, height=32, width=32)
        own.stop()
    events = json.loads(file.read_text())
    models = {event["id"]: event["model_name"] for event in events if "model_name" in event}
    parents = {event["id"]: event["parent_id"] for event in events if "parent_id" in event}
    (root,) = [key for key, model in models.items() if model == "bls"]
    below = sorted(models[key] for key, parent in parents.items() if parent == root)
    assert below == ["clip_encoder"] + ["dit_transformer"] * 3 + ["t5_encoder", "vae_decoder"]
