"""The sums of `scipy.ndimage`: in float64 or complex128, rounded once to an output's dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from .._engine import conv, pad
from ._arguments import Array, Output, Outside, Target, padding_mode, target, window_sides


class Pass(NamedTuple):
    """A filter along one axis."""

    axis: int
    # Or how many elements to take the mean of.
    weights: Any
    mode: str
    origin: SupportsIndex


def along_axes(
    image: Array, passes: Sequence[Pass], output: Output, cval: complex, means: bool = False
) -> Array:
    """One filter after the other, rounded in between to the dtype of the output as SciPy does.

    `means` says that passes have not weights, but how many elements to take the mean of.
    """
    to = target(output, image, cval)
    if not passes or not image.size:
        return to.store(image)
    divided = means and to.dtype.kind not in "fc"
    for number, (axis, weights, mode, origin) in enumerate(passes, start=1):
        outside = Outside(padding_mode(mode), cval)
        at = to if number == len(passes) else Target(to.dtype, None)
        if means:
            size, weights = weights, np.full(weights, 1.0 if divided else 1 / weights)
        sides = window_sides(len(weights), origin, False)
        if divided:
            # Divided once, so that the mean of three threes is not rounded down to 2.
            wide = Target(np.dtype(np.float64), None)
            result = along_axis(image, weights, axis, sides, outside, wide)
            image = at.store(np.divide(result, size, out=result))
        else:
            image = along_axis(image, weights, axis, sides, outside, at)
    return image


def along_axis(
    image: Array,
    weights: Array,
    axis: int,
    sides: tuple[int, int],
    outside: Outside,
    to: Target,
    *,
    flip: bool = False,
) -> Array:
    """`sums` along one axis."""
    shape, padding = [1] * image.ndim, [(0, 0)] * image.ndim
    shape[axis], padding[axis] = len(weights), sides
    return sums(image, weights.reshape(shape), padding, outside, to, flip=flip)


def sums(
    image: Array,
    kernel: Array,
    padding: Sequence[tuple[int, int]],
    outside: Outside,
    to: Target,
    *,
    flip: bool = False,
    sparse: bool = False,
) -> Array:
    """One call of the engine.

    `sparse` says that there are weights of 0, whose taps do not count.
    """
    total = np.complex128 if "c" in (image.dtype.kind, kernel.dtype.kind) else np.float64
    dtype, array = to
    out = None
    if array is not None and not np.may_share_memory(array, image):
        out = array[None, None]
    result: Array = conv(
        image[None, None], kernel[None, None], padding, outside.mode, outside.cval,
        flip=flip, dtype=dtype, accumulate=total, out=out,
    )[0, 0]  # fmt: skip
    # The sum of all is not finite if one of them is not.
    if sparse and dtype.kind in "fc" and not np.isfinite(result.sum()):
        _leave_out_zeros(result, image, np.flip(kernel) if flip else kernel, padding, outside)
    if array is None:
        return result
    if out is None:
        array[...] = result
    return array


def _leave_out_zeros(
    result: Array,
    image: Array,
    kernel: Array,
    padding: Sequence[tuple[int, int]],
    outside: Outside,
) -> None:
    """Sum anew what is not finite, without the taps that would multiply NaN or infinity by 0."""
    places = np.nonzero(~np.isfinite(result))
    padded = pad(image, padding, outside.mode, outside.cval)
    total = np.zeros(len(places[0]), result.dtype)
    with np.errstate(invalid="ignore"):
        for tap in np.argwhere(kernel):
            window = tuple(place + k for place, k in zip(places, tap, strict=True))
            total += kernel[tuple(tap)] * padded[window]
    result[places] = total
