#!/usr/bin/env python3
"""A soak: many mixed requests to a real server, and a look at what grows.

Starts `flux-triton serve` on free ports and asks over gRPC and HTTP from several workers: random
sizes, steps and prompts, several rows, invalid requests, clients that go, timeouts; reloads single
models under that load; and repeats a few probes, whose bytes must stay the same. It fails, with
exit code 1 and one line for each reason, when the server ends or hangs, an answer is wrong, or
memory, threads, descriptors or GPU memory grow. The folder --output gets report.txt, plot.png,
samples.csv and the server's log. Ctrl-C ends it with a report.

Needs a build (`make build`) and .venv-serving, in which it runs. Fewer than about 20,000 requests
are a trial: the server's caches are still filling up.
"""

import argparse
import datetime
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from served import INTERRUPTED, Failed, Served, run_program, run_script  # noqa: E402
from serving import machine  # noqa: E402
from soak_load import MOST_FAULTS, Load  # noqa: E402
from soak_report import Outcome, counted, report_text, write_plot, write_samples  # noqa: E402
from soak_requests import KINDS, PROTOCOLS, VARIED, Requests  # noqa: E402
from soak_watch import Watcher, growth_faults, server_process  # noqa: E402

ADAPTERS = ROOT / "tests/golden/adapters"
KINDS_OF_ADAPTERS = ("kohya", "xlabs", "peft_bias", "lycoris_dora", "comfyui", "onetrainer")
TINY = ROOT / "tests/golden/checkpoints/tiny-dev"  # the smallest whole checkpoint
LINE_SECONDS = 30  # between lines where there is no terminal
BAR = 30
INTERRUPTED_SECONDS = 3  # for what the workers have begun


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int):
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._begin = time.monotonic()
        self._next = LINE_SECONDS

    def show(self, sample, tally) -> None:
        seconds = time.monotonic() - self._begin
        text = f"{sample.done} of {self._total}, {sample.done / max(seconds, 1e-9):.0f}/s, "
        text += f"{sample.rss:.0f} MiB, {sample.threads} threads, {sample.files} files, "
        text += f"{f'GPU {sample.gpu:.0f} MiB, ' if sample.gpu >= 0 else ''}"
        text += f"{tally.reloads} reloads, {sum(tally.faults.values())} faults"
        if self._terminal:
            filled = min(BAR, BAR * sample.done // self._total)
            print(f"\r[{'#' * filled}{'.' * (BAR - filled)}] {text}\x1b[K", end="", file=sys.stderr)
            sys.stderr.flush()
        elif seconds >= self._next:
            self._next += LINE_SECONDS
            print(f"{seconds:.0f} s: {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)


class Soak:
    """One run; `outcome()` may be asked for whenever it has ended."""

    def __init__(self, args, served: Served):
        self._args = args
        self._served = served
        self._requests = Requests(
            args.seed, args.only, args.fixed, args.protocols, args.largest_side, args.concurrency,
            adapter_names(args.adapters),
        )  # fmt: skip
        self._load = Load(served, self._requests, args)
        self._watcher = Watcher(
            server_process(served.process.pid), args.device.startswith("cuda"), served.metrics
        )
        self._early = {}
        self._late = {}
        self._note = ""
        self._interrupted = False
        self._broken = []  # faults that end the soak
        self._seconds = 0.0
        self._cpu_begin = time.process_time()

    def run(self) -> None:
        begin = time.monotonic()
        progress = Progress(self._args.requests)
        try:
            self._load.start()
            while self._load.working() and self._goes_on(begin):
                progress.show(self._sample(), self._load.tally)
                time.sleep(self._args.interval)
        except OSError as error:
            self._broken.append(f"the server ended in the middle: {error}")
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        finally:
            progress.end()
            self._seconds = time.monotonic() - begin
            self._finish()

    def _sample(self):
        taken = self._watcher.sample(self._load.tally.done)
        if not self._early and taken.done >= self._args.requests / 10:
            self._early = self._watcher.mappings()
        return taken

    def _goes_on(self, begin: float) -> bool:
        tally = self._load.tally
        silent = time.monotonic() - tally.last_answer
        if self._served.process.poll() is not None:
            self._broken.append(f"the server ended, exit code {self._served.process.returncode}")
        elif silent > self._args.answer_seconds:
            self._broken.append(f"hang: no request was answered for {silent:.0f} s")
        elif sum(tally.faults.values()) > MOST_FAULTS:
            self._broken.append(f"ended after more than {MOST_FAULTS} wrong answers")
        elif time.monotonic() - begin > 60 * self._args.max_minutes:
            self._note = f"ended after {self._args.max_minutes:g} minutes (--max-minutes)"
            return False
        return not self._broken

    def _finish(self) -> None:
        """Stops the clients: a connection that stays open holds the server's end up."""
        patience = INTERRUPTED_SECONDS if self._interrupted else self._args.answer_seconds + 5
        ended = self._load.stop(0 if self._broken else patience)
        if not ended and not self._broken and not self._interrupted:
            self._broken.append("hang: a worker still waits for its answer")
        try:
            self._watcher.sample(self._load.tally.done)
            self._late = self._watcher.mappings()
        except OSError as error:
            if not self._broken:
                self._broken.append(f"the server ended: {error}")

    def note_adapters(self) -> None:
        with urllib.request.urlopen(self._served.metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        loads = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("flux_lora_loads_total{")]
        said = f"{sum(map(float, loads)):.0f} times an adapter was packed"
        self._note = "; ".join(filter(None, (self._note, said)))

    def outcome(self, more_faults=()) -> Outcome:
        tally = self._load.tally
        # What follows from the server's end or a hang is not worth a line each.
        faults = self._broken or list(more_faults)
        faults = faults + counted(tally.faults if not self._broken else tally.faults_before_end())
        if not self._interrupted and not self._broken:
            faults += growth_faults(self._watcher.samples)
        return Outcome(
            shlex.join([f"{name}={value}" for name, value in self._settings()] + sys.argv),
            f"{datetime.datetime.now():%Y-%m-%d %H:%M}, {machine()}",
            tally, self._watcher.samples, self._early, self._late, self._load.reloads.seconds,
            self._seconds, time.process_time() - self._cpu_begin, self._note,
            self._interrupted, faults,
        )  # fmt: skip

    @staticmethod
    def _settings() -> list:
        """What changes the allocators and caches of the server's process."""
        words = ("MALLOC_", "GLIBC_TUNABLES", "ONEDNN_", "LD_PRELOAD", "OMP_")
        return sorted((name, value) for name, value in os.environ.items() if name.startswith(words))


def adapter_names(count: int) -> list:
    return [f"soak_{i}" for i in range(count)]


def put_adapters(args, repository: pathlib.Path) -> None:
    """Copies of golden adapters of the tiny checkpoint, which change several models."""
    for i, name in enumerate(adapter_names(args.adapters)):
        source = ADAPTERS / f"{KINDS_OF_ADAPTERS[i % len(KINDS_OF_ADAPTERS)]}.safetensors"
        shutil.copy(source, repository / "bls/loras" / f"{name}.safetensors")


def convert(args, work: pathlib.Path) -> pathlib.Path:
    if args.repository:
        return args.repository
    repository = work / "models"
    run_program(
        args.program, "convert", args.checkpoint, repository, "--dtype", args.dtype, "--device",
        args.device, "--weights", "copy", "--default-size", "64x64",
    )  # fmt: skip
    return repository


def write(outcome: Outcome, output: pathlib.Path) -> None:
    text = report_text(outcome)
    (output / "report.txt").write_text(text, encoding="utf-8")
    if outcome.samples:
        write_samples(output / "samples.csv", outcome.samples)
        write_plot(output / "plot.png", outcome.samples)
    print(text, end="")


def soak(args, work: pathlib.Path) -> int:
    args.output.mkdir(parents=True, exist_ok=True)
    options = ["--model-control-mode=explicit", "--load-model=*"] if args.reload_every else []
    for setting in args.backend_config:
        options.append(f"--backend-config=flux,{setting}")
    run = None
    more_faults = []
    interrupted = False
    try:
        repository = convert(args, work)
        put_adapters(args, repository)
        with Served(args.program, repository, args.output / "server.log", *options) as served:
            run = Soak(args, served)
            run.run()
            if args.adapters:
                run.note_adapters()
    except Failed as failure:
        if run is None:
            raise
        more_faults.append(str(failure))
    except KeyboardInterrupt:
        if run is None:
            raise
        interrupted = True
    outcome = run.outcome(more_faults)
    write(outcome, args.output)
    print(f"report, plot and samples are in {args.output}", file=sys.stderr)
    for fault in outcome.faults:
        print(f"soak: {fault}", file=sys.stderr)
    if interrupted:
        print("interrupted; the server is stopped", file=sys.stderr)
        return INTERRUPTED
    return 1 if outcome.faults else 0


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--requests", type=int, required=True, metavar="N")
    add("--repository", type=pathlib.Path, help="a model repository; else one is made")
    add(
        "--checkpoint",
        type=pathlib.Path,
        default=TINY,
        help="to make it from (default: %(default)s)",
    )
    add("--device", default="cpu", help="of the repository: cpu, cuda or cuda:1 (default: cpu)")
    add("--dtype", default="f32", help="of the repository that is made (default: f32)")
    add("--concurrency", type=int, default=8, metavar="K", help="workers (default: 8)")
    add("--largest-side", type=int, default=128, help="of random images (default: 128)")
    add("--reload-every", type=int, default=0, metavar="R",
        help="reload a model for each R requests (default: 0, never)")  # fmt: skip
    add("--adapters", type=int, default=0, metavar="N",
        help="put N adapters into the repository of the tiny checkpoint and ask for them (default: "
        "0); with --backend-config lora_memory=420KiB they come and go all the time")  # fmt: skip
    add("--seed", type=int, default=1)
    add("--max-minutes", type=float, default=120, help="end after this time (default: 120)")
    add("--answer-seconds", type=float, default=60,
        help="a request without an answer for so long hangs (default: 60)")  # fmt: skip
    add("--interval", type=float, default=1.0, help="seconds between samples (default: 1)")
    add("--output", type=pathlib.Path, default=ROOT / "build/soak", help="(default: build/soak)")
    add("--program", type=pathlib.Path, default=ROOT / "build/cli/flux-triton")
    add("--backend-config", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the backend, such as threads=2")  # fmt: skip
    find = parser.add_argument_group("to find out what grows")
    add = find.add_argument
    add("--only", nargs="+", choices=KINDS, default=[], help="these kinds of requests alone")
    add("--fixed", nargs="+", choices=VARIED, default=[], help="one value for these in all images")
    add("--protocols", nargs="+", choices=sorted(set(PROTOCOLS)), default=[])
    args = parser.parse_args()
    if args.requests < 1 or args.concurrency < 1 or args.interval <= 0:
        parser.error("--requests, --concurrency and --interval must be more than 0")
    if args.largest_side < 16 or args.largest_side % 16:
        parser.error("--largest-side must be a multiple of 16")
    return args


def main() -> int:
    args = parsed()

    def work() -> int:
        with tempfile.TemporaryDirectory() as directory:
            return soak(args, pathlib.Path(directory))

    return run_script("soak", work)


if __name__ == "__main__":
    sys.exit(main())
