"""What the rungs cost: how many weights each of them has."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

from ..functional import IntPerAxis
from ._layout import spatial_sizes
from ._offsets import check_reachable, deltas

__all__ = ["Parameters", "parameters"]


class Parameters(dict[str, int]):
    """How many weights each rung has, by its name: a dict that prints as a table."""

    def __init__(self, counts: dict[str, int], formulas: dict[str, str]) -> None:
        super().__init__(counts)
        self._formulas = formulas

    def __str__(self) -> str:
        numbers = {rung: f"{count:,}".replace(",", " ") for rung, count in self.items()}
        width = max(map(len, numbers.values()))
        name = max(map(len, self))
        lines = [
            f"{rung:{name}}  {numbers[rung]:>{width}}  = {self._formulas[rung]}" for rung in self
        ]
        return "\n".join(lines)


def parameters(
    shape: SupportsIndex | Sequence[SupportsIndex],
    delta: IntPerAxis,
    *,
    channels: int = 1,
    out_channels: int = 1,
) -> Parameters:
    """Count the weights that each rung has, for an image to as many hidden units.

    Biases are not counted: rungs 1 to 3 have one for each output, rungs 4 and 5 one for each
    output channel.

    Parameters
    ----------
    shape : int or sequence of int
        Sizes of the image's spatial axes, and of those of the result.
    delta : int or one int per spatial axis
        The largest offset of rungs 3 and 5.
    channels, out_channels : int
        Channels of the image and of the result.

    Returns
    -------
    ladder.Parameters
        A dict of exact ints with the keys "dense", "shifted", "local", "invariant" and "conv";
        ``print`` shows a table. "shifted" counts the offsets that lead into the image, so it has
        as many as "dense"; "local" counts whole kernels at the border too, as they are stored.

    Raises
    ------
    ValueError
        An empty image, a `delta` that is negative or larger than the image, no channels.

    Examples
    --------
    >>> from faltung import ladder
    >>> print(ladder.parameters((1000, 1000), delta=2))
    dense      1 000 000 000 000  = 1000x1000 outputs x 1000x1000 inputs
    shifted    1 000 000 000 000  = the same, told by offset
    local             25 000 000  = 1000x1000 outputs x 5x5 offsets
    invariant          3 996 001  = 1999x1999 offsets
    conv                      25  = 5x5 offsets
    >>> ladder.parameters((1000, 1000), delta=2, channels=3, out_channels=64)["conv"]
    4800
    """
    sizes = spatial_sizes(shape)
    limits = deltas(delta, len(sizes))
    check_reachable(delta, limits, sizes)
    pair = operator.index(channels) * operator.index(out_channels)
    if min(channels, out_channels) < 1:
        raise ValueError(
            f"channels is {channels} and out_channels {out_channels}; pass at least 1 of each"
        )
    offsets = tuple(2 * n - 1 for n in sizes)
    kernel = tuple(2 * limit + 1 for limit in limits)
    image, everywhere, near = ("x".join(map(str, axes)) for axes in (sizes, offsets, kernel))
    between = f"{out_channels} x {channels} channels x " if pair > 1 else ""
    places = math.prod(sizes)
    return Parameters(
        {
            "dense": pair * places**2,
            "shifted": pair * places**2,
            "local": pair * places * math.prod(kernel),
            "invariant": pair * math.prod(offsets),
            "conv": pair * math.prod(kernel),
        },
        {
            "dense": f"{between}{image} outputs x {image} inputs",
            "shifted": "the same, told by offset",
            "local": f"{between}{image} outputs x {near} offsets",
            "invariant": f"{between}{everywhere} offsets",
            "conv": f"{between}{near} offsets",
        },
    )
