#!/usr/bin/env python3
"""Runs clang-tidy on the engine and the front ends, in parallel.

A clean file is not checked again until it, a header of the project that it reaches, its
compile command, or .clang-tidy changes. With --commits only those are checked that the last commits
or the working tree changed, or whose own header they did.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("engine", "library", "cli", "convert", "front", "triton", "bench")
# The compile commands are of g++, which has warnings that clang does not know.
FOR_CLANG = ["--extra-arg=-Wno-unknown-warning-option"]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def reached_files(path: pathlib.Path, seen: set) -> set:
    """Returns a file and the project's headers that it includes, directly or not."""
    if path in seen:
        return seen
    seen.add(path)
    for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        for base in (ROOT / "engine", ROOT / "include", ROOT, path.parent):
            if (base / name).is_file():
                reached_files((base / name).resolve(), seen)
                break
    return seen


def fingerprint(entry: dict) -> str:
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    digest.update(entry["command"].encode())
    for path in sorted(reached_files(pathlib.Path(entry["file"]).resolve(), set())):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def without_launcher(entry: dict) -> dict:
    """The entry as clang-tidy understands it: the compiler comes first."""
    command = re.sub(r"^(env\s+(\S+=\S*\s+)*)?\S*ccache\s+", "", entry["command"])
    return entry | {"command": command}


def tidy(entry: dict, cache: pathlib.Path) -> str:
    """The messages of clang-tidy about one file; empty when it is clean."""
    stamp = cache / fingerprint(entry)
    if stamp.exists():
        return ""
    done = subprocess.run(
        ["clang-tidy-14", "--quiet", *FOR_CLANG, "-p", cache, entry["file"]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        stamp.touch()
        return ""
    return (done.stdout + done.stderr).strip()


def changed_files(commits: int) -> set:
    """Files that the last commits or the working tree changed; None: it is not known (an archive, a
    clone without that much history)."""
    listed = []
    new = ["ls-files", "--others", "--exclude-standard"]
    for command in (["diff", "--name-only", f"HEAD~{commits}"], new):
        done = subprocess.run(
            ["git", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return None
        listed += done.stdout.splitlines()
    return {ROOT / name for name in listed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, help="check what this many commits changed")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()

    entries = [
        entry
        for entry in json.loads((args.build / "compile_commands.json").read_text())
        if pathlib.Path(entry["file"]).is_relative_to(ROOT)
        and pathlib.Path(entry["file"]).is_file()
        and pathlib.Path(entry["file"]).suffix != ".cu"  # clang-tidy 14 does not know this CUDA
        and pathlib.Path(entry["file"]).relative_to(ROOT).parts[0] in FOLDERS
    ]
    # Sources that are compiled more than once, for several instruction sets, are checked once.
    entries = list({entry["file"]: without_launcher(entry) for entry in entries}.values())
    changed = changed_files(args.commits) if args.commits else None
    if changed is not None:
        entries = [
            entry
            for entry in entries
            if {pathlib.Path(entry["file"]), pathlib.Path(entry["file"]).with_suffix(".h")} & changed
        ]
    cache = args.build / "clang-tidy"
    cache.mkdir(exist_ok=True)
    (cache / "compile_commands.json").write_text(json.dumps(entries))
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        reports = list(pool.map(lambda entry: tidy(entry, cache), entries))
    found = [report for report in reports if report]
    print("\n".join(found) if found else f"clang-tidy: {len(entries)} files, clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
