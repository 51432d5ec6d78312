"""Images through the front: those of gRPC to `bls`, for real clients."""

import base64
import json
import subprocess

import front as fronts
import openai
import pytest
import server as serving


@pytest.fixture()
def client(front):
    with openai.OpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0) as connected:
        yield connected


def from_bls(server, output_format="png", **values):
    """The files of gRPC to `bls`."""
    with server.grpc_client() as client:
        result = serving.generate(client, output_format=output_format, **values)
        return [bytes(file) for file in result.as_numpy("encoded_images").reshape(-1)]


def test_curl(front):
    """As the README has it: nothing but a prompt."""
    command = ["curl", "-s", f"{front.url}/v1/images/generations", "-d", '{"prompt": "a boat"}']
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert fronts.picture(base64.b64decode(answer["data"][0]["b64_json"])).size == (48, 32)
    assert answer["size"] == "48x32" and answer["output_format"] == "png"
    assert answer["usage"]["output_tokens"] == 3 * 2


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_same_bytes_as_grpc(front, server, output_format):
    body = {"prompt": "a boat", "seed": 5, "steps": 3, "guidance": 2.5, "size": "64x32", "n": 3}
    values = {"num_inference_steps": 3, "guidance_scale": 2.5, "width": 64, "height": 32, "seed": 5}
    files = front.files(output_format=output_format, **body)
    expected = from_bls(
        server, output_format, prompt="a boat", num_images_per_prompt=3, **values
    )
    assert files == expected
    seeds = [each["seed"] for each in front.generate(**body)[2]["data"]]
    assert seeds == [5, 6, 7]


def test_every_field_reaches_the_pipeline(front, server):
    values = {
        "prompt": "a boat", "prompt_2": "a red boat", "negative_prompt": "a tree",
        "true_cfg_scale": 2.0, "num_inference_steps": 3, "guidance_scale": 2.0,
        "max_sequence_length": 16, "seed": 9,
    }  # fmt: skip
    expected = from_bls(server, "jpeg", quality=30, **values)
    assert front.files(output_format="jpeg", output_compression=30, **values) == expected
    assert front.files(output_format="jpeg", **values) != expected


def test_adapters(front, server, client, tmp_path):
    """`lora` goes on to the pipeline; a file that cannot be used is the field's error."""
    loras = server.repository / "bls/loras"
    golden = serving.ROOT / "tests/golden/adapters/kohya.safetensors"
    (loras / "style.safetensors").write_bytes(golden.read_bytes())
    (loras / "cut.safetensors").write_bytes(golden.read_bytes()[:-50])
    values = {"prompt": "a boat", "num_inference_steps": 2, "seed": 5}
    expected = from_bls(server, lora="style:2", **values)
    assert expected != from_bls(server, **values)
    assert front.files(lora="style:2", **values) == expected
    answer = client.images.generate(
        prompt="a boat", extra_body={"steps": 2, "seed": 5, "lora": "style:2"}
    )
    assert base64.b64decode(answer.data[0].b64_json) == expected[0]
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="a boat", extra_body={"lora": "style,cut"})
    assert error.value.param == "lora" and error.value.code == "invalid_value"
    assert error.value.body["message"].startswith('lora "cut": cut.safetensors')


def test_openai_client(client, server):
    answer = client.images.generate(
        prompt="a boat", model="bls", n=2, size="32x32", quality="hd", response_format="b64_json",
        output_format="jpeg", output_compression=80, background="auto", moderation="auto",
        style="vivid", user="someone", extra_body={"seed": 3, "steps": 2},
    )  # fmt: skip
    files = [base64.b64decode(image.b64_json) for image in answer.data]
    expected = from_bls(
        server, "jpeg", prompt="a boat", num_images_per_prompt=2, height=32, width=32, quality=80,
        seed=3, num_inference_steps=2,
    )  # fmt: skip
    assert files == expected
    assert answer.created > 1_700_000_000 and answer.size == "32x32"
    assert answer.data[1].seed == 4
    assert answer.usage.output_tokens == 2 * 4


def test_the_first_request(server, tmp_path):
    """It waits for what the server has, however early it comes."""
    for number in range(5):
        front = fronts.Front(server, tmp_path / f"{number}.txt")
        try:
            assert front.generate(**fronts.SHORT)[0] == 200
        finally:
            front.__exit__(None, None, None)


def test_openai_models(client):
    assert [model.id for model in client.models.list()] == ["bls"]
    model = client.models.retrieve("bls")
    assert model.id == "bls" and model.default_size == "48x32"
    assert {"prompt", "seed", "negative_prompt"} <= set(model.inputs)
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-image-1")
    assert error.value.code == "model_not_found"


def test_openai_errors(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.generate(prompt="a", model="dall-e-3")
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    assert "this server has: bls" in str(unknown.value)
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="a", extra_body={"stepz": 4})
    assert bad.value.param == "stepz" and "did you mean steps?" in str(bad.value)


@pytest.mark.parametrize("name", ["bls", "bls_stream", None])
def test_names_of_the_model(front, name):
    assert front.generate(model=name, **fronts.SHORT)[0] == 200


def test_several_pipelines(tmp_path):
    """`model` chooses; without it the first one answers."""
    repository = fronts.repository(tmp_path / "models")
    for name, size in [("a", "16x16"), ("b", "32x32")]:
        serving.convert(
            serving.CHECKPOINTS / "tiny-dev", tmp_path / name, "--name", name, "--default-size",
            size,
        )  # fmt: skip
        for directory in (tmp_path / name).iterdir():
            directory.rename(repository / directory.name)
    with serving.Server(repository, tmp_path / "log.txt") as server:
        with fronts.Front(server, tmp_path / "front.txt") as front:
            listed = [model["id"] for model in front.get("/v1/models")[1]["data"]]
            assert sorted(listed) == ["a", "b", "bls"]
            short = {"prompt": "x", "steps": 1}
            for name, size in [("a", 16), ("b", 32), ("a_bls", 16), ("b_bls_stream", 32)]:
                [file] = front.files(model=name, **short)
                assert fronts.picture(file).size == (size, size)
            assert front.generate(model="c", **short)[0] == 404
            assert front.metric("flux_front_requests_waiting", model="b") == 0
