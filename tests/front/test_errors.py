"""What is refused: each error names the field, and costs nobody else anything."""

import json

import front as fronts
import pytest

A = {"prompt": "a"}


@pytest.mark.parametrize(
    "body, param, says",
    [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": 7}, "prompt", "prompt is 7: must be text"),
        ({"prompt": " "}, "prompt", "prompt is blank"),
        ({"prompt": "a\0b"}, "prompt", "prompt"),
        (A | {"promtp_2": "b"}, "promtp_2", "did you mean prompt_2?"),
        (A | {"promtp_2": None}, "promtp_2", "is no field of a request"),
        (A | {"height": 32}, "height", "use size"),
        (A | {"num_images_per_prompt": 2}, "num_images_per_prompt", "use n"),
        (A | {"\0\n": 1}, "\0\n", "is no field of a request"),
        (A | {"n": 0}, "n", "n is 0: must be a whole number from 1 to 10"),
        (A | {"n": 11}, "n", "from 1 to 10"),
        (A | {"n": "2"}, "n", "from 1 to 10"),
        (A | {"n": 1.5}, "n", "from 1 to 10"),
        (A | {"n": 2**64}, "n", "from 1 to 10"),
        (A | {"size": "33x32"}, "size", "multiples of 16"),
        (A | {"size": "32"}, "size", "multiples of 16"),
        (A | {"size": "32x"}, "size", "multiples of 16"),
        (A | {"size": "-32x32"}, "size", "multiples of 16"),
        (A | {"size": "99999999999x32"}, "size", "multiples of 16"),
        (A | {"size": "4096x32"}, "size", "from 16 to 2048"),
        (A | {"quality": 80}, "quality", "output_compression"),
        (A | {"response_format": "url"}, "response_format", "keeps no images to link to"),
        (A | {"response_format": "x"}, "response_format", "one of b64_json"),
        (A | {"output_format": "gif"}, "output_format", "one of png, jpeg, webp"),
        (A | {"output_compression": 101}, "output_compression", "from 0 to 100"),
        (A | {"output_compression": 50}, "output_compression", "100 with output_format png"),
        (A | {"background": "transparent"}, "background", "no transparency"),
        (A | {"moderation": "none"}, "moderation", "one of auto, low"),
        (A | {"style": "x"}, "style", "one of vivid, natural"),
        (A | {"user": 1}, "user", "must be text"),
        (A | {"stream": "true"}, "stream", "true or false"),
        (A | {"stream": True, "partial_images": 4}, "partial_images", "from 0 to 3"),
        (A | {"partial_images": 2}, "partial_images", '0 without "stream": true'),
        (A | {"progress": True}, "progress", 'false without "stream": true'),
        (A | {"priority": 0}, "priority", "from 1 to 10"),
        (A | {"seed": -1}, "seed", "seed is -1: must be 0 or more"),
        (A | {"seed": 2**63}, "seed", "must be a whole number that fits into 64 bits"),
        (A | {"seed": 1.5}, "seed", "seed is 1.5: must be a whole number that fits into 64 bits"),
        (A | {"steps": 0}, "steps", "num_inference_steps is 0: must be from 1 to 1000"),
        (A | {"steps": 2**32 + 4}, "steps", "must be a whole number that fits into 32 bits"),
        (A | {"steps": 2, "num_inference_steps": 2}, None, "are the same"),
        (A | {"guidance": 101}, "guidance", "guidance_scale is 101"),
        (A | {"guidance_scale": "x"}, "guidance_scale", "must be a number"),
        (A | {"true_cfg_scale": 0.5}, "true_cfg_scale", "true_cfg_scale is 0.5"),
        (A | {"lora": "style"}, "lora", 'lora "style" is not there'),
        (A | {"lora": "a/b"}, "lora", "is a path"),
        (A | {"lora": "a:x"}, "lora", "must be a number"),
        (A | {"lora": ["style"]}, "lora", "must be text"),
        (A | {"model": 3}, "model", "model is 3: must be text"),
        (A | {"user": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}, None, "nests deeper than 16 levels"),
    ],
)
def test_bad_fields(front, body, param, says):
    status, _, answer = front.generate(**body)
    assert status == 400, answer
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert says in error["message"] and "\n" not in error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "body, says",
    [
        (b"", "must be a JSON object"),
        (b"{", "is not valid JSON: it ends too early"),
        (b"[]", "must be a JSON object"),
        (b'{"prompt": "\xff"}', "is not valid JSON"),
        (b'{"prompt": "a", "seed": 1e999}', "out of range"),
        (b'{"prompt": "a", "prompt": "b"}', 'has "prompt" twice'),
        (b"[" * 100000, "nests deeper than 16 levels"),
        (b"prompt=a", "is not valid JSON"),
    ],
)
def test_bad_bodies(front, body, says):
    status, _, answer = front.request("POST", "/v1/images/generations", body)
    assert status == 400 and says in answer["error"]["message"], answer


def test_paths_and_methods(front):
    status, _, answer = front.request("GET", "/v1/chat/completions")
    assert status == 404 and "/v1/images/generations" in answer["error"]["message"]
    status, headers, answer = front.request("GET", "/v1/images/generations")
    assert status == 405 and headers["Allow"] == "POST" and "use POST" in answer["error"]["message"]
    assert front.request("DELETE", "/queue")[0] == 405
    status, headers, body = front.request("HEAD", "/")
    assert status == 200 and int(headers["Content-Length"]) > 100 and body == ""


@pytest.mark.parametrize("text", ["0", "-1", "x", "1e9", "nan", "1s"])
def test_bad_timeouts(front, text):
    status, _, answer = front.generate({"X-Request-Timeout": text}, prompt="a")
    assert status == 400 and f"X-Request-Timeout is '{text}'" in answer["error"]["message"]


def answer_to(front, raw):
    with front.connect() as connection:
        connection.sendall(raw)
        return fronts.read_all(connection)


def test_bounds(front):
    """They are refused before they are held, and the connection ends."""
    large = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    assert answer_to(front, large).startswith(b"HTTP/1.1 413 ")
    chunks = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks += b"80000\r\n" + b" " * 0x80000 + b"\r\n" + b"90000\r\n" + b" " * 0x90000
    assert answer_to(front, chunks).startswith(b"HTTP/1.1 413 ")
    long_head = b"GET /health HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n"
    head = answer_to(front, long_head)
    assert head.startswith(b"HTTP/1.1 400 ") and b"larger than 16384 bytes" in head
    assert answer_to(front, b"SSH-2.0-x\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert front.get("/health")[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "chunked, gzip", "gzip, chunked", "identity"])
def test_bodies_of_unknown_length(front, encoding):
    """What follows is not read as a request of its own."""
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {encoding}\r\n\r\n"
    answer = answer_to(front, head.encode() + b"GET /queue HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and b"Transfer-Encoding other than chunked" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_large_prompt_is_the_servers_to_refuse(front):
    status, _, answer = front.generate(prompt="x" * 70000)
    assert status == 400 and answer["error"]["param"] == "prompt"
    assert "65536" in answer["error"]["message"] or "64 KiB" in answer["error"]["message"]


def test_pages_of_other_sites(front, server, tmp_path):
    """A page somewhere else cannot use its visitors' browsers, unless the operator allows it."""
    elsewhere = {"Origin": "https://example.org"}
    status, _, answer = front.generate(elsewhere, **fronts.SHORT)
    assert status == 403 and answer["error"]["code"] == "origin_not_allowed"
    assert front.generate({"Origin": front.url}, **fronts.SHORT)[0] == 200
    with fronts.Front(
        server, tmp_path / "log.txt", "--cors-origin", "https://example.org"
    ) as allowing:
        status, headers, _ = allowing.generate(elsewhere, **fronts.SHORT)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == "https://example.org"
        status, headers, _ = allowing.request("OPTIONS", "/v1/images/generations", None, elsewhere)
        assert status == 200 and "Content-Type" in headers["Access-Control-Allow-Headers"]
        assert allowing.generate({"Origin": "https://example.com"}, **fronts.SHORT)[0] == 403


def test_no_server(server, tmp_path):
    """Without Triton the front lives, says so, and finds the server when it comes."""
    with fronts.serving.Server(
        fronts.repository(tmp_path / "models"), tmp_path / "log.txt"
    ) as other:
        with fronts.Front(other, tmp_path / "front.txt") as front:
            assert other.stop() == 0
            assert fronts.wait_until(lambda: front.get("/health")[0] == 503)
            assert front.get("/health")[1] == {"status": "Triton does not answer"}
            status, headers, answer = front.generate(**fronts.SHORT)
            assert status == 503 and headers["Retry-After"] == "1", answer
            assert front.get("/metrics")[0] == 200


def test_a_stage_that_is_not_loaded(tmp_path):
    """The front is not ready, refuses, and serves again when the stage is back."""
    with fronts.serving.Server(
        fronts.repository(tmp_path / "models"), tmp_path / "log.txt",
        "--model-control-mode=explicit", "--load-model=*",
    ) as server, fronts.Front(server, tmp_path / "front.txt") as front:  # fmt: skip
        with server.grpc_client() as client:
            client.unload_model("vae_decoder")
            assert fronts.wait_until(lambda: front.get("/health")[0] == 503)
            assert json.dumps(front.get("/v1/models")[1]["data"]) == "[]"
            status, _, answer = front.generate(model="bls", **fronts.SHORT)
            assert status == 503 and "not loaded with all its stages" in answer["error"]["message"]
            client.load_model("vae_decoder")
        assert fronts.wait_until(lambda: front.get("/health")[0] == 200)
        assert front.generate(**fronts.SHORT)[0] == 200
