"""A client that leaves, or whose time is over, stops the work: in the queue and in the loop."""

import socket
import struct
import time

import front as fronts
import openai
import pytest
import server as serving

NOTICED = 0.1  # seconds until a closed connection is noticed


def cancelled_steps(front):
    return front.server.metric("flux_steps_cancelled_total", "bls_stream") or 0


def steps_done(front):
    return front.server.metric("flux_steps_total", "bls_stream") or 0


def begin(front, **body):
    """A long request whose work has begun."""
    before = steps_done(front)
    connection = front.start(**(fronts.LONG | body))
    assert fronts.wait_until(lambda: steps_done(front) > before + 2)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_stops_the_work(single, stream):
    cancelled, stopped = cancelled_steps(single), single.metric("flux_front_stopped_total")
    connection = begin(single, stream=stream)
    connection.close()
    closed = time.monotonic()
    assert fronts.wait_until(
        lambda: single.metric("flux_front_stopped_total", **{"while": "running"}) > stopped
    )
    assert time.monotonic() - closed < NOTICED + 0.1  # what asking for metrics takes
    assert fronts.wait_until(lambda: cancelled_steps(single) > cancelled + 500)
    assert fronts.wait_until(lambda: single.running() == 0)
    # A step of this size takes some 10 ms; the time includes asking.
    assert time.monotonic() - closed < 1
    done = steps_done(single)
    time.sleep(0.2)
    assert steps_done(single) == done


@pytest.mark.parametrize("how", ["reset", "half-closed"])
def test_other_ways_to_leave(single, how):
    stopped = single.metric("flux_front_stopped_total")
    connection = begin(single)
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    else:
        connection.shutdown(socket.SHUT_WR)
    assert fronts.wait_until(lambda: single.metric("flux_front_stopped_total") == stopped + 1, 2)
    assert fronts.wait_until(lambda: single.running() == 0, 2)
    connection.close()


def test_leaving_the_queue(single):
    """Who waits costs nothing, and the ones behind move up."""
    first = begin(single)
    second = single.start(**fronts.SHORT)
    assert fronts.wait_until(lambda: single.waiting() == 1)
    third = single.start(stream=True, **fronts.SHORT)
    assert fronts.wait_until(lambda: single.waiting() == 2)
    second.close()
    assert fronts.wait_until(lambda: single.waiting() == 1)
    assert single.metric("flux_front_stopped_total", **{"while": "waiting"}) == 1
    [behind] = single.get("/queue")[1]["waiting"]
    assert behind["position"] == 1 and behind["size"] == "32x32"
    first.close()
    text = b""
    while b"image_generation.completed" not in text:
        text += third.recv(65536)
    third.close()


def test_a_closed_openai_stream(single):
    cancelled = cancelled_steps(single)
    with openai.OpenAI(base_url=single.url + "/v1", api_key="none", max_retries=0) as client:
        extra = {"steps": 1000, "seed": 1}
        with client.images.generate(
            prompt="a", size="64x64", stream=True, partial_images=3, extra_body=extra
        ) as events:
            assert next(iter(events)).type == "image_generation.partial_image"
    assert fronts.wait_until(lambda: cancelled_steps(single) > cancelled + 100, 5)


def test_deadlines(single):
    """In the queue, in the loop, and at once where the server knows that it cannot be."""
    began = time.monotonic()
    status, _, answer = single.generate({"X-Request-Timeout": "0.5"}, **fronts.LONG)
    assert status == 503 and time.monotonic() - began < 1.5, answer
    assert fronts.wait_until(lambda: single.running() == 0, 2)
    first = begin(single)
    began = time.monotonic()
    status, _, answer = single.generate({"X-Request-Timeout": "0.5"}, **fronts.SHORT)
    assert status == 503 and answer["error"]["code"] == "timeout"
    assert "0.5 s of X-Request-Timeout" in answer["error"]["message"]
    assert 0.4 < time.monotonic() - began < 1.5
    first.close()
    assert single.generate({"X-Request-Timeout": "30"}, **fronts.SHORT)[0] == 200


def test_a_storm_of_leavers(single):
    """Nobody who stays suffers, and nothing is left behind."""
    expected = single.files(**fronts.SHORT)
    for _ in range(20):
        single.start(**fronts.LONG).close()
        single.start(stream=True, **fronts.LONG).close()
    assert fronts.wait_until(lambda: single.running() == 0 and single.waiting() == 0)
    assert single.files(**fronts.SHORT) == expected
    assert serving.wait_until(lambda: single.metric("flux_front_connections") <= 1)
