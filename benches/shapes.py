"""The convolutions that are timed: the table in cases.json, and random ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CASES = Path(__file__).with_name("cases.json")


@dataclass(frozen=True)
class Case:
    """One convolution, as PyTorch's arguments name it."""

    name: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.weight) - 2

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the result."""
        axes = zip(
            self.x[2:], self.weight[2:], self.stride, self.padding, self.dilation, strict=True
        )
        spatial = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
        return (self.x[0], self.weight[0], *spatial)

    @property
    def flop(self) -> int:
        """Floating-point operations of the direct sum: two for each tap of each output."""
        return 2 * math.prod(self.output) * math.prod(self.weight[1:])

    @property
    def elements(self) -> int:
        """Elements of input, weight and result: what must at least be read or written."""
        return math.prod(self.x) + math.prod(self.weight) + math.prod(self.output)

    def arrays(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Input and weight, of small integers.

        Their sums are exact, so libraries that sum products agree with ``==``; one that takes
        another way (FFT, Winograd) shows its rounding.
        """
        rng = np.random.default_rng(0)
        x = rng.integers(-4, 5, self.x).astype(dtype)
        return x, rng.integers(-4, 5, self.weight).astype(dtype)

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.x)), "*", "x".join(map(str, self.weight))]
        for name in ("stride", "padding", "dilation"):
            values = getattr(self, name)
            if set(values) != {0 if name == "padding" else 1}:
                parts.append(f"{name} {','.join(map(str, values))}")
        if self.groups > 1:
            parts.append(f"groups {self.groups}")
        return " ".join(parts)


def load(path: Path = CASES) -> list[Case]:
    """Read a table of cases."""

    def case(row: dict) -> Case:
        rank = len(row["w"]) - 2
        stride, padding, dilation = (
            (value,) * rank if isinstance(value, int) else tuple(value)
            for value in (row.get("stride", 1), row.get("pad", 0), row.get("dilation", 1))
        )
        shapes = tuple(row["x"]), tuple(row["w"])
        return Case(row["name"], *shapes, stride, padding, dilation, row.get("groups", 1))

    return [case(row) for row in json.loads(path.read_text())]


def random_cases(count: int, seed: int = 0) -> list[Case]:
    """Draw convolutions of 1 MFLOP to 0.5 GFLOP that no one has tuned for, the same every time."""

    def draw(rng: np.random.Generator) -> Iterator[Case]:
        while True:
            case = random_case(rng)
            if case is not None and 1e6 <= case.flop <= 5e8:
                yield case

    cases = draw(np.random.default_rng(seed))
    return [next(cases) for _ in range(count)]


def random_case(rng: np.random.Generator) -> Case | None:
    """Draw one convolution, or None where the kernel does not fit."""

    def size(low: float, high: float) -> int:
        """Draw an integer, as many from each octave."""
        return round(2 ** rng.uniform(math.log2(low), math.log2(high)))

    rank = int(rng.choice([1, 2, 2, 2, 3]))
    kind = str(rng.choice(["plain", "plain", "plain", "grouped", "depthwise", "patches", "1x1"]))
    kernel = [size(1, (200, 12, 5)[rank - 1]) for _ in range(rank)]
    if kind in ("plain", "grouped") and rng.random() < 0.5:
        kernel = [3] * rank
    if rank == 2 and rng.random() < 0.2:
        kernel = [1, 7] if rng.random() < 0.5 else [7, 1]
    stride, dilation = [1] * rank, [1] * rank
    if kind == "patches":
        kernel = stride = [int(rng.choice([2, 4, 8, 16]))] * rank
    elif kind == "1x1":
        kernel = [1] * rank
    if kind != "patches" and rng.random() < 0.25:
        stride = [int(rng.integers(1, 4)) for _ in range(rank)]
    elif kind != "patches" and rng.random() < 0.2:
        dilation = [int(rng.integers(1, 6)) for _ in range(rank)]
    padding = [int(rng.integers(0, k)) * d for k, d in zip(kernel, dilation, strict=True)]
    groups = 1
    channels, outputs = size(1, 300), size(1, 300)
    if kind == "grouped":
        groups = size(2, 32)
        channels, outputs = size(1, 16), groups * size(1, 16)
    elif kind == "depthwise":
        groups = channels
        channels, outputs = 1, groups * int(rng.choice([1, 1, 2]))
    spatial = [size(*((16, 50000), (4, 400), (3, 64))[rank - 1]) for _ in range(rank)]
    batch = int(rng.choice([1, 1, 1, size(2, 32)]))
    case = Case(
        kind,
        (batch, channels * groups, *spatial),
        (outputs, channels, *kernel),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )
    return case if min(case.output) >= 1 else None
