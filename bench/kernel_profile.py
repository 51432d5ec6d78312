#!/usr/bin/env python3
"""Shows where the time of a denoising step goes, kernel by kernel, from a trace of kernel_trace.cc.

    kernel_profile.py TRACE

A step lies between two of the scheduler's kernels; the one of median length is shown. A kernel may
be launched while the previous one still runs, and then waits for its end: its time counts from there.
"""

import collections
import re
import sys

STEP_END = "euler_kernel"


def short_name(name: str) -> str:
    """A kernel's name without its arguments and namespaces, and the first letters of the rest."""
    name = re.sub(r"^void |flux::|cuda::|hopper::|linear::|\(anonymous namespace\)::", "", name)
    return re.sub(r"\(\w+\)(?=\d)|\([^()]*\)$", "", name)[:72]


def read_trace(path: str) -> list:
    """Every kernel as (start, end, name), in the order in which they began; nanoseconds."""
    kernels = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            start, end, name = line.rstrip("\n").split(" ", 2)
            kernels.append((int(start), int(end), short_name(name)))
    return sorted(kernels)


def median_step(kernels: list) -> list:
    """The last kernel before the step of median length, then the step's."""
    # Images of a batch have a launch each.
    ends = [
        i
        for i, (_, _, name) in enumerate(kernels)
        if STEP_END in name and (i + 1 == len(kernels) or STEP_END not in kernels[i + 1][2])
    ]
    steps = [kernels[a : b + 1] for a, b in zip(ends, ends[1:])]
    if not steps:
        sys.exit(f"kernel_profile.py: fewer than two steps end in {STEP_END}: trace more of them")
    # Steps at the border of two images also contain the encoders and the decoder.
    usual = collections.Counter(len(step) for step in steps).most_common(1)[0][0]
    alike = [step for step in steps if len(step) == usual]
    return sorted(alike, key=lambda step: step[-1][1] - step[0][1])[len(alike) // 2]


def main() -> None:
    try:
        kernels = read_trace(sys.argv[1])
    except OSError as error:
        sys.exit(f"kernel_profile.py: {error}: was the program traced? See kernel_trace.cc")
    step = median_step(kernels)
    times = collections.defaultdict(list)
    idle = 0
    begin = done = step[0][1]
    for start, end, name in step[1:]:
        idle += max(0, start - done)
        times[name].append(max(0, end - max(start, done)))
        done = max(done, end)
    whole = done - begin
    print(f"{'kernel':72} {'calls':>5} {'us each':>8} {'ms':>7} {'share':>6}")
    for name, each in sorted(times.items(), key=lambda item: -sum(item[1])):
        total = sum(each)
        print(
            f"{name:72} {len(each):5} {total / len(each) / 1e3:8.1f} {total / 1e6:7.2f} "
            f"{total / whole:6.1%}"
        )
    print(f"{'idle':72} {'':5} {'':8} {idle / 1e6:7.2f} {idle / whole:6.1%}")
    print(f"{'a step':72} {len(step) - 1:5} {'':8} {whole / 1e6:7.2f}")


if __name__ == "__main__":
    main()
