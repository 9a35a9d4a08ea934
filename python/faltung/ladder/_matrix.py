"""The way from rung 5 to rung 1: a convolution as the matrix that it is."""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._arrays import ints, numbers
from ..functional import IntPerAxis, Padding, PaddingMode, conv, output_shape
from ._layout import Layout

__all__ = ["as_matrix"]


def as_matrix(
    kernel: npt.ArrayLike,
    input_shape: SupportsIndex | Sequence[SupportsIndex],
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    flip: bool = False,
    channels: bool = False,
    sparse: bool | None = None,
) -> Any:
    """The matrix of a convolution: from rung 5 to rung 1.

    ``as_matrix(kernel, x.shape, ...) @ x.ravel() = conv(x, kernel, ...).ravel()``

    Parameters
    ----------
    kernel : array_like, shape (*kernel), or (O, C // groups, *kernel) with `channels`
        The kernel of `faltung.conv`.
    input_shape : int or sequence of int
        The shape of one image: (*in), or (C, *in) with `channels`.
    stride, padding, dilation, groups, padding_mode, flip
        As in `faltung.conv`; padding is by 0.
    channels : bool
        Whether `kernel` and `input_shape` have channels.
    sparse : bool, optional
        True for `scipy.sparse.csr_array`, False for an ndarray; None for the first if SciPy is
        installed.

    Returns
    -------
    scipy.sparse.csr_array or ndarray, shape (prod(*out), prod(*in)), both times channels
        The dense one, reshaped to ``(*out, *in)`` or ``(O, *out, C, *in)``, is a weight of `dense`.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take, or an argument of the wrong type.
    ValueError
        Shapes or options that do not fit together, as in `faltung.conv`.
    ImportError
        ``sparse=True`` without SciPy.

    Notes
    -----
    Which input each tap meets at each position is itself a convolution: of an image that holds
    its own indices, with kernels that are 1 at one tap. So every option is that of `conv`.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.as_matrix(np.array([1.0, 2, 3]), 4, padding=1, sparse=False)
    array([[2., 3., 0., 0.],
           [1., 2., 3., 0.],
           [0., 1., 2., 3.],
           [0., 0., 1., 2.]])
    """
    (V,) = numbers(kernel=kernel)
    layout, shape = Layout.of_kernel("kernel", V.shape, channels)
    size = ints(input_shape)
    if len(size) != layout.rank + channels:
        raise ValueError(
            f"input_shape is {size}, but kernel (shape {V.shape}) takes one image: "
            + ("(C, *spatial)" if channels else f"{layout.rank} spatial axes")
        )
    size = size if channels else (1, *size)
    inputs, taps = math.prod(size[1:]), math.prod(shape[2:])
    # Refuses what `conv` would refuse, in the same words.
    out = output_shape(size, shape, stride, padding, dilation, groups, padding_mode=padding_mode)
    # Indices count from 1, so that padding is 0. float64 holds them exactly.
    indices = np.arange(1.0, inputs + 1).reshape(1, *size[1:])
    at_tap = np.eye(taps).reshape(taps, 1, *shape[2:])
    met = conv(
        indices, at_tap, None, stride, padding, dilation,
        padding_mode=padding_mode, flip=flip, method="direct",
    )  # fmt: skip
    met = met.reshape(taps, -1).T.astype(np.intp) - 1  # (position, tap)

    # One entry for each output channel, position, channel of its group and tap.
    outputs, per_group = shape[0], shape[1]
    positions = len(met)
    group = np.arange(outputs) // (outputs // operator.index(groups))
    channel = group[:, None] * per_group + np.arange(per_group)
    rows = np.arange(outputs * positions).reshape(outputs, positions, 1, 1)
    columns = channel[:, None, :, None] * inputs + met[None, :, None, :]
    values = V.reshape(outputs, 1, per_group, taps)
    inside = np.broadcast_to(met[None, :, None, :] >= 0, columns.shape)
    rows, values = np.broadcast_to(rows, columns.shape), np.broadcast_to(values, columns.shape)
    entries = values[inside], (rows[inside], columns[inside])
    matrix_shape = (math.prod(out), math.prod(size))

    if sparse is not False:
        try:
            scipy_sparse = importlib.import_module("scipy.sparse")
        except ImportError:
            if sparse:
                raise ImportError(
                    "as_matrix(sparse=True) needs SciPy: pip install scipy, or pass sparse=False"
                ) from None
        else:
            # Padding that repeats the image meets an input with several taps: they are added.
            return scipy_sparse.csr_array(entries, shape=matrix_shape)
    matrix = np.zeros(matrix_shape, V.dtype)
    np.add.at(matrix, entries[1], entries[0])
    return matrix
