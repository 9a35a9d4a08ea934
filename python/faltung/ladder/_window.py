"""The windows of a layer with a kernel of its own at each position, as the extension takes them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np

from .. import _core
from .._arrays import ints, per_axis, sums
from ..functional import IntPerAxis, Padding, PaddingMode, output_shape
from ._layout import Array, Shape
from ._offsets import check_reachable, deltas

__all__ = ["Window"]


@dataclass(frozen=True)
class Window:
    """Where the windows of a local layer lie: the options of `faltung.conv`, in its order."""

    stride: IntPerAxis
    padding: Padding
    dilation: IntPerAxis
    groups: SupportsIndex
    padding_mode: PaddingMode | Sequence[PaddingMode]

    def within(self, delta: IntPerAxis | None, kernel: Shape) -> Window:
        """The windows whose taps lie at the offsets from -delta to delta, if there is a delta."""
        if delta is None:
            return self
        if not np.isscalar(self.padding) or self.padding != 0:
            raise ValueError("delta decides the padding; pass delta or padding, not both")
        limits = deltas(delta, len(kernel))
        if tuple(2 * limit + 1 for limit in limits) != kernel:
            raise ValueError(
                f"delta is {delta}, but the kernels of weight have shape {kernel}; pass kernels of "
                f"{tuple(2 * limit + 1 for limit in limits)} (2 * delta + 1), or another delta"
            )
        return replace(self, padding=self.reach(limits))

    def reach(self, limits: Shape) -> Shape:
        """How far in the image the offsets up to `limits` lead."""
        steps = ints(per_axis("dilation", self.dilation, len(limits)))
        return tuple(limit * step for limit, step in zip(limits, steps, strict=True))

    def options(self) -> tuple[Any, Any, Any, Any, Any]:
        """As the extension takes them."""
        return self.stride, self.padding, self.dilation, self.groups, self.padding_mode

    def check(self, images: Shape, weight: Shape, delta: IntPerAxis | None = None) -> None:
        """Refuse shapes, with batch and channels, that do not fit together."""
        rank = len(images) - 2
        positions, channels, kernel = weight[1 : rank + 1], weight[rank + 1], weight[rank + 2 :]
        *options, mode = self.options()
        groups = operator.index(self.groups)
        if images[1] != channels * groups:
            raise ValueError(
                f"x has {images[1]} channels, but weight expects {channels * groups}: {channels} "
                f"(its axis after the positions) * {groups} groups; without channels groups is 1"
            )
        size = output_shape(images, (weight[0], channels, *kernel), *options, padding_mode=mode)[2:]
        if delta is not None:
            check_reachable(delta, self.reach(deltas(delta, rank)), images[2:])
        if size != positions:
            raise ValueError(
                f"weight has kernels for {positions} positions, but these options make {size} of "
                f"an image of {images[2:]}; pass weight with one kernel for each, or other options"
            )

    def apply(self, images: Array, weight: Array, threads: SupportsIndex | None) -> Array:
        """The sums of a layer that has been checked."""
        options = (*self.options(), threads)
        return _products(lambda x, w: _core.local(x, w, *options), images, weight)

    def to_input(
        self, images: Shape, weight: Array, gradient: Array, threads: SupportsIndex | None
    ) -> Array:
        """Its transpose, on images of that shape."""
        options = (*self.options(), threads)
        return _products(lambda w, g: _core.local_input(images, w, g, *options), weight, gradient)

    def to_weight(
        self, images: Array, weight: Shape, gradient: Array, threads: SupportsIndex | None
    ) -> Array:
        """Its sums over products of images and gradients, for a weight of that shape."""
        options = (*self.options(), threads)
        return _products(lambda x, g: _core.local_weight(x, weight, g, *options), images, gradient)


def _products(of: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """A sum of products of any numbers of one dtype, by those that the extension knows.

    It takes arrays in C order, aligned, and complex numbers by their parts.
    """
    if a.dtype.kind == "c":
        real = _products(of, a.real, b.real) - _products(of, a.imag, b.imag)
        result = real.astype(a.dtype)
        result.imag = _products(of, a.real, b.imag) + _products(of, a.imag, b.real)
        return result
    dtype = sums(a.dtype)
    plain = (np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"]) for array in (a, b))
    return of(*plain).astype(a.dtype, copy=False)
