"""Time `faltung.compat` beside SciPy on the shapes of SciPy's own benchmarks.

The shapes and modes of ``scipy.signal`` are those that SciPy's benchmark suite has for these
functions. It has none for the linear filters of ``scipy.ndimage``: they get the shapes and modes
that it has for that module's interpolation. Both libraries take turns in one process and have as
many threads as they use by default, SciPy one; the median of the turns counts.

    python benches/scipy_compat.py
    python benches/scipy_compat.py --only ndimage.sobel
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import faltung
import numpy as np
import scipy
import scipy.ndimage
import scipy.signal
from faltung.compat import scipy_ndimage, scipy_signal

MODULES = {"signal": (scipy_signal, scipy.signal), "ndimage": (scipy_ndimage, scipy.ndimage)}
MODES = ("full", "valid", "same")
# Seconds of one turn at least, and turns of each.
TURN = 0.004
TURNS = 5


@dataclass(frozen=True)
class Case:
    """A function with one or more sets of arguments, timed together."""

    module: str
    function: str
    label: str
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def run(self, module: Any) -> Callable[[], None]:
        """The calls of one library."""
        function = getattr(module, self.function)

        def run() -> None:
            for arguments, options in self.calls:
                function(*arguments, **options)

        return run


def images() -> Iterator[Case]:
    """Pairs of small images."""
    rng = np.random.default_rng(1234)
    pairs = [
        (rng.standard_normal((ma, na)), rng.standard_normal((mb, nb)))
        for ma, na, mb, nb in product((8, 13, 30, 36), repeat=4)
    ]
    covered = [(a, b) for a, b in pairs if b.shape[0] <= a.shape[0] and b.shape[1] <= a.shape[1]]
    for name, mode, boundary in product(
        ("convolve2d", "correlate2d"), MODES, ("fill", "wrap", "symm")
    ):
        calls = [
            (pair, {"mode": mode, "boundary": boundary})
            for pair in (covered if mode == "valid" else pairs)
        ]
        yield Case("signal", name, f"{len(calls)} pairs of 8 to 36, {mode}, {boundary}", calls)


def long_signals() -> Iterator[Case]:
    """Signals and kernels of many lengths."""
    lengths = (8, 36, 65, 151, 500, 2000, 4000)
    for name, mode, n, k in product(("fftconvolve", "oaconvolve"), MODES, lengths, lengths):
        if n >= k:
            rng = np.random.default_rng(1234)
            pair = rng.standard_normal(n), rng.standard_normal(k)
            yield Case("signal", name, f"{n} and {k}, {mode}", [(pair, {"mode": mode})])


def signals() -> Iterator[Case]:
    """Short signals, and images with small kernels."""
    rng = np.random.default_rng(1234)
    lengths = (1, 2, 8, 13, 30, 36, 50, 75)
    short = [
        (rng.standard_normal(n), rng.standard_normal(k))
        for n, k in product(lengths, repeat=2)
        if k <= n
    ]
    large = [
        (rng.standard_normal((n, n)), rng.standard_normal((k, k)))
        for n, k in product((256, 512, 1024), (3, 5, 7))
    ]
    for name, mode in product(("convolve", "correlate"), MODES):
        options = {"mode": mode}
        calls = [(pair, options) for pair in short]
        yield Case("signal", name, f"{len(short)} pairs of 1 to 75, {mode}", calls)
        calls = [(pair, options) for pair in large]
        yield Case("signal", name, f"{len(large)} images of 256 to 1024, {mode}", calls)


def filters() -> Iterator[Case]:
    """Filters of images and volumes."""
    shapes = ((64, 64), (512, 512), (2048, 2048), (16, 16, 16), (128, 128, 128))
    for shape, mode in product(shapes, ("mirror", "constant")):
        x = np.random.RandomState(5).standard_normal(shape)
        weights = np.random.default_rng(5).random((3,) * x.ndim)
        arguments: dict[str, tuple[Any, ...]] = {
            "correlate": (x, weights),
            "convolve": (x, weights),
            "correlate1d": (x, weights.reshape(-1)[:9], 0),
            "convolve1d": (x, weights.reshape(-1)[:9]),
            "gaussian_filter": (x, 2),
            "uniform_filter": (x, 5),
            "sobel": (x,),
            "prewitt": (x,),
            "laplace": (x,),
        }
        for name, given in arguments.items():
            label = f"{'x'.join(map(str, shape))}, {mode}"
            yield Case("ndimage", name, label, [(given, {"mode": mode})])


def turn(run: Callable[[], None]) -> float:
    """Seconds of one run, from as many as fill a turn."""
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < TURN:
        run()
        count += 1
    return spent / count


def measure(case: Case) -> tuple[float, float]:
    """Seconds of ours and of SciPy's, by turns."""
    runs = [case.run(module) for module in MODULES[case.module]]
    for run in runs:
        run()
    turns = [[turn(run) for run in runs] for _ in range(TURNS)]
    ours, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
    return ours, theirs


def main() -> None:
    """Measure and print, case by case and by function."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="text in module.function and label")
    parser.add_argument("--quiet", action="store_true", help="print no single cases")
    options = parser.parse_args()
    print(
        f"faltung {faltung.__version__} with {faltung.get_num_threads()} threads beside SciPy "
        f"{scipy.__version__}: microseconds of both, and how many times as fast"
    )
    ratios: dict[str, list[float]] = defaultdict(list)
    for make in (images, long_signals, signals, filters):
        for case in make():
            name = f"{case.module}.{case.function}"
            if options.only not in f"{name} {case.label}":
                continue
            ours, theirs = measure(case)
            ratios[name].append(theirs / ours)
            if not options.quiet:
                print(
                    f"{name:24} {case.label:34} {ours * 1e6:10.1f} {theirs * 1e6:10.1f} "
                    f"{theirs / ours:8.2f}"
                )
    print("\nIn geometric mean, the least, the most")
    for name, found in ratios.items():
        print(f"{name:24} {len(found):4} {mean(found):7.2f} {min(found):7.2f} {max(found):7.2f}")
    for module in MODULES:
        if found := [mean(r) for name, r in ratios.items() if name.startswith(module)]:
            print(f"all of {module}: {mean(found):.2f}, each function counting the same")


def mean(ratios: list[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


if __name__ == "__main__":
    main()
