"""Filters that go axis by axis: `gaussian_filter`, `uniform_filter` and those along one axis."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from ._arguments import Array, Ints, Modes, Output, axes_of, axis_of, each
from ._sums import Pass, along_axes
from ._windows import correlate1d


def gaussian_filter1d(
    input: npt.ArrayLike,
    sigma: float,
    axis: SupportsIndex = -1,
    order: int = 0,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | None = None,
) -> Array:
    """Smooth along one axis: `scipy.ndimage.gaussian_filter1d`.

    Parameters
    ----------
    input : array_like
    sigma : float
        The standard deviation of the kernel.
    axis : int
    order : int
        0 is the Gaussian itself, n its n-th derivative.
    output, mode, cval
        As the module tells.
    truncate : float
        How many `sigma` the kernel reaches to both sides.
    radius : int, optional
        How many elements it does; `truncate` does not matter then.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError, ValueError
        As `correlate1d`, and ValueError for a negative `order` or `radius`.

    Notes
    -----
    A derivative of the Gaussian is the Gaussian times a polynomial: with P that of one order, that
    of the next is ``P' - x P / sigma**2``.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import gaussian_filter1d
    >>> gaussian_filter1d([0.0, 0, 1, 0, 0], 0.5).round(3)
    array([0.   , 0.106, 0.787, 0.106, 0.   ])
    """
    kernel = _gaussian(sigma, order, truncate, radius)
    return correlate1d(input, kernel, axis, output, mode, cval)


def gaussian_filter(
    input: npt.ArrayLike,
    sigma: float | Sequence[float],
    order: int | Sequence[int] = 0,
    output: Output = None,
    mode: Modes = "reflect",
    cval: complex = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | Sequence[int] | None = None,
    axes: Ints | None = None,
) -> Array:
    """Smooth along several axes, one after the other: `scipy.ndimage.gaussian_filter`.

    Parameters
    ----------
    input : array_like
    sigma, order, radius
        As in `gaussian_filter1d`, one for all or one an axis. Where `sigma` is 0, nothing is done.
    output, mode, cval, axes
        As the module tells. Between axes the result is rounded to the dtype of the output.
    truncate : float
        As in `gaussian_filter1d`.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError, ValueError
        As `gaussian_filter1d`, and for sequences of another length than `axes`.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung.compat.scipy_ndimage import gaussian_filter
    >>> gaussian_filter(np.eye(3), 0.5).round(3)
    array([[0.809, 0.179, 0.012],
           [0.179, 0.641, 0.179],
           [0.012, 0.179, 0.809]])
    """
    image = np.asarray(input)
    along = axes_of(axes, image.ndim)
    count = len(along)
    settings = zip(
        along,
        each(sigma, count),
        each(order, count),
        each(mode, count),
        each(radius, count),
        strict=True,
    )
    passes = [
        Pass(axis, _gaussian(width, degree, truncate, reach), how, 0)
        for axis, width, degree, how, reach in settings
        if width > 1e-15
    ]
    return along_axes(image, passes, output, cval)


def uniform_filter1d(
    input: npt.ArrayLike,
    size: int,
    axis: SupportsIndex = -1,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: SupportsIndex = 0,
) -> Array:
    """Take means along one axis: `scipy.ndimage.uniform_filter1d`.

    Parameters
    ----------
    input : array_like
    size : int
        How many elements a mean is of.
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
        A `size` less than 1, and as `correlate1d`.
    ValueError
        As `correlate1d`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import uniform_filter1d
    >>> uniform_filter1d([3, 0, 0, 6], 3)
    array([2, 1, 2, 4])
    """
    if size < 1:
        raise RuntimeError(f"incorrect filter size: {size}, but it must be at least 1")
    image = np.asarray(input)
    passes = [Pass(axis_of(axis, image.ndim), int(size), mode, origin)]
    return along_axes(image, passes, output, cval, means=True)


def uniform_filter(
    input: npt.ArrayLike,
    size: int | Sequence[int] = 3,
    output: Output = None,
    mode: Modes = "reflect",
    cval: complex = 0.0,
    origin: Ints = 0,
    *,
    axes: Ints | None = None,
) -> Array:
    """Take means over boxes: `scipy.ndimage.uniform_filter`.

    Parameters
    ----------
    input : array_like
    size : int or sequence of int
        The lengths of a box. Where it is 1 or less, nothing is done.
    output, mode, cval, origin, axes
        As the module tells. Between axes the result is rounded to the dtype of the output.

    Returns
    -------
    ndarray
        Of the shape of `input`.

    Raises
    ------
    RuntimeError, ValueError
        As `uniform_filter1d`, and for sequences of another length than `axes`.

    Examples
    --------
    >>> from faltung.compat.scipy_ndimage import uniform_filter
    >>> uniform_filter([[9, 0, 0], [0, 0, 0], [0, 0, 0]], 3)
    array([[4, 2, 0],
           [2, 1, 0],
           [0, 0, 0]])
    """
    image = np.asarray(input)
    along = axes_of(axes, image.ndim)
    count = len(along)
    settings = zip(along, each(size, count), each(mode, count), each(origin, count), strict=True)
    passes = [Pass(axis, int(n), how, shift) for axis, n, how, shift in settings if n > 1]
    return along_axes(image, passes, output, cval, means=True)


def _gaussian(sigma: float, order: int, truncate: float, radius: int | None) -> Array:
    """The weights of `gaussian_filter1d`, for `correlate1d`."""
    reach = int(truncate * float(sigma) + 0.5) if radius is None else radius
    if order < 0:
        raise ValueError(f"order must be non-negative, not {order}")
    if not isinstance(reach, (int, np.integer)) or reach < 0:
        raise ValueError(f"Radius must be a nonnegative integer, not {reach}.")
    return _gaussian_weights(float(sigma), int(order), int(reach))


@functools.lru_cache(maxsize=64)
def _gaussian_weights(sigma: float, order: int, reach: int) -> Array:
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(x * x * (-0.5 / (sigma * sigma)))
    weights /= weights.sum()
    if order:
        slope = np.polynomial.Polynomial([0.0, -1.0 / (sigma * sigma)])
        factor = np.polynomial.Polynomial([1.0])
        for _ in range(order):
            factor = factor.deriv() + factor * slope
        # A derivative is odd or even, and correlation does not turn it around.
        weights *= factor(-x)
    weights.flags.writeable = False
    return weights
