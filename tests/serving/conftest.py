import shutil

import pytest
import server as serving


@pytest.fixture(scope="session")
def checkpoint():
    return serving.CHECKPOINTS / "tiny-dev"


@pytest.fixture(scope="session")
def repository(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("repository") / "models"
    return serving.convert(checkpoint, path, "--default-size", "32x48")


@pytest.fixture(scope="session")
def server(repository, tmp_path_factory):
    """One server for the tests that leave it as it was."""
    with serving.Server(repository, tmp_path_factory.mktemp("server") / "log.txt") as running:
        yield running


@pytest.fixture()
def client(server):
    """A gRPC client; the server must still be fine when the test is over."""
    with server.grpc_client() as connected:
        yield connected
        assert connected.is_server_ready()
        assert server.process.poll() is None


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
