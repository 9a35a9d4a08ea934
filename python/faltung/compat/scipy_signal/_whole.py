"""Convolution along all axes: `convolve`, `correlate`, and what is asked about them."""

from __future__ import annotations

import timeit
import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...explain import explain
from .._engine import conv, in_engine
from ._arguments import MODE_ERROR, Array, Mode, check_mode, covers, padding_of, two_arrays

Method = Literal["auto", "direct", "fft"]

METHODS = ("auto", "direct", "fft")
# Integers up to here are exact in float64, so transforms of float64 can be rounded to the exact
# sum. One bit is left for the transforms' own error, as in SciPy.
EXACT = 2**51
# Products up to which integers are summed as they are, without a look at the largest and at what
# transforms would cost.
FEW = 1 << 22


def convolve(
    in1: npt.ArrayLike, in2: npt.ArrayLike, mode: Mode = "full", method: Method = "auto"
) -> Array:
    """Convolve two arrays of any number of axes: `scipy.signal.convolve`.

    Parameters
    ----------
    in1, in2 : array_like
        With as many axes each.
    mode : {"full", "same", "valid"}
        All of the result; as much as `in1` is long, from its middle; or where one input, the larger
        along every axis, covers the other.
    method : {"auto", "direct", "fft"}
        "direct" is the plain sum. "auto" and "fft" take transforms where those are faster.

    Returns
    -------
    ndarray
        Of the `numpy.result_type` of both; integers wrap as NumPy's do.

    Raises
    ------
    ValueError
        Another number of axes in `in1` than in `in2`, an empty input, an unknown `mode` or
        `method`, or under "valid" inputs of which neither covers the other.

    Warns
    -----
    RuntimeWarning
        Under ``method="fft"``, if there is NaN or infinity in the result. Unlike SciPy's, it is
        only in the outputs whose window holds it.

    See Also
    --------
    faltung.convolve : with axes and boundaries. faltung.conv : many channels and kernels.

    Examples
    --------
    >>> from faltung.compat.scipy_signal import convolve
    >>> convolve([1, 2, 3], [1, 10])
    array([ 1, 12, 23, 30])
    """
    a, b = two_arrays(in1, in2)
    if not a.ndim:
        return np.multiply(a, b)
    _check(mode, method)
    return convolved(a, b, mode, method)


def correlate(
    in1: npt.ArrayLike, in2: npt.ArrayLike, mode: Mode = "full", method: Method = "auto"
) -> Array:
    """Correlate two arrays of any number of axes: `scipy.signal.correlate`.

    ``z[k] = sum over l of in1[l] * conj(in2[l - k])``, from k = ``1 - in2.shape`` under "full".

    Parameters
    ----------
    in1, in2, mode, method
        As in `convolve`.

    Returns
    -------
    ndarray
        As from `convolve`.

    Raises
    ------
    ValueError
        As `convolve`.

    See Also
    --------
    correlation_lags : which k the elements of the result belong to.

    Examples
    --------
    >>> from faltung.compat.scipy_signal import correlate
    >>> correlate([1, 2, 3], [1, 10], "valid")
    array([21, 32])
    """
    a, b = two_arrays(in1, in2)
    if b.dtype.kind == "c":
        b = b.conj()
    if not a.ndim:
        return np.multiply(a, b)
    _check(mode, method)
    return convolved(a, b[(slice(None, None, -1),) * b.ndim], mode, method)


def correlation_lags(in1_len: int, in2_len: int, mode: Mode = "full") -> npt.NDArray[np.int_]:
    """Tell the lags of the elements of a correlation: `scipy.signal.correlation_lags`.

    Parameters
    ----------
    in1_len, in2_len : int
        Lengths of the inputs of `correlate`.
    mode : {"full", "same", "valid"}
        As in `correlate`.

    Returns
    -------
    ndarray of int, shape (k,)
        For each element of ``correlate(in1, in2, mode)`` how far `in2` is moved to the right.

    Raises
    ------
    ValueError
        An unknown `mode`.

    Examples
    --------
    >>> from faltung.compat.scipy_signal import correlation_lags
    >>> correlation_lags(4, 2)
    array([-1,  0,  1,  2,  3])
    """
    if mode == "full":
        first, last = 1 - in2_len, in1_len
    elif mode == "same":
        # The middle of "full", as long as in1.
        first = (in1_len + in2_len - 1) // 2 - in1_len // 2 + 1 - in2_len
        last = first + in1_len
    elif mode == "valid":
        first, last = min(in1_len - in2_len, 0), max(in1_len - in2_len, 0) + 1
    else:
        raise ValueError(f"Mode {mode} is invalid: {MODE_ERROR}")
    return np.arange(first, last)


def choose_conv_method(
    in1: npt.ArrayLike, in2: npt.ArrayLike, mode: Mode = "full", measure: bool = False
) -> Any:
    """Tell how `convolve` would go about it: `scipy.signal.choose_conv_method`.

    Parameters
    ----------
    in1, in2, mode
        As in `convolve`.
    measure : bool
        Time both methods instead of estimating.

    Returns
    -------
    method : {"direct", "fft"}
        What ``method="auto"`` of `convolve` amounts to, or with `measure` the faster one.
    times : dict of str to float
        Only with `measure`: seconds of a call with each method.

    Raises
    ------
    ValueError
        As `convolve`.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung.compat.scipy_signal import choose_conv_method
    >>> choose_conv_method(np.ones(100000), np.ones(3)), choose_conv_method(
    ...     np.ones(100000), np.ones(3000))
    ('direct', 'fft')
    """
    a, b = np.asarray(in1), np.asarray(in2)
    _check(mode, "auto")
    if measure:
        times = {}
        for method in ("fft", "direct"):
            timer = timeit.Timer(lambda method=method: convolve(a, b, mode, method))  # type: ignore[misc]
            number, _ = timer.autorange()
            times[method] = min(timer.repeat(3, max(1, number // 20))) / max(1, number // 20)
        return min(times, key=lambda method: times[method]), times
    if a.ndim == b.ndim > 0 and a.size and b.size:
        if mode == "valid" and not covers(a.shape, b.shape):
            a, b = b, a
        if _transforms(a, b, mode):
            return "fft"
    return "direct"


def _check(mode: str, method: str) -> None:
    check_mode(mode)
    if method not in METHODS:
        raise ValueError(f"acceptable method flags are 'auto', 'direct', or 'fft', not {method!r}")


def convolved(a: Array, b: Array, mode: str, method: str) -> Array:
    """The convolution of two arrays of at least one axis, without their arguments' checks."""
    if mode == "valid" and not covers(a.shape, b.shape):
        a, b = b, a
    n, k = a.size, b.size
    if not n or not k:
        raise ValueError(f"in1 and in2 cannot be empty, but have shapes {a.shape} and {b.shape}")
    # It commutes, and is cheaper with the smaller one as the kernel; under "valid" that is b.
    swapped = n < k
    padding = padding_of(a.shape, b.shape, mode, swapped)
    x, kernel = (b, a) if swapped else (a, b)
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        if method != "direct" and _transforms(a, b, mode):
            wide = x.astype(float)[None, None], kernel.astype(float)[None, None]
            sums = conv(*wide, padding, flip=True)[0, 0]
            exact: Array = np.rint(sums, out=sums).astype(np.result_type(x, kernel))
            return exact
        method = "direct"
    result: Array = conv(
        x[None, None], kernel[None, None], padding, flip=True,
        method="direct" if method == "direct" else "auto",
    )[0, 0]  # fmt: skip
    # The sum of all is not finite if one of them is not.
    if method == "fft" and result.dtype.kind in "fc" and not np.isfinite(result.sum()):
        warnings.warn(
            "Use of fft convolution on input with NaN or infinity: there is some in the result.",
            RuntimeWarning,
            stacklevel=3,
        )
    return result


def _transforms(a: Array, b: Array, mode: str) -> bool:
    """Whether the engine would make the sums by transforms, and for integers, could."""
    swapped = a.size < b.size
    x, kernel = (b, a) if swapped else (a, b)
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        if a.dtype.kind == b.dtype.kind == "b" or a.size * b.size <= FEW:
            return False
        largest = [max(abs(int(array.max())), abs(int(array.min()))) for array in (a, b)]
        if largest[0] * largest[1] * kernel.size >= EXACT:
            return False
        x, kernel = x.astype(float), kernel.astype(float)
    if not (in_engine(x.dtype) and in_engine(kernel.dtype)):
        return False
    padding = padding_of(a.shape, b.shape, mode, swapped)
    choice = explain(x[None, None], kernel[None, None], padding=padding, flip=True)
    return bool(choice.as_dict()["method"] == "fft")
