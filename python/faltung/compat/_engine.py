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
ENGINE = frozenset("fd")


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
    flip, method
        As in `faltung.conv`.
    out : ndarray, optional
        Receives the result; of its dtype, and apart from `x`.

    Returns
    -------
    ndarray, shape (N, O, *outputs)
        Of the `numpy.result_type` of `x` and `weight`.
    """
    if x.dtype.char in ENGINE and weight.dtype.char in ENGINE:
        return _core.conv(
            0, x, weight, None, 1, padding, 1, groups, mode, value, flip, None, False, out,
            method, None, None,
        )  # fmt: skip
    dtype = np.result_type(x, weight)
    if dtype.char in "FD":
        result = _by_parts(x, weight, padding, mode, value, flip, groups, method)
    else:
        result = _plain(x, weight, padding, mode, value, flip, groups)
    if out is None:
        return result.astype(dtype, copy=False)
    out[...] = result
    return out


def _by_parts(
    x: Array,
    weight: Array,
    padding: Sides,
    mode: str | Sequence[str],
    value: complex,
    flip: bool,
    groups: int,
    method: str,
) -> Array:
    """Complex numbers as real ones."""
    dtype = np.result_type(x, weight)
    part = np.empty(0, dtype).real.dtype

    def of(a: Array, b: Array, c: float) -> Array:
        return conv(
            a.astype(part, copy=False), b.astype(part, copy=False), padding, mode, c,
            flip=flip, groups=groups, method=method,
        )  # fmt: skip

    value = complex(value)
    real = of(x.real, weight.real, value.real)
    result = np.empty(real.shape, dtype)
    result.real, result.imag = real, 0
    if x.dtype.kind == "c" and weight.dtype.kind == "c":
        result.real -= of(x.imag, weight.imag, value.imag)
    if x.dtype.kind == "c":
        result.imag += of(x.imag, weight.real, value.imag)
    if weight.dtype.kind == "c":
        result.imag += of(x.real, weight.imag, value.real)
    return result


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
    return np.asarray(result).reshape(len(x), -1, *size)


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
