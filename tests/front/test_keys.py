"""Keys: who must show one, and what happens without."""

import subprocess

import front as fronts
import openai
import pytest
import server as serving


@pytest.fixture(scope="module")
def keyed(server, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys")
    (path / "keys.txt").write_text("# of the team\nsecret-one\n\nsecret-two  \n")
    with fronts.Front(
        server, path / "log.txt", "--api-key-file", path / "keys.txt"
    ) as running:
        yield running


def test_openai_client(keyed):
    with openai.OpenAI(base_url=keyed.url + "/v1", api_key="secret-one", max_retries=0) as client:
        assert client.images.generate(prompt="a", extra_body={"steps": 1}).data
    with openai.OpenAI(base_url=keyed.url + "/v1", api_key="secret", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as error:
            client.images.generate(prompt="a")
        assert error.value.code == "invalid_api_key"
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 401),
        ({"X-API-Key": "secret-two"}, 200),
        ({"Authorization": "Bearer secret-two"}, 200),
        ({"Authorization": "bearer  secret-one"}, 200),
        ({"Authorization": "Basic secret-one"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"X-API-Key": "secret-on"}, 401),
        ({"X-API-Key": "secret-onee"}, 401),
        ({"X-API-Key": "# of the team"}, 401),
        ({"Authorization": "Bearer wrong", "X-API-Key": "secret-one"}, 401),
    ],
)
def test_keys(keyed, headers, status):
    for path in ("/v1/models", "/v1/models/bls", "/queue", "/metrics"):
        assert keyed.get(path, headers=headers)[0] == status, path
    assert keyed.generate(headers, prompt="a", steps=1)[0] == status
    assert keyed.request("POST", "/v1/images/edits", {}, headers)[0] in (status, 400)


def test_open_to_all(keyed):
    assert keyed.get("/health")[0] == 200
    assert keyed.get("/")[0] == 200


def test_no_body_is_read_without_a_key(keyed):
    with keyed.connect() as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        )
        assert fronts.read_all(connection).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "text, says",
    [("", "has no key"), ("# none\n", "has no key"), ("a b\n", "line 1: a key must be of printable")],
)
def test_bad_files(tmp_path, text, says):
    (tmp_path / "keys").write_text(text)
    command = [serving.PROGRAM, "front", "--triton", "127.0.0.1:1", "--port", "0", "--api-key-file"]
    done = subprocess.run([*command, tmp_path / "keys"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and says in done.stderr and "a b" not in done.stderr
    done = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "none" in done.stderr
