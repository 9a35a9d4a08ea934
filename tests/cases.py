"""Convolutions to try: shapes and options, their operands, and the call of faltung with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from reference import Options, conv_numpy

# One table that all small integer operands are cut from: a generator a case would cost more time
# than the convolution. The values make every tap count and keep float32 sums exact.
_TABLE = np.random.default_rng(20).integers(-4, 5, 1 << 20)


class Operands(NamedTuple):
    """The arrays of one convolution."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class ConvCase:
    """Shapes of x and weight (as given to faltung), whether there is a bias, and the options."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool = True
    options: Options = field(default_factory=Options)

    def integers(self, dtype: Any = np.float32, start: int = 0) -> Operands:
        """Operands of small integers, exact in `dtype`; another `start` gives other values."""
        taken = start * 7919

        def cut(shape: tuple[int, ...]) -> np.ndarray:
            nonlocal taken
            size = math.prod(shape)
            begin, taken = taken % 65_521, taken + size
            values = _TABLE[begin : begin + size]
            return np.resize(values, shape).astype(dtype)

        x, weight = cut(self.x), cut(self.weight)
        return Operands(x, weight, cut(self.weight[:1]) if self.bias else None)

    def floats(self, dtype: Any = np.float32, seed: int = 0) -> Operands:
        """Operands of normally distributed numbers, of both parts if they are complex."""
        rng = np.random.default_rng(seed)

        def drawn(shape: tuple[int, ...]) -> np.ndarray:
            numbers = rng.standard_normal(shape)
            if np.dtype(dtype).kind == "c":
                numbers = numbers + 1j * rng.standard_normal(shape)
            return numbers.astype(dtype)

        x, weight, bias = map(drawn, (self.x, self.weight, self.weight[:1]))
        return Operands(x, weight, bias if self.bias else None)

    def expected(self, operands: Operands) -> np.ndarray:
        """The result by the reference, in float64."""
        return conv_numpy(*operands, self.options)

    def run(self, operands: Operands, **more: Any) -> np.ndarray:
        """The result by faltung; `more` are arguments beside the options (out, threads...).

        By the direct sum, the bits of which are promised, unless `more` names another method.
        """
        # Imported here and not above, since a process chooses its ISA before it imports faltung.
        import faltung

        return faltung.conv(*operands, **vars(self.options), **({"method": "direct"} | more))

    @property
    def taps(self) -> int:
        """Products in the sum of one output."""
        return math.prod(self.weight[1:])


def case(
    x: tuple[int, ...], weight: tuple[int, ...], bias: bool = True, **options: Any
) -> ConvCase:
    """A `ConvCase` with its options written flat."""
    return ConvCase(x, weight, bias, Options(**options))


# One of each kind of convolution, small: for tests that vary something else than the convolution.
# Spatial sizes are distinct, so that mixed-up axes show.
KINDS = {
    "1d": case((2, 3, 19), (4, 3, 3), padding=1),
    "2d": case((2, 3, 9, 11), (5, 3, 3, 2), padding=(1, 0)),
    "3d": case((1, 2, 5, 6, 7), (3, 2, 2, 3, 1), padding="same"),
    "4d": case((1, 2, 3, 4, 3, 5), (2, 2, 2, 1, 2, 3), padding=1),
    "pointwise": case((2, 6, 7, 5), (4, 6, 1, 1)),
    "strided": case((2, 3, 12, 13), (4, 3, 3, 3), stride=(2, 3), padding=((1, 2), (0, 1))),
    "dilated": case((1, 4, 14, 15), (3, 4, 3, 3), dilation=(2, 3), padding="same"),
    "grouped": case((2, 6, 8, 9), (4, 3, 3, 3), groups=2, padding=1),
    "depthwise": case((1, 5, 10, 9), (5, 1, 3, 3), groups=5, padding=1),
    "multiplier": case((1, 3, 10, 9), (6, 1, 3, 3), groups=3, stride=2, padding=1),
    "one_channel": case((1, 1, 20, 21), (1, 1, 5, 5), padding=2, padding_mode="reflect"),
    "mixed_modes": case(
        (1, 2, 8, 9), (3, 2, 4, 4), padding=((2, 1), (1, 3)), padding_mode=("circular", "edge")
    ),
    "cropped": case((1, 2, 9, 10), (3, 2, 3, 3), padding=((-1, 2), (3, -2)), padding_value=1.5),
    "unbatched": case((3, 9, 11), (5, 3, 3, 3), padding=1, activation="relu"),
    "channels_last": case((2, 9, 11, 3), (5, 3, 3, 3), padding=1, channels_last=True),
    "flipped": case((2, 3, 9, 11), (5, 3, 3, 2), False, flip=True, activation=("clip", -20, 30)),
    "many_taps": case((1, 130, 6, 7), (17, 130, 3, 3), padding=1),
    "many_outputs": case((1, 3, 9, 35), (37, 3, 3, 3), padding=1),
}


def same_bits(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two float arrays agree in shape, dtype and every bit: NaN, and the sign of zero."""
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        return False
    return np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes()


def _copied_into(array: np.ndarray, storage: np.ndarray) -> np.ndarray:
    storage[...] = array
    return storage


def _spaced(array: np.ndarray) -> np.ndarray:
    # What lies between the elements is NaN, so that reading it cannot go unnoticed.
    storage = np.full([2 * size + 1 for size in array.shape], np.nan, array.dtype)
    return _copied_into(array, storage[(slice(1, None, 2),) * array.ndim])


def _reversed(array: np.ndarray) -> np.ndarray:
    return array[(slice(None, None, -1),) * array.ndim].copy()[
        (slice(None, None, -1),) * array.ndim
    ]


def _axis_moved(array: np.ndarray, source: int, target: int) -> np.ndarray:
    return np.moveaxis(np.moveaxis(array, source, target).copy(), target, source)


def _packed(array: np.ndarray) -> np.ndarray:
    # A field of records of 1 byte more: neither aligned nor a multiple of the itemsize apart.
    records = np.zeros(array.shape, np.dtype([("pad", "u1"), ("value", array.dtype)]))
    return _copied_into(array, records["value"])


def _big_endian(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder(">"))


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


# The same values in other memory.
LAYOUTS = {
    "fortran": np.asfortranarray,
    "spaced": _spaced,
    "reversed": _reversed,
    "first_axis_last": lambda array: _axis_moved(array, 0, -1),
    "last_axis_first": lambda array: _axis_moved(array, -1, 0),
    "channels_last": lambda array: _axis_moved(array, 1 if array.ndim > 1 else 0, -1),
    "unaligned": _packed,
    "big_endian": _big_endian,
    "read_only": _read_only,
}
