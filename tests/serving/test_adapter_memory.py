"""How adapters are kept: what memory they take, and the directories that they are in."""

import shutil
import sys

import pytest
import server as serving
from adapter_files import TRANSFORMER, made, put
from adapter_requests import (
    MIB,
    IN_NATIVE_MODELS,
    SMALL,
    STAGES,
    Generated,
    file_of,
    fill,
    lora_metrics,
    pixels_of,
    refused,
)
from tritonclient.utils import InferenceServerException

pytestmark = IN_NATIVE_MODELS


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Of adapters."""
    repository = tmp_path_factory.mktemp("files")
    (repository / "bls/loras").mkdir(parents=True)
    return fill(repository)


@pytest.fixture(scope="module")
def generated(checkpoint, directory, tmp_path_factory):
    return Generated(checkpoint, directory, tmp_path_factory.mktemp("generated") / "image.png")


@pytest.fixture(scope="module")
def sizes(checkpoint, tmp_path_factory):
    """Bytes that an adapter takes of the transformer, by its name."""
    found, before = {}, 0
    with small_server(checkpoint, tmp_path_factory.mktemp("sizes"), "1GiB") as server:
        with server.grpc_client() as client:
            for name in ("xlabs", "peft_bias"):
                pixels_of(client, name)
                now = int(server.metric("flux_lora_bytes", "dit_transformer"))
                found[name], before = now - before, now
    return found


def small_server(checkpoint, path, memory):
    repository = serving.convert(checkpoint, path / "models", "--default-size", "32x48")
    directory = fill(repository)
    option = f"--backend-config=flux,lora_memory={memory}"
    running = serving.Server(repository, path / "log.txt", option)
    running.directory = directory
    return running


def test_the_longest_unused_leave(checkpoint, sizes, tmp_path, generated):
    """Room for two of three adapters of the transformer."""
    memory = sizes["xlabs"] + sizes["peft_bias"]
    with small_server(checkpoint, tmp_path, memory) as server, server.grpc_client() as client:
        def loads():
            return server.metric("flux_lora_loads_total", "dit_transformer")

        for name in ("xlabs", "peft_bias", "xlabs"):
            assert file_of(client, name) == generated(name)[0]
        assert loads() == 2 and server.metric("flux_lora_bytes", "dit_transformer") == memory
        (server.directory / "third.safetensors").write_bytes(made([TRANSFORMER]))
        pixels_of(client, "third")
        assert loads() == 3  # in place of peft_bias
        pixels_of(client, "xlabs")
        assert loads() == 3
        assert file_of(client, "peft_bias") == generated("peft_bias")[0]
        assert loads() == 4
        assert sum(lora_metrics(server, "flux_lora_bytes").values()) <= memory

        # Steps of several users alternate, and each step finds its own.
        def work(name):
            with server.grpc_client() as own:
                for _ in range(5):
                    assert file_of(own, name) == generated(name)[0]

        serving.run_threads(*[lambda n=n: work(n) for n in ("xlabs", "peft_bias", "t5:3", "")])
        assert sum(lora_metrics(server, "flux_lora_bytes").values()) <= memory
        says = f"at most {memory} are allowed: use fewer or smaller adapters, or allow more"
        stem = "lora_unet_double_blocks"
        ends = ("0_img_attn_proj", "0_txt_attn_proj", "1_img_attn_proj", "1_txt_attn_proj")
        large = made([(f"{stem}_{end}", 36, 36) for end in ends], rank=256)
        (server.directory / "large.safetensors").write_bytes(large)
        assert '"large": large.safetensors: takes ' in refused(client, says, lora="large")
        message = refused(client, says, lora="third,xlabs,peft_bias")
        assert "with the others of the step" in message
        assert file_of(client, "xlabs") == generated("xlabs")[0]


def test_a_wrong_budget_ends_the_server(repository, tmp_path):
    option = "--backend-config=flux,lora_memory=much"
    with serving.Server(repository, tmp_path / "log.txt", option, ready=False) as server:
        assert server.process.wait(60) != 0
        assert "--backend-config=flux,lora_memory: 'much' is no size" in server.log()


def test_loads_and_evictions_do_not_grow(checkpoint, sizes, tmp_path):
    """Each request loads an adapter, for which another leaves; every tenth file is a new one."""
    memory = sizes["xlabs"] + sizes["peft_bias"] // 2
    values = {"num_inference_steps": 1, "height": 16, "width": 16, "max_sequence_length": 8}
    with small_server(checkpoint, tmp_path, memory) as server, server.grpc_client() as client:
        def requests(count):
            for i in range(count):
                if i % 10 == 0:
                    put(server.directory, "xlabs")
                pixels_of(client, ("xlabs", "peft_bias")[i % 2], **values)

        requests(400)
        begin = server.metric("flux_lora_loads_total", "dit_transformer")
        resident, files, threads = server.resident_bytes(), server.open_files(), server.threads()
        requests(1200)
        assert server.metric("flux_lora_loads_total", "dit_transformer") == begin + 1200
        assert server.resident_bytes() < resident + 8 * MIB
        assert server.open_files() <= files + 4 and server.threads() <= threads + 2


IGNORES = """import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        pooled = pb_utils.Tensor("pooled_prompt_embeds", np.zeros((1, 24), np.float32))
        return [pb_utils.InferenceResponse([pooled]) for _ in requests]
"""


def test_a_stage_that_ignores_adapters(checkpoint, tmp_path):
    """An image without them would look like one with them."""
    options = ("--stage", "clip_encoder=python", "--default-size", "32x48")
    repository = serving.convert(checkpoint, tmp_path / "models", *options)
    (repository / "clip_encoder/1/model.py").write_text(IGNORES)
    put(repository / "bls/loras", "kohya")
    python = sys.executable
    with serving.Server(repository, tmp_path / "log.txt", python=python) as server:
        with server.grpc_client() as client:
            pixels_of(client)
            with pytest.raises(InferenceServerException) as error:
                pixels_of(client, "kohya")
            assert "stage 'clip_encoder' took no notice of it" in error.value.message()
            assert error.value.status() == "StatusCode.UNIMPLEMENTED"
            pixels_of(client, "")


def test_names_of_models(checkpoint, tmp_path, generated):
    """Several checkpoints have adapters of their own."""
    repository = tmp_path / "models"
    for name in ("one", "two"):
        serving.convert(checkpoint, repository, "--name", name)
        assert (repository / f"{name}_bls/loras/README.md").is_file()
    put(repository / "one_bls/loras", "kohya")
    put(repository / "two_bls/loras", "kohya", "xlabs")
    with serving.Server(repository, tmp_path / "log.txt") as server, server.grpc_client() as client:
        found = {}
        for model in ("one_bls", "two_bls"):
            made_inputs = serving.inputs(serving.grpcclient, lora="kohya:2", **SMALL)
            found[model] = client.infer(model, made_inputs).as_numpy("images")
        assert (found["one_bls"] != found["two_bls"]).any()
        for stage in STAGES:
            assert server.metric("flux_lora_loads_total", f"one_{stage}") is not None


def test_the_directory_may_be_a_link_or_missing(checkpoint, tmp_path, generated):
    repository = serving.convert(checkpoint, tmp_path / "models", "--default-size", "32x48")
    shutil.rmtree(repository / "bls/loras")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving.Server(repository, tmp_path / "log.txt") as server, server.grpc_client() as client:
        refused(client, 'there are no adapters; put *.safetensors files into bls/loras', lora="kohya")
        assert file_of(client) == generated("")[0]
        (repository / "bls/loras").symlink_to(elsewhere)
        refused(client, "there are no adapters", lora="kohya")
        put(elsewhere, "kohya")
        assert file_of(client, "kohya:2") == generated("kohya:2")[0]
