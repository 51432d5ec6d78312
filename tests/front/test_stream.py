"""Streams: OpenAI's events, previews, progress, and errors inside."""

import base64

import front as fronts
import openai
import pytest


def stream(front, **body):
    status, headers, text = front.generate(stream=True, **body)
    assert status == 200 and headers["Content-Type"] == "text/event-stream", text
    return headers, fronts.events_of(text)


def names(events):
    return [name.removeprefix("image_generation.") for name, _ in events]


@pytest.mark.parametrize(
    "steps, wanted, expected", [(8, 3, 3), (4, 3, 3), (28, 1, 1), (2, 3, 1), (1, 3, 0), (8, 0, 0)]
)
def test_partial_images(front, steps, wanted, expected):
    """As many as are asked for, evenly spaced, where there are steps to show them after."""
    body = {"prompt": "a boat", "seed": 5, "size": "64x48"}
    _, events = stream(front, steps=steps, partial_images=wanted, **body)
    assert names(events) == ["partial_image"] * expected + ["completed"]
    for index, (name, data) in enumerate(events[:-1]):
        assert data["type"] == name and data["partial_image_index"] == index
        assert data["output_format"] == "jpeg" and data["size"] == "64x48"
        assert fronts.picture(base64.b64decode(data["b64_json"])).size == (64, 48)
    data = events[-1][1]
    assert data["usage"]["output_tokens"] == 12 and data["seed"] == 5
    assert [base64.b64decode(data["b64_json"])] == front.files(steps=steps, **body)


def test_several_images(front):
    body = {"prompt": "a boat", "seed": 5, "n": 2, "steps": 4}
    _, events = stream(front, partial_images=1, **body)
    assert names(events) == ["partial_image"] * 2 + ["completed"] * 2
    assert [data["image_index"] for _, data in events] == [0, 1, 0, 1]
    files = [base64.b64decode(data["b64_json"]) for _, data in events[2:]]
    assert files == front.files(**body)


def test_progress(front):
    """Each step, for those who ask: the first event comes when the request begins."""
    front.generate(**fronts.SHORT)
    headers, events = stream(front, prompt="a", steps=5, progress=True)
    assert names(events) == ["flux.progress"] * 6 + ["completed"]
    assert [data["step"] for _, data in events[:-1]] == [0, 1, 2, 3, 4, 5]
    assert all(data["total_steps"] == 5 for _, data in events[:-1])
    assert headers["X-Queue-Position"] == "0"
    assert float(headers["X-Estimated-Seconds"]) > 0


def test_openai_client(front):
    with openai.OpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0) as client:
        with client.images.generate(
            prompt="a boat", stream=True, partial_images=2, extra_body={"steps": 6, "seed": 5}
        ) as events:
            found = list(events)
    assert [event.type for event in found] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert [event.partial_image_index for event in found[:-1]] == [0, 1]
    expected = front.files(prompt="a boat", steps=6, seed=5)
    assert [base64.b64decode(found[-1].b64_json)] == expected
    assert found[-1].usage.total_tokens == 6


def test_what_is_refused_has_a_status(front):
    """The server refuses it, not the front: the stream has not begun."""
    status, _, answer = front.generate(prompt="a", stream=True, size="4096x4096")
    assert status == 400 and answer["error"]["param"] == "size"
    with openai.OpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(prompt="a", stream=True, extra_body={"steps": 0})
        assert error.value.param == "steps"


def test_an_error_inside(single):
    """A stream that had to wait has begun when the server refuses its values."""
    long = single.start(**fronts.LONG)
    assert fronts.wait_until(lambda: single.running() == 1)
    with openai.OpenAI(base_url=single.url + "/v1", api_key="none", max_retries=0) as client:
        with client.images.generate(prompt="a", stream=True, size="4096x4096") as events:
            assert fronts.wait_until(lambda: single.waiting() == 1)
            long.close()
            with pytest.raises(openai.APIError) as error:
                list(events)
    assert "height is 4096: must be a multiple of 16 from 16 to 2048" in str(error.value)


def test_a_quiet_stream_is_kept_alive(single):
    long = single.start(n=4, **fronts.LONG)
    assert fronts.wait_until(lambda: single.running() == 1)
    waits = single.start(stream=True, **fronts.SHORT)
    waits.settimeout(20)
    text = b""
    while b": waiting" not in text:
        text += waits.recv(4096)
    assert b"X-Queue-Position: 1\r\n" in text and b"event:" not in text
    long.close()
    while b"image_generation.completed" not in text:
        text += waits.recv(65536)
    waits.close()
