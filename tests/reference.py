"""Convolution as the formula states it: what every result in these tests is compared with.

For output channel ``o`` of group ``g = o // (O / groups)`` at the position ``p``::

    out[n, o, p] = activation(bias[o] + sum over c, k of
                              weight[o, c, k] * pad(x)[n, g*C/groups + c, p*stride + k*dilation])

``conv_loops`` is that sum in plain Python, so it is exact on ``int`` and ``fractions.Fraction``.
``conv_numpy`` is the same in float64 NumPy for larger arrays; `test_reference.py` holds it to the
loops. The two share the sizes of an axis and nothing else: the loops find a padded element by
arithmetic on its index, the twin asks ``np.pad`` (of NumPy 2: that of NumPy 1 mirrors wrongly
where a pad is longer than the axis).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# The names of each padding mode, by the name that np.pad has for it.
NUMPY_MODES = {
    "zeros": "constant",
    "constant": "constant",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "edge": "edge",
    "circular": "wrap",
    "wrap": "wrap",
}


@dataclass(frozen=True)
class Options:
    """The options of one convolution, named as `faltung.conv` names them."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    padding_mode: Any = "zeros"
    padding_value: Any = 0
    flip: bool = False
    activation: Any = None
    channels_last: bool = False


@dataclass(frozen=True)
class Axis:
    """One spatial axis: sizes, the padding in elements (negative crops) and NumPy's mode name."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    mode: str

    @property
    def window(self) -> int:
        """Elements that the dilated kernel spans."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def kept(self) -> range:
        """Indices of x that are left after cropping, which comes before padding."""
        return range(max(-self.before, 0), self.size - max(-self.after, 0))

    @property
    def out(self) -> int:
        """Size of this axis in the output."""
        return (self.size + self.before + self.after - self.window) // self.stride + 1

    def source(self, position: int) -> int | None:
        """The index in x that stands at `position` of the padded axis, or None: the constant."""
        size = len(self.kept)
        index = position - max(self.before, 0)
        if 0 <= index < size:
            return self.kept[index]
        if self.mode == "constant":
            return None
        if self.mode == "edge":
            return self.kept[0 if index < 0 else -1]
        if self.mode == "wrap":
            return self.kept[index % size]
        # Mirrored for ever: "symmetric" repeats the edge, "reflect" does not.
        period = 2 * size if self.mode == "symmetric" else max(2 * (size - 1), 1)
        index %= period
        return self.kept[index if index < size else period - index - (self.mode == "symmetric")]


def per_axis(value: Any, rank: int) -> list[Any]:
    """One value an axis from one value for all, or from a sequence of them."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * rank


def pads(padding: Any, axis: Axis) -> tuple[int, int]:
    """Elements (before, after) that `padding`, given for this axis, stands for."""
    span = axis.window - 1
    if isinstance(padding, (list, tuple)):
        return padding[0], padding[1]
    if not isinstance(padding, str):
        return padding, padding
    if padding in ("same", "same_lower"):
        # TensorFlow's rule: ceil(size / stride) outputs, and as little padding as gives them.
        outputs = -(-axis.size // axis.stride)
        total = max((outputs - 1) * axis.stride + axis.window - axis.size, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if padding == "same" else (more, less)
    return {"valid": (0, 0), "full": (span, span), "causal": (span, 0)}[padding]


def axes_of(x: np.ndarray, weight: np.ndarray, options: Options) -> list[Axis]:
    """The spatial axes of a channels-first, batched problem; ValueError where it has no output."""
    rank = weight.ndim - 2
    columns = zip(
        x.shape[2:],
        weight.shape[2:],
        per_axis(options.stride, rank),
        per_axis(options.dilation, rank),
        per_axis(options.padding, rank),
        per_axis(options.padding_mode, rank),
        strict=True,
    )
    axes = []
    for size, kernel, stride, dilation, padding, mode in columns:
        unpadded = Axis(size, kernel, stride, dilation, 0, 0, NUMPY_MODES[mode])
        before, after = pads(padding, unpadded)
        axis = Axis(size, kernel, stride, dilation, before, after, NUMPY_MODES[mode])
        kept = size + min(before, 0) + min(after, 0)
        # Nothing left to pad with: a crop may not do that, and an empty axis takes zeros alone.
        nothing = kept < 1 and (min(before, after) < 0 or axis.mode != "constant")
        if nothing or axis.out < 1:
            raise ValueError(f"{axis} has no output")
        axes.append(axis)
    return axes


def channels_first(x: np.ndarray, weight: np.ndarray, options: Options) -> np.ndarray:
    """`x` as (N, C, *spatial), whatever its layout and whether or not it has a batch axis."""
    if options.channels_last:
        x = np.moveaxis(x, -1, x.ndim - weight.ndim + 1)
    return x if x.ndim == weight.ndim else x[np.newaxis]


def as_given(out: np.ndarray, x: np.ndarray, options: Options) -> np.ndarray:
    """`out`, (N, O, *spatial), in the layout that `x` was given in."""
    if options.channels_last:
        out = np.moveaxis(out, 1, -1)
    return out if out.ndim == x.ndim else out[0]


def conv_loops(x: Any, weight: Any, bias: Any = None, options: Options = Options()) -> np.ndarray:
    """The convolution, one product at a time; an object array of Python numbers.

    `x`, `weight` and `bias` are arrays or nested lists of int, float or Fraction.
    """
    given, weight = np.array(x, dtype=object), np.array(weight, dtype=object)
    x = channels_first(given, weight, options)
    axes = axes_of(x, weight, options)
    outputs, channels, *kernel = weight.shape
    per_group = outputs // options.groups
    out = np.empty((len(x), outputs, *(axis.out for axis in axes)), dtype=object)
    for n, o, *position in np.ndindex(out.shape):
        first = o // per_group * channels
        total = 0
        for c, *k in itertools.product(range(channels), *map(range, kernel)):
            source = tuple(
                axis.source(p * axis.stride + i * axis.dilation)
                for axis, p, i in zip(axes, position, k, strict=True)
            )
            value = options.padding_value if None in source else x[(n, first + c, *source)]
            tap = (a.kernel - 1 - i for a, i in zip(axes, k, strict=True)) if options.flip else k
            total += weight[(o, c, *tap)] * value
        if bias is not None:
            total += np.array(bias, dtype=object)[o]
        if options.activation == "relu":
            total = max(total, 0)
        elif options.activation is not None:
            total = min(max(total, options.activation[1]), options.activation[2])
        out[(n, o, *position)] = total
    return as_given(out, given, options)


def conv_numpy(
    x: np.ndarray, weight: np.ndarray, bias: Any = None, options: Options = Options()
) -> np.ndarray:
    """The convolution in float64: exact on integers whose sums stay below 2**53."""
    given, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    x = channels_first(given, weight, options)
    axes = axes_of(x, weight, options)
    rank, groups = len(axes), options.groups
    for number, axis in enumerate(axes, start=2):
        if axis.before < 0 or axis.after < 0:
            x = x[(slice(None),) * number + (slice(axis.kept.start, axis.kept.stop),)]
        width = (max(axis.before, 0), max(axis.after, 0))
        if any(width):
            constant = {"constant_values": options.padding_value}
            known = constant if axis.mode == "constant" else {}
            widths = [width if i == number else (0, 0) for i in range(x.ndim)]
            x = np.pad(x, widths, mode=axis.mode, **known)
    # (N, C, *out, *kernel), then as matrices (N, groups, positions, taps) and (groups, taps, O/G).
    windows = sliding_window_view(x, [axis.window for axis in axes], tuple(range(2, rank + 2)))
    steps = [axis.stride for axis in axes] + [axis.dilation for axis in axes]
    windows = windows[(..., *(slice(None, None, step) for step in steps))]
    size = tuple(axis.out for axis in axes)
    batch, outputs, taps = len(x), len(weight), int(np.prod(weight.shape[1:]))
    windows = windows.reshape(batch, groups, weight.shape[1], *windows.shape[2:])
    rows = np.moveaxis(windows, 2, 2 + rank).reshape(batch, groups, int(np.prod(size)), taps)
    if options.flip:
        weight = weight[(..., *(slice(None, None, -1),) * rank)]
    matrix = weight.reshape(groups, outputs // groups, taps).swapaxes(1, 2)
    out = (rows @ matrix).swapaxes(2, 3).reshape(batch, outputs, *size)
    if bias is not None:
        out = out + np.asarray(bias, np.float64).reshape(-1, *[1] * rank)
    if options.activation == "relu":
        out = np.maximum(out, 0)
    elif options.activation is not None:
        out = np.clip(out, *options.activation[1:])
    return as_given(out, given, options)


def padded_numpy(x: np.ndarray, axes: list[Axis], value: Any = 0) -> np.ndarray:
    """`x`, (N, C, *spatial), cropped and then padded."""
    for number, axis in enumerate(axes, start=2):
        sources = [axis.source(q) for q in range(axis.size + axis.before + axis.after)]
        shown = np.take(x, [source or 0 for source in sources], axis=number)
        where = np.array([source is None for source in sources]).reshape(-1, *[1] * (x.ndim - 1))
        x = np.where(np.moveaxis(where, 0, number - x.ndim), value, shown)
    return x


def taps_of(axes: list[Axis]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each tap, and where in the padded input it meets the outputs."""
    for tap in np.ndindex(*(axis.kernel for axis in axes)):
        yield (
            tap,
            tuple(
                slice(k * a.dilation, k * a.dilation + (a.out - 1) * a.stride + 1, a.stride)
                for k, a in zip(tap, axes, strict=True)
            ),
        )


def input_numpy(
    input_size: tuple[int, ...],
    weight: np.ndarray,
    grad: np.ndarray,
    options: Options = Options(),
    size: tuple[int, ...] | None = None,
) -> np.ndarray:
    """The gradient of the input in float64: each output's share goes back to where it came from.

    `size` are the spatial sizes of `grad` where they are not those of the convolution.
    """
    weight = np.asarray(weight, np.float64)
    grad = channels_first(np.asarray(grad, np.float64), weight, options)
    empty = np.broadcast_to(np.float64(0), input_size)
    x = channels_first(empty, weight, options)
    axes = axes_of(x, weight, options)
    rank, groups = len(axes), options.groups
    if options.flip:
        weight = weight[(..., *(slice(None, None, -1),) * rank)]
    # Room for outputs whose windows leave the padded input.
    room = [a.window + (n - 1) * a.stride for a, n in zip(axes, grad.shape[2:], strict=True)]
    room = [max(n, a.size + a.before + a.after) for n, a in zip(room, axes, strict=True)]
    padded = np.zeros((*x.shape[:2], *room))
    grouped = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    grads = grad.reshape(len(grad), groups, grouped.shape[1], *grad.shape[2:])
    for tap in np.ndindex(*weight.shape[2:]):
        share = np.einsum("ngo...,goc->ngc...", grads, grouped[(..., *tap)])
        place = tuple(
            slice(k * a.dilation, k * a.dilation + (n - 1) * a.stride + 1, a.stride)
            for k, a, n in zip(tap, axes, grad.shape[2:], strict=True)
        )
        padded[(..., *place)] += share.reshape(len(grad), x.shape[1], *grad.shape[2:])
    for number, axis in enumerate(axes, start=2):
        rows = np.moveaxis(padded, number, 0)
        folded = np.zeros((axis.size, *rows.shape[1:]))
        for q in range(min(len(rows), axis.size + axis.before + axis.after)):
            source = axis.source(q)
            if source is not None:
                folded[source] += rows[q]
        padded = np.moveaxis(folded, 0, number)
    return as_given(padded, empty, options)


def weight_numpy(
    x: np.ndarray,
    weight_size: tuple[int, ...],
    grad: np.ndarray,
    options: Options = Options(),
) -> np.ndarray:
    """The gradient of the weight in float64, of each image by itself: (N, *weight_size)."""
    weight = np.broadcast_to(np.float64(0), weight_size)
    x = channels_first(np.asarray(x, np.float64), weight, options)
    grad = channels_first(np.asarray(grad, np.float64), weight, options)
    axes = axes_of(x, weight, options)
    groups, positions = options.groups, math.prod(grad.shape[2:])
    padded = padded_numpy(x, axes, options.padding_value)
    grads = grad.reshape(len(grad), groups, weight_size[0] // groups, positions)
    result = np.zeros((len(x), *weight_size))
    for tap, place in taps_of(axes):
        shown = padded[(..., *place)].reshape(len(x), groups, weight_size[1], positions)
        at = [a.kernel - 1 - k for a, k in zip(axes, tap, strict=True)] if options.flip else tap
        sums = np.einsum("ngop,ngcp->ngoc", grads, shown)
        result[(..., *at)] = sums.reshape(len(x), *weight_size[:2])
    return result


CHAIN = 128


def chains(weight: tuple[int, ...]) -> list[int]:
    """Lengths of the chains that the sum of one output is cut into, in order.

    Taps are summed in the order (channel, *kernel), last fastest. A chain is as many whole channels
    as `CHAIN` taps hold; of a channel with more taps, as many whole slices along its first axis; of
    a slice with more taps, along the next, and so on.
    """
    count, *inner = weight[1:]
    taps = int(np.prod(inner))
    if taps > CHAIN:
        return count * chains((1, *inner))
    together = CHAIN // taps
    return [taps * min(together, count - first) for first in range(0, count, together)]


def rounded(value: Fraction, dtype: Any) -> Fraction:
    """`value` rounded once, to nearest even, to the finite float of `dtype`."""
    double = float(value)  # CPython divides integers with one rounding
    if np.dtype(dtype) == np.float64:
        return Fraction(double)
    # Rounded to odd first, so that the second rounding sees on which side the value lies.
    if double != value and not np.float64(double).view(np.int64) & 1:
        double = np.nextafter(double, np.inf if value > double else -np.inf)
    return Fraction(float(np.float32(double)))


def one_output(x: np.ndarray, weight: np.ndarray, bias: Any) -> Fraction:
    """The result that is promised bit for bit for one window `x` and one kernel, both (C, *kernel).

    Each chain is one of fused multiply-adds from zero; chains are added in order, then the bias.
    """
    dtype = x.dtype
    pairs = zip(weight.flat, x.flat, strict=True)
    products = [Fraction(float(w)) * Fraction(float(v)) for w, v in pairs]
    total, start = None, 0
    for length in chains((1, *weight.shape)):
        chain = Fraction(0)
        for product in products[start : start + length]:
            chain = rounded(chain + product, dtype)
        total = chain if total is None else rounded(total + chain, dtype)
        start += length
    return rounded((total or Fraction(0)) + Fraction(float(bias)), dtype)
