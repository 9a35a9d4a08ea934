"""Grids of small convolutions, and their check against the reference, for `test_grid.py`.

A grid is the product of all choices of one axis, taken to the power of the rank, and of the
channels. Up to a rank the whole product is run; beyond it every n-th case is, n being coprime to
the size of the product, so that every choice still meets every other. Options that act on the
whole problem (layout, batch, bias, activation, dtype, flip) turn with the number of the case, with
periods that are coprime to those of the product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import ConvCase, Operands
from reference import Options


def sides(padding: Any) -> tuple[int, int]:
    """A padding that one axis can have beside others."""
    return (0, 0) if isinstance(padding, str) else padding


@dataclass(frozen=True)
class Grid:
    """The choices of a grid and how many of its cases are run."""

    rank: int
    cases: int
    channels: tuple[tuple[int, int, int], ...]  # (channels, outputs, groups)
    sizes: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...] = (1, 2, 3)
    dilations: tuple[int, ...] = (1, 2)
    # A name stands for all axes if it is drawn for the first, and for (0, 0) if for another.
    paddings: tuple[Any, ...] = (
        (0, 0), (1, 1), (2, 1), (0, 3), (-1, 2), (1, -1), "same", "same_lower", "full", "causal"
    )  # fmt: skip
    modes: tuple[str, ...] = ("zeros", "reflect", "symmetric", "replicate", "circular")

    def __getitem__(self, number: int) -> ConvCase:
        """Case `number` of this grid."""
        axis = [self.sizes, self.kernels, self.strides, self.dilations, self.paddings, self.modes]
        digits = [self.channels, *(choices for _ in range(self.rank) for choices in axis)]
        total = math.prod(map(len, digits))
        step = max(int(total * 0.6180339887), 1) if self.cases < total else 1
        while math.gcd(step, total) != 1:
            step += 1
        place, chosen = number * step % total, []
        for choices in digits:
            place, digit = divmod(place, len(choices))
            chosen.append(choices[digit])
        channels, outputs, groups = chosen[0]
        sizes, kernel, stride, dilation, padding, mode = (
            tuple(chosen[1 + i :: len(axis)]) for i in range(len(axis))
        )
        channels_last = number % 7 in (3, 5)
        inner = (*sizes, channels) if channels_last else (channels, *sizes)
        options = Options(
            stride=stride,
            padding=padding[0] if isinstance(padding[0], str) else tuple(map(sides, padding)),
            dilation=dilation,
            groups=groups,
            padding_mode=mode,
            padding_value=number % 31 % 3,
            flip=number % 17 % 3 == 0,
            activation={4: "relu", 8: ("clip", -20, 15)}.get(number % 19 % 9),
            channels_last=channels_last,
        )
        batch = ((), (1,), (2,), (3,))[number % 11 % 4]
        weight = (outputs, channels // groups, *kernel)
        return ConvCase((*batch, *inner), weight, number % 13 < 8, options)

    def chunk(self, index: int, chunks: int) -> Iterator[tuple[int, ConvCase]]:
        """The cases of chunk `index` of `chunks`, with their numbers."""
        for number in range(index, self.cases, chunks):
            yield number, self[number]


_SMALL = ((1, 1, 1), (2, 3, 1), (4, 2, 2), (3, 6, 3))
# Across the widths of every tile: rows of outputs, output channels, and channels that no width
# divides.
_WIDE = ((1, 13, 1), (3, 14, 1), (37, 15, 1), (5, 29, 1), (4, 58, 2), (37, 37, 37))
_ODD = ((0, 0), (1, 1), (2, 0), (-3, 4), "same")

GRIDS = {
    "1d": Grid(1, 21_600, _SMALL, sizes=(1, 2, 3, 4, 5, 7), kernels=(1, 2, 3)),
    "2d": Grid(2, 16_000, _SMALL, sizes=(1, 3, 4, 6), kernels=(1, 2, 3)),
    "3d": Grid(3, 8_000, _SMALL, sizes=(2, 3, 5), kernels=(1, 2, 3)),
    "4d": Grid(4, 4_000, _SMALL[:3], sizes=(2, 3), kernels=(1, 2)),
    "wide1d": Grid(1, 1_500, _WIDE, sizes=(17, 33, 65, 130), kernels=(1, 3, 8), paddings=_ODD),
    "wide2d": Grid(2, 500, _WIDE, sizes=(13, 17, 33, 65), kernels=(1, 3, 4), paddings=_ODD),
    "wide3d": Grid(3, 120, _WIDE, sizes=(4, 17), kernels=(1, 3), paddings=_ODD),
}


def operands_of(problem: ConvCase, number: int) -> Operands:
    """The operands of case `number`: a third of the cases are float64."""
    return problem.integers(np.float32 if number % 29 % 3 else np.float64, number)


def expected(name: str, index: int, chunks: int) -> list[np.ndarray | None]:
    """What the cases of a chunk give, by the reference; None where there is no output."""
    results: list[np.ndarray | None] = []
    for number, problem in GRIDS[name].chunk(index, chunks):
        operands = operands_of(problem, number)
        try:
            results.append(problem.expected(operands).astype(operands.x.dtype))
        except ValueError:
            results.append(None)
    return results


def computed(name: str, index: int, chunks: int) -> list[np.ndarray | None]:
    """What faltung gives for the cases of a chunk; None where it raises ValueError."""
    results: list[np.ndarray | None] = []
    for number, problem in GRIDS[name].chunk(index, chunks):
        try:
            results.append(problem.run(operands_of(problem, number)))
        except ValueError:
            results.append(None)
    return results


def difference(found: np.ndarray | None, wanted: np.ndarray | None) -> str | None:
    """What is wrong with a result, or None."""
    if found is None or wanted is None:
        return None if found is wanted else f"found {found}, wanted {wanted} (None: an error)"
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return f"{found.dtype} {found.shape} instead of {wanted.dtype} {wanted.shape}"
    wrong = np.argwhere(found != wanted)
    if not len(wrong):
        return None
    at = tuple(map(int, wrong[0]))
    return f"{len(wrong)} of {found.size} differ, at {at} {found[at]} instead of {wanted[at]}"
