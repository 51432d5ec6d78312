#!/usr/bin/env python3
"""Adds up the GPU time of each kernel in a table of Nsight Compute (--csv, gpu__time_duration.sum).

    ncu --metrics gpu__time_duration.sum --csv PROGRAM > table; kernel_profile.py table
"""

import csv
import re
import sys


def short_name(name: str) -> str:
    """A kernel's name without its arguments, and of a template's arguments the first letters."""
    name = re.sub(r"^void |\(.*$|flux::cuda::|<unnamed>::|\(anonymous namespace\)::", "", name)
    return name[:70]


def read_times(path: str):
    """Yields (kernel, grid, microseconds) of every launch."""
    scale = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if line.startswith('"')]
    for row in csv.DictReader(lines):
        if row["Metric Name"] == "gpu__time_duration.sum":
            time = float(row["Metric Value"].replace(",", "")) * scale[row["Metric Unit"]]
            yield short_name(row["Kernel Name"]), row["Grid Size"], time


def main() -> None:
    totals = {}
    for name, grid, time in read_times(sys.argv[1]):
        count, total = totals.get((name, grid), (0, 0.0))
        totals[name, grid] = (count + 1, total + time)
    everything = sum(total for _, total in totals.values())
    print(f"{'kernel':70} {'grid':>16} {'calls':>6} {'us each':>9} {'ms':>8} {'share':>6}")
    for (name, grid), (count, total) in sorted(totals.items(), key=lambda item: -item[1][1]):
        if total < 0.001 * everything:
            continue
        print(
            f"{name:70} {grid:>16} {count:6} {total / count:9.1f} {total / 1e3:8.2f} "
            f"{total / everything:6.1%}"
        )
    print(f"{'all':70} {'':16} {sum(c for c, _ in totals.values()):6} {'':9} {everything / 1e3:8.2f}")


if __name__ == "__main__":
    main()
