"""Rung 3: the locally connected layer, its adjoint and its gradients."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy.typing as npt

from .._arrays import conjugate, ints, numbers, per_axis
from ..functional import IntPerAxis, Padding, PaddingMode
from ._layout import Array, Layout
from ._window import Window

__all__ = ["local", "local_input", "local_transpose", "local_weight"]


def local(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    delta: IntPerAxis | None = None,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    channels: bool = False,
    threads: SupportsIndex | None = None,
) -> Array:
    """Rung 3, the locally connected layer: a small kernel at each position, shared by none.

    ``H[i,j] = U[i,j] + sum over abs(a), abs(b) <= delta of V[i,j,a,b] X[i+a,j+b]``

    In general, as for `faltung.conv` with a kernel that differs from position to position,

    ``H[d,i,j] = U[d,i,j] + sum over c,a,b of V[d,i,j,c,a,b] X[c, stride*i + dilation*a,
    stride*j + dilation*b]``

    with X padded, a and b counted from 0, and c running over the channels of the group of d.

    Parameters
    ----------
    x : array_like, shape (..., *in), or (..., C, *in) with `channels`
        Images X.
    weight : array_like, shape (*out, *kernel), or (O, *out, C // groups, *kernel) with `channels`
        V: for every output a kernel, whose elements lie together in memory.
    bias : array_like, shape (*out), or (O, *out) with `channels`, optional
        U. One number, or axes of length 1, serve many positions.
    stride, padding, dilation, groups, padding_mode
        As in `faltung.conv`; padding is by 0. `groups` other than 1 takes `channels`.
    delta : int or one int per spatial axis, optional
        Says that kernels run over the offsets from -delta to delta (times `dilation`): they must be
        ``2 * delta + 1`` long, and the padding is ``delta * dilation``. In place of `padding`.
    channels : bool
        Whether the arrays have axes of channels.
    threads : int, optional
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape (..., *out), or (..., O, *out) with `channels`

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take, or an argument of the wrong type.
    ValueError
        Shapes or options that do not fit together, as in `faltung.conv`; a `weight` for other
        positions than the options make; a `delta` larger than the image.

    See Also
    --------
    local_transpose, local_input, local_weight : its adjoint and its gradients.
    truncate, to_local : weights for it, from the rungs around.

    Notes
    -----
    Each weight is used once for an image, so the layer costs what reading its weights costs. Sums
    have an order that depends on the shapes alone: the same bits for any number of threads.

    Examples
    --------
    Each pixel minus its left neighbour, but for the last, which keeps what it is:

    >>> import numpy as np
    >>> from faltung import ladder
    >>> weight = np.array([[-1.0, 1, 0], [-1, 1, 0], [-1, 1, 0], [0, 1, 0]])
    >>> ladder.local(np.array([1.0, 2, 4, 8]), weight, delta=1)
    array([1., 1., 2., 8.])
    """
    X, W, U = numbers(x=x, weight=weight, bias=bias)
    layout, shape = Layout.of_weight("weight", W.shape, channels)
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X)
    window = Window(stride, padding, dilation, groups, padding_mode)
    window = window.within(delta, shape[layout.rank + 2 :])
    window.check(images.shape, shape, delta)
    result = window.apply(images, W.reshape(shape), threads)
    return layout.restore(layout.add_bias(result, U), batch)


def local_transpose(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: IntPerAxis | Sequence[Sequence[SupportsIndex]] = 0,
    output_padding: IntPerAxis = 0,
    groups: SupportsIndex = 1,
    dilation: IntPerAxis = 1,
    *,
    delta: IntPerAxis | None = None,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    channels: bool = False,
    threads: SupportsIndex | None = None,
) -> Array:
    """The adjoint of `local`: what a position has gathered it hands out again, kernel by kernel.

    ``Y[k,l] = U[k,l] + sum over i,j of V[i,j,k-i,l-j] X[i,j]``

    and with stride and dilation V stands at every a, b with ``stride*i + dilation*a = k + before``.
    So for all x and y, ``sum(local(x, weight) * y) = sum(x * local_transpose(y, weight))``. It is
    to `local` what `torch.nn.functional.conv_transpose2d` is to `conv2d`, whose order of arguments
    it has.

    Parameters
    ----------
    x : array_like, shape (..., *out), or (..., O, *out) with `channels`
        What `local` would return.
    weight : array_like, shape (*out, *kernel), or (O, *out, C // groups, *kernel) with `channels`
        V, the very weight of `local`.
    bias : array_like, shape (*in), or (C, *in) with `channels`, optional
        U. One number, or axes of length 1, serve many positions.
    stride, padding, groups, dilation, delta, padding_mode
        As in `local`; `padding` in numbers, since its names take the size of the result.
    output_padding : int or one int per spatial axis
        ``in = stride * (out - 1) + dilation * (kernel - 1) + 1 - before - after + output_padding``:
        under a stride, which of the sizes that have `out` positions.
    channels : bool
        Whether the arrays have axes of channels.
    threads : int, optional
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape (..., *in), or (..., C, *in) with `channels`

    Raises
    ------
    TypeError, ValueError
        As in `local`; ValueError too if no image of that size has `out` positions.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> weight = np.array([[1.0, 2], [3, 4], [5, 6]])
    >>> ladder.local_transpose(np.array([1.0, 10, 100]), weight)
    array([  1.,  32., 540., 600.])
    """
    X, W, U = numbers(x=x, weight=weight, bias=bias)
    layout, shape = Layout.of_weight("weight", W.shape, channels)
    rank = layout.rank
    kernel = shape[rank + 2 :]
    batch = layout.batch("x", X.shape)
    gathered = layout.images("x", X, shape[: rank + 1])
    window = Window(stride, padding, dilation, groups, padding_mode).within(delta, kernel)
    more = ints(per_axis("output_padding", output_padding, rank))
    axes = zip(
        shape[1 : rank + 1],
        ints(per_axis("stride", window.stride, rank)),
        window.reach(tuple(taps - 1 for taps in kernel)),
        _sides(window.padding, rank),
        more,
        strict=True,
    )
    size = tuple(
        step * (out - 1) + reach + 1 - sum(sides) + extra for out, step, reach, sides, extra in axes
    )
    if min(more) < 0 or min(size) < 1:
        raise ValueError(
            f"the result would have spatial shape {size} with output_padding {output_padding}; "
            "pass less padding, and an output_padding of at least 0"
        )
    images = (len(gathered), shape[rank + 1] * operator.index(groups), *size)
    window.check(images, shape, delta)
    result = window.to_input(images, W.reshape(shape), gathered, threads)
    return layout.restore(layout.add_bias(result, U), batch)


def _sides(padding: Any, rank: int) -> list[tuple[int, int]]:
    """Numeric padding as one (before, after) for each axis."""
    if isinstance(padding, str):
        raise ValueError(
            f"padding is {padding!r}, but here it must be numbers: one, one an axis, or one "
            "(before, after) an axis; `local_input` takes names, since it is told the size"
        )
    sides = [ints(per_axis("padding", side, 2)) for side in per_axis("padding", padding, rank)]
    return [(before, after) for before, after in sides]


def local_input(
    input_size: Sequence[SupportsIndex],
    weight: npt.ArrayLike,
    grad_output: npt.ArrayLike,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    delta: IntPerAxis | None = None,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    channels: bool = False,
    threads: SupportsIndex | None = None,
) -> Array:
    """Gradient of `local` with respect to its input.

    ``dX[k,l] = sum over i,j of V[i,j,k-i,l-j] G[i,j]``, summed over output channels too.

    Parameters
    ----------
    input_size : sequence of int
        The shape of `x` in the call of `local`: (..., *in), or (..., C, *in) with `channels`.
    weight : array_like, shape (*out, *kernel), or (O, *out, C // groups, *kernel) with `channels`
        V.
    grad_output : array_like, shape (..., *out), or (..., O, *out) with `channels`
        G, the gradient with respect to what `local` returned.
    stride, padding, dilation, groups, delta, padding_mode, channels, threads
        As in `local`.

    Returns
    -------
    ndarray of shape `input_size`

    Raises
    ------
    TypeError, ValueError
        As in `local`.

    See Also
    --------
    local_transpose : the same as a layer, with a bias.

    Notes
    -----
    The gradient with respect to `bias` is the sum of `grad_output` over the batch.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> weight = np.array([[1.0, 2], [3, 4], [5, 6]])
    >>> ladder.local_input((4,), weight, np.array([1.0, 1, 1]))
    array([1., 5., 9., 6.])
    """
    W, G = numbers(weight=weight, grad_output=grad_output)
    layout, shape = Layout.of_weight("weight", W.shape, channels)
    size = ints(input_size)
    batch = layout.batch("input_size", size)
    images = layout.images_shape("input_size", size)
    window = Window(stride, padding, dilation, groups, padding_mode)
    window = window.within(delta, shape[layout.rank + 2 :])
    window.check(images, shape, delta)
    gradient = layout.gradient(G, batch, shape)
    result = window.to_input(images, conjugate(W.reshape(shape)), gradient, threads)
    return layout.restore(result, batch)


def local_weight(
    x: npt.ArrayLike,
    weight_size: Sequence[SupportsIndex],
    grad_output: npt.ArrayLike,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    delta: IntPerAxis | None = None,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    channels: bool = False,
    threads: SupportsIndex | None = None,
) -> Array:
    """Gradient of `local` with respect to its weight.

    ``dV[i,j,a,b] = sum over the batch of G[i,j] X[i+a,j+b]``

    Parameters
    ----------
    x : array_like, shape (..., *in), or (..., C, *in) with `channels`
        X.
    weight_size : sequence of int
        The shape of `weight`: (*out, *kernel), or (O, *out, C // groups, *kernel) with `channels`.
    grad_output : array_like, shape (..., *out), or (..., O, *out) with `channels`
        G, the gradient with respect to what `local` returned.
    stride, padding, dilation, groups, delta, padding_mode, channels, threads
        As in `local`.

    Returns
    -------
    ndarray of shape `weight_size`

    Raises
    ------
    TypeError, ValueError
        As in `local`.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.local_weight(np.array([1.0, 2, 3]), (2, 2), np.array([1.0, 10]))
    array([[ 1.,  2.],
           [20., 30.]])
    """
    X, G = numbers(x=x, grad_output=grad_output)
    layout, shape = Layout.of_weight("weight_size", ints(weight_size), channels)
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X)
    window = Window(stride, padding, dilation, groups, padding_mode)
    window = window.within(delta, shape[layout.rank + 2 :])
    window.check(images.shape, shape, delta)
    gradient = layout.gradient(G, batch, shape)
    result = window.to_weight(conjugate(images), shape, gradient, threads)
    return layout.weight(result)
