"""The convolution of mathematics and of signal processing: a flipped kernel, over any axes.

``(f * g)(i) = sum over a of f(a) g(i - a)``

`faltung.conv`, like all of deep learning, computes ``sum over a of f(i + a) g(a)`` instead, the
cross-correlation, and over several channels. `convolve` and `correlate` are the two for one
channel; `sampled` is the convolution integral of functions that are known by samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from ._arrays import conjugate, ints, numbers, per_axis
from .functional import Method, PaddingMode, Precision, conv

__all__ = ["convolve", "correlate", "sampled"]

Array = npt.NDArray[Any]
Mode = Literal["full", "same", "valid"]
Axes = SupportsIndex | Sequence[SupportsIndex]


def convolve(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    mode: Mode = "full",
    *,
    axes: Axes | None = None,
    boundary: PaddingMode | Sequence[PaddingMode] = "zeros",
    boundary_value: complex = 0,
    dtype: npt.DTypeLike | None = None,
    accumulate: npt.DTypeLike | None = None,
    out: Array | None = None,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
) -> Array:
    """Convolve with a kernel, in the sense of mathematics: the kernel is flipped.

    ``(f * g)(i,j) = sum over a,b of f(a,b) g(i-a,j-b)``

    Parameters
    ----------
    x : array_like
        f, of any number of axes.
    kernel : array_like
        g, with one axis for each of `axes`.
    mode : {"full", "same", "valid"}
        Which part of the result. With n elements of `x` and k of `kernel` along an axis:

        ===========  ==========  ==============================================================
        ``"full"``   n + k - 1   wherever the two overlap
        ``"same"``   n           the middle of it, from index ``(k - 1) // 2``
        ``"valid"``  n - k + 1   where `kernel` lies within `x`, or `x` within `kernel` if that
                                 is the larger one: ``abs(n - k) + 1``
        ===========  ==========  ==============================================================
    axes : int or sequence of int, optional
        The axes of `x` that `kernel` runs along, in the order of its own; by default the last ones.
        Along all other axes of `x` lie separate signals.
    boundary : str or one str for each of `axes`
        What stands beyond `x`, a `padding_mode` of `faltung.conv`: "zeros", "reflect",
        "symmetric", "replicate", "circular" or their other names.
    boundary_value : float, int or complex
        The constant of the boundary "zeros" or "constant".
    dtype, accumulate : dtype, optional
        Those of the result and of its sums, as in `faltung.conv`.
    out : ndarray, optional
        Receives the result and is returned; of its shape and dtype, with any strides.
    method, precision, threads
        As in `faltung.conv`.

    Returns
    -------
    ndarray
        The axes are those of `x`; the dtype is `dtype`, or `numpy.result_type` of `x` and `kernel`.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take, or an argument of the wrong type.
    ValueError
        An unknown name, an empty axis, `axes` or `out` that do not fit, or under "valid" a
        `kernel` that is larger than `x` along one axis and smaller along another.

    See Also
    --------
    correlate : the same with the kernel as it is.
    faltung.conv : many channels and kernels; ``flip=True`` flips them.

    Notes
    -----
    With ``boundary="zeros"``, "full" and "valid" commute: `x` and `kernel` may change places.
    The definitions of the modes are those of `scipy.signal.convolve`, and but for "same" with a
    kernel longer than `x`, those of `numpy.convolve`.

    Examples
    --------
    Multiplying polynomials, (1 + 2t)(3 + 4t + 5t^2):

    >>> import numpy as np, faltung
    >>> faltung.convolve(np.array([1.0, 2]), np.array([3.0, 4, 5]))
    array([ 3., 10., 13., 10.])

    A moving average along the first axis of a table, around the corner:

    >>> table = np.array([[0.0, 3], [6, 3], [0, 9]])
    >>> faltung.convolve(table, np.full(3, 1 / 3), "same", axes=0, boundary="circular")
    array([[2., 5.],
           [2., 5.],
           [2., 5.]])
    """
    frame = _Frame(np.asarray(x), np.asarray(kernel), mode, axes)
    options: dict[str, Any] = {
        "padding_mode": boundary,
        "padding_value": boundary_value,
        "method": method,
        "precision": precision,
    }
    options |= {"dtype": dtype, "accumulate": accumulate}
    return frame.run(out, flip=True, threads=threads, **options)


def correlate(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    mode: Mode = "full",
    *,
    axes: Axes | None = None,
    boundary: PaddingMode | Sequence[PaddingMode] = "zeros",
    boundary_value: complex = 0,
    dtype: npt.DTypeLike | None = None,
    accumulate: npt.DTypeLike | None = None,
    out: Array | None = None,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
) -> Array:
    """Correlate with a kernel: `convolve` with the kernel as it is, not flipped.

    ``c(i,j) = sum over a,b of x(i+a,j+b) kernel(a,b)``, and of complex numbers the conjugate of
    ``kernel(a,b)``, as in NumPy and SciPy,

    where "full" begins with i, j at ``-(k - 1)``, k being the length of the kernel along an axis.

    Parameters
    ----------
    x, kernel, mode, axes, boundary, boundary_value, dtype, accumulate, out, method, \
precision, threads
        As in `convolve`.

    Returns
    -------
    ndarray
        As from `convolve`.

    Raises
    ------
    TypeError, ValueError
        As in `convolve`.

    Notes
    -----
    It is `scipy.signal.correlate`, whose default "full" it has too, and but for
    "same" with a kernel longer than `x`, `numpy.correlate`, whose default is "valid".
    (`scipy.signal.correlate2d` begins "same" one element later for kernels of even length.)
    Exchanging `x` and `kernel` turns the result around.

    Examples
    --------
    Where a signal looks most like a pattern:

    >>> import numpy as np, faltung
    >>> signal = np.array([0.0, 1, 0, 1, 2, 1])
    >>> faltung.correlate(signal, np.array([1.0, 2, 1]), "valid")
    array([2., 2., 4., 6.])
    """
    frame = _Frame(np.asarray(x), conjugate(np.asarray(kernel)), mode, axes)
    options: dict[str, Any] = {
        "padding_mode": boundary,
        "padding_value": boundary_value,
        "method": method,
        "precision": precision,
    }
    options |= {"dtype": dtype, "accumulate": accumulate}
    return frame.run(out, flip=False, threads=threads, **options)


class _Frame:
    """Leads signals and a kernel to images of one channel for `conv`, and the result back."""

    def __init__(self, x: Array, kernel: Array, mode: Mode, axes: Axes | None) -> None:
        rank = kernel.ndim
        if not 1 <= rank <= x.ndim:
            raise ValueError(
                f"kernel has {rank} axes (shape {kernel.shape}) and x {x.ndim} (shape {x.shape}); "
                "pass a kernel with one axis for each axis of x that it runs along"
            )
        self.axes = ints(range(-rank, 0) if axes is None else axes)
        if len(self.axes) != rank or not all(-x.ndim <= axis < x.ndim for axis in self.axes):
            raise ValueError(
                f"axes is {axes}, but must name one of the {x.ndim} axes of x for each of the "
                f"{rank} axes of kernel"
            )
        positive = [axis % x.ndim for axis in self.axes]
        if len(set(positive)) != rank:
            raise ValueError(f"axes is {axes}, which names an axis twice")
        x = self.last(x)
        self.batch, size, taps = x.shape[:-rank], x.shape[-rank:], kernel.shape
        if 0 in size + taps:
            raise ValueError(
                f"x is {size} and kernel {taps} long along axes {self.axes}; "
                "pass at least one element of each"
            )
        self.padding = [self._sides(mode, k) for k in taps]
        self.swapped = mode == "valid" and any(k > n for n, k in zip(size, taps, strict=True))
        if self.swapped and any(k < n for n, k in zip(size, taps, strict=True)):
            raise ValueError(
                f"mode 'valid' needs x, {size}, or kernel, {taps}, to hold the other along every "
                "axis; pass another mode"
            )
        padded = (n + sum(sides) for n, sides in zip(size, self.padding, strict=True))
        self.size = tuple(abs(n - k) + 1 for n, k in zip(padded, taps, strict=True))
        shape = list(self.batch)
        for axis, length in sorted(zip(positive, self.size, strict=True)):
            shape.insert(axis, length)
        self.shape = tuple(shape)
        self.x, self.kernel = x.reshape(math.prod(self.batch), 1, *size), kernel[None, None]

    @staticmethod
    def _sides(mode: str, taps: int) -> tuple[int, int]:
        """Padding before and after an axis."""
        if mode == "valid":
            return 0, 0
        if mode == "full":
            return taps - 1, taps - 1
        if mode == "same":
            return taps // 2, (taps - 1) // 2
        raise ValueError(f"mode is {mode!r}, but must be 'full', 'same' or 'valid'")

    def last(self, array: Array) -> Array:
        """The view that has the kernel's axes last, in the kernel's order."""
        return np.moveaxis(array, self.axes, range(-len(self.axes), 0))

    def run(self, out: Array | None, flip: bool, **options: Any) -> Array:
        """The result, in the order of axes of the caller."""
        if not self.swapped:
            operands, channels = (self.x, self.kernel), (len(self.x), 1)
            options.update(flip=flip, padding=self.padding)
        else:
            # The kernel is the one image now, and each signal a kernel: convolution commutes. A
            # correlation is the convolution with the kernel turned around.
            kernel = self.kernel if flip else np.flip(self.kernel)
            operands, channels = (kernel, self.x), (1, len(self.x))
            options.update(flip=True)
        if out is None:
            result = conv(*operands, **options).reshape(self.batch + self.size)
            return np.moveaxis(result, range(-len(self.axes), 0), self.axes)
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
        if out.shape != self.shape:
            raise ValueError(
                f"out has shape {out.shape}, but the result has shape {self.shape}; "
                f"pass out=numpy.empty({self.shape}, dtype)"
            )
        target = self.last(out)
        direct = target.reshape(channels + self.size)
        if np.may_share_memory(direct, out):
            conv(*operands, out=direct, **options)
        else:  # batch axes that no strides can flatten
            target[...] = conv(*operands, **options).reshape(target.shape)
        return out


def sampled(
    f: npt.ArrayLike,
    g: npt.ArrayLike,
    spacing: float | Sequence[float],
    *,
    rule: Literal["rectangle", "trapezoid"] = "rectangle",
    f_start: float | Sequence[float] = 0.0,
    g_start: float | Sequence[float] = 0.0,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
) -> tuple[Array, tuple[Array, ...]]:
    """The convolution integral of two functions that are known by samples.

    ``(f * g)(x) = integral of f(z) g(x - z) dz``

    Both are taken to be 0 outside their samples. Several axes are several integrals.

    Parameters
    ----------
    f, g : array_like
        Samples on grids of the same spacing, as many axes each.
    spacing : float or one float per axis
        The distance between neighbouring samples, positive.
    rule : {"rectangle", "trapezoid"}
        ``"rectangle"`` is the sum of all products times the spacing: each sample stands for a
        cell around it. ``"trapezoid"`` joins the samples by straight lines from the first to the
        last, so the product at each end of where f and g overlap counts half.
    f_start, g_start : float or one float per axis
        Where the first sample of each lies.
    method, precision, threads
        As in `faltung.conv`.

    Returns
    -------
    values : ndarray
        Samples of f * g, ``len(f) + len(g) - 1`` along an axis, of the `numpy.result_type` of
        `f` and `g`.
    grid : tuple of ndarray
        Their places: for each axis a float64 array, from ``f_start + g_start`` with `spacing`.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        Other axes in `f` than in `g`, a spacing that is not positive, an unknown rule, or less
        than two samples along an axis for the trapezoid rule, one for the other.

    Notes
    -----
    For functions with jumps at their ends, the error of "rectangle" is of the order of the spacing,
    that of "trapezoid" of its square if they are smooth in between. Where both fall smoothly to 0
    at their ends, either is far better than that.

    The trapezoid rule is the mean, over the corners of a cell, of convolutions of f without its
    last or first sample and g without its first or last: one `faltung.conv` whose channels are
    the corners.

    Examples
    --------
    A box of width 1 with itself, a triangle:

    >>> import numpy as np, faltung
    >>> box = np.ones(3)
    >>> values, (x,) = faltung.sampled(box, box, 0.5, rule="trapezoid", f_start=-0.5)
    >>> x
    array([-0.5,  0. ,  0.5,  1. ,  1.5])
    >>> values
    array([0. , 0.5, 1. , 0.5, 0. ])
    """
    F, G = numbers(f=f, g=g)
    if F.dtype.kind in "biu":  # samples may be whole numbers, an integral need not be
        F, G = F.astype(np.float64), G.astype(np.float64)
    rank = F.ndim
    if G.ndim != rank or rank < 1:
        raise ValueError(f"f has {rank} axes and g {G.ndim}; pass as many, at least one")
    steps = [float(step) for step in per_axis("spacing", spacing, rank)]
    if not all(0 < step < math.inf for step in steps):
        raise ValueError(f"spacing is {spacing}, but must be positive")
    least = {"rectangle": 1, "trapezoid": 2}.get(rule)
    if least is None:
        raise ValueError(f"rule is {rule!r}, but must be 'rectangle' or 'trapezoid'")
    if min(F.shape + G.shape) < least:
        raise ValueError(
            f"f has shape {F.shape} and g {G.shape}; the {rule} rule needs at least {least} "
            "samples along each axis"
        )
    size = tuple(n + k - 1 for n, k in zip(F.shape, G.shape, strict=True))
    options: dict[str, Any] = {"method": method, "precision": precision, "threads": threads}
    if rule == "rectangle":
        values = conv(F[None, None], G[None, None], padding="full", flip=True, **options)
        values = values[0, 0] * F.dtype.type(math.prod(steps))
    else:
        first, last = slice(None, -1), slice(1, None)
        corners = list(itertools.product((first, last), repeat=rank))
        f_corners = np.stack([F[corner] for corner in corners])
        g_corners = np.stack([G[corner] for corner in reversed(corners)])
        inner = conv(f_corners, g_corners[None], padding="full", flip=True, **options)
        values = np.zeros(size, inner.dtype)
        values[(slice(1, -1),) * rank] = inner[0] * F.dtype.type(math.prod(steps) / len(corners))
    starts = (per_axis("f_start", f_start, rank), per_axis("g_start", g_start, rank))
    places = zip(*starts, steps, size, strict=True)
    return values, tuple(left + right + step * np.arange(n) for left, right, step, n in places)
