import shutil
import signal
import warnings

import pytest
import server as serving
from _pytest.runner import runtestprotocol

CRASHES = []  # logs of servers that ended in their own code, of the test that runs


def pytest_runtest_protocol(item, nextitem):
    """Runs a test once more when the server crashed in its own code: server 2.51 does so, rarely, when
    a request is cancelled while it is being answered (server issues 7368 and 8034, mended in 2.56)."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if CRASHES:
        warnings.warn(f"{item.nodeid}: tritonserver crashed: {CRASHES.pop()}", stacklevel=1)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def checkpoint():
    return serving.CHECKPOINTS / "tiny-dev"


@pytest.fixture(scope="session")
def repository(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("repository") / "models"
    return serving.convert(checkpoint, path, "--default-size", "32x48")


@pytest.fixture(scope="session")
def shared_servers(repository, tmp_path_factory):
    """Starts the server that `server` hands out, and another one after its death."""
    running = []

    def get():
        if not running or running[-1].process.poll() is not None:
            log = tmp_path_factory.mktemp("server") / "log.txt"
            running.append(serving.Server(repository, log))
        return running[-1]

    yield get
    if running:
        running[-1].stop()


@pytest.fixture()
def server(shared_servers):
    """One server for the tests that leave it as it was. A test in which it dies fails with the end
    of the server's log; those after it get a new one."""
    running = shared_servers()
    yield running
    code = running.process.poll()
    if code == -signal.SIGSEGV:
        _, _, frames = running.log().rpartition("Signal (11) received.")
        if frames and "libtriton_flux" not in frames:
            CRASHES.append(frames[-1000:])
    assert code is None, f"the server ended with {code}:\n{running.log()[-6000:]}"


@pytest.fixture()
def client(server):
    """A gRPC client; the server must still be fine when the test is over."""
    with server.grpc_client() as connected:
        yield connected
        assert server.process.poll() is not None or connected.is_server_ready()


@pytest.fixture(scope="module")
def own_server(repository, tmp_path_factory):
    """A server for tests that unload and load its models, on a copy of the repository: explicit
    model control. They leave all models loaded."""
    directory = tmp_path_factory.mktemp("own")
    copy = directory / "models"
    shutil.copytree(repository, copy)
    with serving.Server(
        copy, directory / "log.txt", "--model-control-mode=explicit", "--load-model=*"
    ) as running:
        running.repository = copy
        yield running
