"""Tests `bls_stream`: what it answers and when, that its images are those of `bls`, errors, and that
work stops when the client leaves."""

import base64
import contextlib
import io
import shutil
import time

import numpy as np
import pytest
import server as serving
import tritonclient.grpc as grpcclient
from PIL import Image
from stream_client import MODEL, Events, Stream, answers, error_of, stream
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.skipif(
    "bls" in serving.IN_PYTHON, reason="a pipeline in Python has no bls_stream"
)

SMALL = {"prompt": "a boat", "num_inference_steps": 4, "max_sequence_length": 16, "seed": 7}
MANY_STEPS = SMALL | {"num_inference_steps": 1000, "height": 128, "width": 128}


def images_of(found):
    return found[-1].outputs["images"]


def cancelled_steps(server):
    return server.metric("flux_steps_cancelled_total", MODEL)


def test_answers_at_once_and_after_each_step(server, client):
    found = answers(server, **SMALL)
    assert [answer.step for answer in found] == [0, 1, 2, 3, 4]
    assert all((answer.outputs["total_steps"] == [[4]]).all() for answer in found)
    assert [answer.final for answer in found] == [False] * 4 + [True]
    names = [set(answer.outputs) - {"step", "total_steps"} for answer in found]
    assert names == [set(), {"preview"}, {"preview"}, {"preview"}, {"images", "seed"}]
    assert found[0].parameters["queue_position"] == 0
    assert all("queue_position" not in answer.parameters for answer in found[1:])
    assert found[-1].outputs["seed"].tolist() == [[7]]


@pytest.mark.parametrize("every, at", [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (4, [4]), (6, [])])
def test_previews_come_as_often_as_asked_and_change_no_byte(server, client, every, at):
    values = SMALL | {"num_inference_steps": 6, "height": 48, "width": 80}
    expected = serving.generate(client, **values).as_numpy("images")
    found = answers(server, preview_every=every, **values)
    assert [answer.step for answer in found] == list(range(7))
    assert [answer.step for answer in found if answer.previews()] == at
    assert (images_of(found) == expected).all()


def test_everything_of_bls_is_answered_last(server, client):
    values = {
        "prompt": ["a red cat", "a castle " * 100], "seed": [11, 13], "height": 32, "width": 48,
        "num_inference_steps": [2, 5], "guidance_scale": 2.5, "max_sequence_length": 77,
        "num_images_per_prompt": 2, "output_format": "webp", "quality": 80,
    }  # fmt: skip
    expected = serving.generate(client, **values)
    found = answers(server, **values)
    last = found[-1]
    files = last.outputs["encoded_images"]
    assert files.shape == (2, 2) and (files == expected.as_numpy("encoded_images")).all()
    assert last.parameters["truncated_by"] == "clip,t5" and last.parameters["truncated"]
    # Each row has steps of its own, and a preview of each image as long as there are steps to go.
    assert [answer.outputs["step"].ravel().tolist() for answer in found] == [
        [0, 0], [1, 1], [2, 2], [2, 3], [2, 4], [2, 5]]  # fmt: skip
    assert all(answer.outputs["total_steps"].tolist() == [[2], [5]] for answer in found)
    for answer in found[1:-1]:
        assert answer.outputs["preview"].shape == (2, 2)
        assert {image.shape for row in answer.previews() for image in row} == {(32, 48, 3)}
    assert all("preview" not in answer.outputs for answer in (found[0], last))
    # A row without steps to go is shown as it will be.
    shown = [answer.outputs["preview"][0].tolist() for answer in found[2:-1]]
    assert shown[0] == shown[1] == shown[2]


@pytest.mark.parametrize(
    "height, width, size, expected",
    [
        (48, 80, None, (80, 48)),
        (48, 80, 80, (80, 48)),
        (48, 80, 79, (40, 24)),
        (48, 80, 40, (40, 24)),
        (48, 80, 32, (32, 16)),  # 10 x 6 latents by 3, rounded up
        (128, 64, 64, (32, 64)),
        (128, 64, 16, (8, 16)),
        (16, 2048, 256, (256, 8)),
        (320, 16, None, (8, 160)),
        (16, 16, 1024, (16, 16)),
    ],
)
def test_size_of_previews(server, height, width, size, expected):
    values = SMALL | {"height": height, "width": width, "num_inference_steps": 2}
    if size:
        values["preview_size"] = size
    found = answers(server, **values)
    file = found[1].outputs["preview"][0, 0]
    image = Image.open(io.BytesIO(file))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", expected)


def psnr(a, b):
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    repository = serving.convert(serving.ROOT / "demo/shapes", directory / "models")
    with serving.Server(repository, directory / "log.txt") as running:
        yield running


@pytest.mark.parametrize("size, floor", [(128, 32), (64, 20)])
def test_previews_come_to_resemble_the_image(demo_server, size, floor):
    values = {"num_inference_steps": 8, "preview_size": size}
    prompt = "a blue square on a white background"
    found = answers(demo_server, prompt=prompt, seed=3, **values)
    other = answers(demo_server, prompt="a small green triangle", seed=9, **values)
    previews = [answer.previews()[0][0] for answer in found[1:-1]]
    assert len(previews) == 7

    def likeness(preview, answers_of_image):
        image = Image.fromarray(images_of(answers_of_image)[0, 0])
        return psnr(preview, np.array(image.resize((size, size), Image.Resampling.BOX)))

    last = likeness(previews[-1], found)
    assert last > floor and last > likeness(previews[-1], other) + 4
    if size == 128:  # at its own size a preview becomes the image, but for JPEG
        assert last > likeness(previews[0], found) + 5


def test_only_wanted_outputs_are_made(server, client):
    decoded = serving.rows_of(server, "vae_decoder")
    wanted = {"outputs": [grpcclient.InferRequestedOutput("step")]}
    found = answers(server, wanted, **SMALL)
    assert [set(answer.outputs) for answer in found] == [{"step"}] * 5
    assert serving.rows_of(server, "vae_decoder") == decoded + 1  # nobody wanted previews


def test_parameters_stand_in_for_inputs(server, client):
    expected = answers(server, preview_every=2, preview_size=16, **SMALL)
    values = {"preview_every": 2, "preview_size": "16", "steps": 4, "seed": 7}
    found = answers(
        server, {"parameters": values | {"max_sequence_length": 16}}, prompt=SMALL["prompt"]
    )
    assert (images_of(found) == images_of(expected)).all()
    for one, other in zip(found, expected, strict=True):
        assert one.outputs.get("preview") == other.outputs.get("preview")


@pytest.mark.parametrize(
    "values, says",
    [
        ({"preview_every": -1}, "preview_every is -1: must be 0 to 1000"),
        ({"preview_every": 1001}, "preview_every is 1001: must be 0 to 1000"),
        ({"preview_size": 15}, "preview_size is 15: must be 16 to 1024"),
        ({"preview_size": 2**31 - 1}, "preview_size is 2147483647: must be 16 to 1024"),
        ({"prompt": ["a", "b"], "preview_size": [16, 32]}, "preview_size differs between rows"),
        ({"prompt": ["a", "b"], "preview_every": [0, 1]}, "preview_every differs between rows"),
        ({"height": 7}, "height is 7: must be"),
    ],
)
def test_what_is_not_allowed_is_one_answer(server, client, values, says):
    found, error = error_of(server, **(SMALL | values))
    assert not found and says in error.message()


def test_bls_knows_no_previews(client):
    with pytest.raises(InferenceServerException, match="parameter preview_every is not known"):
        serving.generate(client, options={"parameters": {"preview_every": 1}}, **SMALL)


@contextlib.contextmanager
def ahead_of_all(server):
    """While it lasts, a request takes all steps, but for those of other requests that are at work."""
    hours = MANY_STEPS | {"height": 512, "width": 512}
    with stream(server, {"priority": 1}, preview_every=0, **hours) as first:
        first.next()
        yield


LATE = "timeout passed: cancelled after step"
IN_TIME = {"timeout": 3_000_000, "priority": 5}  # for 200 steps alone


def test_an_error_ends_the_stream(server, client):
    with stream(server, IN_TIME, **(MANY_STEPS | {"num_inference_steps": 200})) as opened:
        assert opened.next().step == 0
        with ahead_of_all(server), pytest.raises(InferenceServerException, match=LATE) as error:
            opened.rest()
    assert error.value.status() is None  # a stream's error is a text
    assert answers(server, **SMALL)[-1].final


def test_the_queue_is_told(server, client):
    with stream(server, {"priority": 1}, **MANY_STEPS) as first:
        assert first.next().step == 0
        assert first.next().step == 1
        with stream(server, {"priority": 5}, preview_every=0, **MANY_STEPS) as second:
            begin = second.next()
            assert begin.parameters["queue_position"] == 1
            later = first.next()
            # Its own steps and those of the one before it; twice as many.
            own, both = (a.parameters["estimated_seconds"] for a in (later, begin))
            assert 1.5 * own < both < 3 * own, (own, both)


def test_the_estimate_comes_true(server, client):
    values = MANY_STEPS | {"preview_every": 0}
    answers(server, **(values | {"num_inference_steps": 50}))  # what steps cost is known now
    begin = time.monotonic()
    with stream(server, **(values | {"num_inference_steps": 100})) as opened:
        first = opened.next()
        found = [first, *opened.rest()]
    seconds = time.monotonic() - begin
    told = [answer.parameters["estimated_seconds"] for answer in found[:-1]]
    assert "estimated_seconds" not in found[-1].parameters
    assert seconds / 3 < told[0] < seconds * 3, (told[0], seconds)
    assert told[-1] < told[0] / 10


@pytest.mark.parametrize("every", [0, 1])
def test_a_cancelled_stream_stops_work(server, client, every):
    cancelled = cancelled_steps(server)
    opened = Stream(server, preview_every=every, **MANY_STEPS)
    while opened.next().step < 3:
        pass
    opened.close()
    assert serving.wait_until(lambda: cancelled_steps(server) > cancelled)
    stopped = server.metric("flux_steps_total", MODEL)
    time.sleep(0.3)
    assert server.metric("flux_steps_total", MODEL) == stopped
    assert server.metric("flux_requests_in_flight", MODEL) == 0


def test_eight_streams_at_once(server, client):
    requests = [
        SMALL | {"seed": i, "height": 16 * (1 + i % 4), "width": 32 + 16 * (i % 3),
                 "num_inference_steps": 2 + i, "preview_every": i % 4, "preview_size": 16 << (i % 3)}
        for i in range(8)
    ]  # fmt: skip
    alone = [answers(server, **values) for values in requests]
    opened = [Stream(server, **values) for values in requests]
    together = [each.rest() for each in opened]
    for each in opened:
        each.close()
    for values, one, other in zip(requests, alone, together):
        assert (images_of(one) == images_of(other)).all()
        values = {name: v for name, v in values.items() if not name.startswith("preview")}
        assert (images_of(one) == serving.generate(client, **values).as_numpy("images")).all()
        for a, b in zip(one, other, strict=True):
            assert a.step == b.step and a.outputs.get("preview") == b.outputs.get("preview")


def test_a_plain_request_is_refused(server, client):
    with pytest.raises(InferenceServerException, match="decoupled"):
        client.infer(MODEL, serving.inputs(grpcclient, **SMALL))
    status, answer = serving.post(server, f"/v2/models/{MODEL}/generate", {"prompt": "a", "steps": 2})
    assert status == 200 and "error" in answer  # the server's own: it takes one response


def test_events(server, client):
    png = serving.generate(client, output_format="png", **SMALL).as_numpy("encoded_images")[0, 0]
    body = SMALL | {"output_format": "png_base64", "preview_every": 2}
    found = list(Events(server, body))
    assert [event["step"] for event in found] == [0, 1, 2, 3, 4]
    assert {event["total_steps"] for event in found} == {4}
    assert found[0]["queue_position"] == 0 and "preview" not in found[0]
    assert [event["step"] for event in found if "preview" in event] == [2]
    preview = Image.open(io.BytesIO(base64.b64decode(found[2]["preview"])))
    assert preview.format == "JPEG" and preview.size == (48, 32)
    assert base64.b64decode(found[-1]["encoded_images"]) == png and found[-1]["seed"] == 7


def test_an_error_among_events(server, client):
    body = SMALL | {"height": 128, "width": 128, "output_format": "png_base64"}
    events = iter(Events(server, body | IN_TIME | {"num_inference_steps": 200}))
    assert next(events)["step"] == 0
    with ahead_of_all(server):
        *_, last = events
    assert LATE in last["error"]
    refused = Events(server, SMALL | {"preview_size": 5})
    assert refused.response.status == 400
    assert "preview_size is 5" in refused.response.read().decode()


@pytest.mark.parametrize("every", [0, 1])
def test_a_closed_http_connection_stops_work(server, client, every):
    cancelled = cancelled_steps(server)
    opened = Events(server, MANY_STEPS | {"preview_every": every, "output_format": "png_base64"})
    assert next(iter(opened))["step"] == 0
    opened.close()
    assert serving.wait_until(lambda: cancelled_steps(server) > cancelled)
    assert serving.wait_until(lambda: server.metric("flux_requests_in_flight", MODEL) == 0)


def test_nothing_grows(server, client):
    """300 streams, with errors and cancellations among them."""

    def round_of_requests(count):
        for i in range(count):
            if i % 4 == 1:
                error_of(server, **(SMALL | {"height": 7}))
            elif i % 4 == 3:
                opened = Stream(server, **MANY_STEPS)
                opened.next()
                opened.close()
            else:
                answers(server, **(SMALL | {"num_inference_steps": 3}))

    round_of_requests(60)
    assert serving.wait_until(lambda: server.metric("flux_requests_in_flight", MODEL) == 0)
    memory, threads, files = server.resident_bytes(), server.threads(), server.open_files()
    round_of_requests(300)
    assert serving.wait_until(lambda: server.metric("flux_requests_in_flight", MODEL) == 0)
    assert server.resident_bytes() < memory + (24 << 20)
    assert serving.wait_until(lambda: server.threads() <= threads + 4)
    assert serving.wait_until(lambda: server.open_files() <= files + 4)


def test_a_missing_stage_ends_the_stream(own_server):
    with own_server.grpc_client() as client:
        client.unload_model("vae_decoder")
        try:
            assert serving.wait_until(lambda: not client.is_model_ready("vae_decoder"))
            # The first preview fails, long before the image would.
            found, error = error_of(own_server, **SMALL)
            assert "stage 'vae_decoder' is not loaded" in error.message()
            assert [answer.step for answer in found] == [0]
            # What was shown already was shown: without previews only the image fails.
            found, error = error_of(own_server, preview_every=0, **SMALL)
            assert "stage 'vae_decoder' is not loaded" in error.message()
            assert [answer.step for answer in found] == [0, 1, 2, 3]
        finally:
            client.load_model("vae_decoder")
        assert answers(own_server, **SMALL)[-1].final


def test_a_repository_without_it_serves(repository, tmp_path):
    """As an older convert made it."""
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    shutil.rmtree(copy / MODEL)
    with serving.Server(copy, tmp_path / "log.txt") as running, running.grpc_client() as client:
        assert serving.generate(client, **SMALL).as_numpy("images").shape == (1, 1, 32, 48, 3)
        assert not client.is_model_ready(MODEL)
