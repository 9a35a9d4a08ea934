"""What every rung asks of its arrays: axes of batch and of channels, and how many are spatial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy.typing as npt

from .._arrays import ints

__all__ = ["Array", "Layout", "Shape", "spatial_sizes"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def spatial_sizes(shape: SupportsIndex | Sequence[SupportsIndex], rank: int | None = None) -> Shape:
    """`shape` as the sizes of spatial axes."""
    sizes = ints(shape)
    if not sizes or min(sizes) < 1 or rank not in (None, len(sizes)):
        axes = "spatial" if rank is None else f"the {rank} spatial"
        raise ValueError(f"shape is {sizes}, but must be the sizes of {axes} axes, each at least 1")
    return sizes


def _rank(name: str, shape: Shape, halves: int, channels: bool) -> int:
    """Spatial axes of a kernel, or of a weight that has them once for outputs, once for inputs."""
    rank, odd = divmod(len(shape) - 2 * channels, halves)
    if odd or rank < 1:
        plain, full = {
            1: ("(*kernel)", "(O, C, *kernel)"),
            2: ("(*out, *in)", "(O, *out, C, *in)"),
        }[halves]
        expected = f"{full}; leave channels=True out for" if channels else plain + "; for"
        other = plain if channels else f"{full} pass channels=True"
        raise ValueError(f"{name} has {len(shape)} axes {shape}, not {expected} {other}")
    return rank


@dataclass(frozen=True)
class Layout:
    """Leads the caller's arrays to the form that has batch and channels, and back."""

    rank: int
    channels: bool

    @staticmethod
    def of_weight(name: str, shape: Shape, channels: bool) -> tuple[Layout, Shape]:
        """The layout, and the shape of the weight as (O, *out, C, *in)."""
        rank = _rank(name, shape, 2, channels)
        full = shape if channels else (1, *shape[:rank], 1, *shape[rank:])
        if 0 in full[1 : rank + 1] + full[rank + 2 :]:
            raise ValueError(
                f"{name} has shape {shape}, with a spatial axis of length 0; "
                "pass at least one position and one tap along each axis"
            )
        return Layout(rank, channels), full

    @staticmethod
    def of_kernel(name: str, shape: Shape, channels: bool) -> tuple[Layout, Shape]:
        """The layout, and the shape of the kernel as (O, C, *kernel)."""
        rank = _rank(name, shape, 1, channels)
        full = shape if channels else (1, 1, *shape)
        if 0 in full[2:]:
            raise ValueError(
                f"{name} is empty (shape {shape}); pass at least one tap along each axis"
            )
        return Layout(rank, channels), full

    def batch(self, name: str, shape: Shape) -> Shape:
        """The leading batch axes of images of `shape`."""
        own = self.rank + self.channels
        if len(shape) < own:
            layout = "(..., C, *spatial)" if self.channels else "(..., *spatial)"
            raise ValueError(
                f"{name} has {len(shape)} axes (shape {shape}), but this weight has {self.rank} "
                f"spatial axes: pass {name} as {layout}, with at least {own} axes"
            )
        return shape[: len(shape) - own]

    def images_shape(self, name: str, shape: Shape) -> Shape:
        """`shape` as (N, C, *spatial)."""
        batch = self.batch(name, shape)
        own = shape[len(batch) :]
        return (math.prod(batch), *(own if self.channels else (1, *own)))

    def images(self, name: str, x: Array, expected: Shape | None = None) -> Array:
        """Images as (N, C, *spatial), with (C, *spatial) as `expected`."""
        shape = self.images_shape(name, x.shape)
        if expected is not None and shape[1:] != expected:
            wanted = expected if self.channels else expected[1:]
            raise ValueError(
                f"{name} has shape {x.shape}, but this weight takes (..., "
                f"{', '.join(map(str, wanted))}): pass such images, or a weight for these"
            )
        return x.reshape(shape)

    def gradient(self, gradient: Array, batch: Shape, weight: Shape) -> Array:
        """A gradient of the result for this `weight` as (N, O, *out)."""
        images = self.images("grad_output", gradient, weight[: self.rank + 1])
        if self.batch("grad_output", gradient.shape) != batch:
            raise ValueError(
                f"grad_output has shape {gradient.shape}, but x has batch axes {batch}: "
                "pass the same for both"
            )
        return images

    def restore(self, result: Array, batch: Shape) -> Array:
        """(N, O, *out) with the caller's batch axes, and channels only where the caller has any."""
        return result.reshape(*batch, *result.shape[1 if self.channels else 2 :])

    def weight(self, weight: Array) -> Array:
        """(O, *out, C, *in), without its channels where the caller has none."""
        return weight if self.channels else weight[0].squeeze(self.rank)

    def kernel(self, kernel: Array) -> Array:
        """(O, C, *kernel), without its channels where the caller has none."""
        return kernel if self.channels else kernel[0, 0]

    def add_bias(self, result: Array, bias: Array | None) -> Array:
        """Adds U, one number for each output position, in place."""
        if bias is None:
            return result
        shape = result.shape[1:] if self.channels else result.shape[2:]
        fits = bias.ndim in (0, len(shape)) and all(
            n in (1, size) for n, size in zip(bias.shape, shape, strict=bias.ndim > 0)
        )
        if not fits:
            raise ValueError(
                f"bias has shape {bias.shape}, but the layer has outputs {shape}: pass one number, "
                "or that shape, in which axes of length 1 are repeated"
            )
        result += bias
        return result
