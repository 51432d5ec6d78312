"""A running flux-triton-front before a real Triton server, and requests to it."""

import base64
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/serving"))
import server as serving  # noqa: E402

# Seconds of work for a tiny checkpoint, unless somebody stops it.
LONG = {"prompt": "a long one", "steps": 1000, "size": "128x128", "seed": 1}
SHORT = {"prompt": "a short one", "steps": 2, "size": "32x32", "seed": 1}


def repository(path, checkpoint=None, *, instances=None):
    """A repository of a checkpoint, else of the tiny one, for so many requests at a time."""
    if checkpoint:
        serving.convert(checkpoint, path)
    else:
        serving.convert(serving.CHECKPOINTS / "tiny-dev", path, "--default-size", "32x48")
    if instances is not None:
        config = path / "bls_stream/config.pbtxt"
        text, count = re.subn(r"count: \d+ kind", f"count: {instances} kind", config.read_text())
        assert count == 1
        config.write_text(text)
    return path


class Front:
    """The front before `server`, a serving.Server. Use it with `with`."""

    def __init__(self, server, log, *options):
        self.server = server
        self.log_path = pathlib.Path(log)
        command = [
            serving.PROGRAM, "front", "--triton", f"127.0.0.1:{server.grpc}",
            "--metrics", f"127.0.0.1:{server.metrics_port}", "--port", "0", *options,
        ]  # fmt: skip
        with open(self.log_path, "w") as log_file:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=subprocess.PIPE, stderr=log_file, text=True
            )
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), self.log_path.read_text()
        self.port = int(line.rsplit(":", 1)[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        assert serving.wait_until(lambda: self.get("/health")[0] == 200), self.get("/health")
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.process.stdout.close()
        if exception[0] is None:
            assert self.process.returncode == 0, self.log_path.read_text()

    def request(self, method, path, body=None, headers=None, timeout=120):
        """Returns (status, headers, parsed or plain body)."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, parsed(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.headers, parsed(error)

    def get(self, path, **options):
        status, _, body = self.request("GET", path, **options)
        return status, body

    def generate(self, headers=None, **body):
        return self.request("POST", "/v1/images/generations", body, headers)

    def files(self, **body):
        """The image files of a request that must succeed."""
        status, _, answer = self.generate(**body)
        assert status == 200, answer
        return [base64.b64decode(each["b64_json"]) for each in answer["data"]]

    def metric(self, name, **labels):
        """The sum over the lines of that name that have these labels."""
        found = None
        for line in self.get("/metrics")[1].splitlines():
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] != name:
                continue
            if all(f'{key}="{wanted}"' in head for key, wanted in labels.items()):
                found = (found or 0) + float(value)
        return found

    def waiting(self):
        return self.metric("flux_front_requests_waiting")

    def running(self):
        return self.metric("flux_front_requests_running")

    def connect(self):
        """A socket of its own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def start(self, **body):
        """Sends a request and returns its socket without waiting for the answer."""
        connection = self.connect()
        connection.sendall(raw_request(body))
        return connection

    def open_files(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()))

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024


def parsed(answer):
    text = answer.read()
    if answer.headers.get("Content-Type") == "application/json" and text:
        return json.loads(text)
    return text.decode()


def raw_request(body, head=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n{head}"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def read_all(connection, seconds=30):
    """Everything until the other side closes."""
    connection.settimeout(seconds)
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def events_of(text):
    """[(name, data)] of a stream; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        fields = dict(line.split(": ", 1) for line in lines)
        events.append((fields["event"], json.loads(fields["data"])))
    return events


def picture(file):
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


os.environ.setdefault("no_proxy", "127.0.0.1")
