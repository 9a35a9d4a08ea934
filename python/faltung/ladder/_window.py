"""The windows of a layer with a kernel of its own at each position, as the extension takes them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np

from .. import _core
from .._arrays import ints, per_axis
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
        return _core.local(_plain(images), _plain(weight), *self.options(), threads)

    def to_input(
        self, images: Shape, weight: Array, gradient: Array, threads: SupportsIndex | None
    ) -> Array:
        """Its adjoint, on images of that shape."""
        weight, gradient = _plain(weight), _plain(gradient)
        return _core.local_input(images, weight, gradient, *self.options(), threads)

    def to_weight(
        self, images: Array, weight: Shape, gradient: Array, threads: SupportsIndex | None
    ) -> Array:
        """Its gradient with respect to a weight of that shape."""
        images, gradient = _plain(images), _plain(gradient)
        return _core.local_weight(images, weight, gradient, *self.options(), threads)


def _plain(array: Array) -> Array:
    """The array as the extension takes it: C order, aligned; without a copy if it is so."""
    return np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"])
