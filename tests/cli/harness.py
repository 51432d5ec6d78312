"""Common parts of the command-line tests. Needs only the standard library.

FLUX_TRITON names the program to test; otherwise that of build/ is taken.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("FLUX_TRITON", str(ROOT / "build" / "cli" / "flux-triton"))
CHECKPOINTS = ROOT / "tests" / "golden" / "checkpoints"
DEV = CHECKPOINTS / "tiny-dev"  # f32, one file a component, guidance embeddings
SCHNELL = CHECKPOINTS / "tiny-schnell"  # bf16, sharded
F16 = CHECKPOINTS / "tiny-f16"  # f16; a decoder without attention
TIMEOUT = 120
# A small image is quick even under sanitizers.
SMALL = ["--height", "32", "--width", "48", "--steps", "2", "--max-sequence-length", "8"]
# Numbers for sanitizers' own exits, which must not pass for an error of the program.
SANITIZER_EXIT = 99


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str


def environment() -> dict:
    options = f"exitcode={SANITIZER_EXIT}:detect_leaks=0:allocator_may_return_null=0"
    return os.environ | {"ASAN_OPTIONS": options, "OMP_WAIT_POLICY": "passive"}


def command(*args) -> list:
    return [PROGRAM, *(str(arg) if not isinstance(arg, bytes) else arg for arg in args)]


def run(*args, **options) -> Result:
    """Runs the program to its end; a hang is a failure."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": TIMEOUT} | options
    done = subprocess.run(
        command(*args), stdin=subprocess.DEVNULL, env=environment(), check=False, **options
    )
    return Result(
        done.returncode,
        (done.stdout or b"").decode(errors="replace"),
        (done.stderr or b"").decode(errors="replace"),
    )


def read_safetensors(path) -> tuple:
    """(header, data) of a safetensors file."""
    raw = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_safetensors(path, header, data: bytes) -> None:
    """`header` as an object, or as the very bytes to write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def floats(shape: list, values=None) -> tuple:
    """(shape, bytes) of an F32 tensor: the given values, or a quiet ramp."""
    count = 1
    for size in shape:
        count *= size
    numbers = values if values is not None else [0.1 * (i % 7) - 0.3 for i in range(count)]
    return shape, struct.pack(f"<{count}f", *numbers)


def write_tensors(path, tensors: dict) -> None:
    """An F32 safetensors file of {name: floats(...)}."""
    header, data = {}, b""
    for name, (shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += content
    write_safetensors(path, header, data)


class CliTest(unittest.TestCase):
    """A test with a directory of its own."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="flux-cli-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def copy_checkpoint(self, source=DEV) -> pathlib.Path:
        copy = self.directory / "checkpoint"
        shutil.copytree(source, copy)
        return copy

    def assert_error(self, result: Result, code: int, pattern: str) -> None:
        """The exit code, and one line of error that matches; nothing on standard output."""
        self.assertEqual(result.code, code, result.err)
        lines = result.err.splitlines()
        errors = [line for line in lines if line.startswith("flux-triton: error: ")]
        self.assertEqual(len(errors), 1, result.err)
        self.assertEqual(lines, errors, "there is more on standard error than the error")
        self.assertRegex(errors[0], pattern)

    def assert_no_files(self, directory) -> None:
        left = sorted(path.name for path in pathlib.Path(directory).iterdir())
        self.assertEqual(left, [], "files are left behind")


def add_cases(cls, prefix: str, cases: list) -> None:
    """Makes a test method of each case, a tuple (name, what the method is to call with)."""
    for name, *arguments in cases:
        def method(self, arguments=arguments):
            self.run_case(*arguments)

        method_name = f"test_{prefix}_{name}"
        if hasattr(cls, method_name):
            raise ValueError(f"two cases are named {name}")
        method.__name__ = method_name
        setattr(cls, method_name, method)
