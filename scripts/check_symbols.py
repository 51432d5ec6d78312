#!/usr/bin/env python3
"""Checks what the Triton backend needs of the system that loads it, and what it exports.

A server's container has an older C library than the machine that builds: NVIDIA's 24.10 image is
Ubuntu 22.04. With a single newer symbol version the backend does not load there. On a system newer
than Debian 12, where that cannot be avoided, versions are not checked: build for others in their image.
  scripts/check_symbols.py build/backends/flux/libtriton_flux.so
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys

LIMITS = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0)}
NEWEST_BUILDER = (2, 36)  # the C library of Debian 12
ENTRY_POINTS = {
    "TRITONBACKEND_Initialize",
    "TRITONBACKEND_Finalize",
    "TRITONBACKEND_ModelInitialize",
    "TRITONBACKEND_ModelFinalize",
    "TRITONBACKEND_ModelInstanceInitialize",
    "TRITONBACKEND_ModelInstanceFinalize",
    "TRITONBACKEND_ModelInstanceExecute",
    "TRITONBACKEND_ModelInstanceReady",
}


def numbers(version: str) -> tuple:
    return tuple(int(part) for part in version.split("."))


def text(version: tuple) -> str:
    return ".".join(map(str, version))


def limits() -> dict:
    """The limits for a library built on this system."""
    found = numbers(os.confstr("CS_GNU_LIBC_VERSION").split()[-1])
    return LIMITS if found <= NEWEST_BUILDER else {}


def breaches(library: pathlib.Path, allowed: dict):
    table = subprocess.run(
        ["objdump", "-T", library], capture_output=True, text=True, check=True
    ).stdout
    shown = set()
    found = 0
    for line in table.splitlines():
        name = line.split()[-1] if line.split() else ""
        if "*UND*" in line:
            for family, version in re.findall(r"\b([A-Z]+)_(\d+(?:\.\d+)+)\b", line):
                found += 1
                if family in allowed and numbers(version) > allowed[family]:
                    yield (
                        f"{name} needs {family}_{version}: at most {family}_{text(allowed[family])} "
                        "is in the oldest container; avoid the function, or build with an older one"
                    )
            if name.startswith(("TRITONBACKEND_", "TRITONSERVER_")):
                yield f"{name} is linked: look it up at load time (triton/c_api.h)"
        elif re.search(r"\sg\s", line):
            shown.add(name)
    if found == 0:
        yield "no versioned symbol found: is this a shared library of this system?"
    for name in sorted(ENTRY_POINTS - shown):
        yield f"{name} is not exported (triton/exports.map)"
    for name in sorted(shown - ENTRY_POINTS):
        yield f"{name} is exported, and no server asks for it (triton/exports.map)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=pathlib.Path)
    library = parser.parse_args().library
    allowed = limits()
    found = list(breaches(library, allowed))
    for breach in found:
        print(f"{library}: {breach}")
    if not found:
        versions = ", ".join(f"{family} <= {text(limit)}" for family, limit in allowed.items())
        print(f"{library}: {versions or 'for this system'}; {len(ENTRY_POINTS)} entry points")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
