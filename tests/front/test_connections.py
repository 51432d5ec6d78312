"""Connections as they come: many, idle, slow, half-open, pipelined, of HTTP/1.0."""

import contextlib
import json
import socket
import time

import front as fronts
import pytest
import server as serving

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def read_answer(connection):
    """(head, body) of an answer with a length."""
    connection.settimeout(30)
    text = b""
    while b"\r\n\r\n" not in text:
        piece = connection.recv(65536)
        assert piece, text
        text += piece
    head, _, body = text.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    assert len(body) == length
    return head, body


def test_keep_alive(front):
    with front.connect() as connection:
        for _ in range(3):
            connection.sendall(fronts.raw_request(fronts.SHORT))
            head, body = read_answer(connection)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"Connection: keep-alive" in head
            assert len(json.loads(body)["data"]) == 1
            connection.sendall(HEALTH)
            assert read_answer(connection)[1] == b'{"status":"ready"}'


def test_pipelining_and_pieces(front):
    """Requests that come together, or byte by byte, are answered in order."""
    with front.connect() as connection:
        connection.sendall(fronts.raw_request(fronts.SHORT) + HEALTH + HEALTH)
        answers = b""
        while answers.count(b'{"status":"ready"}') < 2:
            answers += connection.recv(65536)
        assert answers.index(b'"created"') < answers.index(b'"status"')
    with front.connect() as connection:
        for byte in fronts.raw_request(fronts.SHORT):
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def test_http_1_0(front):
    """A stream ends with its connection, and is not in chunks."""
    data = json.dumps({"prompt": "a", "steps": 2, "stream": True}).encode()
    with front.connect() as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        text = fronts.read_all(connection).decode()
    head, _, body = text.partition("\r\n\r\n")
    assert "chunked" not in head and "Connection: close" in head
    assert [name for name, _ in fronts.events_of(body)] == ["image_generation.completed"]


def test_expect_100(front):
    """curl waits for it before it sends a large body."""
    data = json.dumps(fronts.SHORT).encode()
    with front.connect() as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data)
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(data)
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200 ")


def test_five_hundred_idle_streams(single_server, tmp_path):
    """They wait, cost little, and others are answered meanwhile."""
    with fronts.Front(single_server, tmp_path / "log.txt", "--max-waiting", "600") as front:
        threads, memory = front.threads(), front.resident_bytes()
        with contextlib.ExitStack() as stack:
            stack.enter_context(front.start(n=10, **fronts.LONG))
            assert fronts.wait_until(lambda: front.running() == 1)
            for _ in range(500):
                stack.enter_context(front.start(stream=True, **fronts.SHORT))
            assert fronts.wait_until(lambda: front.waiting() == 500)
            began = time.monotonic()
            assert front.get("/v1/models")[0] == 200
            assert time.monotonic() - began < 0.5
            assert front.threads() <= threads + 2
            assert front.resident_bytes() - memory < 32 << 20
        assert fronts.wait_until(lambda: front.waiting() == 0 and front.running() == 0)
        assert fronts.wait_until(lambda: front.metric("flux_front_connections") == 1)
        assert front.open_files() < 64


def test_more_connections_than_allowed(server, tmp_path):
    with fronts.Front(server, tmp_path / "log.txt", "--max-connections", "4") as front:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(front.connect())
            time.sleep(0.2)
            with front.connect() as refused:
                answer = fronts.read_all(refused)
                assert answer.startswith(b"HTTP/1.1 503 ")
                body = json.loads(answer.partition(b"\r\n\r\n")[2])
                assert body["error"]["message"] == "too many connections are open"
        assert fronts.wait_until(lambda: front.get("/health")[0] == 200)
        assert front.metric("flux_front_connections_refused_total") >= 1


def test_idle_and_unfinished_requests_end(server, tmp_path):
    with fronts.Front(server, tmp_path / "log.txt", "--idle-timeout", "1") as front:
        with front.connect() as idle:
            assert fronts.read_all(idle, 5) == b""
        # A head that never ends is ended by the longer bound of a request.
        with front.connect() as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\n")
            time.sleep(1.5)
            slow.sendall(b"Host: x\r\n\r\n")
            assert read_answer(slow)[0].startswith(b"HTTP/1.1 200 ")


def test_a_slow_reader_is_left(server, tmp_path):
    """It holds no more than its own answer, and its connection ends."""
    with fronts.Front(server, tmp_path / "log.txt", "--write-timeout", "1") as front:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", front.port))
        # Some MB of noise, which no socket takes at once.
        body = {"prompt": "a", "steps": 1, "size": "512x512", "n": 10, "seed": 1}
        connection.sendall(fronts.raw_request(body))
        assert fronts.wait_until(lambda: front.metric("flux_front_slow_readers_total") == 1, 60)
        connection.close()
        assert front.generate(**fronts.SHORT)[0] == 200
        assert fronts.wait_until(lambda: front.metric("flux_front_connections") == 1)


def test_a_slow_reader_of_a_stream(single):
    """Progress that it does not take is left out; the images come."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", single.port))
    body = {"prompt": "a", "steps": 300, "size": "16x16", "stream": True, "progress": True}
    connection.sendall(fronts.raw_request(body))
    assert fronts.wait_until(lambda: single.running() == 1)
    assert fronts.wait_until(lambda: single.running() == 0, 60)
    text = b""
    connection.settimeout(10)
    while b"image_generation.completed" not in text:
        text += connection.recv(1 << 20)
    connection.close()


@pytest.mark.parametrize("raw", [b"\r\n\r\n", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"A" * 5000])
def test_noise(front, raw):
    with front.connect() as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        fronts.read_all(connection)
    assert serving.wait_until(lambda: front.get("/health")[0] == 200)
