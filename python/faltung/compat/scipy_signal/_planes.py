"""Convolution of two images, with boundaries: `convolve2d` and `correlate2d`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._engine import conv
from ._arguments import Array, Mode, check_mode, covers, padding_of

Boundary = Literal["fill", "circular", "wrap", "symmetric", "symm"]

# The names of `numpy.pad` for the boundaries.
BOUNDARIES = {
    "fill": "constant",
    "circular": "wrap",
    "wrap": "wrap",
    "symmetric": "symmetric",
    "symm": "symmetric",
}


def convolve2d(
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: Mode = "full",
    boundary: Boundary = "fill",
    fillvalue: npt.ArrayLike = 0,
) -> Array:
    """Convolve two images: `scipy.signal.convolve2d`.

    Parameters
    ----------
    in1, in2 : array_like, shape (H, W)
    mode : {"full", "same", "valid"}
        As in `convolve`.
    boundary : {"fill", "wrap", "symm"}
        What stands beyond `in1`: `fillvalue`, `in1` again, or its mirror image. "circular" and
        "symmetric" are other names of the last two.
    fillvalue : scalar
        The constant of "fill".

    Returns
    -------
    ndarray
        Of the `numpy.result_type` of both; integers wrap as NumPy's do.

    Raises
    ------
    ValueError
        Inputs of other than two axes, an empty input, an unknown `mode` or `boundary`, a
        `fillvalue` that is no scalar or does not fit the dtype, or under "valid" inputs of which
        neither covers the other.

    Examples
    --------
    >>> from faltung.compat.scipy_signal import convolve2d
    >>> convolve2d([[1, 2], [3, 4]], [[1, 1]], "same", "wrap")
    array([[3, 3],
           [7, 7]])
    """
    return _plane(in1, in2, mode, boundary, fillvalue, flip=True)


def correlate2d(
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: Mode = "full",
    boundary: Boundary = "fill",
    fillvalue: npt.ArrayLike = 0,
) -> Array:
    """Correlate two images: `scipy.signal.correlate2d`.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue
        As in `convolve2d`. For an `in2` of even length "same" begins one element later than it does
        in `correlate`.

    Returns
    -------
    ndarray
        As from `convolve2d`.

    Raises
    ------
    ValueError
        As `convolve2d`.

    Examples
    --------
    >>> from faltung.compat.scipy_signal import correlate2d
    >>> correlate2d([[1, 2], [3, 4]], [[1, 10]], "valid")
    array([[21],
           [43]])
    """
    return _plane(in1, in2, mode, boundary, fillvalue, flip=False)


def _plane(
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str,
    boundary: str,
    fillvalue: npt.ArrayLike,
    flip: bool,
) -> Array:
    """The convolution of images, or with `flip` off their correlation."""
    name = "convolve2d" if flip else "correlate2d"
    a, b = np.asarray(in1), np.asarray(in2)
    if not a.ndim == b.ndim == 2:
        raise ValueError(
            f"{name} inputs must both be 2-D arrays, but have shapes {a.shape} and {b.shape}"
        )
    check_mode(mode)
    outside = BOUNDARIES.get(boundary)
    if outside is None:
        raise ValueError(
            "acceptable boundary flags are 'fill', 'circular' (or 'wrap'), and 'symmetric' (or "
            f"'symm'), not {boundary!r}"
        )
    swapped = mode == "valid" and not covers(a.shape, b.shape)
    if swapped:
        a, b = b, a
    if not a.size or not b.size:
        raise ValueError(f"{name} inputs cannot be empty, but have shapes {a.shape} and {b.shape}")
    plain_zero = type(fillvalue) is int and not fillvalue
    value = 0 if plain_zero else _fill(fillvalue, np.result_type(a, b))
    if not flip and b.dtype.kind == "c":
        b = b.conj()
    padding = padding_of(a.shape, b.shape, mode, swapped=False)
    if not flip:
        padding = [(after, before) for before, after in padding]
    result: Array = conv(a[None, None], b[None, None], padding, outside, value, flip=flip)[0, 0]
    # in1 ran over in2, which turns a correlation around. (That the wrong one was conjugated, SciPy
    # does not undo.)
    if swapped and not flip:
        result = result[::-1, ::-1]
    return result


def _fill(fillvalue: npt.ArrayLike, dtype: np.dtype[Any]) -> Any:
    """The value as a scalar of the dtype."""
    fill = np.asarray(fillvalue)
    if fill.size != 1:
        raise ValueError(
            f"`fillvalue` must be scalar or an array with one element, but has shape {fill.shape}"
        )
    if fill.dtype.kind == "c" and dtype.kind not in "cO":
        raise ValueError(
            f"could not cast `fillvalue` directly to the output type {dtype}: it is {fill}"
        )
    return fill.reshape(()).astype(dtype)[()]
