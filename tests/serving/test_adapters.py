"""Requests with adapters: the bytes of `generate --lora` whatever runs beside them, what is refused,
and what is kept in memory."""

import base64
import json
import os

import adapter_files
import pytest
import server as serving
import stream_client
from adapter_files import TRANSFORMER, made, put
from adapter_requests import (
    MIB,
    NAMES,
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
def adapters(checkpoint, tmp_path_factory):
    """A server with adapters, all models under explicit control."""
    path = tmp_path_factory.mktemp("adapters")
    repository = serving.convert(checkpoint, path / "models", "--default-size", "32x48")
    directory = fill(repository)
    options = ("--model-control-mode=explicit", "--load-model=*")
    with serving.Server(repository, path / "log.txt", *options) as running:
        running.directory = directory
        yield running


@pytest.fixture()
def client(adapters):
    with adapters.grpc_client() as connected:
        yield connected
        assert adapters.process.poll() is None and connected.is_server_ready()


LONG = SMALL | {"num_inference_steps": 1000, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def generated(checkpoint, adapters, tmp_path_factory):
    image = tmp_path_factory.mktemp("generated") / "image.png"
    return Generated(checkpoint, adapters.directory, image)


TEXTS = ["kohya", "kohya:2", "kohya:-1.5", "lycoris_dora,kohya:0.5", " xlabs:1e1 , peft_bias ", "t5:3",
         "kohya:0", "kohya,kohya:-0.5", ""]  # fmt: skip


@pytest.mark.parametrize("lora", TEXTS)
def test_bytes_are_those_of_generate(client, generated, lora):
    assert file_of(client, lora) == generated(lora)[0]


def test_adapters_change_images_and_scale_zero_does_not(client):
    base = pixels_of(client)
    assert (pixels_of(client, "kohya:0,lycoris_dora:0,t5:0") == base).all()
    found = [pixels_of(client, f"{name}:3") for name in (*NAMES, "t5")]
    for i, image in enumerate(found):
        assert (image != base).any()
        assert all((image != other).any() for other in found[:i])
    assert (pixels_of(client, "kohya:-3") != found[0]).any()


def test_a_parameter_does_as_the_input(adapters, client, generated):
    expected = generated("kohya:2")[0]
    options = {"parameters": {"lora": "kohya:2"}}
    asked = SMALL | {"output_format": "png"}
    found = serving.generate(client, options=options, **asked)
    assert found.as_numpy("encoded_images")[0, 0] == expected
    base = serving.generate(client, options=options, lora="", **asked)  # the input wins
    assert base.as_numpy("encoded_images")[0, 0] == generated("")[0]
    body = SMALL | {"lora": "kohya:2", "output_format": "png_base64"}
    status, answer = serving.generate_json(adapters, body)
    assert status == 200, answer
    assert base64.b64decode(answer["encoded_images"]) == expected


def test_rows_have_their_own(adapters, client, generated):
    loras = ["", "kohya:2", "lycoris_dora,kohya:0.5", "kohya:-1.5", ""]
    rows = {name: [value] * len(loras) for name, value in SMALL.items()}
    before = adapters.metric("flux_stage_batches_total", "dit_transformer")
    found = serving.generate(client, **rows, lora=loras, output_format="png")
    for lora, file in zip(loras, found.as_numpy("encoded_images")[:, 0]):
        assert file == generated(lora)[0], lora
    # Steps with different adapters share executions.
    after = adapters.metric("flux_stage_batches_total", "dit_transformer")
    assert after - before < len(loras) * SMALL["num_inference_steps"]


def test_true_cfg_has_them_for_both_prompts(client, checkpoint, adapters, tmp_path):
    values = {"negative_prompt": "a dog", "true_cfg_scale": 2.0}
    image = tmp_path / "image.png"
    serving.program(
        "generate", checkpoint, "--prompt", SMALL["prompt"], "--negative-prompt", "a dog",
        "--true-cfg-scale", 2, "--steps", 3, "--height", 32, "--width", 48, "--max-sequence-length",
        16, "--seed", 7, "--lora", adapters.directory / "kohya.safetensors", "-o", image,
    )  # fmt: skip
    assert file_of(client, "kohya", **values) == image.read_bytes()


def test_users_beside_one_another(adapters, client, generated):
    """Adapters of one never reach another, in whatever company a step is."""
    loras = ["kohya:2", "lycoris_dora,kohya:0.5", "", "kohya:-1.5", "t5:3", " xlabs:1e1 , peft_bias "]
    expected = [generated(lora)[0] for lora in loras]

    def work(number):
        with adapters.grpc_client() as own:
            for i in range(12):
                at = (number + i) % len(loras)
                assert file_of(own, loras[at]) == expected[at], loras[at]

    serving.run_threads(*[lambda number=number: work(number) for number in range(8)])


def test_the_stream_gives_the_same_bytes(adapters, generated):
    types = stream_client.TYPES
    assert "lora" in types
    found = stream_client.answers(
        adapters, **SMALL, lora="kohya:2", output_format="png", preview_every=1
    )
    assert found[-1].outputs["encoded_images"][0, 0] == generated("kohya:2")[0]


@pytest.mark.parametrize(
    "lora, says",
    [
        ("nothing", 'lora "nothing" is not there: the adapters are kohya, lycoris_dora, '),
        ("KOHYA", 'lora "KOHYA" is not there'),
        ("kohya.safetensors", 'lora "kohya.safetensors" is not there'),
        ("README.md", 'lora "README.md" is not there'),
        ("kohya,,xlabs", "lora has a name that is blank"),
        (",", "lora has a name that is blank"),
        (":1", "lora has a name that is blank"),
        ("kohya:", 'lora "kohya" has the scale "": must be a number'),
        ("kohya:high", 'lora "kohya" has the scale "high": must be a number'),
        ("kohya:1:2", 'lora "kohya:1" is not there'),
        ("kohya:nan", 'lora "kohya" has the scale nan: must be a number from -100 to 100'),
        ("kohya:inf", "has the scale inf"),
        ("kohya:-100.5", "has the scale -100.5"),
        ("kohya:1e999", 'has the scale "1e999"'),
        ("../bls/loras/kohya", "is a path: give the name of a file alone"),
        ("/etc/passwd", "is a path"),
        ("..", 'lora ".." is not there'),
        ("a\\b", "is a path"),
        ("a\nb", 'lora "a\\nb" is not there'),
        ("x" * 256, "lora has a name of 256 bytes: at most 255"),
        ("x" * 255, "is not there"),
        (b"kohya\xff", "lora is not valid UTF-8: byte 5 is 0xff"),
        (b"kohya\0", "lora holds a NUL character"),
        (",".join(["kohya"] * 17), "lora names 17 adapters: at most 16 are allowed"),
        ("k," * 40000, "lora has 80000 bytes"),
    ],
)
def test_refusals(client, lora, says):
    refused(client, says, lora=lora)


def test_a_parameter_that_is_no_text(client):
    with pytest.raises(InferenceServerException, match="parameter lora is 3: must be a string"):
        serving.generate(client, options={"parameters": {"lora": 3}}, **SMALL)


def test_links(adapters, client, tmp_path):
    outside = adapters.directory / "outside.safetensors"
    outside.symlink_to(adapter_files.GOLDEN / "kohya.safetensors")
    around = adapters.directory / "around.safetensors"
    around.symlink_to(adapters.directory.parent / "1" / "model_index.json")
    broken = adapters.directory / "broken.safetensors"
    broken.symlink_to("nowhere")
    inside = adapters.directory / "inside.safetensors"
    inside.symlink_to("kohya.safetensors")
    folder = adapters.directory / "folder.safetensors"
    folder.mkdir()
    fifo = adapters.directory / "fifo.safetensors"
    os.mkfifo(fifo)
    try:
        for name in ("outside", "around"):
            refused(client, f'lora "{name}" is a link that leaves the directory', lora=name)
        for name in ("broken", "folder", "fifo"):
            refused(client, f'lora "{name}" is not there', lora=name)
        assert (pixels_of(client, "inside:2") == pixels_of(client, "kohya:2")).all()
    finally:
        for path in (outside, around, broken, inside, fifo):
            path.unlink()
        folder.rmdir()


def test_files_come_go_and_change(adapters, client):
    """Without a reload; an image has the file that was there when it began."""
    refused(client, 'lora "fresh" is not there', lora="fresh")
    file = put(adapters.directory, "fresh", "kohya")
    assert (pixels_of(client, "fresh:2") == pixels_of(client, "kohya:2")).all()
    put(adapters.directory, "fresh", "xlabs")
    assert (pixels_of(client, "fresh:2") == pixels_of(client, "xlabs:2")).all()
    long = LONG | {"num_inference_steps": 300}
    expected = pixels_of(client, "xlabs:2", **(long | {"num_inference_steps": 300}))
    steps = adapters.steps()
    _, answers = serving.start(client, lora="fresh:2", **long)
    assert serving.wait_until(lambda: adapters.steps() > steps + 3)
    put(adapters.directory, "fresh", "kohya")
    assert (pixels_of(client, "fresh:2") == pixels_of(client, "kohya:2")).all()
    assert answers.empty(), "the image was done before the file was replaced"
    file.unlink()
    refused(client, 'lora "fresh" is not there', lora="fresh")
    result, error = answers.get(timeout=60)
    assert error is None and (result.as_numpy("images") == expected).all()


def bad_files():
    good = made([TRANSFORMER])
    disagree = bytearray(good)
    at = good.index(b'"shape": [36, 4]')
    disagree[at : at + 16] = b'"shape": [18, 8]'
    return {
        "disagree": (bytes(disagree), "the ranks disagree"),
        "values": (adapter_files.with_values(good, float("nan")), "finite"),
        "large": (adapter_files.with_values(good, float("inf")), "finite"),
        "cut": (good[:-100], "cut.safetensors"),
        "text": (b"no adapter at all", "text.safetensors"),
        "empty": (b"", "the file is empty"),
        "header": ((1 << 60).to_bytes(8, "little") + b"{}", "header.safetensors"),
        "long_header": (
            (17 * MIB).to_bytes(8, "little") + b"{" + b" " * (17 * MIB),
            "has a header of 17825792 bytes, and an adapter at most 16777216",
        ),
        "wide": (made([(TRANSFORMER[0], 40, 40)]), "trained for this model"),
        "unknown": (made([("lora_unet_nothing", 36, 36)]), "no adapter of FLUX.1"),
        "sdxl": (made([("lora_unet_down_blocks_1_attentions_0_proj_in", 36, 36)]), "no adapter of"),
        "rank": (made([TRANSFORMER], rank=300), "has rank 300, and at most 256"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_bad_files(adapters, client, generated, name):
    content, says = bad_files()[name]
    file = adapters.directory / f"{name}.safetensors"
    file.write_bytes(content)
    try:
        for _ in range(2):
            assert refused(client, says, lora=name).startswith(f'lora "{name}": ')
            refused(client, says, lora=f"kohya,{name}")
        for text in ("kohya:2", ""):
            assert file_of(client, text) == generated(text)[0]
    finally:
        file.unlink()


def test_a_bad_file_hurts_nobody_beside_it(adapters, client, generated):
    content, says = bad_files()["values"]
    file = adapters.directory / "nan.safetensors"
    file.write_bytes(content)
    try:
        def good(lora):
            with adapters.grpc_client() as own:
                for _ in range(6):
                    assert file_of(own, lora) == generated(lora)[0]

        def bad():
            with adapters.grpc_client() as own:
                for _ in range(12):
                    refused(own, says, lora="nan")

        generated("kohya:2"), generated("")
        serving.run_threads(lambda: good("kohya:2"), lambda: good(""), bad, bad)
    finally:
        file.unlink()


def test_unused_tensors_are_named(adapters, client, generated):
    result = serving.generate(client, lora="partly", **SMALL)
    said = {name: stream_client.value_of(each) for name, each in result.get_response().parameters.items()}
    expected = ['lora_unet_a,b".alpha', "lora_unet_unheard_of.alpha"]
    assert json.loads(said["lora_unused"]) == expected
    assert generated("partly")[1]["lora_unused"] == expected
    assert generated("kohya")[1]["lora_unused"] == generated("")[1]["lora_unused"] == []
    result = serving.generate(client, lora="kohya", **SMALL)
    assert "lora_unused" not in result.get_response().parameters
    last = stream_client.answers(adapters, **SMALL, lora="partly")[-1]
    assert json.loads(last.parameters["lora_unused"]) == expected


def test_stages_take_numbers_of_bls_alone(client):
    prompt = serving.inputs(serving.grpcclient, prompt="a")
    for stage in ("clip_encoder", "t5_encoder"):
        for text in ("kohya", "1", "1:", "999999:1", "", "1:nan", "-1:1", "99999999999999999999:1"):
            with pytest.raises(InferenceServerException) as error:
                client.infer(stage, prompt, parameters={"lora": text})
            assert "must be numbers of adapters that bls has open" in error.value.message()
            assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_models_are_loaded_again(adapters, client, generated):
    """What was packed for a model leaves with it."""
    assert file_of(client, "lycoris_dora,kohya:0.5") == generated("lycoris_dora,kohya:0.5")[0]
    for model in ("dit_transformer", "bls"):
        client.unload_model(model)
        assert serving.wait_until(lambda model=model: not client.is_model_ready(model))
        client.load_model(model)
        assert file_of(client, "lycoris_dora,kohya:0.5") == generated("lycoris_dora,kohya:0.5")[0]


def test_metrics(adapters, client):
    put(adapters.directory, "counted", "kohya")
    loads, hits = (lora_metrics(adapters, f"flux_lora_{name}_total") for name in ("loads", "hits"))
    held = lora_metrics(adapters, "flux_lora_bytes")
    pixels_of(client, "counted")
    pixels_of(client, "counted")

    def more(name, before):
        now = lora_metrics(adapters, f"flux_lora_{name}_total")
        return {stage: now[stage] - before[stage] for stage in STAGES}

    # It changes CLIP and the transformer, which has three steps for each image.
    assert more("loads", loads) == {"clip_encoder": 1, "t5_encoder": 0, "dit_transformer": 1}
    assert more("hits", hits) == {"clip_encoder": 1, "t5_encoder": 0, "dit_transformer": 5}
    now = lora_metrics(adapters, "flux_lora_bytes")
    assert now["dit_transformer"] > held["dit_transformer"] and now["clip_encoder"] > held["clip_encoder"]
    (adapters.directory / "counted.safetensors").unlink()


def test_a_cancelled_request_lets_go(adapters, client, generated):
    steps = adapters.steps()
    context, answers = serving.start(client, lora="kohya", **LONG)
    assert serving.wait_until(lambda: adapters.steps() > steps)
    context.cancel()
    _, error = answers.get(timeout=20)
    assert "CANCELLED" in str(error.status()).upper() or "cancelled" in error.message().lower()
    assert file_of(client, "kohya:2") == generated("kohya:2")[0]
