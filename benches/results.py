"""What a comparison measured, and how it is told: rows of a table, and what they come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from libraries import LIBRARIES
from shapes import Case

# Characters of a case's name, and of a library's column.
NAME, CELL = 22, 20


@dataclass
class Row:
    """What was measured of one case, by the names of libraries."""

    case: Case
    # Fused multiply-adds of a bare loop in GFLOP/s, where it could be measured.
    peak: float | None = None
    # Median of the calls.
    seconds: dict[str, float] = field(default_factory=dict)
    # Greatest difference from the first library's result, in parts of its largest value.
    difference: dict[str, float] = field(default_factory=dict)
    # Why others have no time.
    refused: dict[str, str] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Return GFLOP/s of the direct sum."""
        return self.case.flop / self.seconds[name] / 1e9

    def share(self, name: str) -> float | None:
        """Return the rate in parts of the peak."""
        return None if self.peak is None else self.rate(name) / self.peak


def titles(names: list[str]) -> str:
    """Return the table's head."""
    columns = "".join(f"{LIBRARIES[name].title:>{CELL}}" for name in names)
    units = f"{'ms GFLOP/s peak':>{CELL}}" * len(names)
    return f"{'':{NAME}}{'':8}{columns}\n{'case':{NAME}}{'GFLOP':>8}{units}"


def line(row: Row, names: list[str]) -> str:
    """Return a row of the table."""
    cells = "".join(f"{cell(row, name):>{CELL}}" for name in names)
    return f"{row.case.name:{NAME}}{row.case.flop / 1e9:8.3f}{cells}"


def cell(row: Row, name: str) -> str:
    """Return milliseconds, GFLOP/s and share of the peak; a dash where a library does not do it."""
    if name not in row.seconds:
        return "-"
    share = row.share(name)
    of_peak = "" if share is None else f"{share:5.0%}"
    rate = row.rate(name)
    return f"{row.seconds[name] * 1e3:.3f}{rate:7.{0 if rate >= 10 else 1}f}{of_peak}"


def summary(rows: list[Row], names: list[str]) -> Iterator[str]:
    """Say what a comparison came to: the first library against each of the others."""
    first, *others = names
    for name in others:
        both = [row for row in rows if first in row.seconds and name in row.seconds]
        if not both:
            continue
        times = {row.case.name: row.seconds[name] / row.seconds[first] for row in both}
        mean = math.exp(statistics.fmean(map(math.log, times.values())))
        least, most = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
        yield (
            f"{LIBRARIES[first].title} is {mean:.2f} times as fast as {LIBRARIES[name].title} "
            f"(geometric mean of {len(both)}; {times[least]:.2f} in {least}, {times[most]:.2f} in "
            f"{most})"
        )
    for name in others:
        found = {row.case.name: row.difference[name] for row in rows if name in row.difference}
        worst = max(found, key=found.__getitem__, default=None)
        if worst is not None and found[worst] > 0:
            yield (
                f"{LIBRARIES[name].title} differs from {LIBRARIES[first].title} by up to "
                f"{found[worst]:.0e} of the largest value ({worst})"
            )
    for name in names:
        for reason, cases in refusals(rows, name).items():
            which = cases[0] if len(cases) == 1 else f"{len(cases)} cases"
            yield f"{LIBRARIES[name].title} does not do {which}: {reason}"


def refusals(rows: list[Row], name: str) -> dict[str, list[str]]:
    """Return the names of the cases that a library did not do, by reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if name in row.refused:
            found.setdefault(row.refused[name], []).append(row.case.name)
    return found


def cliffs(rows: list[Row]) -> Iterator[str]:
    """List the slowest tenth of random shapes, and say how fast the others are."""
    measured = all(row.peak is not None for row in rows)
    unit = "% of the peak" if measured else "GFLOP/s"

    def speed(row: Row) -> float:
        share = row.share("faltung")
        return row.rate("faltung") if share is None else 100 * share

    ordered = sorted(rows, key=speed)
    speeds = [speed(row) for row in ordered]
    tenths = " ".join(f"{speeds[len(speeds) * tenth // 10]:.0f}" for tenth in range(1, 10))
    yield f"{unit} at each tenth of {len(rows)} shapes: {tenths}; the slowest tenth:"
    for row in ordered[: math.ceil(len(rows) / 10)]:
        seconds = row.seconds["faltung"]
        yield (
            f"{speed(row):6.1f} {unit} {seconds * 1e3:9.3f} ms {row.case.flop / 1e9:7.3f} GFLOP "
            f"{row.case.elements / seconds / 1e9:6.2f} G elements/s  {row.case.name}: {row.case}"
        )
