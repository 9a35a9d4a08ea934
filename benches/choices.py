"""Whether "auto" takes the fastest method: random shapes, every method that accepts, in turns.

The first call of a turn is not counted: after another method's, memory and caches are its.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from shapes import Case

# Rounds, and the seconds that a method is timed in each, unless one call takes longer.
ROUNDS, TURN = 7, 1e-3
# How much slower than the best method "auto" may be.
MARGIN = 1.10
# A method that is predicted to take so many times as long as the chosen one is not tried.
HOPELESS = 4.0


@dataclass
class Choice:
    """What the methods took on a shape."""

    case: Case
    product: bool
    chosen: str
    predicted: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The fastest method that was asked for by name."""
        return min((n for n in self.seconds if n != "auto"), key=self.seconds.__getitem__)

    @property
    def loss(self) -> float:
        """How many times as long as the best method the chosen one takes.

        By its time when asked for by name, if that is less: it is the same work.
        """
        mine = min(self.seconds["auto"], self.seconds.get(self.chosen, math.inf))
        return mine / self.seconds[self.best]


def draw(rng: np.random.Generator) -> tuple[Case, bool] | None:
    """Draw a shape, and whether its kernels are products of a vector an axis."""

    def size(low: float, high: float) -> int:
        return round(2 ** rng.uniform(math.log2(low), math.log2(high)))

    rank = int(rng.choice([1, 2, 2, 2, 3]))
    kind = str(rng.choice(["few", "one", "depthwise", "long", "dense"]))
    kernel = [size(1, (300, 24, 5)[rank - 1]) for _ in range(rank)]
    if kind == "long":
        kernel = [size(*((50, 3000), (9, 63), (4, 11))[rank - 1]) for _ in range(rank)]
    elif kind in ("one", "depthwise", "dense") and rng.random() < 0.4:
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
    elif kind == "depthwise":
        groups = size(2, 256)
        outputs = groups
    spatial = [size(*((500, 1e6), (10, 1500), (6, 100))[rank - 1]) for _ in range(rank)]
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


def sweep(count: int, dtype: str, threads: int, seed: int = 0) -> Iterator[Choice]:
    """Time all methods on random shapes."""
    import faltung

    rng = np.random.default_rng(seed)
    done = 0
    while done < count:
        drawn = draw(rng)
        if drawn is None:
            continue
        case, product = drawn
        done += 1
        x, weight = arrays(case, product, dtype)
        options = (None, case.stride, case.padding, case.dilation, case.groups)
        found = faltung.explain(x, weight, *options, threads=threads).as_dict()
        predicted = {
            rival["method"]: rival["predicted"] / 1e9
            for rival in found["methods"]
            if rival["predicted"] is not None and rival["state"] in ("chosen", "slower")
        }
        choice = Choice(case, product, found["method"], predicted)
        names = [
            name
            for name, seconds in predicted.items()
            if seconds < HOPELESS * predicted[choice.chosen]
        ]
        out = faltung.conv(x, weight, *options, threads=threads)
        turns: dict[str, list[float]] = {name: [] for name in ["auto", *names]}
        for _ in range(ROUNDS):
            for name, medians in turns.items():
                arguments = {"threads": threads, "method": name, "out": out}
                call = partial(faltung.conv, x, weight, *options, **arguments)
                medians.append(statistics.median(timed(call, TURN)))
        choice.seconds = {name: statistics.median(medians) for name, medians in turns.items()}
        yield choice


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
    """List the shapes on which another method is faster by more than a margin."""
    missed = sorted((c for c in choices if c.loss > MARGIN), key=lambda c: -c.loss)
    for choice in missed:
        times = "  ".join(
            f"{name} {1e3 * seconds:.3f} ms"
            + (f" ({1e3 * choice.predicted[name]:.3f})" if name in choice.predicted else "")
            for name, seconds in choice.seconds.items()
        )
        what = " of rank one" if choice.product else ""
        shape = f"{choice.case.name}{what}: {choice.case}"
        yield f"{choice.loss:5.2f}  {choice.chosen}  {shape}  {times}"
    within = len(choices) - len(missed)
    methods = sorted({c.chosen for c in choices})
    taken = {name: sum(c.chosen == name for c in choices) for name in methods}
    yield (
        f'"auto" is within {100 * (MARGIN - 1):.0f} % of the best method on {within} of '
        f"{len(choices)} shapes ({100 * within / len(choices):.1f} %); it takes "
        + ", ".join(f"{name} {n} times" for name, n in taken.items())
    )
