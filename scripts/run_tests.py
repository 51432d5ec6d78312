#!/usr/bin/env python3
"""All tests: style, build, unit and golden tests, command line, serving, clang-tidy, sanitizers.

Every step runs even when an earlier one failed, unless it needs what that one makes. The last line
is "N passed, N failed"; exit code 0 only when nothing failed.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __iadd__(self, other: "Count") -> "Count":
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        return self


def run(command: list, output=None, **environment) -> bool:
    """Runs a command with its output shown, or in the file `output`; whether it succeeded."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        check=False,
    )
    return done.returncode == 0


def one(succeeded: bool) -> Count:
    return Count(passed=1) if succeeded else Count(failed=1)


def build_commands(preset: str, jobs: int, target: str = "all") -> list:
    # The microbenchmarks must compile, too.
    options = ["-DFLUX_BUILD_BENCH=ON"] if preset == "default" else []
    return [
        ["scripts/configure.sh", preset, *options],
        ["cmake", "--build", "--preset", preset, "-j", jobs, "--target", target],
    ]


class Background:
    """Steps of commands that run one after another while other steps, which mostly wait for
    servers, go on: with the lowest priority, so that those do not notice."""

    def __init__(self, steps: dict):
        self.steps = steps  # name: its commands
        self.ended = {name: threading.Event() for name in steps}
        self.succeeded = {}
        self.logs = {name: tempfile.TemporaryFile() for name in steps}
        self.begun = False

    def begin(self) -> None:
        self.begun = True
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        for name, commands in self.steps.items():
            log = self.logs[name]
            self.succeeded[name] = all(run(["nice", "-n", 19, *c], output=log) for c in commands)
            self.ended[name].set()

    def finish(self, name: str) -> Count:
        """Waits for a step, and shows what it printed."""
        if not self.begun:
            return one(all(run(command) for command in self.steps[name]))
        self.ended[name].wait()
        self.logs[name].seek(0)
        sys.stdout.write(self.logs[name].read().decode(errors="replace"))
        return one(self.succeeded[name])


def count_gtest(results: pathlib.Path) -> Count:
    """Cases in the XML files that the test programs wrote."""
    total = Count()
    for file in results.glob("*.xml"):
        suites = xml.etree.ElementTree.parse(file).getroot()
        for case in suites.iter("testcase"):
            if case.find("failure") is not None:
                total.failed += 1
            elif case.get("status") == "notrun" or case.get("result") == "skipped":
                total.skipped += 1
            else:
                total.passed += 1
    return total


def unit_tests(directory: str) -> Count:
    """The test programs of a build directory. A program that dies writes no XML: that is a failure."""
    results = ROOT / directory / "test-results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    # Leaks are looked for; OpenMP's and oneDNN's own blocks that live to the end are not counted.
    leaks = ROOT / "tests" / "lsan_suppressions.txt"
    races = ROOT / "tests" / "tsan_suppressions.txt"
    succeeded = run(
        ["ctest", "--test-dir", directory, "--output-on-failure", "--timeout", "600"],
        GTEST_OUTPUT=f"xml:{results}/",
        UBSAN_OPTIONS="print_stacktrace=1",
        LSAN_OPTIONS=f"suppressions={leaks}:print_suppressions=0",
        TSAN_OPTIONS=f"suppressions={races}:print_suppressions=0",
    )
    total = count_gtest(results)
    if total.passed + total.failed == 0 or (not succeeded and total.failed == 0):
        total.failed += 1
    return total


def command_line_tests(directory: str, pattern: str = "test_*.py") -> Count:
    """tests/cli with the program of a build directory."""
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "discover", "-s", "tests/cli", "-p", pattern],
        cwd=ROOT,
        env=os.environ | {"FLUX_TRITON": str(ROOT / directory / "cli" / "flux-triton")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stderr[-6000:], end="")
    ran = re.search(r"^Ran (\d+) test", done.stderr, re.MULTILINE)
    result = {
        word: int(number)
        for word, number in re.findall(r"(failures|errors|skipped)=(\d+)", done.stderr)
    }
    failed = result.get("failures", 0) + result.get("errors", 0)
    skipped = result.get("skipped", 0)
    passed = max(0, int(ran.group(1)) - failed - skipped) if ran else 0
    if failed == 0 and (done.returncode != 0 or passed == 0):
        failed = 1
    return Count(passed, failed, skipped)


def pytest_tests(directory: str, name: str, paths: list = None, **environment) -> Count:
    """`paths`, else tests/NAME, in a virtual environment with pinned packages: the real
    tritonserver, numpy."""
    if not run(["scripts/serving_venv.sh"]):
        return Count(failed=1)
    results = ROOT / directory / "test-results" / f"{name}.xml"
    succeeded = run(
        [ROOT / ".venv-serving/bin/python", "-m", "pytest", "-q", "--no-header"]
        + (paths or [f"tests/{name}"])
        + [f"--junit-xml={results}", "-p", "no:cacheprovider"],
        FLUX_TRITON=str(ROOT / directory / "cli" / "flux-triton"),
        FLUX_BACKENDS=str(ROOT / directory / "backends"),
        **environment,
    )
    total = Count()
    if results.exists():
        for suite in xml.etree.ElementTree.parse(results).getroot().iter("testsuite"):
            failed = int(suite.get("failures")) + int(suite.get("errors"))
            skipped = int(suite.get("skipped"))
            total += Count(int(suite.get("tests")) - failed - skipped, failed, skipped)
    if total.passed == 0 or (not succeeded and total.failed == 0):
        total.failed += 1
    return total


def steps(jobs: int) -> list:
    """(name, what it needs, what it does) in order."""
    symbols = [sys.executable, "scripts/check_symbols.py", "build/backends/flux/libtriton_flux.so"]
    # What is older has been linted before; `make lint` takes all files.
    lint = [sys.executable, "scripts/lint.py", "--build", "build", "--jobs", jobs, "--commits", 5]
    beside = Background(
        {
            "clang-tidy": [lint],
            "build with sanitizers": build_commands("asan", jobs),
            "build with TSan": build_commands("tsan", jobs, "threads_test"),
        }
    )

    def build() -> Count:
        built = all(run(command) for command in build_commands("default", jobs))
        if built:
            beside.begin()
        return one(built)

    return [
        ("style", None, lambda: one(run([sys.executable, "scripts/check_style.py"]))),
        ("build", None, build),
        ("symbols", "build", lambda: one(run(symbols))),
        ("unit and golden tests", "build", lambda: unit_tests("build")),
        ("command line", "build", lambda: command_line_tests("build")),
        ("serving", "build", lambda: pytest_tests("build", "serving")),
        ("front", "build", lambda: pytest_tests("build", "front")),
        ("deploy", "build", lambda: pytest_tests("build", "deploy")),
        ("packages", "build", lambda: pytest_tests("build", "packages")),
        ("demo model", "build", lambda: pytest_tests("build", "demo")),
        ("clang-tidy", "build", lambda: beside.finish("clang-tidy")),
        ("build with sanitizers", None, lambda: beside.finish("build with sanitizers")),
        ("unit tests under sanitizers", "build with sanitizers", lambda: unit_tests("build-asan")),
        (
            "bad inputs under sanitizers",
            "build with sanitizers",
            lambda: command_line_tests("build-asan", "test_bad_*.py"),
        ),
        ("build with TSan", None, lambda: beside.finish("build with TSan")),
        ("unit tests under TSan", "build with TSan", lambda: unit_tests("build-tsan")),
    ]


def report(total: Count, failed_steps: list) -> int:
    """Prints the closing lines; the exit code."""
    if failed_steps:
        print(f"failed: {', '.join(failed_steps)}")
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed > 0 else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="run the steps whose name contains this text")
    args = parser.parse_args()
    # Whoever starts this in the background, or by nohup, may have signals ignored, which the programs
    # that tests stop by them would inherit; what is handled here is the default for them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for other in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(other, signal.SIG_DFL)

    total = Count()
    failed_steps = []
    for name, needs, action in steps(args.jobs):
        if args.only and args.only not in name:
            continue
        print(f"=== {name}", flush=True)
        start = time.monotonic()
        count = Count(failed=1) if needs in failed_steps else action()
        if count.failed > 0:
            failed_steps.append(name)
        total += count
        print(
            f"=== {name}: {count.passed} passed, {count.failed} failed, {count.skipped} skipped, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
    return report(total, failed_steps)


if __name__ == "__main__":
    sys.exit(main())
