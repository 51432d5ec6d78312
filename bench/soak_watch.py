"""What a soak looks at in the server's process, and when it says that something grows."""

import dataclasses
import os
import pathlib
import re
import statistics
import subprocess
import time
import urllib.request

import numpy as np

MIB = 1 << 20
ARENA = 64 << 20  # glibc's arenas begin at multiples of this
# Memory. The resident size moves in steps: an arena grows by pages and is cut only at its end,
# tensors of the moment come and go, a reload keeps the old model for a while. A straight line
# fitted by least squares follows the largest of these steps, and the difference of two moments is
# what they happened to catch. The median of the slopes between all pairs of samples (Theil and Sen)
# changes little until a quarter of the samples are off: one step stays one step, and what climbs
# all the time shows. Anonymous memory is looked at besides, because the kernel takes pages of files
# back when it likes, which would hide what else grows.
MOST_SLOPE = 0.2  # MiB for each 1000 requests
FIT_SAMPLES = 400  # neighbours are joined to this many: pairs are their square
# Threads and descriptors come and go with requests and reloads, and gRPC's pool of threads is now
# two larger, now two smaller: medians over parts of the run are compared.
MOST_MORE = 5
MOST_GPU_MORE = 4.0  # MiB: two of the units in which the driver hands memory out


@dataclasses.dataclass
class Sample:
    seconds: float
    done: int
    rss: float  # MiB, as the others
    anon: float
    file: float
    peak: float
    threads: int
    files: int
    cpu: float  # seconds that the process has computed
    gpu: float = -1.0  # negative: not known


def server_process(root: int) -> int:
    """The process id of tritonserver, which `flux-triton serve` may be or have started."""
    waiting = [root]
    while waiting:
        process = waiting.pop()
        if pathlib.Path(f"/proc/{process}/comm").read_text().strip() == "tritonserver":
            return process
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return root


def cpu_seconds(folder: pathlib.Path) -> float:
    times = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def gpu_mib(metrics: str) -> float:
    """Memory in use on all GPUs, by everybody; from nvidia-smi, else from the server's metrics."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout
        return float(sum(map(float, said.split())))
    except (OSError, subprocess.SubprocessError, ValueError):
        pass
    try:
        with urllib.request.urlopen(metrics, timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return -1.0
    found = re.findall(r"^nv_gpu_memory_used_bytes\{.*\} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found)) / MIB if found else -1.0


class Watcher:
    """Takes samples of one process."""

    def __init__(self, process: int, gpu: bool, metrics: str):
        self.process = process
        self.samples = []
        self._gpu = gpu
        self._metrics = metrics
        self._begin = time.monotonic()

    def sample(self, done: int) -> Sample:
        """Raises OSError when the process is gone."""
        folder = pathlib.Path(f"/proc/{self.process}")
        text = (folder / "status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

        def mib(name: str) -> float:
            return int(fields[name].split()[0]) / 1024

        if "VmRSS" not in fields:
            raise OSError("the process has ended")
        taken = Sample(
            time.monotonic() - self._begin, done, mib("VmRSS"), mib("RssAnon"), mib("RssFile"),
            mib("VmHWM"), int(fields["Threads"]), len(list((folder / "fd").iterdir())),
            cpu_seconds(folder),
        )  # fmt: skip
        if self._gpu:
            taken.gpu = gpu_mib(self._metrics)
        self.samples.append(taken)
        return taken

    def mappings(self) -> dict:
        """Resident MiB by what the memory is mapped for."""
        found = dict.fromkeys(("heap", "arenas", "other anonymous", "stacks", "files"), 0.0)
        arenas_end, kind = 0, ""
        head = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$")
        with open(f"/proc/{self.process}/smaps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                match = head.match(line)
                if match:
                    start, end = int(match[1], 16), int(match[2], 16)
                    name = match[4]
                    if start % ARENA == 0 and match[3].startswith("rw") and not name:
                        arenas_end = start + ARENA
                    kind = kind_of(name, start < arenas_end and end <= arenas_end)
                elif line.startswith("Rss:"):
                    found[kind] += int(line.split()[1]) / 1024
        return found


def kind_of(name: str, in_arena: bool) -> str:
    """What a mapping is for, by its name in /proc."""
    if name.startswith("/"):
        return "files"
    if name == "[heap]":
        return "heap"
    if "stack" in name:
        return "stacks"
    return "arenas" if in_arena else "other anonymous"


def part(samples: list, begin: float, end: float) -> list:
    """The samples between two parts of the requests, from 0 to 1; the nearest if there is none."""
    last = max(samples[-1].done, 1)
    kept = [each for each in samples if begin * last <= each.done <= end * last]
    middle = (begin + end) / 2 * last
    return kept or [min(samples, key=lambda each: abs(each.done - middle))]


def slope(samples: list, name: str) -> float:
    """Of a value against 1000 requests, after the first tenth; see MOST_SLOPE."""
    kept = part(samples, 0.1, 1.0)
    if len(kept) < 3:
        return 0.0
    x = np.array([each.done / 1000 for each in kept])
    y = np.array([getattr(each, name) for each in kept])
    if len(kept) > FIT_SAMPLES:
        groups = np.array_split(np.arange(len(kept)), FIT_SAMPLES)
        x = np.array([np.median(x[group]) for group in groups])
        y = np.array([np.median(y[group]) for group in groups])
    first, second = np.triu_indices(len(x), 1)
    distance = x[second] - x[first]
    apart = distance > 0
    if not apart.any():
        return 0.0
    return float(np.median((y[second] - y[first])[apart] / distance[apart]))


def median(samples: list, name: str) -> float:
    return statistics.median(getattr(each, name) for each in samples)


def early_and_late(samples: list, name: str) -> tuple:
    """Medians over the second and the last tenth of the requests."""
    return median(part(samples, 0.1, 0.2), name), median(part(samples, 0.9, 1.0), name)


def growth_faults(samples: list) -> list:
    """A line for each thing that grows."""
    if len(samples) < 10:
        return ["too few samples to say whether anything grows: ask for more requests"]
    faults = []
    for name, what in (("rss", "resident memory"), ("anon", "anonymous memory")):
        per_1000 = slope(samples, name)
        if per_1000 > MOST_SLOPE:
            faults.append(
                f"{what} grows by {per_1000:.2f} MiB for each 1000 requests: at most {MOST_SLOPE}"
            )
    for name, what in (("threads", "threads"), ("files", "open descriptors")):
        early, late = early_and_late(samples, name)
        if late > early + MOST_MORE:
            faults.append(f"{what} grew from {early:.0f} to {late:.0f}: at most {MOST_MORE} more")
    known = [each for each in samples if each.gpu >= 0]
    early, late = early_and_late(known, "gpu") if known else (0, 0)
    if late > early + MOST_GPU_MORE:
        faults.append(
            f"GPU memory grew from {early:.0f} to {late:.0f} MiB: at most {MOST_GPU_MORE:.0f} more"
        )
    return faults
