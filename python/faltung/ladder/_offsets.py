"""How offsets lead from output positions to input positions: how many there are, and how far."""

from __future__ import annotations

from .._arrays import ints, per_axis
from ..functional import IntPerAxis
from ._layout import Shape

__all__ = ["check_reachable", "deltas", "input_sizes", "output_sizes"]


def input_sizes(positions: Shape, offsets: Shape) -> Shape:
    """The sizes of the image that all `offsets` from all `positions` reach."""
    inputs = tuple(many - out + 1 for out, many in zip(positions, offsets, strict=True))
    if min(inputs) < 1:
        raise ValueError(
            f"offsets_weight has {offsets} offsets at {positions} positions, but an image of n has "
            f"positions + n - 1 of them along an axis; is this the weight of `local`? "
            "extend it, or call `local`"
        )
    return inputs


def output_sizes(offsets: Shape, inputs: Shape) -> Shape:
    """How many positions a kernel of all `offsets` stands for on an image of `inputs`."""
    outputs = tuple(many - n + 1 for many, n in zip(offsets, inputs, strict=True))
    if min(outputs) < 1 or min(inputs) < 1:
        raise ValueError(
            f"kernel has {offsets} offsets, fewer than reach an image of {inputs}, which are "
            f"{tuple(2 * n - 1 for n in inputs)}; extend it, or call faltung.conv with padding"
        )
    return outputs


def deltas(delta: IntPerAxis, rank: int) -> Shape:
    """The largest offset along each axis."""
    limits = ints(per_axis("delta", delta, rank))
    if min(limits) < 0:
        raise ValueError(f"delta is {delta}, but the largest offset is at least 0")
    return limits


def check_reachable(delta: IntPerAxis, reach: Shape, size: Shape) -> None:
    """Refuse a delta whose furthest offsets meet no pixel of an image of `size` from anywhere."""
    if any(offset >= n for offset, n in zip(reach, size, strict=True)):
        limit = tuple(n - 1 for n in size)
        raise ValueError(
            f"delta is {delta}, which looks {reach} far, but nothing in an image of {size} is "
            f"further than {limit} away; pass a smaller delta"
        )
