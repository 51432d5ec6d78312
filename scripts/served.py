"""Runs `flux-triton serve` as a context manager: the server is ready inside it and gone after it."""

import pathlib
import select
import signal
import socket
import subprocess
import sys
import time

READY_SECONDS = 300
STOP_SECONDS = 60
REPEATED_SECONDS = 1
INTERRUPTED = 130


class Failed(Exception):
    """A message for the user, shown without a traceback."""


def run_program(*arguments) -> str:
    """Standard output of a command that must succeed; its errors are shown."""
    words = [str(part) for part in arguments]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(words[:2])}: failed with exit code {done.returncode}")
    return done.stdout


def free_ports(count: int) -> list:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP end a script as Ctrl-C does, so that contexts are left properly."""
    # The hub is made now: it imports modules, which must not happen in the middle of an interruption.
    hub = sys.modules["gevent"].get_hub() if "gevent" in sys.modules else None
    last = -REPEATED_SECONDS

    def interrupt(*_):
        # A terminal, a shell and a supervisor may each send a signal for one interruption; the first
        # starts to leave the contexts, which the others must not stop half-way.
        nonlocal last
        before, last = last, time.monotonic()
        if last - before < REPEATED_SECONDS:
            return
        # A client complains when it is dropped half-made, and the loop of the HTTP clients reports
        # what ends it; neither message helps the user.
        sys.unraisablehook = lambda _: None
        if hub is not None:
            hub.exception_stream = None
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def run_script(name: str, work) -> int:
    """The exit code of a script that serves: work()'s, or that of a failure or an interruption."""
    interrupt_on_signals()
    try:
        return work()
    except Failed as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the server is stopped", file=sys.stderr)
        return INTERRUPTED


class Served:
    """A server with a model repository on free ports of this machine; its log goes to a file."""

    def __init__(self, program, repository, log, *server_arguments):
        http, grpc, metrics, front = free_ports(4)
        self.http = f"127.0.0.1:{http}"
        self.grpc = f"127.0.0.1:{grpc}"
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        self.front = f"127.0.0.1:{front}"
        self.log = pathlib.Path(log)
        command = [program, "serve", repository, "--http-port", http, "--grpc-port", grpc]
        command += ["--metrics-port", metrics, "--front-port", front, "--", *server_arguments]
        self.command = [str(part) for part in command]
        self.process = None
        self.start_seconds = 0.0

    def __enter__(self):
        start = time.monotonic()
        with open(self.log, "w", encoding="utf-8") as log:
            # A session of its own: Ctrl-C reaches this script alone, which then stops the server
            # once; a second signal would kill it.
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        self.start_seconds = time.monotonic() - start
        return self

    def __exit__(self, kind, *_):
        code = self._stop()
        if kind is None and code != 0:
            raise Failed(f"the server ended with exit code {code}; its log is {self.log}")

    def _wait_ready(self):
        """Waits for the line on standard output by which serve announces the server."""
        ready, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
        if ready and self.process.stdout.readline():
            return
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise Failed(f"the server did not get ready: {said[-1] if said else 'it said nothing'}")

    def _stop(self) -> int:
        """Ends the server; Ctrl-C has no effect while it stops."""
        handlers = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the server ends with it
            return self.process.wait()
        finally:
            self.process.stdout.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def seconds_of(work):
    """(seconds, result) of a call."""
    start = time.monotonic()
    result = work()
    return time.monotonic() - start, result
