"""Convolution along some axes: `fftconvolve` and `oaconvolve`."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._engine import conv
from ._arguments import Array, Mode, Shape, check_mode, covers, padding_of, two_arrays
from ._whole import convolved

Axes = SupportsIndex | Sequence[SupportsIndex]


def fftconvolve(
    in1: npt.ArrayLike, in2: npt.ArrayLike, mode: Mode = "full", axes: Axes | None = None
) -> Array:
    """Convolve along some axes, in floating point: `scipy.signal.fftconvolve`.

    Transforms are used where they are faster than the plain sum.

    Parameters
    ----------
    in1, in2 : array_like
        With as many axes each. Along axes that are not in `axes` they broadcast.
    mode : {"full", "same", "valid"}
        As in `convolve`.
    axes : int or sequence of int, optional
        Those to convolve along; all by default.

    Returns
    -------
    ndarray
        Integers become float64, float16 becomes float32; else the `numpy.result_type` of both.

    Raises
    ------
    ValueError
        As `convolve`, and `axes` that are empty, named twice, or not there, and inputs that do not
        broadcast along the other axes.

    Examples
    --------
    Each row with the same kernel:

    >>> from faltung.compat.scipy_signal import fftconvolve
    >>> fftconvolve([[1, 2, 3], [4, 5, 6]], [[1, 1]], "valid", axes=1)
    array([[ 3.,  5.],
           [ 9., 11.]])
    """
    a, b = two_arrays(in1, in2)
    if not a.ndim:
        return np.multiply(a, b)
    if not a.size or not b.size:
        return np.array([])
    check_mode(mode)
    along = range(a.ndim) if axes is None else _axes(axes, a.ndim)
    # An axis that one of them is 1 long along is one to broadcast along.
    along = [axis for axis in along if a.shape[axis] != 1 and b.shape[axis] != 1]
    if not along:
        return _middle(a * b, a.shape, mode, along)
    a, b = _floating(a), _floating(b)
    if len(along) == a.ndim:
        return convolved(a, b, mode, "auto")
    along.sort()
    return _broadcast(a, b, mode, along)


def oaconvolve(
    in1: npt.ArrayLike, in2: npt.ArrayLike, mode: Mode = "full", axes: Axes | None = None
) -> Array:
    """Convolve along some axes, in floating point: `scipy.signal.oaconvolve`.

    It is `fftconvolve`: faltung always cuts what it transforms into blocks, and takes no transforms
    where the plain sum is faster.

    Parameters
    ----------
    in1, in2, mode, axes
        As in `fftconvolve`.

    Returns
    -------
    ndarray
        As from `fftconvolve`.

    Raises
    ------
    ValueError
        As `fftconvolve`.

    Examples
    --------
    >>> from faltung.compat.scipy_signal import oaconvolve
    >>> oaconvolve([1, 2, 3, 4], [1, 1])
    array([1., 3., 5., 7., 4.])
    """
    return fftconvolve(in1, in2, mode, axes)


def _floating(array: Array) -> Array:
    """The array in the dtype that SciPy's transforms have for it."""
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    return array.astype(np.float32) if array.dtype.char == "e" else array


def _axes(axes: Any, ndim: int) -> list[int]:
    """The axes that are named, counted from the first."""
    names = axes if isinstance(axes, Iterable) else [axes]
    try:
        named = [operator.index(axis) for axis in names]
    except TypeError:
        raise ValueError(f"axes must be a scalar or iterable of integers, not {axes!r}") from None
    if not named:
        raise ValueError("when provided, axes cannot be empty")
    if not all(-ndim <= axis < ndim for axis in named):
        raise ValueError(f"axes exceeds dimensionality of input: {axes} of {ndim} axes")
    named = [axis % ndim for axis in named]
    if len(set(named)) != len(named):
        raise ValueError(f"all axes must be unique, but are {axes}")
    return named


def _broadcast(a: Array, b: Array, mode: str, along: list[int]) -> Array:
    """The convolution along some axes; along the others a and b broadcast.

    As one call of the engine: an axis that only the larger one has is of images, one that only the
    kernel has is of kernels, and one of both is of channels with kernels of their own.
    """
    others = [axis for axis in range(a.ndim) if axis not in along]
    for axis in others:
        if a.shape[axis] != b.shape[axis] and 1 not in (a.shape[axis], b.shape[axis]):
            raise ValueError(f"incompatible shapes for in1 and in2: {a.shape} and {b.shape}")
    first = a.shape

    def lengths(array: Array) -> Shape:
        return tuple(array.shape[axis] for axis in along)

    if mode == "valid" and not covers(lengths(a), lengths(b)):
        a, b = b, a
    swapped = math.prod(lengths(a)) < math.prod(lengths(b))
    padding = padding_of(lengths(a), lengths(b), mode, swapped)
    x, kernel = (b, a) if swapped else (a, b)
    size, taps = lengths(x), lengths(kernel)
    images = [axis for axis in others if kernel.shape[axis] == 1]
    kernels = [axis for axis in others if kernel.shape[axis] != 1 and x.shape[axis] == 1]
    channels = [axis for axis in others if kernel.shape[axis] != 1 and x.shape[axis] != 1]
    order = images + channels + kernels + along
    n = [x.shape[axis] for axis in images]
    c = [x.shape[axis] for axis in channels]
    o = [kernel.shape[axis] for axis in kernels]
    groups = math.prod(c)
    x = x.transpose(order).reshape(math.prod(n), groups, *size)
    kernel = kernel.transpose(channels + kernels + images + along)
    kernel = kernel.reshape(groups * math.prod(o), 1, *taps)
    sums = conv(x, kernel, padding, flip=True, groups=groups)
    result = sums.reshape(*n, *c, *o, *sums.shape[2:]).transpose(np.argsort(order))
    return _middle(result, first, mode, along)


def _middle(result: Array, first: Shape, mode: str, along: list[int]) -> Array:
    """Under "same", as long as the first input along axes that were broadcast too, as in SciPy."""
    if mode != "same":
        return result
    window = []
    for axis, (n, wanted) in enumerate(zip(result.shape, first, strict=True)):
        start = 0 if axis in along else (n - wanted) // 2
        window.append(slice(start, start + wanted))
    return result[tuple(window)]
