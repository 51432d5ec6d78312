"""The program flux-triton, as a package of Python: it runs the program that came with the wheel.

Nothing of it is computed in Python, and no Python stays: the program takes this process's place.
"""

import importlib.util
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def prepare(environment: dict) -> None:
    """Tells the program where this Python's packages have what it looks for."""
    # The server of nvidia-pytriton, of this environment before any other.
    if importlib.util.find_spec("pytriton") is not None:
        environment.setdefault("FLUX_TRITON_VENV", sys.prefix)
    # CUDA's libraries of nvidia-cublas, for GPUs.
    cuda = importlib.util.find_spec("nvidia")
    places = [pathlib.Path(place) / "cu13" / "lib" for place in cuda.submodule_search_locations] if cuda else []
    known = environment.get("LD_LIBRARY_PATH", "")
    found = [str(place) for place in places if place.is_dir()]
    if found:
        environment["LD_LIBRARY_PATH"] = ":".join(found + ([known] if known else []))


def main() -> None:
    program = HERE / "bin" / "flux-triton"
    prepare(os.environ)
    os.execv(program, [str(program), *sys.argv[1:]])
