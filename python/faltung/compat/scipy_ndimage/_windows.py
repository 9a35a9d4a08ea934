"""Correlation and convolution with a kernel: `correlate`, `convolve` and those along one axis."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from ._arguments import (
    Array,
    Ints,
    Output,
    Outside,
    axes_of,
    axis_of,
    each,
    padding_mode,
    target,
    window_sides,
)
from ._sums import along_axis, sums


def correlate(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: Ints = 0,
    *,
    axes: Ints | None = None,
) -> Array:
    """Correlate with a kernel: `scipy.ndimage.correlate`.

    Parameters
    ----------
    input : array_like
    weights : array_like
        With one axis for each of `axes`. Complex ones are conjugated.
    output, mode, cval, origin, axes
        As the module tells; one `mode` for all axes.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError
        Other axes in `weights` than `axes`, an unknown mode, or an `output` that does not fit.
    ValueError
        An `origin` that moves the window off its element, or `axes` that are not there.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import correlate
    >>> correlate([[1, 2], [3, 4]], [[0, 1]], mode="constant", cval=9)
    array([[1, 2],
           [3, 4]])
    """
    return _windowed(input, weights, output, mode, cval, origin, axes, flip=False)


def convolve(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: Ints = 0,
    *,
    axes: Ints | None = None,
) -> Array:
    """Convolve with a kernel: `scipy.ndimage.convolve`, `correlate` with it turned around.

    Parameters
    ----------
    input, weights, output, mode, cval, origin, axes
        As in `correlate`. Nothing is conjugated, and `origin` moves the other way.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError
        As `correlate`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import convolve
    >>> convolve([0, 0, 1, 0, 0], [1, 2, 3], mode="constant")
    array([0, 1, 2, 3, 0])
    """
    return _windowed(input, weights, output, mode, cval, origin, axes, flip=True)


def correlate1d(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    axis: SupportsIndex = -1,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: SupportsIndex = 0,
) -> Array:
    """Correlate along one axis: `scipy.ndimage.correlate1d`.

    Parameters
    ----------
    input : array_like
    weights : array_like, shape (k,)
        Complex ones are conjugated.
    axis : int
    output, mode, cval, origin
        As the module tells.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError
        No `weights`, an unknown mode, or an `output` that does not fit.
    ValueError
        An `origin` that moves the window off its element, or an `axis` that is not there.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import correlate1d
    >>> correlate1d([1, 2, 4, 8], [-1, 0, 1], mode="nearest")
    array([1, 3, 6, 4])
    """
    return _along(input, weights, axis, output, mode, cval, origin, flip=False)


def convolve1d(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    axis: SupportsIndex = -1,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: SupportsIndex = 0,
) -> Array:
    """Convolve along one axis: `scipy.ndimage.convolve1d`.

    Parameters
    ----------
    input, weights, axis, output, mode, cval, origin
        As in `correlate1d`. Nothing is conjugated, and `origin` moves the other way.

    Returns
    -------
    ndarray
        As from `correlate1d`.

    Raises
    ------
    RuntimeError, ValueError
        As `correlate1d`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import convolve1d
    >>> convolve1d([1, 2, 4, 8], [-1, 0, 1], mode="nearest")
    array([-1, -3, -6, -4])
    """
    return _along(input, weights, axis, output, mode, cval, origin, flip=True)


def _windowed(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    output: Output,
    mode: str,
    cval: complex,
    origin: Ints,
    axes: Ints | None,
    flip: bool,
) -> Array:
    """`correlate`, or with `flip` `convolve`."""
    image, kernel = np.asarray(input), np.asarray(weights)
    along = axes_of(axes, image.ndim)
    if not isinstance(mode, str):
        raise RuntimeError("A sequence of modes is not supported; pass one for all axes")
    if kernel.ndim != len(along) or not kernel.size:
        raise RuntimeError(
            f"weights.ndim ({kernel.ndim}) must match len(axes) ({len(along)}), and weights, of "
            f"shape {kernel.shape}, cannot be empty"
        )
    if len(along) < image.ndim:
        # SciPy assigns axes of weights in the order of those of the image, whatever that of `axes`.
        kernel = np.expand_dims(kernel, [n for n in range(image.ndim) if n not in along])
        shifts = dict(zip(along, each(origin, len(along)), strict=True))
        origins = [shifts.get(axis, 0) for axis in range(image.ndim)]
    else:
        origins = each(origin, image.ndim)
    padding = [window_sides(k, shift, flip) for k, shift in zip(kernel.shape, origins, strict=True)]
    kernel = _wide(kernel, conjugate=not flip)
    to = target(output, image, cval, kernel.dtype.kind == "c")
    if not image.size or not image.ndim:
        return to.store(image * kernel if not image.ndim else image)
    sparse = bool(np.count_nonzero(kernel) < kernel.size)
    outside = Outside(padding_mode(mode), cval)
    return sums(image, kernel, padding, outside, to, flip=flip, sparse=sparse)


def _along(
    input: npt.ArrayLike,
    weights: npt.ArrayLike,
    axis: SupportsIndex,
    output: Output,
    mode: str,
    cval: complex,
    origin: SupportsIndex,
    flip: bool,
) -> Array:
    """`correlate1d`, or with `flip` `convolve1d`."""
    image, kernel = np.asarray(input), np.asarray(weights)
    to = target(output, image, cval, kernel.dtype.kind == "c")
    if kernel.ndim != 1 or not kernel.size:
        raise RuntimeError(f"no filter weights given: weights have shape {kernel.shape}")
    position = axis_of(axis, image.ndim)
    sides = window_sides(len(kernel), origin, flip)
    kernel = _wide(kernel, conjugate=not flip)
    if not image.size:
        return to.store(image)
    outside = Outside(padding_mode(mode), cval)
    return along_axis(image, kernel, position, sides, outside, to, flip=flip)


def _wide(array: Array, conjugate: bool) -> Array:
    """The array in a dtype of which all sums are made: float64 or complex128."""
    if array.dtype.kind != "c":
        return array.astype(np.float64, copy=False)
    return array.astype(np.complex128, copy=False).conj() if conjugate else array
