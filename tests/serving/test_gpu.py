"""Serving on a GPU: the answers are those of `flux-triton generate` there, inputs and outputs may be
in GPU memory, and memory comes back. The other modules run there, too, with FLUX_TEST_DEVICE=cuda."""

import pathlib
import shutil
import threading

import cuda_memory
import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
import tritonclient.utils.shared_memory as system_memory
from adapter_files import put
from test_contract import generated
from test_stages import read_safetensors
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

needs_gpu = pytest.mark.skipif(
    cuda_memory.DRIVER is None or not serving.CUDA_LIBRARY.exists(),
    reason="there is no NVIDIA GPU here, or the build has no CUDA part",
)
SMALL = {"num_inference_steps": 3, "max_sequence_length": 64, "height": 48, "width": 80}
MIB = 1 << 20


@pytest.fixture(scope="module", params=["f32", "bf16"])
def gpu_server(request, checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp(f"gpu-{request.param}")
    repository = serving.convert(
        checkpoint, directory / "models", "--default-size", "32x48", "--dtype", request.param,
        device="cuda",
    )  # fmt: skip
    for stage in serving.MODELS[1:]:
        assert "kind: KIND_GPU" in (repository / stage / "config.pbtxt").read_text()
    options = ("--model-control-mode=explicit", "--load-model=*")
    with serving.Server(repository, directory / "log.txt", *options) as running:
        running.dtype = request.param
        running.repository = repository
        yield running


@pytest.fixture()
def gpu_client(gpu_server):
    with gpu_server.grpc_client() as connected:
        yield connected
        assert connected.is_server_ready()
        assert gpu_server.process.poll() is None


def generated_in_process(gpu_server, checkpoint, directory, *options):
    return generated(
        checkpoint, directory, "--device", "cuda", "--dtype", gpu_server.dtype,
        "--height", 48, "--width", 80, "--steps", 3, "--max-sequence-length", 64, *options,
    )  # fmt: skip


@needs_gpu
def test_equals_generate_alone_and_batched(gpu_server, gpu_client, checkpoint, tmp_path):
    prompts = [f"image {i}" for i in range(5)]
    expected = []
    for i, prompt in enumerate(prompts):
        directory = tmp_path / str(i)
        directory.mkdir()
        expected += generated_in_process(
            gpu_server, checkpoint, directory, "--prompt", prompt, "--seed", 20 + i
        )
    for i, prompt in enumerate(prompts):
        alone = serving.generate(gpu_client, prompt=prompt, seed=20 + i, **SMALL)
        assert (alone.as_numpy("images")[0, 0] == expected[i]).all()
    together = serving.generate(gpu_client, prompt=prompts, seed=list(range(20, 25)), **SMALL)
    assert (together.as_numpy("images")[:, 0] == np.stack(expected)).all()
    # Requests of their own, of which the steps meet in the transformer, among those of other sizes.
    sent = [serving.start(gpu_client, prompt=p, seed=20 + i, **SMALL) for i, p in enumerate(prompts)]
    other = SMALL | {"height": 32, "width": 32, "num_inference_steps": 5}
    sent += [serving.start(gpu_client, prompt="another", seed=1, **other) for _ in range(3)]
    answers = [answer.get(timeout=120) for _, answer in sent]
    assert all(error is None for _, error in answers)
    for (result, _), wanted in zip(answers, expected):
        assert (result.as_numpy("images")[0, 0] == wanted).all()


@needs_gpu
def test_true_cfg_equals_generate(gpu_server, gpu_client, checkpoint, tmp_path):
    expected = generated_in_process(
        gpu_server, checkpoint, tmp_path, "--prompt", "a castle", "--negative-prompt", "dark",
        "--true-cfg-scale", 2.5, "--seed", 3,
    )  # fmt: skip
    found = serving.generate(
        gpu_client, prompt="a castle", negative_prompt="dark", true_cfg_scale=2.5, seed=3, **SMALL
    )
    assert (found.as_numpy("images")[0, 0] == expected[0]).all()


def wire(array, dtype):
    """(datatype, bytes) of a tensor that has the repository's dtype, else of text or float32."""
    if array.dtype == object:
        return "BYTES", serialize_byte_tensor(array).item()
    if dtype == "bf16":
        return "BF16", (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(
            np.uint16
        ).tobytes()  # fmt: skip
    return "FP32", np.ascontiguousarray(array, np.float32).tobytes()


ALWAYS_FLOAT = ("timestep", "guidance", "img_ids", "txt_ids")


def stage_case(gpu_server, stage):
    """(inputs, output) of a stage: arrays by name."""
    files = serving.CHECKPOINTS.parent / "tiny-dev"
    if stage in ("clip_encoder", "t5_encoder"):
        output = {"clip_encoder": "pooled_prompt_embeds", "t5_encoder": "prompt_embeds"}[stage]
        return {"prompt": np.array([[b"a photo of a red cat"], [b"a dog"]], object)}, output
    name, output = {
        "dit_transformer": ("transformer_13x7_f32", "noise_pred"),
        "vae_decoder": ("vae_6x2_batch2_f32", "image"),
    }[stage]
    arrays = read_safetensors(files / f"{name}.safetensors")
    arrays.pop(output)
    return arrays, output


def make_inputs(gpu_server, arrays, region=None, step=0):
    """Inputs with their values in the request or, one after another, in a region."""
    made, offset = [], step
    for name, array in arrays.items():
        datatype, data = wire(array, "f32" if name in ALWAYS_FLOAT else gpu_server.dtype)
        each = grpcclient.InferInput(name, list(array.shape), datatype)
        if region is None:
            each._raw_content = data  # bfloat16 has no type in numpy
        else:
            region.write(data, offset)
            each.set_shared_memory(region.name, len(data), offset)
            offset += (len(data) + 255) // 256 * 256
        made.append(each)
    return made


# A client may put tensors at any address: kernels want even ones, so those are copied first.
@needs_gpu
@pytest.mark.parametrize("step", [0, 4, 2])
@pytest.mark.parametrize("stage", serving.MODELS[1:])
def test_stages_read_and_write_gpu_memory(gpu_server, gpu_client, stage, step):
    arrays, output = stage_case(gpu_server, stage)
    plain = gpu_client.infer(stage, make_inputs(gpu_server, arrays)).get_response()
    expected = plain.raw_output_contents[0]
    copied = gpu_server.metric("flux_input_bytes_copied_total", stage)
    with (
        cuda_memory.shared(gpu_client, 2 * MIB) as source,
        cuda_memory.shared(gpu_client, len(expected) + 256) as target,
    ):
        wanted = grpcclient.InferRequestedOutput(output)
        wanted.set_shared_memory(target.name, len(expected), step)
        made = make_inputs(gpu_server, arrays, source, step)
        gpu_client.infer(stage, made, outputs=[wanted])
        assert target.read(len(expected), step) == expected
        # The other mixtures: from GPU memory into the answer, from the request into GPU memory.
        answer = gpu_client.infer(stage, made).get_response()
        assert answer.raw_output_contents[0] == expected
        target.write(bytes(len(expected)), step)
        gpu_client.infer(stage, make_inputs(gpu_server, arrays), outputs=[wanted])
        assert target.read(len(expected), step) == expected
    if step == 0:
        assert gpu_server.metric("flux_input_bytes_copied_total", stage) == copied


@needs_gpu
@pytest.mark.parametrize("module", [grpcclient, httpclient])
def test_images_go_to_shared_memory(gpu_server, gpu_client, module):
    values = {"prompt": ["a boat", "a tree"], "seed": [1, 2], **SMALL}
    expected = serving.generate(gpu_client, prompt=values["prompt"], seed=[1, 2], **SMALL)
    images, png = expected.as_numpy("images"), None
    client = gpu_server.grpc_client() if module is grpcclient else gpu_server.http_client()
    with client, cuda_memory.shared(client, images.nbytes) as region:
        wanted = module.InferRequestedOutput("images")
        wanted.set_shared_memory(region.name, images.nbytes)
        serving.generate(client, module, {"outputs": [wanted]}, **values)
        assert (region.array(np.uint8, images.shape) == images).all()
        png = serving.generate(client, module, output_format="png", **values)
        files = serialize_byte_tensor(png.as_numpy("encoded_images")).item()
        wanted = module.InferRequestedOutput("encoded_images")
        wanted.set_shared_memory(region.name, images.nbytes)
        serving.generate(client, module, {"outputs": [wanted]}, output_format="png", **values)
        assert region.read(len(files)) == files
        own = system_memory.create_shared_memory_region("images", "/flux_images", images.nbytes)
        try:
            client.register_system_shared_memory("images", "/flux_images", images.nbytes)
            wanted = module.InferRequestedOutput("images")
            wanted.set_shared_memory("images", images.nbytes)
            serving.generate(client, module, {"outputs": [wanted]}, **values)
            found = system_memory.get_contents_as_numpy(own, np.uint8, images.shape)
            assert (found == images).all()
        finally:
            client.unregister_system_shared_memory("images")
            system_memory.destroy_shared_memory_region(own)


@needs_gpu
def test_prompts_come_from_gpu_memory(gpu_server, gpu_client):
    expected = serving.generate(gpu_client, prompt="a boat", seed=1, **SMALL).as_numpy("images")
    with cuda_memory.shared(gpu_client, 256) as region:
        made = serving.inputs(grpcclient, prompt="a boat", seed=1, **SMALL)
        data = serialize_byte_tensor(np.array([[b"a boat"]], object)).item()
        region.write(data)
        made[0] = grpcclient.InferInput("prompt", [1, 1], "BYTES")
        made[0].set_shared_memory(region.name, len(data))
        assert (gpu_client.infer("bls", made).as_numpy("images") == expected).all()
        # The server checks the framing of text only where it can read it.
        region.write(b"\xff\xff\xff\x7f")
        with pytest.raises(InferenceServerException, match="prompt row 0 says it has"):
            gpu_client.infer("bls", made)


@needs_gpu
def test_a_region_that_is_too_small_is_refused(gpu_client):
    with cuda_memory.shared(gpu_client, 256) as region:
        wanted = grpcclient.InferRequestedOutput("images")
        wanted.set_shared_memory(region.name, 256)
        with pytest.raises(InferenceServerException, match="shared memory|byte"):
            serving.generate(gpu_client, options={"outputs": [wanted]}, prompt="a", seed=1, **SMALL)


@needs_gpu
def test_a_model_on_the_cpu_takes_and_gives_gpu_memory(checkpoint, tmp_path):
    repository = serving.convert(checkpoint, tmp_path / "models", device="cpu")
    with serving.Server(repository, tmp_path / "log.txt") as running, running.grpc_client() as client:
        running.dtype = "f32"
        arrays, output = stage_case(running, "vae_decoder")
        expected = client.infer("vae_decoder", make_inputs(running, arrays)).as_numpy(output)
        with (
            cuda_memory.shared(client, MIB) as source,
            cuda_memory.shared(client, expected.nbytes) as target,
        ):
            wanted = grpcclient.InferRequestedOutput(output)
            wanted.set_shared_memory(target.name, expected.nbytes)
            client.infer("vae_decoder", make_inputs(running, arrays, source), outputs=[wanted])
            assert (target.array(np.float32, expected.shape) == expected).all()


@needs_gpu
def test_gpu_memory_stays_flat(gpu_server):
    """200 requests of several sizes, four at a time, some of which fail or are cancelled."""

    def ask(count):
        with gpu_server.grpc_client() as client:
            for i in range(count):
                sizes = {"height": 32 + 16 * (i % 3), "width": 48, "num_inference_steps": 2 + i % 4}
                if i % 10 == 9:
                    with pytest.raises(InferenceServerException):
                        serving.generate(client, prompt="a", height=33)
                elif i % 10 == 4:
                    serving.start(client, prompt="a", num_inference_steps=500)[0].cancel()
                else:
                    serving.generate(client, prompt=f"prompt {i}", seed=i, **sizes)

    def ask_by_four(count):
        threads = [threading.Thread(target=ask, args=(count // 4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ask_by_four(80)
    before = cuda_memory.used_bytes()
    ask_by_four(200)
    assert cuda_memory.used_bytes() <= before + 32 * MIB


@needs_gpu
def test_unloading_gives_memory_back_and_reloading_works(gpu_server, gpu_client):
    expected = serving.generate(gpu_client, prompt="a boat", seed=1, **SMALL).as_numpy("images")

    def cycle():
        for model in serving.MODELS:
            gpu_client.unload_model(model)
        assert serving.wait_until(
            lambda: not any(gpu_client.is_model_ready(model) for model in serving.MODELS)
        )
        for model in reversed(serving.MODELS):
            gpu_client.load_model(model)
        found = serving.generate(gpu_client, prompt="a boat", seed=1, **SMALL).as_numpy("images")
        assert (found == expected).all()
        return cuda_memory.used_bytes()

    first = cycle()
    for _ in range(5):
        last = cycle()
    assert last <= first + 32 * MIB


@pytest.mark.skipif(cuda_memory.DRIVER is not None, reason="there is an NVIDIA GPU here")
@pytest.mark.parametrize(
    "model, old, new, message",
    [
        ("vae_decoder", "KIND_CPU", "KIND_GPU", "KIND_GPU but no GPUs are available"),
        ("bls", '"cpu"', '"cuda"', "device 'cuda': "),
        ("clip_encoder", '"cpu"', '"cuda"', "device 'cuda': "),
    ],
)
def test_without_a_gpu_the_load_fails_in_one_line(
    repository, tmp_path, model, old, new, message
):
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    config = copy / model / "config.pbtxt"
    config.write_text(config.read_text().replace(old, new))
    running = serving.Server(copy, tmp_path / "log.txt", ready=False)
    assert running.process.wait(60) != 0
    lines = [line for line in running.log().splitlines() if "failed to load" in line]
    assert any(model in line and message in line for line in lines), running.log()[-2000:]


@needs_gpu
def test_adapters_of_requests(gpu_server, gpu_client, checkpoint, tmp_path):
    """Each request has the bytes of its own adapters, beside others and as `generate` makes them."""
    repository = pathlib.Path(gpu_server.repository)
    for name in ("kohya", "lycoris_lokr", "lycoris_dora"):
        put(repository / "bls/loras", name)
    loras = ["", "kohya", "lycoris_lokr:0.5", "kohya:-1,lycoris_dora"]
    expected = {}
    for lora in loras:
        options = []
        for each in filter(None, lora.split(",")):
            name, _, scale = each.partition(":")
            file = repository / "bls/loras" / f"{name}.safetensors"
            options += ["--lora", f"{file}:{scale}" if scale else file]
        expected[lora] = generated_in_process(
            gpu_server, checkpoint, tmp_path, "--seed", 1, "--prompt", "a", *options
        )[0]
    assert len({image.tobytes() for image in expected.values()}) == len(loras)

    def requests():
        with gpu_server.grpc_client() as own:
            for lora in loras * 3:
                given = {"lora": lora} if lora else {}
                found = serving.generate(own, prompt="a", seed=1, **given, **SMALL)
                assert (found.as_numpy("images")[0, 0] == expected[lora]).all(), lora

    serving.run_threads(requests, requests, requests, requests)
