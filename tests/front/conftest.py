import front as fronts
import pytest
import server as serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One Triton server for all tests that leave it as it was."""
    repository = fronts.repository(tmp_path_factory.mktemp("repository") / "models")
    with serving.Server(repository, tmp_path_factory.mktemp("server") / "log.txt") as running:
        running.repository = repository
        yield running


@pytest.fixture(scope="session")
def front(server, tmp_path_factory):
    with fronts.Front(server, tmp_path_factory.mktemp("front") / "log.txt") as running:
        yield running


@pytest.fixture(scope="session")
def single_server(tmp_path_factory):
    """A server that generates for one request at a time: the others wait in the front."""
    path = tmp_path_factory.mktemp("single")
    repository = fronts.repository(path / "models", instances=1)
    with serving.Server(repository, path / "log.txt") as running:
        yield running


@pytest.fixture()
def single(single_server, tmp_path):
    with fronts.Front(single_server, tmp_path / "log.txt", "--max-waiting", "3") as running:
        yield running
        assert fronts.wait_until(lambda: running.running() == 0 and running.waiting() == 0)
