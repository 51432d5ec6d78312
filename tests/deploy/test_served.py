"""The commands of deploy/, run for real on a tiny checkpoint: the job's makes a repository for
GPUs, the servers' start, answer and stop, and what Prometheus is asked for is there."""

import contextlib
import pathlib
import re
import signal
import subprocess
import sys

import checks
import manifests
import pytest
import tritonclient.grpc as grpcclient

sys.path.insert(0, str(manifests.ROOT / "tests/serving"))
import server as serving  # noqa: E402

CHECKPOINT = serving.CHECKPOINTS / "tiny-dev"
TRITONSERVER = serving.PACKAGES / "pytriton/tritonserver/bin/tritonserver"
OBJECTS = manifests.documents("kubernetes") + manifests.documents("kserve")
SERVERS = {name: container for name, _, container, _ in manifests.servers(OBJECTS)}


class Served(serving.Server):
    """The server of a container, with paths and ports of this machine."""

    def __init__(self, container, repository, log):
        self.http, self.grpc, self.metrics_port, self.front = serving.free_ports(4)
        self.log_path = pathlib.Path(log)
        program, serve, _, *options = manifests.command_line(container)
        assert (program, serve) == ("flux-triton", "serve")
        kept = [option for option in options if not re.match("--(http|grpc|metrics|front)-port=", option)]
        self.has_front = "--front-port=0" not in options
        kept[kept.index("--address=0.0.0.0")] = "--address=127.0.0.1"
        command = [
            serving.PROGRAM, serve, repository, f"--http-port={self.http}",
            f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics_port}",
            f"--front-port={self.front if self.has_front else 0}",
            "--tritonserver", TRITONSERVER,
            "--backend-directory", serving.BACKENDS, *kept,
        ]  # fmt: skip
        with open(self.log_path, "w") as log_file:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdout=log_file, stderr=subprocess.STDOUT
            )
        with contextlib.ExitStack() as failed:
            failed.callback(self.process.kill)
            self.wait_ready()
            failed.pop_all()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    models = tmp_path_factory.mktemp("repository") / "models"
    return serving.convert(CHECKPOINT, models, "--default-size", "32x32", device="cpu")


@pytest.fixture(scope="module", params=SERVERS)
def server(request, repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with Served(SERVERS[request.param], repository, log) as running:
        yield running


def test_the_server_answers(server):
    container = SERVERS["Deployment/flux-triton"]
    for _, probe in manifests.probes(container):
        assert server.get(probe["httpGet"]["path"]) == ""
    with server.grpc_client() as client:
        result = serving.generate(client, prompt="a", num_inference_steps=1)
        assert result.as_numpy("images").shape[-1] == 3
        # Its limits are in force.
        for name, value in (
            ("height", 1552),
            ("num_images_per_prompt", 5),
            ("num_inference_steps", 101),
        ):
            with pytest.raises(Exception, match=name):
                serving.generate(client, prompt="a", **{name: value})


def test_a_client_may_take_turns_among_pods(server):
    """As the comment of the headless service says."""
    with grpcclient.InferenceServerClient(
        f"dns:///localhost:{server.grpc}", channel_args=[("grpc.lb_policy_name", "round_robin")]
    ) as client:
        assert client.is_server_ready()
        serving.generate(client, prompt="a", num_inference_steps=1)


def families(server):
    """Names of the metrics of a server that has generated an image, and their labels."""
    with server.grpc_client() as client:
        serving.generate(client, prompt="a", num_inference_steps=1)
    text = server.get("/metrics", server.metrics_port)
    if server.has_front:
        own = server.get("/metrics", server.front)
        assert text.splitlines()[0] in own  # it passes on the server's
        text += "\n".join(line for line in own.splitlines() if "flux_front_" in line)
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    return names, set(re.findall(r'[{,](\w+)="', text))


def test_the_metrics_are_exported(server):
    names, labels = families(server)
    assert manifests.backend_metrics() <= names
    if server.has_front:
        assert manifests.front_metrics() <= names
    else:
        names |= manifests.front_metrics()
    asked = [expression for _, expression in manifests.expressions(manifests.dashboard())]
    for rule in manifests.adapter_rules():
        asked += [rule["seriesQuery"], rule["metricsQuery"]]
    used = set(re.findall(r"\b(?:nv|flux)_\w+", " ".join(asked)))
    of_gpus = {name for name in used if name.startswith("nv_gpu_")}
    assert of_gpus <= checks.TRITON_METRICS
    assert used - of_gpus - {rule["name"]["as"] for rule in manifests.adapter_rules()} <= names
    # Those that the checks without a server know are those of a server without a GPU.
    without_gpu = {name for name in checks.TRITON_METRICS if not re.match("nv_(gpu|energy)_", name)}
    assert without_gpu <= names
    assert {"model", "version", "reason"} <= labels


@pytest.mark.parametrize("container", SERVERS.values(), ids=SERVERS)
def test_the_server_stops(container, repository, tmp_path):
    with Served(container, repository, tmp_path / "log.txt") as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(int(manifests.option(container, "exit-timeout-secs"))) == 0


def test_the_job_makes_a_repository_for_gpus(tmp_path):
    [job] = manifests.of_kind(OBJECTS, "Job")
    [container] = job["spec"]["template"]["spec"]["containers"]
    program, *words = manifests.command_line(container)
    assert program == "flux-triton"
    places = {"/checkpoint/flux": CHECKPOINT, "/models/flux": tmp_path / "models"}
    done = subprocess.run(
        [str(serving.PROGRAM), *(str(places.get(word, word)) for word in words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for model in serving.MODELS[1:]:
        assert "kind: KIND_GPU" in (tmp_path / "models" / model / "config.pbtxt").read_text()
