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
