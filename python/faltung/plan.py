"""Convolutions with weights that stay the same from call to call."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from .explain import Explanation, explained
from .functional import Activation, IntPerAxis, Method, Padding, PaddingMode, Precision

__all__ = ["Plan"]


class Plan:
    """A convolution with its weights packed once, for any number of inputs.

    ``Plan(weight, bias, ...)(x)`` gives what ``conv(x, weight, bias, ...)`` gives, bit for bit,
    with the same checks and errors. It keeps a copy of its weights, and where that may pay (8
    outputs to a group or more) a second one in the order in which vectors of output channels are
    read: the fewer the positions, the more of a call's time that saves. Where a call goes through
    transforms, those of the weights are kept too, for one size of blocks and up to 64 MiB.

    Parameters
    ----------
    weight : array_like, shape (O, C // groups, *kernel)
        As in `conv`. It is copied: what becomes of the array later is no matter.
    bias : array_like, shape (O,), optional
        Added to each output channel. It is copied too.
    stride, padding, dilation, groups, padding_mode, padding_value, flip, activation, \
channels_last, dtype, accumulate, method, precision, threads
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
        padding_value: complex = 0,
        flip: bool = False,
        activation: Activation | None = None,
        channels_last: bool = False,
        dtype: npt.DTypeLike | None = None,
        accumulate: npt.DTypeLike | None = None,
        method: Method = "auto",
        precision: Precision = "high",
        threads: SupportsIndex | None = None,
    ) -> None:
        self._weight = _own(weight)
        self._bias = None if bias is None else _own(bias)
        self._options: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "padding_mode": padding_mode,
            "padding_value": padding_value,
            "flip": flip,
            "activation": activation,
            "channels_last": channels_last,
            "dtype": dtype,
            "accumulate": accumulate,
            "method": method,
            "precision": precision,
            "threads": threads,
        }
        self._kept = _core.Kept(
            self._weight, self._bias, stride, padding, dilation, groups, padding_mode,
            padding_value, flip, activation, channels_last, dtype, accumulate, method, precision,
            threads,
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
            o["dtype"], o["accumulate"], out, o["method"], o["precision"],
            o["threads"] if threads is None else threads, self._kept,
        )  # fmt: skip

    def vjp(
        self,
        x: npt.ArrayLike,
        grad_output: npt.ArrayLike,
        wanted: Sequence[Literal["x", "weight", "bias"]] | None = None,
        *,
        threads: SupportsIndex | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the gradients of a call: of what it was given, from that of its result.

        Parameters
        ----------
        x : array_like
            The input of the call.
        grad_output : array_like
            The gradient of its result.
        wanted : sequence of "x", "weight" and "bias", optional
            Which gradients; else all, but for that of a bias where there is none.
        threads : int, optional
            As in a call.

        Returns
        -------
        dict of str to ndarray
            Those of `grad.conv_input`, `grad.conv_weight` and `grad.conv_bias`. With an activation,
            what it has clipped or cut off has no part in them.

        Raises
        ------
        TypeError, ValueError, MemoryError, KeyboardInterrupt
            As in these, and for another word in `wanted`.

        Examples
        --------
        >>> import numpy as np, faltung
        >>> plan = faltung.Plan(np.array([[[1.0, -2.0]]]), np.array([0.5]), activation="relu")
        >>> x = np.array([[1.0, 2.0, 0.0]])
        >>> plan(x)
        array([[0. , 2.5]])
        >>> plan.vjp(x, np.ones((1, 2)))["weight"]
        array([[[2., 0.]]])
        """
        names = ["x", "weight", "bias"]
        if wanted is None:
            wanted = ["x", "weight"] if self._bias is None else ["x", "weight", "bias"]
        elif isinstance(wanted, str) or not all(name in names for name in wanted):
            raise ValueError(f"wanted is {wanted!r}, but must be some of {names}")
        o = self._options
        found = _core.vjp(
            x, self._weight, self._bias, grad_output, [name in wanted for name in names],
            o["stride"], o["padding"], o["dilation"], o["groups"], o["padding_mode"],
            o["padding_value"], o["flip"], o["activation"], o["channels_last"], o["dtype"],
            o["accumulate"], o["method"], o["precision"], self._threads(threads), self._kept,
        )  # fmt: skip
        given = zip(names, found, strict=True)
        return {name: gradient for name, gradient in given if gradient is not None}

    @property
    def T(self) -> Transposed:
        """The adjoint of the plan's linear part (no bias, no activation), as a plan.

        Its packed weights are kept with the plan's, from its first call on.

        Examples
        --------
        >>> import numpy as np, faltung
        >>> plan = faltung.Plan(np.array([[[1.0, 2.0, 3.0]]]), stride=2)
        >>> plan.T(np.array([[1.0, 10.0]]))
        array([[ 1.,  2., 13., 20., 30.]])
        """
        return Transposed(self)

    def as_linear_operator(self, shape: Sequence[SupportsIndex]) -> Any:
        """Return the plan's linear part as SciPy's iterative solvers want it.

        Parameters
        ----------
        shape : sequence of int
            The shape of an input. Vectors are inputs and results, flattened in C order.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator
            With a product and one with its transpose, neither of which builds a matrix.

        Raises
        ------
        ImportError
            Without SciPy.
        TypeError, ValueError
            As in `output_shape`.

        Examples
        --------
        >>> import numpy as np, faltung
        >>> blur = faltung.Plan(np.full((1, 1, 3), 1 / 3), padding=1)
        >>> operator = blur.as_linear_operator((1, 5))
        >>> (operator @ np.eye(5)[2]).round(3)
        array([0.   , 0.333, 0.333, 0.333, 0.   ])
        """
        from scipy.sparse.linalg import LinearOperator

        given = tuple(operator.index(n) for n in shape)
        result = self.output_shape(given)
        linear: dict[str, Any] = {**self._options, "activation": None, "padding_value": 0}
        plain = Plan(self._weight, None, **linear)
        dtype = self._weight.dtype
        return LinearOperator(
            (math.prod(result), math.prod(given)),
            matvec=lambda v: plain(np.asarray(v, dtype).reshape(given)).ravel(),
            rmatvec=lambda v: plain.T(np.asarray(v, dtype).reshape(result), given).ravel(),
            dtype=dtype,
        )

    def _threads(self, threads: SupportsIndex | None) -> Any:
        return self._options["threads"] if threads is None else threads

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

    def explain(
        self, x: npt.ArrayLike | Sequence[SupportsIndex], *, measure: bool = False
    ) -> Explanation:
        """Tell which method a call would take, and why, as `faltung.explain` does.

        Parameters
        ----------
        x : array_like or tuple of int
            An input, or its shape.
        measure : bool
            Time the methods.

        Returns
        -------
        Explanation
            Predictions are those of a call without a plan, by which the method is chosen.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As in `faltung.explain`.

        Examples
        --------
        >>> import numpy as np, faltung
        >>> plan = faltung.Plan(np.ones((64, 64, 1, 1)), method="direct")
        >>> plan.explain((64, 9, 9)).as_dict()["why"]
        'it was asked for'
        """
        return explained(x, self._weight, self._bias, self._options, measure)

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


class Transposed:
    """The adjoint of a `Plan`'s linear part: `conv_transpose` with its weights.

    Not made by itself, but as `Plan.T`; its own `T` is the plan.
    """

    __slots__ = ("T",)

    def __init__(self, plan: Plan) -> None:
        self.T = plan

    def __call__(
        self,
        x: npt.ArrayLike,
        shape: Sequence[SupportsIndex] | None = None,
        out: npt.NDArray[Any] | None = None,
        *,
        threads: SupportsIndex | None = None,
    ) -> npt.NDArray[Any]:
        """Convolve transposed.

        Parameters
        ----------
        x : array_like
            An array as the plan's results are.
        shape : sequence of int, optional
            The shape of the result, where a stride leaves several; else that of `conv_transpose`.
        out : ndarray, optional
            Receives the result and is returned.
        threads : int, optional
            As in a call of the plan.

        Returns
        -------
        ndarray
        """
        o, weight, kept = self.T._options, self.T._weight, self.T._kept
        threads = self.T._threads(threads)
        if shape is None:
            return _core.conv_transpose(
                0, x, weight, None, o["stride"], o["padding"], 0, o["groups"], o["dilation"], None,
                o["padding_mode"], o["flip"], None, o["channels_last"], None, None, out,
                o["method"], o["precision"], threads, kept,
            )  # fmt: skip
        return _core.conv_input(
            0, shape, weight, x, o["stride"], o["padding"], o["dilation"], o["groups"],
            o["padding_mode"], o["flip"], o["channels_last"], None, False, out, o["method"],
            o["precision"], threads, kept,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.T!r}.T"


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
