"""The front that `serve` starts: found, announced, stopped before the server."""

import json
import pathlib
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import front as fronts
import pytest
import server as serving

TRITONSERVER = serving.PACKAGES / "pytriton/tritonserver/bin/tritonserver"


class Served:
    """A running `serve`. Use it with `with`."""

    def __init__(self, repository, log, *options, has_front=True):
        http, grpc, metrics, self.port = serving.free_ports(4)
        self.log_path = pathlib.Path(log)
        command = [
            serving.PROGRAM, "serve", repository, "--tritonserver", TRITONSERVER,
            "--backend-directory", serving.BACKENDS, f"--http-port={http}",
            f"--grpc-port={grpc}", f"--metrics-port={metrics}",
            f"--front-port={self.port if has_front else 0}", *options,
        ]  # fmt: skip
        with open(self.log_path, "w") as log_file:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=subprocess.PIPE, stderr=log_file, text=True
            )
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.said = []
        while not self.said or not self.said[-1].startswith("try "):
            line = self.process.stdout.readline()
            assert line, self.log_path.read_text()[-3000:]
            self.said.append(line)
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read()

    def child(self, name):
        """The process id of the child with that name."""
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        for pid in pathlib.Path(children).read_text().split():
            if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == name[:15]:
                return int(pid)
        raise AssertionError(f"no child {name}")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return fronts.repository(tmp_path_factory.mktemp("served") / "models")


def test_it_is_ready_when_it_is_announced(repository, tmp_path):
    with Served(repository, tmp_path / "log.txt") as served:
        assert f"front    {served.url}/\n" in served.said
        command = served.said[-1].removeprefix("try ").strip()
        answer = subprocess.run(command, shell=True, capture_output=True, check=True).stdout
        assert len(json.loads(answer)["data"]) == 1
        assert b"flux_steps_total" in served.get("/metrics")
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_was_accepted_is_answered(repository, tmp_path, number):
    with Served(repository, tmp_path / "log.txt") as served:
        connection = fronts.socket.create_connection(("127.0.0.1", served.port))
        body = {"prompt": "a", "steps": 200, "size": "64x64", "seed": 1}
        connection.sendall(fronts.raw_request(body))
        assert fronts.wait_until(lambda: json.loads(served.get("/queue"))["running"])
        served.process.send_signal(number)
        answer = fronts.read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in answer
        with pytest.raises(OSError):
            served.get("/health")
        assert served.process.wait(30) == 0


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP,)])
def test_a_front_alone_answers_what_it_accepted(single_server, tmp_path, numbers):
    """`timeout` signals a program, and the program's group: that is one request to stop."""
    with fronts.Front(single_server, tmp_path / "log.txt") as front:
        connection = fronts.socket.create_connection(("127.0.0.1", front.port))
        body = {"prompt": "a", "steps": 200, "size": "64x64", "seed": 1}
        connection.sendall(fronts.raw_request(body))
        assert fronts.wait_until(lambda: front.running() == 1)
        for number in numbers:
            front.process.send_signal(number)
            time.sleep(0.02)
        assert fronts.read_all(connection).startswith(b"HTTP/1.1 200 ")
        assert front.process.wait(30) == 0


def test_a_second_signal_ends_at_once(repository, tmp_path):
    with Served(repository, tmp_path / "log.txt") as served:
        connection = fronts.socket.create_connection(("127.0.0.1", served.port))
        connection.sendall(fronts.raw_request(fronts.LONG | {"n": 4}))
        assert fronts.wait_until(lambda: json.loads(served.get("/queue"))["running"])
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) != 0
        connection.close()


def test_a_front_that_dies_ends_the_server(repository, tmp_path):
    """Whoever supervises serve starts both again."""
    with Served(repository, tmp_path / "log.txt") as served:
        fronts.os.kill(served.child("flux-triton-front"), signal.SIGKILL)
        assert served.process.wait(30) == 1
        said = "flux-triton-front: was ended by signal 9; the server is stopped, too"
        assert said in served.log_path.read_text()


def test_a_server_that_dies_ends_the_front(repository, tmp_path):
    with Served(repository, tmp_path / "log.txt") as served:
        front = served.child("flux-triton-front")
        fronts.os.kill(served.child("tritonserver"), signal.SIGKILL)
        assert served.process.wait(30) == 128 + 9
        assert not pathlib.Path(f"/proc/{front}").exists()


def test_keys(repository, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    with Served(repository, tmp_path / "log.txt", "--api-key-file", tmp_path / "keys") as served:
        with pytest.raises(urllib.error.HTTPError) as error:
            served.get("/v1/models")
        assert error.value.code == 401


def test_no_front(repository, tmp_path):
    """Off, or for a repository without the model that it needs, which a line says."""
    with Served(repository, tmp_path / "log.txt", has_front=False) as served:
        assert not any(line.startswith("front") for line in served.said)
    older = tmp_path / "older"
    fronts.serving.convert(serving.CHECKPOINTS / "tiny-dev", older)
    subprocess.run(["rm", "-r", older / "bls_stream"], check=True)
    with Served(older, tmp_path / "log.txt") as served:
        assert not any(line.startswith("front") for line in served.said)
        log = served.log_path.read_text()
        assert re.search(r"info: no HTTP front on port \d+: the repository has no model", log)


@pytest.mark.parametrize(
    "options, says",
    [
        (["--front-port=8000"], "another of the ports is the same"),
        (["--front-port=70000"], "--front-port 70000: must be 1 to 65535"),
        (["--front-port=0", "--api-key-file=x"], "there is no HTTP front that would ask for keys"),
    ],
)
def test_wrong_usage(repository, options, says):
    done = subprocess.run(
        [serving.PROGRAM, "serve", repository, *options],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and says in done.stderr


def test_a_key_file_that_is_missing(repository, tmp_path):
    ports = [f"--{name}-port={port}" for name, port in zip(
        ("http", "grpc", "metrics", "front"), serving.free_ports(4))]  # fmt: skip
    done = subprocess.run(
        [serving.PROGRAM, "serve", repository, "--tritonserver", TRITONSERVER,
         "--backend-directory", serving.BACKENDS, *ports, "--api-key-file=/none"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "/none" in done.stderr
