"""`flux-triton serve` with the real server: how it begins, what it says, how it ends."""

import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import server as serving

PATIENCE = 60

pytestmark = pytest.mark.skipif(bool(serving.IN_PYTHON), reason="the native backend is enough")


class Serve:
    """`flux-triton serve` on free ports, with its output."""

    def __init__(self, repository, *options, more=(), read_log=True):
        self.http, self.grpc, self.metrics = serving.free_ports(3)
        tritonserver = serving.PACKAGES / "pytriton/tritonserver/bin/tritonserver"
        command = [
            serving.PROGRAM, "serve", repository, "--tritonserver", tritonserver,
            "--backend-directory", serving.BACKENDS, "--http-port", self.http, "--grpc-port",
            self.grpc, "--metrics-port", self.metrics, "--front-port", 0, *options, "--", *more,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = []
        self.log = []
        self.threads = [threading.Thread(target=self.said.extend, args=(self.process.stdout,))]
        if read_log:
            self.threads.append(
                threading.Thread(target=self.log.extend, args=(self.process.stderr,))
            )
        for thread in self.threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE)
        for thread in self.threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def announced(self) -> str:
        """What it printed when the server was ready."""

        def complete():
            assert self.process.poll() is None, "".join(self.log)[-4000:]
            return self.said and self.said[0].startswith("serving ") and len(self.said) > 1

        assert serving.wait_until(complete, PATIENCE), "".join(self.log)[-4000:]
        time.sleep(0.1)  # the lines come at once
        return "".join(self.said)

    def begun(self, count: int) -> bool:
        """Whether `count` requests are being answered and the first steps are done."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("flux_"))
        in_flight = float(values['flux_requests_in_flight{model="bls"}'])
        return in_flight >= count and float(values['flux_steps_total{model="bls"}']) > 0

    def client(self):
        return serving.grpcclient.InferenceServerClient(f"127.0.0.1:{self.grpc}")


def test_what_has_begun_is_answered(repository):
    """gRPC requests alone: the server itself would fail them at their next step."""
    wish = {"prompt": "a boat", "num_inference_steps": 200, "height": 64, "width": 64}
    with Serve(repository) as serve:
        serve.announced()
        with serve.client() as client:
            started = [serving.start(client, seed=seed, **wish)[1] for seed in range(6)]
            assert serving.wait_until(lambda: serve.begun(len(started)))
            assert all(answers.empty() for answers in started)
            serve.process.send_signal(signal.SIGTERM)
            for answers in started:
                result, error = answers.get(timeout=PATIENCE)
                assert error is None
                assert result.as_numpy("images").shape == (1, 1, 64, 64, 3)
        assert serve.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "arguments, missing",
    [
        (["--allow-http=false"], "HTTP"),
        (["--http-restricted-api=health:key=value"], None),
        (["--allow-metrics", "false"], "metrics"),
        (["--allow-grpc=0"], "gRPC"),
    ],
)
def test_says_what_listens(repository, arguments, missing):
    with Serve(repository, more=arguments) as serve:
        said = serve.announced()
        for name in ("HTTP", "gRPC", "metrics"):
            assert (f"\n{name} " in said) == (name != missing), said
        assert ("\ntry " in said) == (missing != "HTTP")
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(PATIENCE) == 0


def test_a_host_name(repository):
    with Serve(repository, "--address", "localhost") as serve:
        assert f"http://127.0.0.1:{serve.http}" in serve.announced()
        with serve.client() as client:
            assert client.is_server_ready()


def test_a_log_that_nobody_reads_stops_nothing(repository):
    """Each request fails and leaves a line; after 64 KiB of them a pipe is full."""
    with Serve(repository, read_log=False) as serve:
        serve.announced()
        with serve.client() as client:
            text = "x" * 900
            for _ in range(200):
                with pytest.raises(serving.grpcclient.InferenceServerException, match="format"):
                    serving.generate(client, prompt="a", output_format=text)
            serving.generate(client, prompt="a", num_inference_steps=1, height=32, width=32)
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(PATIENCE) == 0


# How a repository is spoiled, and what `serve` gives as the reason.
SPOILED = {
    "syntax": (lambda root: (root / "bls/config.pbtxt").open("a").write("\n}}\n"), "bls"),
    "unknown_field": (
        lambda root: (root / "bls/config.pbtxt").open("a").write("\nno_such_field: 1\n"),
        "no_such_field|bls",
    ),
    "missing_weights": (
        lambda root: shutil.rmtree(root / "vae_decoder/1/vae"),
        "vae_decoder.*(vae|config.json)",
    ),
    "not_optional": (
        lambda root: (root / "bls/config.pbtxt").write_text(
            (root / "bls/config.pbtxt").read_text().replace("optional: true", "optional: false")
        ),
        "input 'prompt_2' is not optional",
    ),
    "model_of_a_user": (
        lambda root: (root / "own/1").mkdir(parents=True),
        "own",
    ),
    "data_type": (
        lambda root: (root / "t5_encoder/config.pbtxt").write_text(
            (root / "t5_encoder/config.pbtxt").read_text().replace("TYPE_INT32", "TYPE_INT64")
        ),
        "max_sequence_length.*must be TYPE_INT32",
    ),
}


def test_numpy_2_is_refused_before_this_server_answers_nothing(repository, tmp_path):
    """The stubs of Triton 24.10 know numpy 1; with numpy 2 they answer tensors of 0 bytes."""
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    (copy / "own/1").mkdir(parents=True)
    (copy / "own/config.pbtxt").write_text('backend: "python"\n')
    (copy / "own/1/model.py").write_text("import numpy\n")
    said = ["{}.{}".format(*sys.version_info), "", "", sys.base_prefix, "2.1.3"]
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in said))
    python.chmod(0o755)
    with Serve(copy, "--python", python) as serve:
        assert serve.process.wait(PATIENCE) == 1
    assert len(serve.log) == 1, serve.log
    assert "has numpy 2.1.3; this server's Python backend" in serve.log[0]


@pytest.mark.parametrize("how", SPOILED)
def test_says_why_it_does_not_start(repository, tmp_path, how):
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    spoil, says = SPOILED[how]
    spoil(copy)
    with Serve(copy) as serve:
        assert serve.process.wait(PATIENCE) == 1
        for thread in serve.threads:
            thread.join()
    reason = [line for line in serve.log if line.startswith("flux-triton: error: ")][-1]
    assert serving.re.search(says, reason), reason
    assert "failed to load all models" not in reason
    assert "CudaDriverHelper" not in reason


def test_nothing_is_loaded(repository):
    with Serve(repository, more=["--model-control-mode=explicit"]) as serve:
        assert "\ntry " not in serve.announced()
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(PATIENCE) == 0


def test_an_argument_that_the_server_does_not_know(repository):
    with Serve(repository, more=["--bogus=1"]) as serve:
        assert serve.process.wait(PATIENCE) != 0
        for thread in serve.threads:
            thread.join()
    assert "unrecognized option '--bogus=1'" in serve.log[-1]
    assert "Default is" not in serve.log[-1]


def test_an_idle_connection_does_not_make_the_end_a_failure(repository):
    """The server waits for it as long as it may, and then exits with code 1."""
    with Serve(repository, more=["--exit-timeout-secs=3"]) as serve:
        serve.announced()
        connection = serving.httpclient.InferenceServerClient(f"127.0.0.1:{serve.http}")
        assert connection.is_server_live()
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(PATIENCE) == 0
        connection.close()
    assert any("all requests were answered" in line for line in serve.log)


def test_what_takes_longer_than_the_exit_timeout_is_lost(repository):
    with Serve(repository, more=["--exit-timeout-secs=2"]) as serve:
        serve.announced()
        with serve.client() as client:
            _, answers = serving.start(
                client, prompt="a boat", num_inference_steps=1000, height=128, width=128
            )
            assert serving.wait_until(lambda: serve.begun(1))
            serve.process.send_signal(signal.SIGTERM)
            assert serve.process.wait(PATIENCE) == 1
            _, error = answers.get(timeout=PATIENCE)
            assert error is not None
    assert any("those are lost" in line for line in serve.log)
