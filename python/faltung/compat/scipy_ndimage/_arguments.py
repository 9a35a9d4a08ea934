"""The arguments of `scipy.ndimage`, checked and in the engine's words."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

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
# Characters of the dtypes of inputs and outputs, those of SciPy.
DTYPES = frozenset("?bBhHiIlLqQfdFD")


class Outside(NamedTuple):
    """What lies outside the image."""

    # Of `numpy.pad`, for all axes or one an axis.
    mode: str | Sequence[str]
    cval: complex


class Target(NamedTuple):
    """Where a result goes."""

    dtype: np.dtype[Any]
    # The caller's, or None for a new one.
    array: Array | None

    def store(self, result: Array) -> Array:
        """Put a result there; float64 becomes integers as in C."""
        if result.dtype.kind == "f" and self.dtype.kind in "iu":
            with np.errstate(invalid="ignore"):
                if self.dtype.itemsize < 8 or self.dtype.kind == "i":
                    # Through int64, so that what does not fit wraps instead of being undefined.
                    result = result.astype(np.int64)
                else:
                    positive = np.abs(result).astype(np.uint64)
                    result = np.where(result < 0, -positive, positive)
        if self.array is None:
            return result.astype(self.dtype, copy=False)
        self.array[...] = result
        return self.array


def target(output: Any, image: Array, cval: complex, complex_weights: bool = False) -> Target:
    """Where a call's result goes, after all checks of `output` and `cval`.

    Warnings blame the caller of the function that was called with them, two calls up.
    """
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
    return Target(dtype, array)


def window_sides(k: int, origin: SupportsIndex, flip: bool) -> tuple[int, int]:
    """Padding before and after an axis for a window of k elements."""
    shift = operator.index(origin)
    before = (k - 1) // 2 - shift if flip else k // 2 + shift
    if not 0 <= before < k:
        raise ValueError(
            f"Invalid origin; origin must satisfy -(len(weights) // 2) <= origin <= "
            f"(len(weights)-1) // 2, but is {shift} for {k} weights"
        )
    return before, k - 1 - before


def padding_mode(mode: str) -> str:
    """The name that `numpy.pad` has for a mode."""
    try:
        return MODES[mode]
    except KeyError:
        raise RuntimeError(
            f"boundary mode not supported: {mode!r}; pass one of {', '.join(MODES)}"
        ) from None


def each(value: Any, count: int) -> list[Any]:
    """One entry an axis, from one for all or one an axis."""
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    entries = list(value)
    if len(entries) != count:
        raise RuntimeError(
            f"sequence argument must have length equal to input rank {count}, but is {value}"
        )
    return entries


def axis_of(axis: SupportsIndex, ndim: int) -> int:
    """An axis, counted from the first."""
    position = operator.index(axis)
    if not -ndim <= position < ndim:
        raise np.exceptions.AxisError(position, ndim)
    return position % ndim


def axes_of(axes: Any, ndim: int) -> tuple[int, ...]:
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
