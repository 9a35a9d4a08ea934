"""Windows of an array as columns (`unfold`), and the adjoint of that (`fold`), of any rank.

Convolution needs neither: `faltung.conv` never builds the matrix of all windows. They are for what
is no convolution: a median filter, a kernel that depends on its window, patches to cluster.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from ._arrays import ints, per_axis
from .functional import IntPerAxis, Padding, PaddingMode, output_shape

__all__ = ["fold", "unfold"]

Array = npt.NDArray[Any]


def unfold(
    x: npt.ArrayLike,
    kernel_size: IntPerAxis,
    dilation: IntPerAxis = 1,
    padding: Padding = 0,
    stride: IntPerAxis = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: float = 0,
) -> Array:
    """Lay the windows of a convolution side by side, each as a column.

    Parameters
    ----------
    x : array_like, shape (N, C, *spatial) or (C, *spatial)
        Of any dtype. Without a batch only if `kernel_size` tells the number of spatial axes.
    kernel_size : int or one int per spatial axis
        The shape of a window. One int is for all axes behind the first two of `x`.
    dilation, padding, stride, padding_mode, padding_value
        As in `faltung.conv`; the order is PyTorch's.

    Returns
    -------
    ndarray, shape (N, C * window, L) or (C * window, L)
        ``result[n, (c, *k), l]`` is element k of window l on channel c, with (c, *k) and the
        window's position flattened in C order, as PyTorch has it for two axes. A view of `x` where
        one is possible: if windows do not overlap, are not padded, and flatten so; else a copy.

    Raises
    ------
    TypeError, ValueError
        As in `faltung.conv`.

    See Also
    --------
    fold : its adjoint.

    Examples
    --------
    >>> import numpy as np, faltung
    >>> x = np.array([[[1, 2, 3, 4]]])
    >>> faltung.unfold(x, 2)
    array([[[1, 2, 3],
            [2, 3, 4]]])

    A median filter:

    >>> image = np.array([[[1, 9, 2], [3, 4, 5], [8, 7, 6]]])
    >>> windows = faltung.unfold(image, (3, 3), padding=1, padding_mode="edge")
    >>> np.median(windows, axis=0).reshape(3, 3)
    array([[3., 3., 4.],
           [4., 5., 5.],
           [7., 6., 6.]])
    """
    array = np.asarray(x)
    kernel = _kernel(kernel_size, array.ndim - 2)
    rank = len(kernel)
    if array.ndim not in (rank + 1, rank + 2):
        axes = "axis" if rank == 1 else "axes"
        raise ValueError(
            f"x has {array.ndim} dimensions (shape {array.shape}), but kernel_size has {rank} "
            f"spatial {axes}, which takes {rank + 2} (batch, channels, *spatial) or {rank + 1}"
        )
    options = (stride, padding, dilation, padding_mode)
    axes_ = _axes(array.shape, kernel, options)
    first = array.ndim - rank
    for number, axis in enumerate(axes_, start=first):
        array = axis.pad(array, number, padding_value)
    spans = [axis.dilation * (axis.kernel - 1) + 1 for axis in axes_]
    windows = sliding_window_view(array, spans, tuple(range(first, array.ndim)))
    steps = [axis.stride for axis in axes_] + [axis.dilation for axis in axes_]
    every: Any = (..., *(slice(None, None, step) for step in steps))
    windows = windows[every]
    # (N, C, *positions, *window) with the window before the positions.
    order = [*range(first), *range(first + rank, first + 2 * rank), *range(first, first + rank)]
    channels, positions = windows.shape[first - 1], windows.shape[first : first + rank]
    shape = (*windows.shape[: first - 1], channels * math.prod(kernel), math.prod(positions))
    result: Array = windows.transpose(order).reshape(shape)
    return result


def fold(
    x: npt.ArrayLike,
    output_size: IntPerAxis,
    kernel_size: IntPerAxis,
    dilation: IntPerAxis = 1,
    padding: Padding = 0,
    stride: IntPerAxis = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
) -> Array:
    """Add up windows where they came from: the adjoint of `unfold`.

    Parameters
    ----------
    x : array_like, shape (N, C * window, L) or (C * window, L)
        Windows as `unfold` lays them out, of any dtype that can be added.
    output_size : int or one int per spatial axis
        The spatial size of what was unfolded.
    kernel_size : int or one int per spatial axis
        The shape of a window; `output_size` or this tells the number of spatial axes.
    dilation, padding, stride, padding_mode
        Those of `unfold`.

    Returns
    -------
    ndarray, shape (N, C, *output_size) or (C, *output_size)
        Each element is the sum of what all windows hold of it, in the order of the window's
        elements.

    Raises
    ------
    TypeError, ValueError
        As in `faltung.conv`, and where `x` does not hold as many windows of this shape.

    See Also
    --------
    unfold : its adjoint.

    Examples
    --------
    How many windows see each element:

    >>> import numpy as np, faltung
    >>> faltung.fold(faltung.unfold(np.ones((1, 1, 5)), 3), 5, 3)
    array([[[1., 2., 3., 2., 1.]]])
    """
    array = np.asarray(x)
    if np.iterable(output_size):
        size = ints(output_size)
        kernel = _kernel(kernel_size, len(size))
    else:
        kernel = _kernel(kernel_size, 1)
        size = ints(per_axis("output_size", output_size, len(kernel)))
    if len(size) != len(kernel):
        raise ValueError(
            f"output_size has {len(size)} entries and kernel_size {len(kernel)}; both are one a "
            "spatial axis"
        )
    if array.ndim not in (2, 3):
        raise ValueError(
            f"x has {array.ndim} dimensions (shape {array.shape}), but needs 3 (batch, channels * "
            "window, windows) or 2"
        )
    window = math.prod(kernel)
    if window == 0 or array.shape[-2] % window:
        raise ValueError(
            f"x has {array.shape[-2]} rows (axis {array.ndim - 2}), which is no multiple of the "
            f"{window} elements of a window of shape {kernel}"
        )
    channels, batch = array.shape[-2] // window, array.shape[:-2]
    axes = _axes((*batch, channels, *size), kernel, (stride, padding, dilation, padding_mode))
    positions = tuple(axis.output for axis in axes)
    if array.shape[-1] != math.prod(positions):
        raise ValueError(
            f"x has {array.shape[-1]} windows (axis {array.ndim - 1}), but output_size {size} with "
            f"these options has {math.prod(positions)}: {' x '.join(map(str, positions))}"
        )
    windows = array.reshape(*batch, channels, *kernel, *positions)
    first = len(batch) + 1
    padded = np.zeros((*batch, channels, *(axis.padded for axis in axes)), array.dtype)
    for element in np.ndindex(*kernel):
        place: Any = (
            ...,
            *(
                slice(k * a.dilation, k * a.dilation + (a.output - 1) * a.stride + 1, a.stride)
                for k, a in zip(element, axes, strict=True)
            ),
        )
        padded[place] += windows[(slice(None),) * first + element]
    for number, axis in enumerate(axes, start=first):
        padded = axis.fold(padded, number)
    return padded


@dataclass(frozen=True)
class _Axis:
    """One spatial axis, in sizes that `faltung.output_shape` has checked."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    mode: str
    output: int

    @property
    def padded(self) -> int:
        return self.size + self.before + self.after

    def sources(self) -> npt.NDArray[np.intp]:
        """The element that each padded position shows; -1 is the constant."""
        first = max(-self.before, 0)
        kept = self.size - first - max(-self.after, 0)
        at = np.arange(self.padded) - max(self.before, 0)
        if self.mode in ("zeros", "constant"):
            return np.where((at >= 0) & (at < kept), at + first, -1)
        if self.mode in ("replicate", "edge"):
            at = np.clip(at, 0, kept - 1)
        elif self.mode in ("circular", "wrap"):
            at = at % kept
        else:  # mirrored for ever: "symmetric" repeats the edge, "reflect" does not
            edge = 1 if self.mode == "symmetric" else 0
            period = max(2 * (kept - 1 + edge), 1)
            at = at % period
            at = np.where(at < kept, at, period - at - edge)
        return at + first

    def pad(self, array: Array, number: int, value: Any) -> Array:
        """`array`, cropped and padded along axis `number`; itself where there is nothing to do."""
        if self.before == self.after == 0:
            return array
        sources = self.sources()
        if len(sources) and not array.shape[number]:
            return np.full((*array.shape[:number], len(sources), *array.shape[number + 1 :]), value)
        shown = np.take(array, sources, axis=number, mode="wrap")
        shown[(slice(None),) * number + (sources < 0,)] = value
        return shown

    def fold(self, padded: Array, number: int) -> Array:
        """The adjoint of `pad`."""
        if self.before == self.after == 0:
            return padded
        rows = np.moveaxis(padded, number, 0)
        sums = np.zeros((self.size, *rows.shape[1:]), padded.dtype)
        sources = self.sources()
        np.add.at(sums, sources[sources >= 0], rows[sources >= 0])
        return np.ascontiguousarray(np.moveaxis(sums, 0, number))


def _kernel(kernel_size: IntPerAxis, rank: int) -> tuple[int, ...]:
    kernel = ints(kernel_size if np.iterable(kernel_size) else [kernel_size] * max(rank, 1))
    if min(kernel, default=0) < 1:
        raise ValueError(f"kernel_size is {kernel_size}, but must be at least 1 on each axis")
    return kernel


def _axes(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    options: tuple[IntPerAxis, Padding, IntPerAxis, PaddingMode | Sequence[PaddingMode]],
) -> list[_Axis]:
    """The spatial axes of a convolution, all of whose rules hold."""
    stride, padding, dilation, mode = options
    rank = len(kernel)
    channels = shape[-rank - 1]
    weight = (1, max(channels, 1), *kernel)
    checked = (*shape[: -rank - 1], max(channels, 1), *shape[-rank:])
    outputs = output_shape(checked, weight, stride, padding, dilation, padding_mode=mode)[-rank:]
    modes = [mode] * rank if isinstance(mode, str) else list(mode)
    strides = ints(per_axis("stride", stride, rank))
    dilations = ints(per_axis("dilation", dilation, rank))
    sizes = shape[-rank:]
    spans = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    sides: list[tuple[int, int]] = []
    if isinstance(padding, str):
        for size, step, span, output in zip(sizes, strides, spans, outputs, strict=True):
            total = max((output - 1) * step + span + 1 - size, 0)
            less, more = total // 2, total - total // 2
            named = {"valid": (0, 0), "full": (span, span), "causal": (span, 0)}
            named |= {"same": (less, more), "same_lower": (more, less)}
            sides.append(named[padding])
    else:
        for side in per_axis("padding", padding, rank):
            pair = ints(side)
            sides.append((pair[0], pair[-1]))
    columns = zip(
        sizes, kernel, strides, dilations, *zip(*sides, strict=True), modes, outputs, strict=True
    )
    return [_Axis(*map(_index, column)) for column in columns]


def _index(value: Any) -> Any:
    return value if isinstance(value, str) else operator.index(value)
