"""The library as a program of others uses it: installed, found by find_package(flux), and the two
programs in examples/ built with it and run."""

import hashlib
import os
import pathlib
import re
import signal
import subprocess
import time

import numpy
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ["FLUX_TRITON"])
BUILD = PROGRAM.parents[1]
DEMO = ROOT / "demo/shapes"
PATIENCE = 120


def run(*command, code=0):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    where = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", where, "--component", "library")
    return where


@pytest.fixture(scope="module")
def programs(prefix, tmp_path_factory):
    """examples/, built outside of the project."""
    where = tmp_path_factory.mktemp("examples")
    flags = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wpedantic -Wshadow -Werror"
    run("cmake", "-S", ROOT / "examples", "-B", where, f"-DCMAKE_PREFIX_PATH={prefix}", flags)
    run("cmake", "--build", where)
    return where


def pixels(file):
    return numpy.asarray(Image.open(file))


def test_headers_stand_alone(prefix, tmp_path):
    """Each header compiles by itself, and knows nothing of ops and tensors."""
    headers = sorted((prefix / "include/flux").iterdir())
    assert "flux.h" in [header.name for header in headers]
    for header in headers:
        assert not re.search(r"\b(Tensor|Context|DType|fmt)\b", header.read_text()), header
        source = tmp_path / "alone.cc"
        source.write_text(f"#include <flux/{header.name}>\n")
        run("g++", "-std=c++20", "-Wall", "-Werror", "-fsyntax-only", "-I", prefix / "include", source)


def test_one_image(programs, tmp_path):
    """The library generates what the program generates."""
    run(programs / "one_image", DEMO, "a large red star", tmp_path / "library.png")
    run(PROGRAM, "generate", DEMO, "--prompt", "a large red star", "--seed", 7, "-o",
        tmp_path / "program.png")  # fmt: skip
    digests = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("library.png", "program.png")
    ]
    assert digests[0] == digests[1]


def test_errors_reach_the_caller(programs, tmp_path):
    done = run(programs / "one_image", tmp_path, "a star", tmp_path / "a.png", code=1)
    assert "there is no model_index.json" in done.stderr
    done = run(programs / "one_image", DEMO, " ", tmp_path / "a.png", code=1)
    assert done.stderr == "one_image: prompt is blank: say what to generate\n"
    done = run(programs / "one_image", DEMO, "a star", tmp_path / "a.gif", code=1)
    assert "a.gif: the name must end in .png, .jpg, .jpeg or .webp" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_batch(programs, tmp_path):
    prompts = ("a large red star on a blue background", "a small green circle")
    done = run(programs / "batch", DEMO, tmp_path, *prompts)
    assert done.stdout.splitlines() == [f"{row}.jpg: {text}" for row, text in enumerate(prompts)]
    assert "loading dit_transformer\n" in done.stderr
    steps = re.findall(r"step (\d+) of (\d+)", done.stderr)
    assert steps == [(str(done), steps[0][1]) for done in range(int(steps[0][1]) + 1)]
    for row, prompt in enumerate(prompts):
        # Previews change nothing: the image is the one of a call without them, alone.
        run(PROGRAM, "generate", DEMO, "--prompt", prompt, "--seed", 7, "-o", tmp_path / "alone.jpg")
        image = pixels(tmp_path / f"{row}.jpg")
        assert (image == pixels(tmp_path / "alone.jpg")).all()
        # The last preview, of the step before the last, shows the image already.
        preview = pixels(tmp_path / f"preview_{row}.ppm").astype(float)
        height, width, _ = preview.shape
        assert (height, width) == (image.shape[0] // 2, image.shape[1] // 2)
        half = image.astype(float).reshape(height, 2, width, 2, 3).mean((1, 3))
        assert abs(preview - half).mean() < 16, abs(preview - half).mean()


def test_ctrl_c(programs, tmp_path):
    """The call ends within a step, and leaves no image."""
    command = [str(programs / "batch"), str(DEMO), str(tmp_path), *["a large red star"] * 64]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 1 "):
                break
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert time.monotonic() - started < 20
    assert "batch: cancelled after step" in rest
    assert not list(tmp_path.glob("*.jpg"))
