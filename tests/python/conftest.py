import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/serving"))


@pytest.fixture(scope="session")
def python():
    """A Python with torch and diffusers."""
    return os.environ["FLUX_PYTHON"]
