"""Gradients of convolutions, as functions of NumPy arrays.

If a loss depends on ``y = faltung.conv(x, weight, bias, ...)`` and its gradient with respect to `y`
is `grad_output`, these are its gradients with respect to `x`, `weight` and `bias`. The positional
arguments are those of `torch.nn.grad`; further options are those of `faltung.conv`.

>>> import numpy as np, faltung
>>> rng = np.random.default_rng(0)
>>> x, weight = rng.random((8, 3, 32, 32)), rng.random((4, 3, 5, 5))
>>> grad_output = np.ones_like(faltung.conv2d(x, weight, stride=2))
>>> faltung.grad.conv2d_input(x.shape, weight, grad_output, stride=2).shape
(8, 3, 32, 32)
>>> faltung.grad.conv2d_weight(x, weight.shape, grad_output, stride=2).shape
(4, 3, 5, 5)
>>> faltung.grad.conv2d_bias(grad_output)
array([1568., 1568., 1568., 1568.])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy.typing as npt

from . import _core
from ._ranks import over_ranks
from .functional import IntPerAxis, Method, Padding, PaddingMode, Precision

__all__ = [
    "conv1d_bias",
    "conv1d_input",
    "conv1d_weight",
    "conv2d_bias",
    "conv2d_input",
    "conv2d_weight",
    "conv3d_bias",
    "conv3d_input",
    "conv3d_weight",
    "conv_bias",
    "conv_input",
    "conv_weight",
]

Shape = Sequence[SupportsIndex]


# What several of these functions say of their result.
PARTS = {
    "result": """
    dtype : dtype, optional
        That of the gradient, as in `faltung.conv`; sums are kept in what it needs.
    accumulate : bool
        Add to `out` rather than overwrite it. (What `accumulate` names in `faltung.conv`, the dtype
        of sums, follows from `dtype` here.)
    out : ndarray, optional
        Receives the gradient and is returned. It must have exactly its shape and dtype and not
        overlap an operand; any strides will do.
    """
}


def _conv_input(
    rank: int,
    input_size: Shape,
    weight: npt.ArrayLike,
    grad_output: npt.ArrayLike,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    flip: bool = False,
    channels_last: bool = False,
    dtype: npt.DTypeLike | None = None,
    accumulate: bool = False,
    out: npt.NDArray[Any] | None = None,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
) -> npt.NDArray[Any]:
    r"""Gradient of the input of `faltung.conv`.

    Parameters
    ----------
    input_size : sequence of int
        The shape of the input: (N, C, *spatial) or (C, *spatial), or with the channels last.
    weight : array_like, shape (O, C // groups, *kernel)
        The kernels of the convolution. Complex ones are conjugated: this is the adjoint.
    grad_output : array_like, shape (N, O, *output) or (O, *output), or with the channels last
        The gradient of the result, of any strides and dtype that `faltung.conv` takes.
    stride, padding, dilation, groups, padding_mode, flip, channels_last
        Those of the convolution, as in `faltung.conv`. Its `padding_value` does not matter here.
    {result}
    method, precision, threads
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape `input_size`
        `out` if given, else a new C-contiguous array. Its dtype is `numpy.result_type` of `weight`
        and `grad_output`. Elements that padding showed several times have the sum of what each of
        these got; elements that were cropped, or that no tap reached, have 0.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As in `faltung.conv`; ValueError too where `input_size` and `grad_output` cannot be of one
        convolution, with the sizes that could, and for `accumulate` without `out`.

    See Also
    --------
    faltung.conv_transpose : the same as a layer, with a bias; the formula and the order of sums.
    conv1d_input, conv2d_input, conv3d_input : the same for one number of axes, which they check.

    Examples
    --------
    How much a change of each pixel changes the sum of a 3 x 3 blur:

    >>> import numpy as np, faltung
    >>> weight = np.ones((1, 1, 3, 3), dtype=np.float32)
    >>> ones = np.ones((1, 4, 4), dtype=np.float32)
    >>> faltung.grad.conv_input((1, 4, 4), weight, ones, padding=1)
    array([[[4., 6., 6., 4.],
            [6., 9., 9., 6.],
            [6., 9., 9., 6.],
            [4., 6., 6., 4.]]], dtype=float32)

    With a circular padding, no pixel is at a border:

    >>> circular = {"padding": 1, "padding_mode": "circular"}
    >>> float(faltung.grad.conv_input((1, 4, 4), weight, ones, **circular).min())
    9.0
    """
    return _core.conv_input(
        rank, input_size, weight, grad_output, stride, padding, dilation, groups, padding_mode,
        flip, channels_last, dtype, accumulate, out, method, precision, threads, None,
    )  # fmt: skip


conv_input, conv1d_input, conv2d_input, conv3d_input = over_ranks(
    "conv{}_input",
    _conv_input,
    [
        """
    >>> import numpy as np, faltung
    >>> weight, grad_output = np.ones((4, 3, 3)), np.ones((2, 4, 8))
    >>> faltung.grad.conv1d_input((2, 3, 10), weight, grad_output).shape
    (2, 3, 10)
    """,
        """
    >>> import numpy as np, faltung
    >>> weight, grad_output = np.ones((4, 3, 3, 3)), np.ones((2, 4, 7, 8))
    >>> faltung.grad.conv2d_input((2, 3, 9, 10), weight, grad_output).shape
    (2, 3, 9, 10)
    """,
        """
    >>> import numpy as np, faltung
    >>> weight, grad_output = np.ones((4, 3, 3, 3, 3)), np.ones((2, 4, 6, 7, 8))
    >>> faltung.grad.conv3d_input((2, 3, 8, 9, 10), weight, grad_output).shape
    (2, 3, 8, 9, 10)
    """,
    ],
    PARTS,
)


def _conv_weight(
    rank: int,
    x: npt.ArrayLike,
    weight_size: Shape,
    grad_output: npt.ArrayLike,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: complex = 0,
    flip: bool = False,
    channels_last: bool = False,
    per_sample: bool = False,
    dtype: npt.DTypeLike | None = None,
    accumulate: bool = False,
    out: npt.NDArray[Any] | None = None,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
) -> npt.NDArray[Any]:
    r"""Gradient of the weight of `faltung.conv`.

    Parameters
    ----------
    x : array_like, shape (N, C, *spatial) or (C, *spatial), or with the channels last
        The input of the convolution, of any strides, byte order and dtype that `faltung.conv`
        takes. Complex ones are conjugated: this is the adjoint.
    weight_size : sequence of int
        The shape of the weight, (O, C // groups, *kernel).
    grad_output : array_like, shape (N, O, *output) or (O, *output), or with the channels last
        The gradient of the result, of any strides and dtype that `faltung.conv` takes.
    stride, padding, dilation, groups, padding_mode, padding_value, flip, channels_last
        Those of the convolution, as in `faltung.conv`.
    per_sample : bool
        Keep the gradients of the images of a batch apart.
    {result}
    method, precision
        As in `faltung.conv`, of "auto", "direct" and "winograd", which transforms along axes with a
        kernel of 3, a stride and a dilation of 1; other axes must have a kernel of 1. "auto" takes
        it where it is predicted to be faster, but not with ``precision="exact"``.
    threads
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape `weight_size`, or (N, *weight_size) with `per_sample`
        `out` if given, else a new C-contiguous array. Its dtype is `numpy.result_type` of `x` and
        `grad_output`.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As in `faltung.conv`; ValueError too where `x`, `weight_size` and `grad_output` cannot be
        of one convolution, for `accumulate` without `out`, for `per_sample` without a batch, and
        for a `method` that cannot compute it, with the reason.

    See Also
    --------
    conv_input : the gradient of the input.
    conv1d_weight, conv2d_weight, conv3d_weight : the same for one number of axes.

    Notes
    -----
    With one spatial axis, :math:`x` padded, and :math:`g` the group of output channel :math:`o`:

    .. math::

        dw[o, c, k] = \sum_n \sum_i
            grad\_output[n, o, i] \; x[n, g C/groups + c, i \cdot stride + k \cdot dilation]

    The sums are cut into blocks of positions, and blocks into chains of fused multiply-adds, in a
    way that depends on shapes and options alone (docs/gradients.md tells it exactly, and what
    transforms round). So the bits are the same for any number of threads, any layout, and any
    instruction set.

    Examples
    --------
    The gradient of a squared error finds the kernel that made a signal:

    >>> import numpy as np, faltung
    >>> x = np.random.default_rng(0).standard_normal((1, 200))
    >>> target = faltung.conv(x, np.array([[[1.0, -2.0, 3.0]]]))
    >>> weight = np.zeros((1, 1, 3))
    >>> for _ in range(100):
    ...     error = faltung.conv(x, weight) - target
    ...     weight -= 0.005 * faltung.grad.conv_weight(x, weight.shape, error)
    >>> print(weight.round(6))
    [[[ 1. -2.  3.]]]
    """
    return _core.conv_weight(
        rank, x, weight_size, grad_output, stride, padding, dilation, groups, padding_mode,
        padding_value, flip, channels_last, per_sample, dtype, accumulate, out, method,
        precision, threads,
    )  # fmt: skip


conv_weight, conv1d_weight, conv2d_weight, conv3d_weight = over_ranks(
    "conv{}_weight",
    _conv_weight,
    [
        """
    >>> import numpy as np, faltung
    >>> x, grad_output = np.ones((2, 3, 10)), np.ones((2, 4, 8))
    >>> faltung.grad.conv1d_weight(x, (4, 3, 3), grad_output).shape
    (4, 3, 3)
    """,
        """
    >>> import numpy as np, faltung
    >>> x, grad_output = np.ones((2, 3, 9, 10)), np.ones((2, 4, 7, 8))
    >>> faltung.grad.conv2d_weight(x, (4, 3, 3, 3), grad_output).shape
    (4, 3, 3, 3)
    """,
        """
    >>> import numpy as np, faltung
    >>> x, grad_output = np.ones((2, 3, 8, 9, 10)), np.ones((2, 4, 6, 7, 8))
    >>> faltung.grad.conv3d_weight(x, (4, 3, 3, 3, 3), grad_output).shape
    (4, 3, 3, 3, 3)
    """,
    ],
    PARTS,
)


def conv_bias(
    grad_output: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    channels_last: bool = False,
    per_sample: bool = False,
    dtype: npt.DTypeLike | None = None,
    accumulate: bool = False,
    out: npt.NDArray[Any] | None = None,
    threads: SupportsIndex | None = None,
) -> npt.NDArray[Any]:
    """Gradient of the bias of `faltung.conv`: the sum over the batch and all positions.

    Parameters
    ----------
    grad_output : array_like, shape (N, O, *output) or (O, *output), or with the channels last
        The gradient of the result, of any strides and dtype that `faltung.conv` takes.
    rank : int, optional
        The number of spatial axes, which tells whether there is a batch; else the first axis
        counts as one.
    channels_last, per_sample, dtype, accumulate, out, threads
        As in `conv_weight`.

    Returns
    -------
    ndarray, shape (O,), or (N, O) with `per_sample`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv_weight`.

    See Also
    --------
    conv1d_bias, conv2d_bias, conv3d_bias : the same for one number of axes.

    Notes
    -----
    Each row along the last spatial axis is summed in 16 interleaved sums, rows are added in order,
    and images are: the bits depend on the shape alone.

    Examples
    --------
    >>> import numpy as np, faltung
    >>> faltung.grad.conv_bias(np.ones((2, 3, 4, 5), dtype=np.float32))
    array([40., 40., 40.], dtype=float32)
    """
    return _core.conv_bias(
        rank, grad_output, channels_last, per_sample, dtype, accumulate, out, threads
    )


def _conv_bias(
    rank: int,
    grad_output: npt.ArrayLike,
    *,
    channels_last: bool = False,
    per_sample: bool = False,
    dtype: npt.DTypeLike | None = None,
    accumulate: bool = False,
    out: npt.NDArray[Any] | None = None,
    threads: SupportsIndex | None = None,
) -> npt.NDArray[Any]:
    """Gradient of the bias of `faltung.conv`: the sum over the batch and all positions.

    Parameters
    ----------
    grad_output : array_like, shape (N, O, *output) or (O, *output), or with the channels last
        The gradient of the result, of any strides and dtype that `faltung.conv` takes.
    channels_last : bool
        That of the convolution.
    per_sample : bool
        Keep the sums of the images of a batch apart.
    {result}
    threads : int, optional
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape (O,), or (N, O) with `per_sample`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv_weight`.

    See Also
    --------
    conv_bias : the same for any number of axes, and the order of the sum.
    """
    return _core.conv_bias(
        rank, grad_output, channels_last, per_sample, dtype, accumulate, out, threads
    )


_, conv1d_bias, conv2d_bias, conv3d_bias = over_ranks(
    "conv{}_bias",
    _conv_bias,
    [
        """
    >>> import numpy as np, faltung
    >>> faltung.grad.conv1d_bias(np.ones((2, 4, 8)), per_sample=True).shape
    (2, 4)
    """,
        """
    >>> import numpy as np, faltung
    >>> faltung.grad.conv2d_bias(np.ones((2, 4, 7, 8)), per_sample=True).shape
    (2, 4)
    """,
        """
    >>> import numpy as np, faltung
    >>> faltung.grad.conv3d_bias(np.ones((2, 4, 6, 7, 8)), per_sample=True).shape
    (2, 4)
    """,
    ],
    PARTS,
)
