"""What people install: `cmake --install`, the Debian packages, the wheel in an environment that has
nothing else. Each generates, and serves on the real server, with an empty library path."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from served import free_ports  # noqa: E402

BUILD = pathlib.Path(os.environ["FLUX_TRITON"]).parents[1]
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEMO = ROOT / "demo/shapes"
# What every system has: the C and C++ libraries, their loader, and zlib.
EVERYWHERE = re.compile(r"lib(c|m|stdc\+\+|gcc_s|pthread|dl|rt|z)\.so|ld-linux|linux-vdso")
PATIENCE = 60


def run(*command, **options):
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False,
        **options,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def check_program(program, directory, environment, has_front=True):
    """The program generates and serves where it is."""
    image = directory / "image.png"
    run(program, "generate", DEMO, "--prompt", "a star", "--steps", 2, "-o", image, env=environment)
    assert image.read_bytes().startswith(b"\x89PNG")
    repository = directory / "models"
    run(program, "convert", DEMO, repository, "--device", "cpu", env=environment)
    ports = free_ports(4)
    names = ("--http-port", "--grpc-port", "--metrics-port", "--front-port")
    options = zip(names, map(str, ports))
    command = [str(program), "serve", str(repository), *(word for pair in options for word in pair)]
    log = directory / "log.txt"
    with log.open("w") as file:
        serving = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while "\ntry " not in log.read_text():
            assert serving.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports[0]}/v2/models/bls/generate",
            b'{"prompt": "a star", "steps": 2, "output_format": "webp_base64"}',
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert b'"encoded_images":"UklGR' in answer.read()
        if has_front:
            request = urllib.request.Request(
                f"http://127.0.0.1:{ports[3]}/v1/images/generations",
                b'{"prompt": "a star", "steps": 2, "output_format": "webp"}',
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                assert b'"b64_json":"UklGR' in answer.read()
        else:
            assert "no HTTP front" in log.read_text()
    finally:
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(PATIENCE) == 0


def server_environment(directory):
    """Nothing but the server's environment."""
    return {"PATH": SYSTEM, "HOME": str(directory), "FLUX_TRITON_VENV": str(ROOT / ".venv-serving")}


def test_install(tmp_path):
    run("cmake", "--install", BUILD, "--prefix", tmp_path / "prefix")
    program = tmp_path / "prefix/bin/flux-triton"
    check_program(program, tmp_path, server_environment(tmp_path))


def test_debian_packages(tmp_path):
    run("cpack", "-B", tmp_path / "packages", cwd=BUILD)
    root = tmp_path / "root"
    packages = sorted((tmp_path / "packages").glob("*.deb"))
    (core,) = [package for package in packages if package.name.startswith("flux-triton_")]
    assert any(package.name.startswith("libflux-dev_") for package in packages)
    for package in packages:
        run("dpkg-deb", "-x", package, root)
        print(package.name, package.stat().st_size)
    depends = run("dpkg-deb", "-f", core, "Depends")
    assert "libdnnl" in depends and "libwebp" in depends and "libgrpc++" in depends
    check_program(root / "usr/bin/flux-triton", tmp_path, server_environment(tmp_path))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A Python environment with the wheel and the server, and nothing else."""
    venv = tmp_path_factory.mktemp("wheel") / "venv"
    run(ROOT / "scripts/make_wheel.sh", env=os.environ | {"FLUX_CUDA": "OFF"})
    (wheel,) = (ROOT / "dist").glob("*.whl")
    assert wheel.name.startswith("flux_triton-") and "-py3-none-manylinux" in wheel.name
    print(wheel.name, wheel.stat().st_size)
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/pip", "install", "--quiet", wheel, "nvidia-pytriton==0.7.0")
    return venv


def test_the_wheel_needs_nothing_of_the_system(environment):
    (package,) = environment.glob("lib/python3*/site-packages/flux_triton")
    files = [package / "bin/flux-triton", *package.glob("libexec/flux/backends/flux/*.so")]
    assert len(files) == 2
    for file in files:
        for line in run("ldd", file, env={"PATH": SYSTEM}).splitlines():
            name, _, place = line.strip().partition(" => ")
            assert "not found" not in place
            bundled = str(environment) in place
            assert bundled or EVERYWHERE.search(pathlib.Path(name.split()[0]).name), line


def test_the_wheel(environment, tmp_path):
    path = f"{environment / 'bin'}:{SYSTEM}"
    check_program(
        environment / "bin/flux-triton", tmp_path, {"PATH": path, "HOME": str(tmp_path)},
        has_front=False,
    )  # fmt: skip
