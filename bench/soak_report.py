"""The report and the plot of a soak."""

import collections
import csv
import dataclasses
import statistics

from PIL import Image, ImageDraw, ImageFont

from soak_watch import Sample, early_and_late, median, part, slope

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 1200, 300, 90, 190, 44, 40
COLOURS = ("#1f5fa8", "#d1562b", "#3a8f4d", "#8a8a8a", "#7a4fa0")
INK, LINES = "#222222", "#dddddd"


def kind_lines(tally) -> list:
    lines = ["kind        requests     p50 ms     p99 ms   answers"]
    for kind, count in sorted(tally.kinds.items()):
        ordered = sorted(tally.seconds[kind])
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        codes = {code: n for (name, code), n in tally.codes.items() if name == kind}
        text = ", ".join(f"{code} {n}" for code, n in sorted(codes.items(), key=lambda at: -at[1]))
        p50 = statistics.median(ordered) * 1e3
        lines.append(f"{kind:<10}{count:>10}{p50:>11.1f}{p99 * 1e3:>11.1f}   {text}")
    return lines


def growth_lines(samples: list) -> list:
    lines = ["                    2nd tenth   last tenth      largest   for each 1000 requests"]
    rows = [("resident MiB", "rss"), ("  anonymous", "anon"), ("  of files", "file")]
    rows += [("threads", "threads"), ("descriptors", "files")]
    if samples[-1].gpu >= 0:
        rows.append(("GPU MiB", "gpu"))
    for title, name in rows:
        early, late = early_and_late(samples, name)
        largest = max(getattr(each, name) for each in samples)
        lines.append(
            f"{title:<18}{early:>11.1f}{late:>13.1f}{largest:>13.1f}{slope(samples, name):>12.3f}"
        )
    lines.append("resident MiB by tenths of the requests: " + tenths(samples))
    return lines


def tenths(samples: list) -> str:
    found = [part(samples, i / 10, (i + 1) / 10) for i in range(10)]
    return " ".join(f"{median(each, 'rss'):.1f}" for each in found)


def mapping_lines(before: dict, after: dict) -> list:
    lines = ["resident MiB of           after a tenth      at the end"]
    for name, value in after.items():
        early = f"{before[name]:.1f}" if before else "-"
        lines.append(f"{name:<24}{early:>15}{value:>16.1f}")
    return lines


def write_samples(path, samples: list) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(field.name for field in dataclasses.fields(Sample))
        for each in samples:
            values = dataclasses.astuple(each)
            rows.writerow(round(v, 2) if isinstance(v, float) else v for v in values)


def nice_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts the span into about five."""
    step = 10.0 ** len(str(int(span)))
    for _ in range(60):
        for factor in (0.5, 0.4, 0.5):
            if span / step >= 4:
                return step
            step *= factor
    return step


class Panel:
    """One plot over the number of requests."""

    def __init__(self, drawing, top: int, title: str, last: int):
        self._draw = drawing
        self._top = top
        self._title = title
        self._last = max(last, 1)
        self._font = ImageFont.load_default(17)

    def plot(self, lines: list) -> None:
        """lines: (name, [(requests, value), ...])"""
        values = [value for _, points in lines for _, value in points]
        low, high = min(values), max(values)
        room = max((high - low) * 0.08, 1)
        self._low, self._high = max(0, low - room), high + room
        self._axes()
        for at, (name, points) in enumerate(lines):
            colour = COLOURS[at % len(COLOURS)]
            self._draw.line([self._place(*each) for each in points], colour, 2)
            y = self._top + TOP + 24 * at
            self._draw.line([WIDTH - RIGHT + 12, y + 10, WIDTH - RIGHT + 34, y + 10], colour, 4)
            self._draw.text((WIDTH - RIGHT + 40, y), name, INK, self._font)

    def _place(self, done: float, value: float) -> tuple:
        x = LEFT + (WIDTH - LEFT - RIGHT) * done / self._last
        share = (value - self._low) / (self._high - self._low)
        return x, self._top + PANEL - BOTTOM - (PANEL - TOP - BOTTOM) * share

    def _axes(self) -> None:
        self._draw.text((LEFT, self._top + 14), self._title, INK, ImageFont.load_default(20))
        step = nice_step(self._high - self._low)
        at = -(-self._low // step) * step
        while at <= self._high:
            left, y = self._place(0, at)
            self._draw.line([left, y, WIDTH - RIGHT, y], LINES)
            self._draw.text((left - 8, y), f"{at:g}", INK, self._font, anchor="rm")
            at += step
        step = nice_step(self._last)
        bottom = self._top + PANEL - BOTTOM
        for i in range(int(self._last / step) + 1):
            x, _ = self._place(i * step, self._low)
            self._draw.line([x, self._top + TOP, x, bottom], LINES)
            self._draw.text((x, bottom + 6), f"{i * step:,.0f}", INK, self._font, anchor="mt")


def write_plot(path, samples: list) -> None:
    """Memory, threads, descriptors and GPU memory over the requests."""
    panels = [
        ("resident memory, MiB", (("VmRSS", "rss"), ("RssAnon", "anon"), ("RssFile", "file")))
    ]
    panels.append(("threads", (("threads", "threads"),)))
    panels.append(("open descriptors", (("descriptors", "files"),)))
    if samples[-1].gpu >= 0:
        panels.append(("memory of the GPUs, MiB", (("GPU", "gpu"),)))
    image = Image.new("RGB", (WIDTH, PANEL * len(panels)), "white")
    drawing = ImageDraw.Draw(image)
    for at, (title, lines) in enumerate(panels):
        points = [
            (name, [(each.done, getattr(each, field)) for each in samples]) for name, field in lines
        ]
        Panel(drawing, PANEL * at, f"{title}, over requests", samples[-1].done).plot(points)
    image.save(path)


@dataclasses.dataclass
class Outcome:
    """All that a report is written from."""

    command: str
    machine: str
    tally: object
    samples: list
    early_mappings: dict
    late_mappings: dict
    reload_seconds: list
    seconds: float
    client_cpu: float  # seconds
    note: str  # why it ended early; empty when it did not
    interrupted: bool
    faults: list


def report_text(outcome: Outcome) -> str:
    tally, samples = outcome.tally, outcome.samples
    rate = tally.done / max(outcome.seconds, 1e-9)
    lines = [outcome.machine, outcome.command, ""]
    lines.append(
        f"{tally.done} requests in {outcome.seconds:.0f} s, {rate:.0f} a second, "
        f"{tally.images} images; 100,000 would take {100_000 / max(rate, 1e-9) / 60:.0f} minutes"
    )
    if outcome.reload_seconds:
        lines.append(
            f"{tally.reloads} models reloaded under it, {sum(outcome.reload_seconds):.0f} s in all"
        )
    if samples:
        server = samples[-1].cpu - samples[0].cpu
        lines.append(
            f"cores in use: {server / outcome.seconds:.2f} by the server, "
            f"{outcome.client_cpu / outcome.seconds:.2f} by the clients"
        )
    if outcome.note:
        lines.append(outcome.note)
    lines += ["", *kind_lines(tally), ""]
    if samples:
        lines += [*growth_lines(samples), ""]
    if outcome.late_mappings:
        lines += [*mapping_lines(outcome.early_mappings, outcome.late_mappings), ""]
    if outcome.faults:
        lines += ["FAILED"] + [f"  {fault}" for fault in outcome.faults]
    elif outcome.interrupted:
        lines.append("interrupted: right answers until then; what grows was not judged")
    else:
        lines.append("passed: right answers, same bytes, nothing grew")
    return "\n".join(lines) + "\n"


def counted(faults: collections.Counter) -> list:
    """One line for each fault, the most frequent first."""
    return [f"{text}{f' ({n} times)' if n > 1 else ''}" for text, n in faults.most_common()]
