#!/usr/bin/env python3
"""Builds the fuzz targets and runs each for a while, one after the other.

Inputs worth keeping lie in tests/fuzz/corpus/TARGET; what a run adds goes to build-fuzz/corpus. An
input that breaks a target is left in build-fuzz/found and makes this fail; when the bug is fixed,
it belongs in tests/fuzz/corpus.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build-fuzz"
# These golden files are good first inputs.
SEEDS = {
    "tokenizer_clip": ROOT / "tests/golden/tokenizer/clip",
    "tokenizer_t5": ROOT / "tests/golden/tokenizer/t5",
    "png": ROOT / "tests/golden/images/png",
    "jpeg": ROOT / "tests/golden/images/jpg",
    "webp": ROOT / "tests/golden/images/webp",
}


def run_target(program: pathlib.Path, seconds: int) -> bool:
    name = program.name.removesuffix("_fuzz")
    own = BUILD / "corpus" / name
    found = BUILD / "found"
    own.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    command = [program, own]
    kept = ROOT / "tests" / "fuzz" / "corpus" / name
    command += [path for path in (kept, SEEDS.get(name)) if path and path.is_dir()]
    command += [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/{name}-",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    print(f"=== {name}, {seconds} s", flush=True)
    return subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="targets whose name contains this text")
    args = parser.parse_args()

    subprocess.run([ROOT / "scripts" / "configure.sh", "fuzz"], check=True)
    subprocess.run(
        ["cmake", "--build", "--preset", "fuzz", "-j", str(args.jobs), "--target", "fuzzers"],
        cwd=ROOT,
        check=True,
    )
    programs = sorted(
        path
        for path in (BUILD / "tests" / "fuzz").glob("*_fuzz")
        if path.is_file() and args.only in path.name
    )
    if not programs:
        sys.exit("no fuzz target was built")
    failed = [program.name for program in programs if not run_target(program, args.seconds)]
    print(f"{len(programs) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}".strip())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
