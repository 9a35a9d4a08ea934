"""Convolutions with weights that stay the same from call to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from .functional import Activation, IntPerAxis, Method, Padding, PaddingMode

__all__ = ["Plan"]


class Plan:
    """A convolution with its weights packed once, for any number of inputs.

    ``Plan(weight, bias, ...)(x)`` gives what ``conv(x, weight, bias, ...)`` gives, bit for bit,
    with the same checks and errors. It keeps a copy of its weights, and where that may pay (8
    outputs to a group or more) a second one in the order in which vectors of output channels are
    read: the fewer the positions, the more of a call's time that saves.

    Parameters
    ----------
    weight : array_like, shape (O, C // groups, *kernel)
        As in `conv`. It is copied: what becomes of the array later is no matter.
    bias : array_like, shape (O,), optional
        Added to each output channel. It is copied too.
    stride, padding, dilation, groups, padding_mode, padding_value, flip, activation, \
channels_last, method, threads
        As in `conv`, by name alone. The number of threads can be given to each call, too.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv`: whatever can be told without an input at once, the rest when called.

    See Also
    --------
    conv : what every parameter means, the formula and its source.

    Notes
    -----
    A plan may be called from several threads at a time. It can be pickled and copied: its weights
    are, and packed again where they arrive, for the CPU there.

    Examples
    --------
    >>> import numpy as np, faltung
    >>> blur = faltung.Plan(np.full((8, 8, 3, 3), 1 / 72, dtype=np.float32), padding=1)
    >>> blur(np.ones((8, 5, 6), dtype=np.float32))[0, 2].round(3)
    array([0.667, 1.   , 1.   , 1.   , 1.   , 0.667], dtype=float32)
    >>> blur(np.ones((2, 8, 40, 50), dtype=np.float32)).shape
    (2, 8, 40, 50)
    """

    __slots__ = ("_bias", "_kept", "_options", "_weight")

    def __init__(
        self,
        weight: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        *,
        stride: IntPerAxis = 1,
        padding: Padding = 0,
        dilation: IntPerAxis = 1,
        groups: SupportsIndex = 1,
        padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
        padding_value: float = 0,
        flip: bool = False,
        activation: Activation | None = None,
        channels_last: bool = False,
        method: Method = "auto",
        threads: SupportsIndex | None = None,
    ) -> None:
        self._weight = _own(weight)
        self._bias = None if bias is None else _own(bias)
        self._options = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "padding_mode": padding_mode,
            "padding_value": padding_value,
            "flip": flip,
            "activation": activation,
            "channels_last": channels_last,
            "method": method,
            "threads": threads,
        }
        self._kept = _core.Kept(
            self._weight, self._bias, stride, padding, dilation, groups, padding_mode,
            padding_value, flip, activation, channels_last, method, threads,
        )  # fmt: skip

    @property
    def weight(self) -> npt.NDArray[Any]:
        """The weights, read-only."""
        return self._weight

    @property
    def bias(self) -> npt.NDArray[Any] | None:
        """The bias, read-only, or None."""
        return self._bias

    @property
    def options(self) -> dict[str, Any]:
        """The options by name, as they were given."""
        return dict(self._options)

    def __call__(
        self,
        x: npt.ArrayLike,
        out: npt.NDArray[Any] | None = None,
        *,
        threads: SupportsIndex | None = None,
    ) -> npt.NDArray[Any]:
        """Convolve `x`, as `conv` does.

        Parameters
        ----------
        x : array_like, shape (N, C, *spatial) or (C, *spatial)
            Of any spatial size that fits; with `channels_last`, (N, *spatial, C) or (*spatial, C).
        out : ndarray, optional
            Receives the result and is returned, as in `conv`.
        threads : int, optional
            How many threads at most work on this call, instead of the plan's number.

        Returns
        -------
        ndarray
            As `conv` returns it.

        Raises
        ------
        TypeError, ValueError, MemoryError, KeyboardInterrupt
            As in `conv`.
        """
        o = self._options
        return _core.conv(
            0, x, self._weight, self._bias, o["stride"], o["padding"], o["dilation"], o["groups"],
            o["padding_mode"], o["padding_value"], o["flip"], o["activation"], o["channels_last"],
            out, o["method"], o["threads"] if threads is None else threads, self._kept,
        )  # fmt: skip

    def output_shape(self, x_shape: Sequence[SupportsIndex]) -> tuple[int, ...]:
        """Return the shape that a call with an input of shape `x_shape` gives.

        Parameters
        ----------
        x_shape : sequence of int
            Shape of the input, with or without a batch.

        Returns
        -------
        tuple of int

        Raises
        ------
        TypeError, ValueError
            As in `conv`.
        """
        o = self._options
        return _core.output_shape(
            x_shape, self._weight.shape, o["stride"], o["padding"], o["dilation"], o["groups"],
            o["padding_mode"], o["channels_last"],
        )  # fmt: skip

    def __repr__(self) -> str:
        parts = [f"weight {self._weight.shape} {self._weight.dtype}"]
        if self._bias is not None:
            parts.append(f"bias {self._bias.shape} {self._bias.dtype}")
        defaults = self.__init__.__kwdefaults__ or {}  # type: ignore[misc]
        given = {n: v for n, v in self._options.items() if not _same(v, defaults[n])}
        parts += [f"{name}={value!r}" for name, value in given.items()]
        if self._kept.nbytes:
            parts.append(f"{self._kept.nbytes / 1e6:.3g} MB packed")
        return f"<faltung.Plan: {', '.join(parts)}>"

    def __reduce__(self) -> tuple[Callable[..., Plan], tuple[Any, ...]]:
        return _rebuilt, (self._weight, self._bias, self._options)


def _rebuilt(weight: npt.ArrayLike, bias: npt.ArrayLike | None, options: dict[str, Any]) -> Plan:
    return Plan(weight, bias, **options)


def _own(array: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return a read-only copy in C order."""
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def _same(value: Any, default: Any) -> bool:
    """Whether an option is the default; an array is not."""
    return type(value) is type(default) and bool(value == default)
