"""Tests the steps of `make demo` after the build: convert, serve, request images, stop cleanly."""

import pathlib
import signal
import subprocess
import sys
import time

import server as serving
from PIL import Image

SIZES = {
    "single_0.png": (128, 128),
    "batch_0.png": (128, 128),
    "batch_3.png": (128, 128),
    "size_0.png": (256, 256),
    "size_1.png": (256, 128),
    "size_2.png": (128, 192),
}


def start_demo(output):
    return subprocess.Popen(
        [sys.executable, serving.ROOT / "scripts/demo_serving.py", "--program", serving.PROGRAM]
        + ["--output", output, "--steps", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def processes_with(text):
    """Ids of the processes that have `text` on their command line."""
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in file.read_bytes():
                found.append(file.parent.name)
        except OSError:
            pass  # it ended meanwhile
    return found


def test_twice_in_a_row(tmp_path):
    for _ in range(2):
        demo = start_demo(tmp_path)
        out, err = demo.communicate(timeout=120)
        assert demo.returncode == 0, err
        assert "four prompts in one request" in out and "dit_transformer" in out
        for name, size in SIZES.items():
            with Image.open(tmp_path / name) as image:
                assert image.size == size, name
                (tmp_path / name).unlink()
        assert not processes_with(str(tmp_path))


def test_interrupted(tmp_path):
    """Ctrl-C as a terminal sends it: to every process of the group, here twice."""
    demo = start_demo(tmp_path)
    assert demo.stdout.readline().startswith("serving ")
    assert processes_with(str(tmp_path))
    demo.send_signal(signal.SIGINT)
    time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=60)
    assert demo.returncode == 130 and "Traceback" not in err
    assert not processes_with(str(tmp_path))
    assert not list(tmp_path.glob(".*"))
