"""Differences: `sobel`, `prewitt` and `laplace`."""

from __future__ import annotations

import functools
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from ._arguments import (
    Array,
    Ints,
    Modes,
    Output,
    Outside,
    axes_of,
    axis_of,
    each,
    padding_mode,
    target,
)
from ._sums import Pass, along_axes, sums

# The weights of sobel and prewitt: of the derivative, and along the other axes.
SLOPE, SOBEL, PREWITT = np.array([[-1.0, 0.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]])


def sobel(
    input: npt.ArrayLike,
    axis: SupportsIndex = -1,
    output: Output = None,
    mode: Modes = "reflect",
    cval: complex = 0.0,
) -> Array:
    """Differentiate along one axis and smooth along the others: `scipy.ndimage.sobel`.

    Parameters
    ----------
    input : array_like
    axis : int
        Its kernel is ``[-1, 0, 1]``; that of the others ``[1, 2, 1]``.
    output, mode, cval
        As the module tells.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError, ValueError
        As `correlate1d`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import sobel
    >>> sobel([[0, 0, 1], [0, 0, 1], [0, 0, 1]])
    array([[0, 4, 4],
           [0, 4, 4],
           [0, 4, 4]])
    """
    return _gradient(input, axis, SOBEL, output, mode, cval)


def prewitt(
    input: npt.ArrayLike,
    axis: SupportsIndex = -1,
    output: Output = None,
    mode: Modes = "reflect",
    cval: complex = 0.0,
) -> Array:
    """Differentiate along one axis and add along the others: `scipy.ndimage.prewitt`.

    Parameters
    ----------
    input : array_like
    axis : int
        Its kernel is ``[-1, 0, 1]``; that of the others ``[1, 1, 1]``.
    output, mode, cval
        As the module tells.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError, ValueError
        As `correlate1d`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import prewitt
    >>> prewitt([[0, 0, 1], [0, 0, 1], [0, 0, 1]])
    array([[0, 3, 3],
           [0, 3, 3],
           [0, 3, 3]])
    """
    return _gradient(input, axis, PREWITT, output, mode, cval)


def laplace(
    input: npt.ArrayLike,
    output: Output = None,
    mode: Modes = "reflect",
    cval: complex = 0.0,
    *,
    axes: Ints | None = None,
) -> Array:
    """Add second differences along all axes: `scipy.ndimage.laplace`.

    Parameters
    ----------
    input : array_like
    output, mode, cval, axes
        As the module tells. The kernel along each axis is ``[1, -2, 1]``.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError, ValueError
        As `correlate1d`, and for a sequence of modes of another length than `axes`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import laplace
    >>> laplace([0, 0, 1, 0, 0])
    array([ 0,  1, -2,  1,  0])
    """
    image = np.asarray(input)
    along = axes_of(axes, image.ndim)
    modes = ["constant"] * image.ndim
    for axis, how in zip(along, each(mode, len(along)), strict=True):
        modes[axis] = padding_mode(how)
    to = target(output, image, cval)
    if not along or not image.size:
        return to.store(image)
    kernel = np.zeros([3 if axis in along else 1 for axis in range(image.ndim)])
    middle = tuple(k // 2 for k in kernel.shape)
    for axis in along:
        kernel[(*middle[:axis], slice(None), *middle[axis + 1 :])] += [1, -2, 1]
    padding = [(k, k) for k in middle]
    return sums(image, kernel, padding, Outside(modes, cval), to, sparse=True)


def _gradient(
    input: npt.ArrayLike,
    axis: SupportsIndex,
    smooth: Array,
    output: Output,
    mode: Modes,
    cval: complex,
) -> Array:
    """[-1, 0, 1] along one axis, `smooth` along the others."""
    image = np.asarray(input)
    first = axis_of(axis, image.ndim)
    modes = each(mode, image.ndim)
    to = target(output, image, cval)
    if cval == 0 and image.size and to.dtype.char not in "LQ":
        # In one call, which may make passes of it, block by block. What stands outside between
        # passes is what the sums of what stands outside are, but for constants. Rounding to
        # integers in between changes no integers, except where negative ones wrap to uint64 that
        # float64 does not hold.
        kernels = [SLOPE if n == first else smooth for n in range(image.ndim)]
        kernel = functools.reduce(np.multiply.outer, kernels)
        padding = [(1, 1)] * image.ndim
        outside = Outside(list(map(padding_mode, modes)), cval)
        return sums(image, kernel, padding, outside, to)
    order = [first, *(other for other in range(image.ndim) if other != first)]
    passes = [Pass(n, SLOPE if n == first else smooth, modes[n], 0) for n in order]
    return along_axes(image, passes, output, cval)
