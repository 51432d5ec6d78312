"""The other ways in which tritonclient asks: asyncio, and tensors in shared memory."""

import asyncio
import contextlib

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as httpclient
import tritonclient.http.aio as http_aio
import tritonclient.utils.shared_memory as shm
from server import wait_until
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

SMALL = {"num_inference_steps": 2, "max_sequence_length": 64, "seed": 7}


def kind(i):
    return {"prompt": f"image {i}", **SMALL, "height": 16 * (1 + i % 3), "seed": i}


def aio_client(server, module):
    port = server.grpc if module is grpc_aio else server.http
    return module.InferenceServerClient(f"127.0.0.1:{port}")


@pytest.mark.parametrize("module, plain", [(grpc_aio, grpcclient), (http_aio, httpclient)])
def test_asyncio(server, client, module, plain):
    expected = [serving.generate(client, **kind(i)).as_numpy("images") for i in range(8)]

    async def ask():
        async with aio_client(server, module) as own:
            calls = [own.infer("bls", serving.inputs(plain, **kind(i))) for i in range(8)]
            results = await asyncio.gather(*calls)
            with pytest.raises(InferenceServerException) as error:
                await own.infer("bls", serving.inputs(plain, prompt="a", height=7))
            assert "height is 7" in error.value.message()
            return results

    for result, wanted in zip(asyncio.run(ask()), expected):
        assert (result.as_numpy("images") == wanted).all()


def test_asyncio_cancellation(server):
    """A cancelled task cancels the work."""
    before = server.steps()
    cancelled = server.metric("flux_steps_cancelled_total", "bls")

    async def ask():
        async with aio_client(server, grpc_aio) as own:
            values = {"prompt": "a boat", "num_inference_steps": 1000, "height": 128, "width": 128}
            task = asyncio.create_task(own.infer("bls", serving.inputs(grpcclient, **values)))
            while server.steps() <= before + 2:
                await asyncio.sleep(0.02)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, InferenceServerException):
                await task

    asyncio.run(asyncio.wait_for(ask(), 60))
    assert wait_until(lambda: server.metric("flux_steps_cancelled_total", "bls") > cancelled)
    assert server.steps() < before + 900


class Regions:
    """Shared memory that a client has registered under the names it is asked for."""

    def __init__(self, client, suffix):
        self.client = client
        self.suffix = suffix
        self.made = []

    def add(self, name, size):
        key = f"/flux_{name}_{self.suffix}"
        handle = shm.create_shared_memory_region(name, key, size)
        self.made.append(handle)
        self.client.register_system_shared_memory(name, key, size)
        return handle

    def drop(self):
        self.client.unregister_system_shared_memory()
        for handle in self.made:
            shm.destroy_shared_memory_region(handle)


@pytest.fixture(params=["grpc", "http"])
def shared(request, server):
    """(module, client, regions)"""
    module = grpcclient if request.param == "grpc" else httpclient
    own = server.grpc_client() if request.param == "grpc" else server.http_client()
    regions = Regions(own, server.http)
    yield module, own, regions
    regions.drop()
    own.close()


def test_shared_memory(client, shared):
    """The prompt is read from shared memory, and the pixels are written to it."""
    module, own, regions = shared
    expected = serving.generate(client, prompt="a boat", **SMALL).as_numpy("images")
    text = serialize_byte_tensor(np.array([[b"a boat"]], object)).item()
    shm.set_shared_memory_region(
        regions.add("prompt", len(text)), [np.frombuffer(text, np.uint8)]
    )
    pixels = regions.add("pixels", expected.nbytes)
    prompt = module.InferInput("prompt", [1, 1], "BYTES")
    prompt.set_shared_memory("prompt", len(text))
    wanted = module.InferRequestedOutput("images")
    wanted.set_shared_memory("pixels", expected.nbytes)
    made = [i for i in serving.inputs(module, prompt="x", **SMALL) if i.name() != "prompt"]
    own.infer("bls", [prompt, *made], outputs=[wanted])
    found = shm.get_contents_as_numpy(pixels, np.uint8, expected.shape)
    assert (found == expected).all()


def test_shared_memory_that_does_not_fit(client, shared):
    module, own, regions = shared
    regions.add("small", 4096)
    inputs = serving.inputs(module, prompt="a boat", **SMALL)

    def fails(output_bytes, prompt_bytes=None):
        wanted = module.InferRequestedOutput("images")
        wanted.set_shared_memory("small", output_bytes)
        asked = list(inputs)
        if prompt_bytes is not None:
            asked[0] = module.InferInput("prompt", [1, 1], "BYTES")
            asked[0].set_shared_memory("small", prompt_bytes)
        with pytest.raises(InferenceServerException):
            own.infer("bls", asked, outputs=[wanted])

    fails(16)  # smaller than the image
    fails(4096)  # as large as the region, yet smaller than the image
    fails(8192)  # larger than the region
    fails(4096, prompt_bytes=2)  # ends within the length of the text
    fails(4096, prompt_bytes=8192)
    serving.generate(client, prompt="a boat", **SMALL)


def test_a_transformer_step_in_shared_memory(server, shared):
    """Large tensors, at an address that fits no element: copied, and counted."""
    module, own, regions = shared
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((1, 6, 24), np.float32)
    arrays = {
        "timestep": np.full((1, 1), 0.5, np.float32),
        "guidance": np.full((1, 1), 3.5, np.float32),
        "pooled_projections": rng.standard_normal((1, 24), np.float32),
        "encoder_hidden_states": rng.standard_normal((1, 5, 40), np.float32),
        "img_ids": np.zeros((1, 6, 3), np.float32),
        "txt_ids": np.zeros((1, 5, 3), np.float32),
    }
    others = [serving.tensor(module, name, array, "FP32") for name, array in arrays.items()]
    direct = serving.tensor(module, "hidden_states", hidden, "FP32")
    expected = own.infer("dit_transformer", [direct, *others]).as_numpy("noise_pred")
    copied = server.metric("flux_input_bytes_copied_total", "dit_transformer")
    region = regions.add("hidden", 3 + hidden.nbytes)
    shm.set_shared_memory_region(region, [np.frombuffer(hidden.tobytes(), np.uint8)], offset=3)
    odd = module.InferInput("hidden_states", list(hidden.shape), "FP32")
    odd.set_shared_memory("hidden", hidden.nbytes, offset=3)
    output = regions.add("noise", 1 + hidden.nbytes)
    wanted = module.InferRequestedOutput("noise_pred")
    wanted.set_shared_memory("noise", hidden.nbytes, offset=1)
    own.infer("dit_transformer", [odd, *others], outputs=[wanted])
    found = shm.get_contents_as_numpy(output, np.uint8, (1 + hidden.nbytes,))[1:]
    assert found.tobytes() == expected.tobytes()
    if "dit_transformer" not in serving.IN_PYTHON:  # whose backend copies all, uncounted
        copied = server.metric("flux_input_bytes_copied_total", "dit_transformer") - copied
        assert copied >= hidden.nbytes
