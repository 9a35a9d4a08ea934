"""Whether "auto" takes the fastest method, and whether predicted times are measured ones.

Random shapes; on each, every method in turns, whose first call is not counted: after another
method's, memory and caches are its. Times can be saved, one line of JSON a shape. They are of ways
to compute (a method with its blocks and forms), so that after a change of the costs alone nothing
is timed again but ways that were not taken before.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from shapes import Case

# Rounds, and the seconds that a way is timed in each, unless one call takes longer.
ROUNDS, TURN = 5, 1e-3
# How much slower than the best method "auto" may be, and by what factor predictions may be off.
MARGIN, HONEST = 1.10, 1.5
# A way that is predicted to take so many times as long as the best one is not tried.
HOPELESS = 5.0
PRECISIONS = ("high", "fast")


@dataclass
class Choice:
    """What ways to compute a shape take, and what is said of them."""

    case: Case
    product: bool
    # The way that "auto" takes at a precision, and those that there are.
    chosen: dict[str, str]
    ways: dict[str, list[str]]
    predicted: dict[str, float]
    seconds: dict[str, float]

    def best(self, precision: str) -> str:
        """The fastest way."""
        return min(self.ways[precision], key=self.seconds.__getitem__)

    def loss(self, precision: str) -> float:
        """How many times as long as the best way the chosen one takes."""
        return self.seconds[self.chosen[precision]] / self.seconds[self.best(precision)]


def draw(rng: np.random.Generator) -> tuple[Case, bool] | None:
    """Draw a shape, and whether its kernels are products of a vector an axis."""

    def size(low: float, high: float) -> int:
        return round(2 ** rng.uniform(math.log2(low), math.log2(high)))

    rank = int(rng.choice([1, 2, 2, 2, 3]))
    kinds = ["few", "one", "depthwise", "grouped", "long", "dense", "wide"]
    kind = str(rng.choice(kinds))
    kernel = [size(1, (300, 24, 5)[rank - 1]) for _ in range(rank)]
    if kind == "long":
        kernel = [size(*((50, 3000), (9, 63), (4, 11))[rank - 1]) for _ in range(rank)]
    elif kind == "wide":
        kernel = [int(rng.choice([1, 3, 3, 5, 7]))] * rank
    elif kind != "few" and rng.random() < 0.4:
        kernel = [int(rng.choice([3, 5, 7]))] * rank
    stride = [int(rng.integers(1, 4)) if rng.random() < 0.15 else 1] * rank
    dilation = [int(rng.integers(2, 5)) if rng.random() < 0.1 else 1] * rank
    padding = [k // 2 * d for k, d in zip(kernel, dilation, strict=True)]
    groups, channels, outputs = 1, 1, 1
    if kind == "few":
        channels, outputs = size(1, 4), size(1, 7)
    elif kind == "long":
        channels, outputs = size(1, 32), size(1, 32)
    elif kind == "dense":
        channels, outputs = size(8, 128), size(8, 128)
    elif kind == "wide":
        channels, outputs = size(64, 512), size(64, 512)
    elif kind == "depthwise":
        groups = outputs = size(2, 512)
    elif kind == "grouped":
        groups, channels = size(2, 32), size(1, 16)
        outputs = groups * size(1, 16)
    extents = ((500, 1e6), (10, 1500), (6, 100))
    if kind == "wide":
        extents = ((16, 4000), (4, 64), (4, 24))
    spatial = [size(*extents[rank - 1]) for _ in range(rank)]
    x, weight = (1, channels * groups, *spatial), (outputs, channels, *kernel)
    case = Case(kind, x, weight, tuple(stride), tuple(padding), tuple(dilation), groups)
    product = channels == 1 and rank > 1 and rng.random() < 0.5
    return (case, product) if min(case.output) >= 1 and 1e6 <= case.flop <= 6e8 else None


def arrays(case: Case, product: bool, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Make the arrays of a case."""
    x, weight = case.arrays(dtype)
    if product:
        rng = np.random.default_rng(0)
        weight[...] = 1
        for axis, n in enumerate(weight.shape[2:], 2):
            along = rng.integers(1, 4, n).astype(dtype)
            weight *= along.reshape(-1, *[1] * (weight.ndim - axis - 1))
    return x, weight


def options_of(case: Case, threads: int) -> dict[str, Any]:
    """Arguments of a call beside its arrays."""
    return {
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
        "groups": case.groups,
        "threads": threads,
    }


def way(rival: dict[str, Any]) -> str:
    """Name a method and what of it depends on its predictions: blocks, or the forms of tiles."""
    how = {"fft": rival["block"], "winograd": rival["forms"]}.get(rival["method"], [])
    return " ".join([rival["method"], " ".join(str(part or "-") for part in how)]).strip()


@dataclass
class Outlook:
    """What is known of a shape before anything is timed: its ways, and how each is asked for."""

    chosen: dict[str, str]
    ways: dict[str, list[str]]
    predicted: dict[str, float]
    asked: dict[str, dict[str, str]]


def outlook(x: np.ndarray, weight: np.ndarray, options: dict[str, Any]) -> Outlook:
    """Ask what the methods say of a shape."""
    import faltung

    found = Outlook({}, {}, {}, {})
    for precision in PRECISIONS:
        facts = faltung.explain(x, weight, **options, precision=precision).as_dict()
        rivals = {
            way(rival): rival
            for rival in facts["methods"]
            if rival["predicted"] is not None and rival["state"] != "impossible"
        }
        names = {rival["method"]: name for name, rival in rivals.items()}
        least = min(rival["predicted"] for rival in rivals.values())
        found.chosen[precision] = names[facts["method"]]
        found.ways[precision] = [
            name
            for name, rival in rivals.items()
            if rival["state"] == "chosen" or rival["predicted"] < HOPELESS * least
        ]
        for name, rival in rivals.items():
            found.predicted[name] = rival["predicted"] / 1e9
            found.asked[name] = {"method": rival["method"], "precision": precision}
    return found


def read(path: Path | None) -> dict[str, dict[str, float]]:
    """Read the times that a file holds, by shape."""
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    return {row["shape"]: row["seconds"] for row in rows}


def sweep(
    count: int, dtype: str, threads: int, seed: int, saved: Path | None, limit: float
) -> Iterator[Choice]:
    """Time all methods on random shapes, no longer than so many seconds."""
    rng = np.random.default_rng(seed)
    known = read(saved)
    end = time.monotonic() + limit
    done = 0
    while done < count:
        drawn = draw(rng)
        if drawn is None:
            continue
        done += 1
        case, product = drawn
        shape = f"{case} {dtype}, threads: {threads}{', of rank one' * product}"
        x, weight = arrays(case, product, dtype)
        options = options_of(case, threads)
        seen = outlook(x, weight, options)
        wanted = list(dict.fromkeys(name for names in seen.ways.values() for name in names))
        seconds = known.get(shape, {})
        if any(name not in seconds for name in wanted):
            if time.monotonic() > end:
                return
            seconds = seconds | measure(x, weight, options, {n: seen.asked[n] for n in wanted})
            if saved is not None:
                row = {"shape": shape, "case": asdict(case), "product": product, "dtype": dtype}
                row |= {"threads": threads, "predicted": seen.predicted, "seconds": seconds}
                with saved.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        yield Choice(case, product, seen.chosen, seen.ways, seen.predicted, seconds)


def measure(
    x: np.ndarray, weight: np.ndarray, options: dict[str, Any], asked: dict[str, dict[str, str]]
) -> dict[str, float]:
    """Time some ways, by turns."""
    import faltung

    out = faltung.conv(x, weight, **options)
    turns: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(ROUNDS):
        for name, medians in turns.items():
            call = partial(faltung.conv, x, weight, **options, **asked[name], out=out)
            medians.append(statistics.median(timed(call, TURN)))
    return {name: statistics.median(medians) for name, medians in turns.items()}


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Time calls for so many seconds, one at least, after one that is not counted."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def misses(choices: list[Choice]) -> Iterator[str]:
    """List the shapes on which another method is faster by more than a margin; then how many."""
    for precision in PRECISIONS:
        missed = [choice for choice in choices if choice.loss(precision) > MARGIN]
        if precision == PRECISIONS[0]:
            for choice in sorted(missed, key=lambda c: -c.loss(precision)):
                yield line(choice, precision)
        within = len(choices) - len(missed)
        methods = [choice.chosen[precision].split()[0] for choice in choices]
        counts = {name: methods.count(name) for name in sorted(set(methods))}
        yield (
            f'precision "{precision}": "auto" is within {100 * (MARGIN - 1):.0f} % of the best '
            f"method on {within} of {len(choices)} shapes ({100 * within / len(choices):.1f} %); "
            "it takes " + ", ".join(f"{name} {n} times" for name, n in counts.items())
        )
    yield from honesty(choices)


def line(choice: Choice, precision: str) -> str:
    """Tell a shape, with the times of its ways and in brackets the predicted ones."""
    times = "  ".join(
        f"{name} {1e3 * choice.seconds[name]:.3f} ms ({1e3 * choice.predicted[name]:.3f})"
        for name in choice.ways[precision]
    )
    what = " of rank one" if choice.product else ""
    shape = f"{choice.case.name}{what}: {choice.case}"
    return f"{choice.loss(precision):5.2f}  {choice.chosen[precision]}  {shape}  {times}"


def honesty(choices: list[Choice]) -> Iterator[str]:
    """Tell how far predictions are from what was measured."""
    found: dict[str, list[float]] = {}
    for choice in choices:
        for name in {name for names in choice.ways.values() for name in names}:
            ratio = choice.predicted[name] / choice.seconds[name]
            found.setdefault(name.split()[0], []).append(ratio)
    for method, ratios in sorted(found.items()):
        honest = sum(1 / HONEST <= ratio <= HONEST for ratio in ratios)
        yield (
            f"{method} is predicted within {HONEST} times on {honest} of {len(ratios)} shapes "
            f"({100 * honest / len(ratios):.0f} %), {statistics.median(ratios):.2f} of what it "
            "takes in the median"
        )
