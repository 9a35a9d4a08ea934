"""The linear filters of `scipy.ndimage` over faltung: same names, arguments and conventions.

>>> import numpy as np
>>> from faltung.compat import scipy_ndimage as ndimage
>>> ndimage.convolve1d(np.array([1.0, 2, 4]), [0.5, 0.5], mode="nearest")
array([1.5, 3. , 4. ])

All sums are made in float64 (complex128 for complex numbers) and rounded once to the dtype of the
output, integers toward zero, as SciPy does. ``docs/compat.md`` tells where they differ on purpose.

Every function takes these arguments of `scipy.ndimage`:

``output``
    An array that receives the result and is returned, or the dtype of a new one; by default that of
    ``input``. It may be ``input`` itself.
``mode``
    What stands before ``a b c d``: "reflect" or "grid-mirror" (``d c b a``), "constant" or
    "grid-constant" (``cval``), "nearest" (``a a a a``), "mirror" (``d c b``), "wrap" or "grid-wrap"
    (``a b c d``); and likewise behind it. Filters that go axis by axis take a sequence of one an
    axis.
``cval``
    The constant of "constant".
``origin``
    How far the window is moved from its middle; positive moves it to the left. One for all or one
    an axis.
``axes``
    The axes that are filtered; all by default.
"""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from ._engine import conv, pad

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "laplace",
    "prewitt",
    "sobel",
    "uniform_filter",
    "uniform_filter1d",
]

Array = npt.NDArray[Any]
Output = Array | npt.DTypeLike | None
Ints = SupportsIndex | Sequence[SupportsIndex]
Modes = str | Sequence[str]

# The names of `numpy.pad` for the modes.
MODES = {
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "constant": "constant",
    "grid-constant": "constant",
    "nearest": "edge",
    "mirror": "reflect",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}
# The weights of sobel and prewitt: of the derivative, and along the other axes.
SLOPE, SOBEL, PREWITT = np.array([[-1.0, 0.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
# Characters of the dtypes of inputs and outputs, those of SciPy.
DTYPES = frozenset("?bBhHiIlLqQfdFD")


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
    along = _axes(axes, image.ndim)
    count = len(along)
    settings = zip(
        along,
        _each(sigma, count),
        _each(order, count),
        _each(mode, count),
        _each(radius, count),
        strict=True,
    )
    passes = [
        (axis, _gaussian(width, degree, truncate, reach), how, 0)
        for axis, width, degree, how, reach in settings
        if width > 1e-15
    ]
    return _passes(image, passes, output, cval)


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
    passes = [(_axis(axis, image.ndim), int(size), mode, origin)]
    return _passes(image, passes, output, cval, means=True)


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
    along = _axes(axes, image.ndim)
    count = len(along)
    settings = zip(along, _each(size, count), _each(mode, count), _each(origin, count), strict=True)
    passes = [(axis, int(n), how, shift) for axis, n, how, shift in settings if n > 1]
    return _passes(image, passes, output, cval, means=True)


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
    along = _axes(axes, image.ndim)
    modes = ["constant"] * image.ndim
    for axis, how in zip(along, _each(mode, len(along)), strict=True):
        modes[axis] = _mode(how)
    dtype, array = _output(output, image, cval)
    if not along or not image.size:
        return _store(image, dtype, array)
    kernel = np.zeros([3 if axis in along else 1 for axis in range(image.ndim)])
    middle = tuple(k // 2 for k in kernel.shape)
    for axis in along:
        kernel[(*middle[:axis], slice(None), *middle[axis + 1 :])] += [1, -2, 1]
    padding = [(k, k) for k in middle]
    return _sums(image, kernel, padding, modes, cval, dtype, array, sparse=True)


# An axis, the weights or the size of a window, the mode, the origin.
Pass = tuple[int, Any, str, SupportsIndex]


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
    along = _axes(axes, image.ndim)
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
        shifts = dict(zip(along, _each(origin, len(along)), strict=True))
        origins = [shifts.get(axis, 0) for axis in range(image.ndim)]
    else:
        origins = _each(origin, image.ndim)
    padding = [_sides(k, shift, flip) for k, shift in zip(kernel.shape, origins, strict=True)]
    kernel = _wide(kernel, conjugate=not flip)
    dtype, array = _output(output, image, cval, kernel.dtype.kind == "c")
    if not image.size or not image.ndim:
        return _store(image * kernel if not image.ndim else image, dtype, array)
    sparse = bool(np.count_nonzero(kernel) < kernel.size)
    return _sums(image, kernel, padding, _mode(mode), cval, dtype, array, flip, sparse)


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
    dtype, array = _output(output, image, cval, kernel.dtype.kind == "c")
    if kernel.ndim != 1 or not kernel.size:
        raise RuntimeError(f"no filter weights given: weights have shape {kernel.shape}")
    position = _axis(axis, image.ndim)
    sides = _sides(len(kernel), origin, flip)
    kernel = _wide(kernel, conjugate=not flip)
    if not image.size:
        return _store(image, dtype, array)
    return _line(image, kernel, position, sides, _mode(mode), cval, dtype, array, flip)


def _passes(
    image: Array,
    passes: Sequence[Pass],
    output: Output,
    cval: complex,
    means: bool = False,
) -> Array:
    """One filter after the other, rounded in between to the dtype of the output as SciPy does.

    `means` says that passes have not weights, but how many elements to take the mean of.
    """
    dtype, array = _output(output, image, cval)
    if not passes or not image.size:
        return _store(image, dtype, array)
    if means and dtype.kind in "fc":
        passes = [(axis, np.full(n, 1 / n), mode, origin) for axis, n, mode, origin in passes]
        means = False
    run: Callable[..., Array] = _means if means else _weighted
    for number, (axis, weights, mode, origin) in enumerate(passes, start=1):
        target = array if number == len(passes) else None
        image = run(image, axis, weights, _mode(mode), cval, origin, dtype, target)
    return image


def _weighted(
    image: Array,
    axis: int,
    weights: Array,
    mode: str,
    cval: complex,
    origin: SupportsIndex,
    dtype: np.dtype[Any],
    array: Array | None,
) -> Array:
    """Sums along one axis."""
    sides = _sides(len(weights), origin, False)
    return _line(image, weights, axis, sides, mode, cval, dtype, array)


def _means(
    image: Array,
    axis: int,
    size: int,
    mode: str,
    cval: complex,
    origin: SupportsIndex,
    dtype: np.dtype[Any],
    array: Array | None,
) -> Array:
    """Means along one axis, for integers."""
    # Divided once, so that the mean of three threes is not rounded down to 2.
    wide = np.dtype(np.float64)
    sums = _weighted(image, axis, np.ones(size), mode, cval, origin, wide, None)
    return _store(np.divide(sums, size, out=sums), dtype, array)


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
    first = _axis(axis, image.ndim)
    modes = _each(mode, image.ndim)
    dtype, array = _output(output, image, cval)
    if cval == 0 and image.size and dtype.char not in "LQ":
        # In one call, which may make passes of it, block by block. What stands outside between
        # passes is what the sums of what stands outside are, but for constants. Rounding to
        # integers in between changes no integers, except where negative ones wrap to uint64 that
        # float64 does not hold.
        kernels = [SLOPE if n == first else smooth for n in range(image.ndim)]
        kernel = functools.reduce(np.multiply.outer, kernels)
        padding = [(1, 1)] * image.ndim
        return _sums(image, kernel, padding, list(map(_mode, modes)), cval, dtype, array)
    order = [first, *(other for other in range(image.ndim) if other != first)]
    passes = [(n, SLOPE if n == first else smooth, modes[n], 0) for n in order]
    return _passes(image, passes, output, cval)


def _line(
    image: Array,
    weights: Array,
    axis: int,
    sides: tuple[int, int],
    mode: str,
    cval: complex,
    dtype: np.dtype[Any],
    array: Array | None,
    flip: bool = False,
) -> Array:
    """`_sums` along one axis."""
    shape, padding = [1] * image.ndim, [(0, 0)] * image.ndim
    shape[axis], padding[axis] = len(weights), sides
    return _sums(image, weights.reshape(shape), padding, mode, cval, dtype, array, flip)


def _sums(
    image: Array,
    kernel: Array,
    padding: Sequence[tuple[int, int]],
    mode: str | list[str],
    cval: complex,
    dtype: np.dtype[Any],
    array: Array | None,
    flip: bool = False,
    sparse: bool = False,
) -> Array:
    """One call of the engine, its result in `array` or a new array of `dtype`.

    `sparse` says that there are weights of 0, whose taps do not count.
    """
    image = _wide(image)
    direct = (
        array is not None
        and array.dtype == np.result_type(image, kernel)
        and not np.may_share_memory(array, image)
    )
    out = array[None, None] if array is not None and direct else None
    result: Array = conv(
        image[None, None], kernel[None, None], padding, mode, cval, flip=flip, out=out
    )[0, 0]
    # The sum of all is not finite if one of them is not.
    if sparse and not np.isfinite(result.sum()):
        _leave_out_zeros(result, image, np.flip(kernel) if flip else kernel, padding, mode, cval)
    return array if array is not None and direct else _store(result, dtype, array)


def _leave_out_zeros(
    result: Array,
    image: Array,
    kernel: Array,
    padding: Sequence[tuple[int, int]],
    mode: str | list[str],
    cval: complex,
) -> None:
    """Sum anew what is not finite, without the taps that would multiply NaN or infinity by 0."""
    places = np.nonzero(~np.isfinite(result))
    padded = pad(image, padding, mode, cval)
    total = np.zeros(len(places[0]), result.dtype)
    with np.errstate(invalid="ignore"):
        for tap in np.argwhere(kernel):
            window = tuple(place + k for place, k in zip(places, tap, strict=True))
            total += kernel[tuple(tap)] * padded[window]
    result[places] = total


def _store(result: Array, dtype: np.dtype[Any], array: Array | None) -> Array:
    """The result in `array`, or as it is if that has the dtype; float64 to integers as in C."""
    if result.dtype.kind == "f" and dtype.kind in "iu":
        with np.errstate(invalid="ignore"):
            if dtype.itemsize < 8 or dtype.kind == "i":
                # Through int64, so that what does not fit wraps instead of being undefined.
                result = result.astype(np.int64)
            else:
                positive = np.abs(result).astype(np.uint64)
                result = np.where(result < 0, -positive, positive)
    if array is None:
        return result.astype(dtype, copy=False)
    array[...] = result
    return array


def _output(
    output: Any, image: Array, cval: complex, complex_weights: bool = False
) -> tuple[np.dtype[Any], Array | None]:
    """The dtype of the result, and the array for it if there is one."""
    wanted = complex_weights or image.dtype.kind == "c"
    array = None
    if output is None:
        # Without its byte order, as in SciPy.
        dtype = image.dtype.newbyteorder("=")
        dtype = np.promote_types(dtype, np.complex64) if wanted else dtype
    elif isinstance(output, str):
        dtype = np.dtype(output)
        if wanted and dtype.kind != "c":
            raise RuntimeError(f"output must have complex dtype, not {dtype}")
        if not issubclass(dtype.type, np.number):
            raise RuntimeError(f"output must have numeric dtype, not {dtype}")
    elif isinstance(output, (type, np.dtype)):
        dtype = np.dtype(output)
        if wanted and dtype.kind != "c":
            warnings.warn("promoting specified output dtype to complex", stacklevel=4)
            dtype = np.promote_types(dtype, np.complex64)
    else:
        array = np.asarray(output)
        dtype = array.dtype
        if array.shape != image.shape:
            raise RuntimeError(f"output shape not correct: {array.shape} for input {image.shape}")
        if wanted and dtype.kind != "c":
            raise RuntimeError(f"output must have complex dtype, not {dtype}")
    for name, other in (("input", image.dtype), ("output", dtype)):
        if other.char not in DTYPES:
            raise RuntimeError(
                f"{name} has dtype {other}, which is not supported; convert it, for example to "
                "numpy.float32"
            )
    if isinstance(cval, (complex, np.complexfloating)) and image.dtype.kind != "c":
        raise ValueError(f"Cannot provide a complex-valued cval, {cval}, when the input is real.")
    return dtype, array


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


def _wide(array: Array, conjugate: bool = False) -> Array:
    """The array in a dtype of which all sums are made: float64 or complex128."""
    if array.dtype.kind != "c":
        return array.astype(np.float64, copy=False)
    return array.astype(np.complex128, copy=False).conj() if conjugate else array


def _sides(k: int, origin: SupportsIndex, flip: bool) -> tuple[int, int]:
    """Padding before and after an axis for a window of k elements."""
    shift = operator.index(origin)
    before = (k - 1) // 2 - shift if flip else k // 2 + shift
    if not 0 <= before < k:
        raise ValueError(
            f"Invalid origin; origin must satisfy -(len(weights) // 2) <= origin <= "
            f"(len(weights)-1) // 2, but is {shift} for {k} weights"
        )
    return before, k - 1 - before


def _mode(mode: str) -> str:
    try:
        return MODES[mode]
    except KeyError:
        raise RuntimeError(
            f"boundary mode not supported: {mode!r}; pass one of {', '.join(MODES)}"
        ) from None


def _each(value: Any, count: int) -> list[Any]:
    """One entry an axis, from one for all or one an axis."""
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    entries = list(value)
    if len(entries) != count:
        raise RuntimeError(
            f"sequence argument must have length equal to input rank {count}, but is {value}"
        )
    return entries


def _axis(axis: SupportsIndex, ndim: int) -> int:
    position = operator.index(axis)
    if not -ndim <= position < ndim:
        raise np.exceptions.AxisError(position, ndim)
    return position % ndim


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """The axes that are filtered, counted from the first."""
    if axes is None:
        return tuple(range(ndim))
    named = [operator.index(axis) for axis in (axes if np.iterable(axes) else [axes])]
    for axis in named:
        if not -ndim <= axis < ndim:
            raise ValueError(f"specified axis: {axis} is out of range for {ndim} axes")
    named = [axis % ndim for axis in named]
    if len(set(named)) != len(named):
        raise ValueError(f"axes must be unique, but are {axes}")
    return tuple(named)
