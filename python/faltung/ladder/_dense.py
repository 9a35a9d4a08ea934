"""Rung 1: the fully connected layer."""

from __future__ import annotations

import math

import numpy.typing as npt

from .._arrays import numbers, sums
from ._layout import Array, Layout

__all__ = ["dense"]


def dense(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    channels: bool = False,
) -> Array:
    """Rung 1, the fully connected layer: every output position sees every input position.

    ``H[i,j] = U[i,j] + sum over k,l of W[i,j,k,l] X[k,l]``

    With channels, ``H[d,i,j] = U[d,i,j] + sum over c,k,l of W[d,i,j,c,k,l] X[c,k,l]``.

    Parameters
    ----------
    x : array_like, shape (..., *in), or (..., C, *in) with `channels`
        Images X.
    weight : array_like, shape (*out, *in), or (O, *out, C, *in) with `channels`
        W. It has as many output axes as input axes; their sizes may differ.
    bias : array_like, shape (*out), or (O, *out) with `channels`, optional
        U. One number, or axes of length 1, serve many positions.
    channels : bool
        Whether `x`, `weight`, `bias` and the result have axes of channels.

    Returns
    -------
    ndarray, shape (..., *out), or (..., O, *out) with `channels`

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        Shapes that do not fit together.

    Notes
    -----
    One matrix product, by NumPy's BLAS.

    Examples
    --------
    Each hidden pixel of two is its own sum over an image of three:

    >>> import numpy as np
    >>> from faltung import ladder
    >>> weight = np.array([[1.0, 1, 1], [0, 0, 5]])
    >>> ladder.dense(np.array([1.0, 2, 3]), weight, bias=np.array([0.0, 100]))
    array([  6., 115.])
    """
    X, W, U = numbers(x=x, weight=weight, bias=bias)
    layout, shape = Layout.of_weight("weight", W.shape, channels)
    W = W.reshape(shape)
    rank, outputs = layout.rank, W.shape[: layout.rank + 1]
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X, W.shape[rank + 1 :])
    inputs = math.prod(images.shape[1:])
    matrix = W.reshape(math.prod(outputs), inputs)
    dtype = sums(matrix.dtype)
    rows = images.reshape(len(images), inputs).astype(dtype, copy=False)
    result = (rows @ matrix.astype(dtype, copy=False).T).astype(matrix.dtype, copy=False)
    result = layout.add_bias(result.reshape(len(images), *outputs), U)
    return layout.restore(result, batch)
