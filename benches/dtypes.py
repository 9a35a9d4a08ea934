"""Time faltung beside PyTorch in every dtype, on one thread, where each dtype has its uses.

Both take turns in one process, so that clocks that move do so for both; the median of all calls
counts. Integers are of their whole range (of 16 bits and fewer) and PyTorch's results wrap, since
it has no other; faltung is asked for what a user wants: 32 bits of 8-bit numbers. Where a dtype
has a bar, the last column tells what it is.

    python benches/dtypes.py
    python benches/dtypes.py --only "3x3 64,int"
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from threads import limit

limit(1)

import faltung  # noqa: E402
import numpy as np  # noqa: E402
from shapes import Case  # noqa: E402
from workers import times  # noqa: E402

# Seconds of a turn, and turns of each.
TURN = 0.04
TURNS = 5
LAYER = "3x3 64-64 56x56"
# How many times as fast as PyTorch's best at the kind of number faltung is to be on `LAYER`.
BARS = {"uint8": 5.0, "int8": 5.0, "int16": 1.5, "int32": 1.5, "complex64": 1.3, "float16": 1.0}
# In which dtype PyTorch is timed where it does not do a kind of number or is faster in another.
RIVALS = {
    "uint8": "int8",
    "int16": "int32",
    "uint16": "int32",
    "uint32": "int32",
    "uint64": "int64",
}
WIDE = {"uint8": "int32", "int8": "int32", "bool": "int32"}


def case(
    name: str, x: tuple[int, ...], weight: tuple[int, ...], pad: int = 0, groups: int = 1
) -> Case:
    """A case of stride 1."""
    rank = len(weight) - 2
    return Case(name, x, weight, (1,) * rank, (pad,) * rank, (1,) * rank, groups)


EVERY = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64"
EVERY += " complex64 complex128"
BYTES, SOUND = "uint8 int8", "int16 int32 float16 bfloat16 float32 complex64"
CASES = {
    case(LAYER, (1, 64, 56, 56), (64, 64, 3, 3), 1): EVERY,
    case("3x3 256-256 14x14", (1, 256, 14, 14), (256, 256, 3, 3), 1): EVERY,
    case("1x1 64-256 56x56", (1, 64, 56, 56), (256, 64, 1, 1)): f"{BYTES} {SOUND}",
    case("3x3 depthwise 144 56x56", (1, 144, 56, 56), (144, 1, 3, 3), 1, 144): f"{BYTES} {SOUND}",
    case("7x7 3-16 224x224", (1, 3, 224, 224), (16, 3, 7, 7), 3): f"{BYTES} {SOUND}",
    case("5x5 one picture", (1, 1, 1080, 1920), (1, 1, 5, 5), 2): f"{BYTES} {SOUND}",
    case("101 taps one signal", (1, 1, 480_000), (1, 1, 101)): f"{BYTES} {SOUND}",
    case("3 taps 64-64 8192", (1, 64, 8192), (64, 64, 3), 1): f"{BYTES} {SOUND}",
    case("3x3 3-8 32x32", (1, 3, 32, 32), (8, 3, 3, 3), 1): f"{BYTES} {SOUND}",
}


@dataclass(frozen=True)
class Row:
    """What was measured of a case in a dtype: seconds of ours and theirs."""

    case: Case
    dtype: str
    ours: float
    theirs: float | None

    def __str__(self) -> str:
        theirs = ratio = bar = ""
        if self.theirs is not None:
            theirs, ratio = f"{self.theirs * 1e3:.3f}", f"{self.theirs / self.ours:.2f}"
        if self.case.name == LAYER and self.dtype in BARS:
            bar = f"{BARS[self.dtype]:.1f}"
        rate = self.case.flop / self.ours / 1e9
        return (
            f"{self.case.name:24}{self.dtype:12}{self.ours * 1e3:9.3f}{rate:9.1f}"
            f"{theirs:>9}{ratio:>9}{bar:>6}"
        )


def dtype_of(name: str) -> Any:
    """Return a dtype by its name; bfloat16 is another package's."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def numbers(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> np.ndarray:
    """Return numbers of a dtype, integers of at most 16 bits."""
    if dtype.kind == "c":
        parts = rng.integers(-4, 5, (2, *shape))
        return (parts[0] + 1j * parts[1]).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        reach = np.iinfo(dtype if dtype.itemsize < 2 else f"{dtype.kind}2")
        return rng.integers(reach.min, reach.max, shape, endpoint=True).astype(dtype)
    return rng.integers(-4, 5, shape).astype(dtype)


def with_faltung(case: Case, name: str) -> Callable[[], Any]:
    """``faltung.conv``, 8-bit numbers to 32 bits."""
    rng, dtype = np.random.default_rng(0), dtype_of(name)
    x, weight = numbers(case.x, dtype, rng), numbers(case.weight, dtype, rng)
    options = (None, case.stride, case.padding, case.dilation, case.groups)
    return lambda: faltung.conv(x, weight, *options, dtype=WIDE.get(name), threads=1)


def with_torch(case: Case, name: str) -> Callable[[], Any] | None:
    """``torch.nn.functional.conv*d``, or None where PyTorch has no such numbers."""
    import torch

    torch.set_num_threads(1)
    rng, rival = np.random.default_rng(0), RIVALS.get(name, name)
    brain = rival == "bfloat16"
    kind = dtype_of("float32" if brain else rival)
    arrays = [torch.from_numpy(numbers(shape, kind, rng)) for shape in (case.x, case.weight)]
    x, weight = (array.bfloat16() for array in arrays) if brain else arrays
    function = getattr(torch.nn.functional, f"conv{case.rank}d")
    options = (None, case.stride, case.padding, case.dilation, case.groups)

    def call() -> Any:
        with torch.inference_mode():
            return function(x, weight, *options)

    try:
        call()
    except RuntimeError:
        return None
    return call


def measure(only: list[str], rivals: bool) -> Iterator[Row]:
    """Time both, case by case and dtype by dtype."""
    for case, names in CASES.items():
        for name in names.split():
            if not all(text in f"{case.name} {name}" for text in only):
                continue
            if name == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
                continue
            calls = [with_faltung(case, name)]
            theirs = with_torch(case, name) if rivals else None
            calls += [theirs] if theirs else []
            found: list[list[float]] = [[] for _ in calls]
            for _ in range(TURNS):
                for call, seconds in zip(calls, found, strict=True):
                    seconds.extend(times(call, TURN))
            ours, *others = map(statistics.median, found)
            yield Row(case, name, ours, others[0] if others else None)


def main() -> None:
    """Print a table, and what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="texts in case and dtype, with commas")
    options = parser.parse_args()
    rivals = importlib.util.find_spec("torch") is not None
    print(f"{'':24}{'':12}{'faltung':>18}{'PyTorch':>9}")
    print(f"{'case':24}{'dtype':12}{'ms':>9}{'G(FL)OP/s':>9}{'ms':>9}{'times':>9}{'bar':>6}")
    rows = []
    for row in measure([text for text in options.only.split(",") if text], rivals):
        rows.append(row)
        print(row, flush=True)
    ratios = [math.log(row.theirs / row.ours) for row in rows if row.theirs is not None]
    if ratios:
        mean = math.exp(statistics.fmean(ratios))
        print(f"{mean:.2f} times as fast as PyTorch in geometric mean of {len(ratios)}")


if __name__ == "__main__":
    sys.exit(main())
