"""The one way from SciPy's functions to the engine, and a plain sum for what it does not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core

__all__ = ["conv", "in_engine", "pad"]

Array = npt.NDArray[Any]
Sides = Sequence[tuple[int, int]]

# Characters of the dtypes that the engine computes with.
ENGINE = frozenset("?bBhHiIlLqQefdFD")


def in_engine(dtype: np.dtype[Any]) -> bool:
    """Whether the engine computes in a dtype."""
    return dtype.char in ENGINE


def conv(
    x: Array,
    weight: Array,
    padding: Sides,
    mode: str | Sequence[str] = "constant",
    value: complex = 0.0,
    *,
    flip: bool = False,
    groups: int = 1,
    method: str = "auto",
    dtype: np.dtype[Any] | None = None,
    accumulate: type[Any] | None = None,
    out: Array | None = None,
) -> Array:
    """Convolve images of `groups` channels, each with kernels of its own: `faltung.conv`.

    Parameters
    ----------
    x : ndarray, shape (N, groups, *spatial)
    weight : ndarray, shape (O, 1, *kernel)
        Kernels, ``O // groups`` for each channel.
    padding : sequence of (int, int)
        Before and after each axis; negative crops.
    mode : str or sequence of str
        Of `numpy.pad`, for all axes or one an axis.
    value : number
        The constant of the mode "constant".
    flip, method, dtype, accumulate, out
        As in `faltung.conv`. The last three are only for dtypes of the engine.

    Returns
    -------
    ndarray, shape (N, O, *outputs)
        Of `dtype`, else the `numpy.result_type` of `x` and `weight`.
    """
    if x.dtype.char in ENGINE and weight.dtype.char in ENGINE:
        return _core.conv(
            0, x, weight, None, 1, padding, 1, groups, mode, value, flip, None, False, dtype,
            accumulate, out, method, "high", None, None,
        )  # fmt: skip
    return _plain(x, weight, padding, mode, value, flip, groups)


def _plain(
    x: Array,
    weight: Array,
    padding: Sides,
    mode: str | Sequence[str],
    value: complex,
    flip: bool,
    groups: int,
) -> Array:
    """The sum over taps in NumPy, for objects and extended precision."""
    rank = len(padding)
    modes = ["constant"] * 2 + ([mode] * rank if isinstance(mode, str) else list(mode))
    x = pad(x, [(0, 0), (0, 0), *padding], modes, value)
    if flip:
        weight = np.flip(weight, tuple(range(2, 2 + rank)))
    kernel = weight.shape[2:]
    size = [n - k + 1 for n, k in zip(x.shape[2:], kernel, strict=True)]
    # Axes: images, channels, kernels of a channel, positions.
    weight = weight.reshape(groups, -1, *kernel)
    result: Any = 0
    for tap in np.ndindex(*kernel):
        window = tuple(slice(k, k + n) for k, n in zip(tap, size, strict=True))
        factor = weight[(..., *tap)].reshape(groups, -1, *(1,) * rank)
        result = result + x[(slice(None), slice(None), None, *window)] * factor
    return np.asarray(result).reshape(len(x), -1, *size).astype(np.result_type(x, weight))


def pad(x: Array, padding: Sides, mode: str | Sequence[str], value: complex) -> Array:
    """`numpy.pad` with one mode an axis, and negative padding that crops."""
    modes = [mode] * x.ndim if isinstance(mode, str) else mode
    for axis, ((before, after), how) in enumerate(zip(padding, modes, strict=True)):
        kept = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
        x = x[(slice(None),) * axis + (kept,)]
        sides = [(0, 0)] * x.ndim
        sides[axis] = max(before, 0), max(after, 0)
        constant = {"constant_values": value} if how == "constant" else {}
        x = np.pad(x, sides, how, **constant)  # type: ignore[call-overload]
    return x
