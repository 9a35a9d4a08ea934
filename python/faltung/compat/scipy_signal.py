"""The convolutions of `scipy.signal` over faltung: same names, arguments and conventions.

>>> from faltung.compat import scipy_signal as signal
>>> signal.convolve([1, 2, 3], [0, 1, 0.5], mode="same")
array([1. , 2.5, 4. ])

Where they differ from SciPy's on purpose is in ``docs/compat.md``. In short: sums are made by
transforms only where those are faster, so that NaN and infinities touch no more than the outputs
whose window holds them, and integers are exact.
"""

from __future__ import annotations

import math
import operator
import timeit
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from ._engine import conv, in_engine

__all__ = [
    "choose_conv_method",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "correlation_lags",
    "fftconvolve",
    "oaconvolve",
]

Array = npt.NDArray[Any]
Mode = Literal["full", "same", "valid"]
Method = Literal["auto", "direct", "fft"]
Boundary = Literal["fill", "circular", "wrap", "symmetric", "symm"]
Axes = SupportsIndex | Sequence[SupportsIndex]
Shape = tuple[int, ...]

MODES = ("full", "same", "valid")
MODE_ERROR = "acceptable mode flags are 'valid', 'same', or 'full'"
METHODS = ("auto", "direct", "fft")
# The names of `numpy.pad` for the boundaries.
BOUNDARIES = {
    "fill": "constant",
    "circular": "wrap",
    "wrap": "wrap",
    "symmetric": "symmetric",
    "symm": "symmetric",
}
# Integers up to here are exact in float64, so transforms of float64 can be rounded to the exact
# sum. One bit is left for the transforms' own error, as in SciPy.
EXACT = 2**51
# Products below which integers are summed as they are: looking for their largest takes longer.
FEW = 1 << 16


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
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim != b.ndim:
        raise ValueError(
            "in1 and in2 should have the same dimensionality, but have shapes "
            f"{a.shape} and {b.shape}"
        )
    if not a.ndim:
        return np.multiply(a, b)  # type: ignore[no-any-return]
    _check(mode, method)
    return _convolved(a, b, mode, method)


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
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim != b.ndim:
        raise ValueError(
            "in1 and in2 should have the same dimensionality, but have shapes "
            f"{a.shape} and {b.shape}"
        )
    if b.dtype.kind == "c":
        b = b.conj()
    if not a.ndim:
        return np.multiply(a, b)  # type: ignore[no-any-return]
    _check(mode, method)
    return _convolved(a, b[(slice(None, None, -1),) * b.ndim], mode, method)


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
    a, b = np.asarray(in1), np.asarray(in2)
    if a.ndim != b.ndim:
        raise ValueError(
            "in1 and in2 should have the same dimensionality, but have shapes "
            f"{a.shape} and {b.shape}"
        )
    if not a.ndim:
        return np.multiply(a, b)  # type: ignore[no-any-return]
    if not a.size or not b.size:
        return np.array([])
    if mode not in MODES:
        raise ValueError(f"{MODE_ERROR}, not {mode!r}")
    along = range(a.ndim) if axes is None else _axes(axes, a.ndim)
    # An axis that one of them is 1 long along is one to broadcast along.
    along = [axis for axis in along if a.shape[axis] != 1 and b.shape[axis] != 1]
    if not along:
        return _middle(a * b, a.shape, mode, along)
    a, b = _floating(a), _floating(b)
    if len(along) == a.ndim:
        return _convolved(a, b, mode, "auto")
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
        if mode == "valid" and not _covers(a.shape, b.shape):
            a, b = b, a
        if _transforms(a, b, mode):
            return "fft"
    return "direct"


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


def _check(mode: str, method: str) -> None:
    if mode not in MODES:
        raise ValueError(f"{MODE_ERROR}, not {mode!r}")
    if method not in METHODS:
        raise ValueError(f"acceptable method flags are 'auto', 'direct', or 'fft', not {method!r}")


def _covers(a: Shape, b: Shape) -> bool:
    """Whether a is the larger one along every axis, for "valid"; else b must be."""
    if all(map(operator.ge, a, b)):
        return True
    if all(map(operator.le, a, b)):
        return False
    raise ValueError(
        "For 'valid' mode, one must be at least as large as the other in every dimension, but the "
        f"shapes are {a} and {b}"
    )


def _sides(a: Shape, b: Shape, mode: str, swapped: bool) -> list[tuple[int, int]]:
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


def _convolved(a: Array, b: Array, mode: str, method: str) -> Array:
    """The convolution of two arrays of at least one axis, without their arguments' checks."""
    if mode == "valid" and not _covers(a.shape, b.shape):
        a, b = b, a
    n, k = a.size, b.size
    if not n or not k:
        raise ValueError(f"in1 and in2 cannot be empty, but have shapes {a.shape} and {b.shape}")
    # It commutes, and is cheaper with the smaller one as the kernel; under "valid" that is b.
    swapped = n < k
    padding = _sides(a.shape, b.shape, mode, swapped)
    x, kernel = (b, a) if swapped else (a, b)
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        if method != "direct" and n * k > FEW and _transforms(a, b, mode):
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
    """Whether sums of a and b, which may be swapped, are made by transforms."""
    dtype = np.result_type(a, b)
    if dtype.kind not in "iufc" or not in_engine(np.result_type(dtype, np.float32)):
        return False
    outputs = math.prod(
        n + k - 1 if mode == "full" else n if mode == "same" else n - k + 1
        for n, k in zip(a.shape, b.shape, strict=True)
    )
    taps = min(a.size, b.size)
    if a.ndim and taps * min(outputs, a.size + b.size) < FEW:
        return False
    if taps < (50 if a.ndim == 1 else 121):
        return False
    if dtype.kind in "iu":
        largest = [max(abs(int(array.max())), abs(int(array.min()))) for array in (a, b)]
        return largest[0] * largest[1] * taps < EXACT
    return True


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

    if mode == "valid" and not _covers(lengths(a), lengths(b)):
        a, b = b, a
    swapped = math.prod(lengths(a)) < math.prod(lengths(b))
    padding = _sides(lengths(a), lengths(b), mode, swapped)
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
    if mode not in MODES:
        raise ValueError(f"{MODE_ERROR}, not {mode!r}")
    outside = BOUNDARIES.get(boundary)
    if outside is None:
        raise ValueError(
            "acceptable boundary flags are 'fill', 'circular' (or 'wrap'), and 'symmetric' (or "
            f"'symm'), not {boundary!r}"
        )
    swapped = mode == "valid" and not _covers(a.shape, b.shape)
    if swapped:
        a, b = b, a
    if not a.size or not b.size:
        raise ValueError(f"{name} inputs cannot be empty, but have shapes {a.shape} and {b.shape}")
    plain_zero = type(fillvalue) is int and not fillvalue
    value = 0 if plain_zero else _fill(fillvalue, np.result_type(a, b))
    if not flip and b.dtype.kind == "c":
        b = b.conj()
    padding = []
    for k in b.shape:
        if mode == "full":
            padding.append((k - 1, k - 1))
        elif mode == "same":
            sides = k // 2, (k - 1) // 2
            padding.append(sides if flip else sides[::-1])
        else:
            padding.append((0, 0))
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
