"""The arguments of `scipy.signal`, checked, and what a mode's part of a convolution is."""

from __future__ import annotations

import operator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mode = Literal["full", "same", "valid"]
Shape = tuple[int, ...]

MODES = ("full", "same", "valid")
MODE_ERROR = "acceptable mode flags are 'valid', 'same', or 'full'"


def two_arrays(in1: npt.ArrayLike, in2: npt.ArrayLike) -> tuple[Array, Array]:
    """Both inputs, which must have as many axes each."""
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim != b.ndim:
        raise ValueError(
            "in1 and in2 should have the same dimensionality, but have shapes "
            f"{a.shape} and {b.shape}"
        )
    return a, b


def check_mode(mode: str) -> None:
    """Refuse a mode that there is not."""
    if mode not in MODES:
        raise ValueError(f"{MODE_ERROR}, not {mode!r}")


def covers(a: Shape, b: Shape) -> bool:
    """Whether a is the larger one along every axis, for "valid"; else b must be."""
    if all(map(operator.ge, a, b)):
        return True
    if all(map(operator.le, a, b)):
        return False
    raise ValueError(
        "For 'valid' mode, one must be at least as large as the other in every dimension, but the "
        f"shapes are {a} and {b}"
    )


def padding_of(a: Shape, b: Shape, mode: str, swapped: bool) -> list[tuple[int, int]]:
    """Padding of the image before and after each axis, for a mode's part of a's convolution with b.

    `swapped` says that b is the image and a the kernel. Under "same" the part begins at
    (k - 1) // 2 of the full result, k being the length of b, and is as long as a; under "valid", a
    covers b.
    """
    if mode == "full":
        return [(k - 1, k - 1) for k in (a if swapped else b)]
    if mode == "valid":
        return [(0, 0)] * len(a)
    if swapped:
        return [(n - 1 - (k - 1) // 2, n - k + (k - 1) // 2) for n, k in zip(a, b, strict=True)]
    return [(k // 2, (k - 1) // 2) for k in b]
