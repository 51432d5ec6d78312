#!/usr/bin/env python3
"""Tests of the models in Python, which need torch and diffusers: each model.py by itself, and the
serving tests with all models in Python and with mixes. Needs a build; `make test-python` makes it.

The last line is "N passed, N failed"; exit code 0 only when nothing failed.
"""

import argparse
import pathlib
import subprocess
import sys

from run_tests import ROOT, Count, pytest_tests, report

ALL = ("bls", "clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder")
CONTRACT = ("test_contract.py", "test_errors.py", "test_schnell.py", "test_stages.py")
# (name, models in Python, serving tests)
MIXES = [
    ("all", ALL, CONTRACT + ("test_lifecycle.py", "test_clients.py")),
    ("pipeline", ALL[:1], CONTRACT + ("test_lifecycle.py",)),
    ("stages", ALL[1:], CONTRACT),
    ("all but the transformer", ALL[:3] + ALL[4:], CONTRACT),
    ("decoder", ALL[4:], CONTRACT),
]


def steps(python: str) -> list:
    """(name, what it does)"""

    def mix(name, models, files):
        paths = [f"tests/serving/{file}" for file in files]
        variables = {"FLUX_PYTHON": python, "FLUX_TEST_PYTHON": ",".join(models)}
        return (
            f"serving, in Python: {name}",
            lambda: pytest_tests("build", f"python-{name}", paths, **variables),
        )

    def alone():
        return pytest_tests("build", "python", FLUX_PYTHON=python, FLUX_TEST_PYTHON=",".join(ALL))

    return [("programs and images", alone)] + [mix(*each) for each in MIXES]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="run the steps whose name contains this text")
    args = parser.parse_args()
    venv = subprocess.run([ROOT / "scripts/python_venv.sh"], stdout=subprocess.PIPE, text=True)
    if venv.returncode != 0:
        print("there is no Python with torch and diffusers\n0 passed, 1 failed")
        return 1
    python = str(pathlib.Path(venv.stdout.strip()).absolute())
    total, failed = Count(), []
    for name, action in steps(python):
        if args.only and args.only not in name:
            continue
        print(f"=== {name}", flush=True)
        count = action()
        total += count
        if count.failed:
            failed.append(name)
    return report(total, failed)


if __name__ == "__main__":
    sys.exit(main())
