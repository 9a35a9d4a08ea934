"""Rung 2: the fully connected layer, told by offset; and the ways between it and rung 1."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from .._arrays import numbers
from ._layout import Array, Layout
from ._offsets import input_sizes
from ._window import Window

__all__ = ["from_offsets", "shifted", "to_offsets"]


def _by_input(offsets_weight: Array, rank: int) -> Array:
    """The view ``view[o, i, c, k] = offsets_weight[o, i, c, k - i + (out - 1)]``.

    It re-indexes V by the input position k = i + a, which touches exactly those entries of V whose
    offset reaches the image: W and V are two names for the same numbers.
    """
    positions = offsets_weight.shape[1 : rank + 1]
    inputs = input_sizes(positions, offsets_weight.shape[rank + 2 :])
    step = offsets_weight.strides
    # A step to the next position with k held fast is a step to the offset before.
    diagonal = tuple(step[1 + axis] - step[2 + rank + axis] for axis in range(rank))
    from_zero: Any = (..., *(slice(size - 1, None) for size in positions))
    return as_strided(
        offsets_weight[from_zero],
        (*offsets_weight.shape[: rank + 2], *inputs),
        (step[0], *diagonal, *step[rank + 1 :]),
    )


def to_offsets(weight: npt.ArrayLike, *, channels: bool = False) -> Array:
    """Name the weights of a fully connected layer by offset, from rung 1 to rung 2.

    ``V[i,j,a,b] = W[i,j,i+a,j+b]``

    Parameters
    ----------
    weight : array_like, shape (*out, *in), or (O, *out, C, *in) with `channels`
        W, as `dense` takes it.
    channels : bool
        Whether `weight` has axes of channels.

    Returns
    -------
    ndarray, shape (*out, *offsets), or (O, *out, C, *offsets) with `channels`
        V. Along an axis of ``out`` positions and ``in`` inputs there are ``out + in - 1`` offsets,
        from ``-(out - 1)`` to ``in - 1``: index ``out - 1`` is offset 0. Entries whose offset
        leads out of the image are 0.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `weight` does not have such axes.

    See Also
    --------
    from_offsets : the way back, and its exact inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.to_offsets(np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]))
    array([[0., 0., 1., 2., 3.],
           [0., 4., 5., 6., 0.],
           [7., 8., 9., 0., 0.]])
    """
    (W,) = numbers(weight=weight)
    layout, shape = Layout.of_weight("weight", W.shape, channels)
    W = W.reshape(shape)
    rank = layout.rank
    positions, inputs = W.shape[1 : rank + 1], W.shape[rank + 2 :]
    offsets = (out + n - 1 for out, n in zip(positions, inputs, strict=True))
    result = np.zeros((*W.shape[: rank + 2], *offsets), W.dtype)
    _by_input(result, rank)[...] = W
    return layout.weight(result)


def from_offsets(offsets_weight: npt.ArrayLike, *, channels: bool = False) -> Array:
    """Name the weights of a shifted layer by input position, from rung 2 to rung 1.

    ``W[i,j,k,l] = V[i,j,k-i,l-j]``

    Parameters
    ----------
    offsets_weight : array_like, shape (*out, *offsets), or (O, *out, C, *offsets) with `channels`
        V, as `to_offsets` returns it. Entries whose offset leads out of the image meet no pixel
        and are dropped.
    channels : bool
        Whether `offsets_weight` has axes of channels.

    Returns
    -------
    ndarray, shape (*out, *in), or (O, *out, C, *in) with `channels`
        W; ``in = offsets - out + 1`` along each axis.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `offsets_weight` does not have such axes, or fewer offsets than positions.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.from_offsets(np.array([[0.0, 0, 1, 2, 3], [0, 4, 5, 6, 0], [7, 8, 9, 0, 0]]))
    array([[1., 2., 3.],
           [4., 5., 6.],
           [7., 8., 9.]])
    """
    (V,) = numbers(offsets_weight=offsets_weight)
    layout, shape = Layout.of_weight("offsets_weight", V.shape, channels)
    return layout.weight(_by_input(V.reshape(shape), layout.rank).copy())


def shifted(
    x: npt.ArrayLike,
    offsets_weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    channels: bool = False,
    threads: SupportsIndex | None = None,
) -> Array:
    """Rung 2: the fully connected layer with its weights told by offset.

    ``H[i,j] = U[i,j] + sum over a,b of V[i,j,a,b] X[i+a,j+b]``

    where a and b run over all offsets, positive and negative, and X is 0 outside the image. With
    channels there is a sum over c of ``V[d,i,j,c,a,b] X[c,i+a,j+b]``.

    Parameters
    ----------
    x : array_like, shape (..., *in), or (..., C, *in) with `channels`
        Images X.
    offsets_weight : array_like, shape (*out, *offsets), or (O, *out, C, *offsets) with `channels`
        V, with ``out + in - 1`` offsets along each axis; see `to_offsets`.
    bias : array_like, shape (*out), or (O, *out) with `channels`, optional
        U. One number, or axes of length 1, serve many positions.
    channels : bool
        Whether the arrays have axes of channels.
    threads : int, optional
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape (..., *out), or (..., O, *out) with `channels`
        What `dense` gives for ``from_offsets(offsets_weight)``.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        Shapes that do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> weight = np.arange(9.0).reshape(3, 3)
    >>> x = np.array([1.0, 10, 100])
    >>> ladder.dense(x, weight)
    array([210., 543., 876.])
    >>> ladder.shifted(x, ladder.to_offsets(weight))
    array([210., 543., 876.])
    """
    X, V, U = numbers(x=x, offsets_weight=offsets_weight, bias=bias)
    layout, shape = Layout.of_weight("offsets_weight", V.shape, channels)
    rank = layout.rank
    positions = shape[1 : rank + 1]
    inputs = input_sizes(positions, shape[rank + 2 :])
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X, (shape[rank + 1], *inputs))
    # A window of all offsets around every position: a local layer without a bound.
    window = Window(1, [(size - 1, size - 1) for size in positions], 1, 1, "zeros")
    result = window.apply(images, V.reshape(shape), threads)
    return layout.restore(layout.add_bias(result, U), batch)
