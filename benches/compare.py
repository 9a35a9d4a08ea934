"""Time faltung beside other libraries on the convolutions of cases.json.

Prints a table (milliseconds, GFLOP/s and the share of the machine's fused multiply-add peak, which
is measured in the same run) and draws a bar chart. Each library runs in a process of its own; they
take turns in short blocks, and the median of all calls counts. Of PyTorch on several threads and on
one, the better counts, since its threads may stall at a barrier on a shared machine.

    python benches/compare.py
    python benches/compare.py --impl faltung,torch --only resnet --threads 1
    python benches/compare.py --cliffs
    python benches/compare.py --choices
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from choices import Choice, misses
from choices import sweep as sweep_choices
from libraries import LIBRARIES
from peak import ELEMENTS, Peak
from results import Row, cliffs, line, summary, titles
from shapes import Case, load, random_cases
from threads import limit
from workers import Refusal, Worker

# Calls of one turn, in seconds, and turns of each library.
TURN = 0.1
TURNS = 3
# A single turn of each random shape.
CLIFF_TURN = 0.02
PICTURES = (".png", ".svg", ".pdf")


class Mistake(Exception):
    """What is wrong with the command line, in one line."""


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    about, _, examples = (__doc__ or "").partition("\n\n    ")
    parser = Parser(
        "compare.py",
        description=about,
        epilog="    " + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--impl", help=f"libraries, with commas: {', '.join(LIBRARIES)}")
    parser.add_argument("--only", default="", help="text in a case's name; several with |")
    parser.add_argument("--threads", type=int, default=1, help="of each library (1)")
    parser.add_argument("--dtype", choices=list(ELEMENTS), default="float32")
    parser.add_argument("--output", type=Path, help="the chart (comparison.png)")
    parser.add_argument("--json", type=Path, help="write what was measured there")
    parser.add_argument(
        "--cliffs",
        type=int,
        nargs="?",
        const=300,
        metavar="N",
        help="time faltung alone on N (300) random shapes and list the slowest tenth",
    )
    parser.add_argument(
        "--choices",
        type=int,
        nargs="?",
        const=300,
        metavar="N",
        help='time each method on N (300) random shapes and list where "auto" misses the best',
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shapes of --choices (0)")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="keep the times of --choices there, and time no shape again that it holds",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="time no further shape of --choices after so long; with --save the next run goes on",
    )
    options = parser.parse_args(arguments)
    if options.threads < 1:
        raise Mistake(f"--threads must be at least 1, got {options.threads}")
    for path in (options.output, options.json, options.save):
        if path is not None and not path.resolve().parent.is_dir():
            raise Mistake(f"there is no directory {path.resolve().parent}")
    for name in ("cliffs", "choices"):
        count = getattr(options, name)
        if count is not None and count < 1:
            raise Mistake(f"--{name} must be at least 1, got {count}")
        if count is not None and (options.impl or options.only or options.output):
            raise Mistake(f"--{name} takes neither --impl nor --only nor --output")
    if options.output is not None:
        if options.output.suffix not in PICTURES:
            raise Mistake(f"--output must end in one of {', '.join(PICTURES)}")
        if importlib.util.find_spec("matplotlib") is None:
            raise Mistake("--output needs matplotlib: pip install matplotlib")
    return options


def chosen_cases(only: str) -> list[Case]:
    """Return the cases whose names hold one of some texts."""
    cases = load()
    chosen = [case for case in cases if any(text in case.name for text in only.split("|"))]
    if not chosen:
        raise Mistake(
            f"no case's name holds {only!r}; there are {', '.join(c.name for c in cases)}"
        )
    return chosen


def chosen_libraries(names: str | None) -> list[str]:
    """Return the libraries that are asked for and installed, and name the others."""
    asked = list(LIBRARIES) if names is None else [name for name in names.split(",") if name]
    for name in asked:
        if name not in LIBRARIES:
            raise Mistake(f"unknown library {name!r}; there are {', '.join(LIBRARIES)}")
    present = [name for name in dict.fromkeys(asked) if not LIBRARIES[name].missing()]
    for name in asked:
        if name not in present:
            missing = " and ".join(LIBRARIES[name].missing())
            print(f"{LIBRARIES[name].title} is left out: {missing} not installed")
    if not present:
        raise Mistake("none of these libraries is installed")
    return present


def crew(names: list[str], dtype: str, threads: int) -> list[Worker]:
    """Start the processes; PyTorch gets one on a single thread as well."""
    workers = [Worker(name, dtype, threads) for name in names]
    if "torch" in names and threads > 1:
        workers.append(Worker("torch", dtype, 1))
    return workers


def measure(case: Case, workers: list[Worker], peak: Peak) -> Row:
    """Time one case: all libraries take turns."""
    row = Row(case)
    ready: list[Worker] = []
    first: np.ndarray | None = None
    for worker in workers:
        result = worker.prepare(case)
        if isinstance(result, Refusal):
            row.refused[worker.name] = result.reason
            continue
        first = result if first is None else first
        if result.shape != first.shape:
            row.refused[worker.name] = f"its result has shape {result.shape}"
            continue
        scale = np.abs(first).max(initial=0) or 1
        row.difference[worker.name] = float(np.abs(result - first).max(initial=0) / scale)
        ready.append(worker)
    calls: dict[Worker, list[float]] = {worker: [] for worker in ready}
    peaks = [peak.measure()]
    for _ in range(TURNS):
        for worker, found in calls.items():
            seconds = worker.time(TURN)
            if isinstance(seconds, Refusal):
                row.refused[worker.name] = seconds.reason
            else:
                found.extend(seconds)
    peaks.append(peak.measure())
    row.peak = max((p for p in peaks if p is not None), default=None)
    for worker, found in calls.items():
        if not found:
            continue
        median = statistics.median(found)
        row.seconds[worker.name] = min(median, row.seconds.get(worker.name, median))
    return row


def sweep(count: int, worker: Worker, peak: Peak) -> Iterator[Row]:
    """Time faltung on random shapes."""
    for number, case in enumerate(random_cases(count), 1):
        if sys.stderr.isatty():
            print(f"\r{number}/{count}", end="\r" if number == count else "", file=sys.stderr)
        result = worker.prepare(case)
        if isinstance(result, Refusal):
            raise RuntimeError(f"{case}: {result.reason}")
        seconds = worker.time(CLIFF_TURN)
        if isinstance(seconds, Refusal):
            raise RuntimeError(f"{case}: {seconds.reason}")
        yield Row(case, peak.measure(), {"faltung": statistics.median(seconds)})


def compare(options: argparse.Namespace) -> list[Row]:
    """Time the libraries, and print rows as they come."""
    cases, names = chosen_cases(options.only), chosen_libraries(options.impl)
    peak = Peak(options.dtype, options.threads)
    print(heading(options, peak))
    print(titles(names))
    rows = []
    with ExitStack() as stack:
        workers = crew(names, options.dtype, options.threads)
        for worker in workers:
            stack.enter_context(closing(worker))
        for case in cases:
            rows.append(measure(case, workers, peak))
            print(line(rows[-1], names), flush=True)
    print()
    for text in summary(rows, names):
        print(text)
    return rows


def compare_cliffs(options: argparse.Namespace) -> list[Row]:
    """Time faltung on random shapes, and print where it is slow."""
    if LIBRARIES["faltung"].missing():
        raise Mistake("faltung is not installed")
    peak = Peak(options.dtype, options.threads)
    print(heading(options, peak))
    with closing(Worker("faltung", options.dtype, options.threads)) as worker:
        rows = list(sweep(options.cliffs, worker, peak))
    # One for all, as there is a single measurement a row, which something else may disturb.
    best = max((row.peak for row in rows if row.peak is not None), default=None)
    rows = [replace(row, peak=best) for row in rows]
    for text in cliffs(rows):
        print(text)
    return rows


def compare_choices(options: argparse.Namespace) -> list[Choice]:
    """Time each method on random shapes, and print where the choice is not the best."""
    if LIBRARIES["faltung"].missing():
        raise Mistake("faltung is not installed")
    limit(options.threads)
    drawn = (options.choices, options.dtype, options.threads, options.seed)
    choices = list(sweep_choices(*drawn, options.save, options.limit))
    for text in misses(choices):
        print(text)
    return choices


def heading(options: argparse.Namespace, peak: Peak) -> str:
    """Say what is timed, and what the peak is."""
    what = f"{options.dtype}, threads: {options.threads}"
    if peak.missing is not None:
        return f"{what}; no share of the peak: {peak.missing}"
    return f"{what}; a bare loop of fused multiply-adds runs at {peak.measure():.0f} GFLOP/s"


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    try:
        options = parse(arguments)
        rows: list[Row] | list[Choice]
        if options.choices is not None:
            rows = compare_choices(options)
        else:
            rows = compare(options) if options.cliffs is None else compare_cliffs(options)
        if options.json is not None:
            found = {"dtype": options.dtype, "threads": options.threads}
            found["rows"] = [asdict(row) for row in rows]
            options.json.write_text(json.dumps(found, indent=1) + "\n")
        if options.cliffs is None and options.choices is None:
            chart(rows, options)
    except (Mistake, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    return 0


def chart(rows: list[Row], options: argparse.Namespace) -> None:
    """Draw the chart, where matplotlib is there to do it."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no chart: matplotlib is not installed")
        return
    from chart import draw

    path = options.output or Path("comparison.png")
    draw(rows, f"Convolution, {options.dtype}, threads: {options.threads}", path)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
