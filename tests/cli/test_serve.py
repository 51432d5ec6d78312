"""serve: how it finds, starts, watches and ends a server process.

A script stands in for tritonserver: these tests are about the process, not about serving.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import unittest

from harness import DEV, CliTest, add_cases, command, environment, run

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from served import free_ports  # noqa: E402

# Listens on the HTTP port and answers like a server that is ready. What it does is in $BEHAVIOUR.
STAND_IN = '''\
#!{python}
import http.server
import os
import pathlib
import signal
import sys
import time

options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
behaviour = os.environ.get("BEHAVIOUR", "")
here = pathlib.Path(__file__).parent
(here / "arguments").write_text("\\n".join(sys.argv[1:]))
(here / "libraries").write_text(os.environ.get("LD_LIBRARY_PATH", ""))
(here / "process.new").write_text(str(os.getpid()))
(here / "process.new").rename(here / "process")


def told(number, _):
    (here / "signal").write_text(str(number))
    try:
        print("told to stop", file=sys.stderr, flush=True)
    except BrokenPipeError:  # which the server would take for the fault of a request
        pass
    if behaviour != "stubborn":
        os._exit(int(os.environ.get("CODE", "0")))


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, told)
print("I0101 00:00:00.000001 1 server.cc:1] \\"the server begins\\"", flush=True)
if behaviour == "bad model":
    print('E0101 00:00:00.000002 1 server.cc:241] "CudaDriverHelper is not there"')
    print("E0101 00:00:00.000003 1 model_lifecycle.cc:642] \\"failed to load 'vae_decoder' "
          'version 1: Not found: x.safetensors is missing"')
    print('I0101 00:00:00.000004 1 server.cc:345] "all models are stopped"')
    print("error: creating server: Internal - failed to load all models", flush=True)
    sys.exit(1)
if behaviour == "unread config":
    print("[libprotobuf ERROR text_format.cc:337] Error parsing text-format inference.ModelConfig: "
          '47:17: Message type "inference.ModelConfig" has no field named "max_batch_sizzle".')
    print("E0101 00:00:00.000002 1 model_repository_manager.cc:1460] \\"Poll failed for model "
          "directory 'vae_decoder': failed to read text proto from config.pbtxt\\"", flush=True)
    sys.exit(1)
if behaviour == "own error":
    print("error: what is this argument", file=sys.stderr)
    sys.exit(3)
if behaviour == "silent":
    os.execv("/bin/sh", ["sh", "-c", "exit 5"])
if behaviour == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "never ready":
    while True:
        time.sleep(1)


class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Handler.asked += 1
        ready = self.path == "/v2/health/ready" and Handler.asked > 2
        self.send_response(200 if ready else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if ready and behaviour == "dies later":
            time.sleep(0.2)
            os._exit(7)
        if ready and behaviour == "crashes later":
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGSEGV)
        if ready and behaviour == "talks":
            for i in range(20000):
                print("a line of the log", i, "x" * 100)
            print("the last line", flush=True)


address = (options["http-address"], int(options["http-port"]))
http.server.HTTPServer(address, Handler).serve_forever()
'''
TIMEOUT = 30


def is_alive(process: int) -> bool:
    """Whether a process runs (a dead one that nobody has waited for does not)."""
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class ServeTest(CliTest):
    """A test with a repository, a backend directory and a stand-in for the server."""

    @classmethod
    def setUpClass(cls):
        cls.ports = free_ports(3)

    def setUp(self):
        super().setUp()
        self.repository = self.directory / "repository"
        made = run("convert", DEV, self.repository, "--weights", "reference")
        self.assertEqual(made.code, 0, made.err)
        self.backends = self.directory / "backends"
        (self.backends / "flux").mkdir(parents=True)
        (self.backends / "flux" / "libtriton_flux.so").write_bytes(b"")
        self.server = self.make_server(self.directory)

    def make_server(self, directory) -> pathlib.Path:
        directory.mkdir(parents=True, exist_ok=True)
        server = directory / "tritonserver"
        server.write_text(STAND_IN.format(python=sys.executable))
        server.chmod(0o755)
        return server

    def arguments(self, *more) -> list:
        http, grpc, metrics = self.ports
        return [
            "serve", self.repository, "--tritonserver", self.server, "--backend-directory",
            self.backends, "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics,
            "--front-port", "0", *more,
        ]

    def serve(self, *more, arguments=None, **variables):
        """serve with the stand-in, to its end."""
        words = arguments if arguments is not None else self.arguments(*more)
        return subprocess.run(
            command(*words), capture_output=True, text=True, timeout=TIMEOUT, check=False,
            stdin=subprocess.DEVNULL, env=environment() | variables,
        )

    def start(self, *more, preexec_fn=None, **variables):
        """serve in the background."""
        process = subprocess.Popen(
            command(*self.arguments(*more)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment() | variables, preexec_fn=preexec_fn,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_for(self, condition, what):
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"waited in vain: {what}")
            time.sleep(0.02)

    def server_process(self) -> int:
        file = self.directory / "process"
        self.wait_for(file.exists, "the server's start")
        return int(file.read_text())

    def read_announcement(self, process) -> list:
        return [process.stdout.readline().rstrip("\n") for _ in range(5)]

    def assert_failed(self, done, code, pattern):
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        errors = [line for line in done.stderr.splitlines() if line.startswith("flux-triton: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertRegex(errors[0], pattern)


class StartTest(ServeTest):
    def test_announces_when_ready(self):
        process = self.start()
        lines = self.read_announcement(process)
        http, grpc, metrics = self.ports
        self.assertEqual(
            lines[0],
            f"serving {self.repository} (process {self.server_process()}); Ctrl-C stops it",
        )
        self.assertEqual(lines[1], f"HTTP     http://127.0.0.1:{http}")
        self.assertEqual(lines[2], f"gRPC     127.0.0.1:{grpc}")
        self.assertEqual(lines[3], f"metrics  http://127.0.0.1:{metrics}/metrics")
        self.assertIn(f"http://127.0.0.1:{http}/v2/models/bls/generate", lines[4])
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.assertEqual(process.stdout.read(), "")
        self.assertIn("the server begins", process.stderr.read())

    def test_arguments(self):
        process = self.start("--", "--log-verbose=1", "--exit-timeout-secs", "5")
        self.read_announcement(process)
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)
        http, grpc, metrics = self.ports
        self.assertEqual(
            (self.directory / "arguments").read_text().splitlines(),
            [
                f"--model-repository={self.repository}",
                f"--backend-directory={self.backends}",
                "--http-address=127.0.0.1",
                f"--http-port={http}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={grpc}",
                "--metrics-address=127.0.0.1",
                f"--metrics-port={metrics}",
                "--exit-on-error=true",
                "--log-verbose=1",
                "--exit-timeout-secs",
                "5",
            ],
        )

    def test_listens_for_everybody_on_request(self):
        process = self.start("--address", "0.0.0.0")
        lines = self.read_announcement(process)
        self.assertEqual(lines[1], f"HTTP     http://127.0.0.1:{self.ports[0]}")
        self.assertIn("--grpc-address=0.0.0.0", (self.directory / "arguments").read_text())

    def test_a_long_log_passes_through(self):
        process = self.start(BEHAVIOUR="talks")
        log = []
        reader = threading.Thread(target=lambda: log.extend(process.stderr))
        reader.start()
        self.read_announcement(process)
        self.wait_for(lambda: log and log[-1] == "the last line\n", "the end of the log")
        self.assertEqual(sum(line.startswith("a line of the log") for line in log), 20000)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT), 0)
        reader.join()


class FailedStartTest(ServeTest):
    def run_case(self, behaviour, pattern):
        done = self.serve(BEHAVIOUR=behaviour)
        self.assert_failed(done, 1, f"^flux-triton: error: .*/tritonserver: {pattern}$")
        self.assertFalse(is_alive(self.server_process()))

    def test_program_that_cannot_be_run(self):
        self.server.write_text("#!/no/such/program\n")
        done = self.serve()
        self.assert_failed(done, 1, "tritonserver: cannot be started: No such file")

    def test_port_in_use(self):
        for option, port in zip(("--http-port", "--grpc-port", "--metrics-port"), self.ports):
            with self.subTest(option), socket.socket() as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind(("127.0.0.1", port))
                taken.listen()
                done = self.serve()
                self.assert_failed(
                    done, 1,
                    f"port {port} of 127.0.0.1 cannot be listened on: Address already in use; "
                    f"choose another with {option}",
                )
                self.assertFalse((self.directory / "arguments").exists(), "it was not started")


add_cases(
    FailedStartTest,
    "failed",
    [
        (
            "model", "bad model",
            "ended with exit code 1 before it was ready: failed to load 'vae_decoder' version 1: "
            "Not found: x.safetensors is missing",
        ),
        (
            "unread_config", "unread config",
            "ended with exit code 1 before it was ready: Poll failed for model directory "
            "'vae_decoder': failed to read text proto from config.pbtxt: 47:17: Message type "
            "\"inference.ModelConfig\" has no field named \"max_batch_sizzle\"\\.",
        ),
        (
            "own_error", "own error",
            "ended with exit code 3 before it was ready: what is this argument",
        ),
        ("silent", "silent", "ended with exit code 5 before it was ready: I0101 .*"),
        ("killed", "killed", "was ended by signal 9 before it was ready: .*"),
    ],
)


class FindTest(ServeTest):
    """Tests where serve looks for the server and the backend."""

    def find(self, **variables):
        """serve without --tritonserver, to a server that dies at once."""
        arguments = [word for word in self.arguments() if word not in ("--tritonserver", self.server)]
        return self.serve(arguments=arguments, BEHAVIOUR="own error", **variables)

    def found(self, done) -> str:
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr.splitlines()[-1].split(": ")[2]

    def make_package(self, root: pathlib.Path) -> tuple:
        """The server as the Python package has it, and a python3 that finds it."""
        packages = root / "lib" / "packages"
        server = self.make_server(packages / "pytriton" / "tritonserver" / "bin")
        (packages / "pytriton" / "__init__.py").write_text("raise RuntimeError('imported')")
        (packages / "nvidia_pytriton.libs").mkdir()
        python = root / "bin" / "python3"
        python.parent.mkdir()
        python.write_text(
            textwrap.dedent(
                f"""\
                #!/bin/sh
                PYTHONPATH={packages} exec {sys.executable} "$@"
                """
            )
        )
        python.chmod(0o755)
        return server, packages / "nvidia_pytriton.libs"

    def test_variable(self):
        self.assertEqual(self.found(self.find(TRITONSERVER=str(self.server))), str(self.server))

    def test_variable_that_is_wrong(self):
        done = self.find(TRITONSERVER="/no/such/server")
        self.assert_failed(done, 1, "TRITONSERVER /no/such/server: is no program")

    def test_path(self):
        path = f"/nowhere:{self.directory}:{os.environ['PATH']}"
        self.assertEqual(self.found(self.find(PATH=path)), str(self.server))

    def test_environment_of_the_set_up(self):
        self.skip_in_container()
        server, libraries = self.make_package(self.directory / "venv")
        done = self.find(
            FLUX_TRITON_VENV=str(self.directory / "venv"), LD_LIBRARY_PATH="/elsewhere"
        )
        self.assertEqual(self.found(done), str(server))
        self.assertEqual((server.parent / "libraries").read_text(), f"{libraries}:/elsewhere")

    def test_python_on_path(self):
        self.skip_in_container()
        server, libraries = self.make_package(self.directory / "venv")
        done = self.find(PATH=f"{self.directory}/venv/bin", LD_LIBRARY_PATH="")
        if ".venv-serving" in self.found(done):
            self.skipTest("the set-up's environment comes first")
        self.assertEqual(self.found(done), str(server))
        self.assertEqual((server.parent / "libraries").read_text(), str(libraries))

    def test_environment_without_a_server(self):
        self.skip_in_container()
        done = self.find(FLUX_TRITON_VENV=str(self.directory), PATH="/nowhere")
        self.assert_failed(done, 1, "FLUX_TRITON_VENV .*: no Python environment with nvidia-py")

    def test_nowhere(self):
        self.skip_in_container()
        done = self.find(PATH="/nowhere")
        if "before it was ready" in done.stderr:
            self.skipTest("the set-up's environment has a server")
        self.assert_failed(done, 1, "tritonserver is neither on PATH .*pip install nvidia-pytriton")

    def skip_in_container(self):
        if pathlib.Path("/opt/tritonserver/bin/tritonserver").exists():
            self.skipTest("the server of the container comes first")

    def test_libraries_of_the_package(self):
        """A server of the package needs them however it was found."""
        server, libraries = self.make_package(self.directory / "venv")
        self.find(TRITONSERVER=str(server), LD_LIBRARY_PATH="")
        self.assertEqual((server.parent / "libraries").read_text(), str(libraries))

    def test_backend_directory(self):
        (self.backends / "flux" / "libtriton_flux.so").unlink()
        done = self.serve()
        self.assert_failed(done, 1, "--backend-directory .*: there is no flux/libtriton_flux.so")


# (name, arguments after serve, exit code, what the error says)
ARGUMENT_CASES = [
    ("nothing", [], 2, "REPOSITORY is required"),
    ("no_repository", ["none"], 1, "none: no such directory"),
    ("checkpoint", [DEV], 1, "tiny-dev: is no model repository; make one with: flux-triton conv"),
    ("two", [DEV, "more"], 2, "'more' is one argument too many; put -- before"),
    ("unknown", [DEV, "--colour"], 2, "--colour"),
    ("port_zero", [DEV, "--http-port", "0"], 2, "--http-port 0: must be 1 to 65535"),
    ("port_large", [DEV, "--grpc-port", "65536"], 2, "--grpc-port 65536: must be 1 to 65535"),
    ("port_text", [DEV, "--metrics-port", "http"], 2, "'http' is no whole number"),
    ("port_twice", [DEV, "--grpc-port", "8000"], 2, "--grpc-port 8000: another of the ports is"),
    ("no_address", [DEV, "--address", ""], 2, "--address"),
    ("policy", [DEV, "--policy", "lifo"], 2,
     "policy 'lifo' is not known: use share, fifo or least-work"),
    ("page", [DEV, "--", "--log-verbose=1", "--help"], 2, "--help: the server would print that and end"),
    ("policies", [DEV, "--policy", "least-work", "--", "--backend-config=flux,policy=fifo"], 2,
     "--policy least-work and --backend-config=flux,policy=fifo: leave one of them out"),
    ("policies_apart", [DEV, "--policy", "fifo", "--", "--backend-config", "flux,policy=fifo"], 2,
     "--policy fifo and --backend-config=flux,policy=fifo: leave one of them out"),
    ("own_argument", [DEV, "--", "--http-port=9"], 2, "--http-port: serve has an option for that"),
    (
        "own_argument_later", [DEV, "--", "--log-verbose=1", "--metrics-address", "::"], 2,
        "--metrics-address: serve has an option",
    ),
]


class ArgumentTest(CliTest):
    def run_case(self, arguments, code, pattern):
        result = run("serve", *arguments, cwd=self.directory)
        self.assert_error(result, code, pattern)
        self.assertEqual(result.out, "")

    def test_help(self):
        result = run("serve", "--help")
        self.assertEqual(result.code, 0)
        for text in ("REPOSITORY", "8000", "8001", "8002", "127.0.0.1", "TRITONSERVER"):
            self.assertIn(text, result.out)


class AddressTest(ServeTest):
    def run_case(self, address, pattern):
        self.assert_failed(self.serve("--address", address), 2, pattern)


add_cases(ArgumentTest, "wrong", ARGUMENT_CASES)
add_cases(
    AddressTest,
    "wrong",
    [
        ("name", "no-such-host.invalid", "--address no-such-host.invalid: no IPv4 address or host"),
        ("v6", "::1", "--address ::1: no IPv4 address"),
        ("foreign", "192.0.2.1", "--address 192.0.2.1: is not an address of this machine"),
    ],
)


if __name__ == "__main__":
    unittest.main()
