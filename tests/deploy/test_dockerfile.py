"""The Dockerfile, as far as that can be checked without Docker."""

import re
import subprocess

import manifests
import pytest

TEXT = (manifests.DEPLOY / "Dockerfile").read_text()


def instructions(text):
    """(keyword, rest), with continued lines joined."""
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, rest = line.split(None, 1)
        yield keyword, rest


def arguments(text):
    given = [rest.partition("=") for keyword, rest in instructions(text) if keyword == "ARG"]
    return {name: value for name, _, value in given if value}


def mistakes(text):
    found = list(instructions(text))
    given = arguments(text)
    if not re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", given["TRITON"]):
        yield f"base image {given['TRITON']} is no release of Triton"
    elif given["TRITON"].rsplit(":", 1)[1] < "25.08":
        yield f"{given['TRITON']} has no CUDA 13"
    stages = [rest.split()[0] for keyword, rest in found if keyword == "FROM"]
    if set(stages) != {"${TRITON}"}:
        yield f"stages from {stages}: libraries would not match"
    if not re.fullmatch(r"13\.\d+\.\d+", given.get("CUDA_TOOLKIT", "")):
        yield "the CUDA toolkit is not pinned"
    users = [rest for keyword, rest in found if keyword == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]):
        yield "USER must be a number that is not 0: Kubernetes cannot tell who a name is"
    commands = [rest for keyword, rest in found if keyword == "CMD"]
    if not commands or not commands[-1].startswith('["flux-triton", "serve"'):
        yield "CMD does not start the server by flux-triton serve"
    for script in (rest for keyword, rest in found if keyword == "RUN"):
        done = subprocess.run(
            ["sh", "-n"], input=script, text=True, capture_output=True, check=False
        )
        if done.returncode != 0:
            yield f"{script[:40]}...: {done.stderr.strip()}"
    for name in ("flux-triton", "flux-triton-front", "libtriton_flux.so", "libflux_cuda.so"):
        if not any(
            name in rest for keyword, rest in found if keyword == "RUN" and "install -D" in rest
        ):
            yield f"{name} is not in the image"


def test_dockerfile():
    assert list(mistakes(TEXT)) == []


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("tritonserver:25.12-py3", "tritonserver:24.10-py3", "has no CUDA 13"),
        ("tritonserver:25.12-py3", "tritonserver:latest", "no release of Triton"),
        ("FROM ${TRITON} AS build", "FROM debian:12 AS build", "would not match"),
        ("ARG CUDA_TOOLKIT=13.0.2", "ARG CUDA_TOOLKIT", "toolkit is not pinned"),
        ("USER 1000:1000", "USER triton-server", "must be a number"),
        ('CMD ["flux-triton", "serve"', 'CMD ["tritonserver"', "CMD does not start"),
        ("build/lib/libflux_cuda.so", "build/lib/other.so", ""),
        ("    fi\n", "\n", "sh:"),
    ],
)
def test_the_check_can_fail(old, new, said):
    assert old in TEXT
    text = TEXT.replace(old, new)
    if not said:
        text = text.replace("libflux_cuda.so", "other.so")
        said = "libflux_cuda.so is not in the image"
    assert any(said in line for line in mistakes(text)), list(mistakes(text))


def test_the_tag_of_the_image_is_the_version():
    version = re.search(
        r"project\(\w+ VERSION (\S+)", (manifests.ROOT / "CMakeLists.txt").read_text()
    )[1]
    text = TEXT + "".join(file.read_text() for file in manifests.DEPLOY.rglob("*.yaml"))
    assert set(re.findall(r"flux-triton:(\d[\w.]*)", text)) == {version}


def test_what_the_build_needs_is_not_ignored():
    """What cmake and the Dockerfile read is sent to Docker; what is large and not needed is not."""
    ignored = (manifests.DEPLOY / "Dockerfile.dockerignore").read_text().split()
    needed = {
        "CMakeLists.txt",
        "CMakePresets.json",
        "cli",
        "cmake",
        "convert",
        "engine",
        "front",
        "scripts",
        "triton",
    }
    assert not needed & set(ignored)
    assert {".git", "build*", "demo", "dist", "tests"} <= set(ignored)
