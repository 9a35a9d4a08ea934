"""The ways between the rungs that look far and near, and between those that share and do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._arrays import numbers, sums
from ..functional import IntPerAxis
from ._layout import Array, Layout, Shape, spatial_sizes
from ._offsets import check_reachable, deltas, input_sizes, output_sizes

__all__ = ["extend", "tie", "to_local", "truncate", "untie"]


def truncate(
    weight: npt.ArrayLike, delta: IntPerAxis, *, shared: bool = False, channels: bool = False
) -> Array:
    """Forget all offsets beyond delta: from rung 2 to rung 3, or with `shared` from 4 to 5.

    Parameters
    ----------
    weight : array_like, shape (*out, *offsets), or (O, *out, C, *offsets) with `channels`
        V as `to_offsets` returns it; if `shared`, the kernel of `invariant`, (*offsets) or
        (O, C, *offsets), with offset 0 in the middle.
    delta : int or one int per spatial axis
        The largest offset that is kept.
    shared : bool
        Whether all positions share the weight.
    channels : bool
        Whether `weight` has axes of channels.

    Returns
    -------
    ndarray
        `weight` with ``2 * delta + 1`` elements along each axis of offsets: for `local` with this
        `delta`, or for `faltung.conv` with ``padding=delta``.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `weight` has other axes, or `delta` is negative or larger than the image.

    See Also
    --------
    extend : the way back.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.truncate(ladder.to_offsets(np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])), 1)
    array([[0., 1., 2.],
           [4., 5., 6.],
           [8., 9., 0.]])
    >>> ladder.truncate(np.array([1.0, 2, 3, 4, 5]), 1, shared=True)
    array([2., 3., 4.])
    """
    (W,) = numbers(weight=weight)
    if shared:
        layout, shape = Layout.of_kernel("weight", W.shape, channels)
        zero = _middle("weight", shape[2:])
        size = tuple(limit + 1 for limit in zero)
    else:
        layout, shape = Layout.of_weight("weight", W.shape, channels)
        positions = shape[1 : layout.rank + 1]
        zero = tuple(n - 1 for n in positions)
        size = tuple(map(min, positions, input_sizes(positions, shape[layout.rank + 2 :])))
    limits = deltas(delta, layout.rank)
    check_reachable(delta, limits, size)
    window = tuple(slice(at - n, at + n + 1) for at, n in zip(zero, limits, strict=True))
    kept: Array = W[(..., *window)]
    return kept.copy()


def extend(
    weight: npt.ArrayLike,
    shape: SupportsIndex | Sequence[SupportsIndex],
    *,
    shared: bool = False,
    channels: bool = False,
) -> Array:
    """Add all other offsets, as 0: from rung 3 to rung 2, or with `shared` from 5 to 4.

    Parameters
    ----------
    weight : array_like, shape (*out, *kernel), or (O, *out, C, *kernel) with `channels`
        V as `local` takes it with a `delta`; if `shared`, the kernel of `faltung.conv`, (*kernel)
        or (O, C, *kernel). Kernels are of odd length, with offset 0 in the middle.
    shape : int or sequence of int
        Sizes of the image's spatial axes.
    shared : bool
        Whether all positions share the weight.
    channels : bool
        Whether `weight` has axes of channels.

    Returns
    -------
    ndarray
        `weight` with all offsets that reach the image, ``out + in - 1`` along an axis, for
        `shifted`; if `shared`, ``2 * in - 1``, for `invariant`. What led out of the image is 0.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `weight` has other axes or kernels of even length, or they are larger than the image.

    See Also
    --------
    truncate : the way back.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.extend(np.array([2.0, 3, 4]), 3, shared=True)
    array([0., 2., 3., 4., 0.])
    >>> ladder.extend(np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]), 3)
    array([[0., 0., 2., 3., 0.],
           [0., 4., 5., 6., 0.],
           [0., 7., 8., 0., 0.]])
    """
    (W,) = numbers(weight=weight)
    if shared:
        layout, full = Layout.of_kernel("weight", W.shape, channels)
        rank, inputs = layout.rank, spatial_sizes(shape, layout.rank)
        kernel, positions = full[2:], inputs
    else:
        layout, full = Layout.of_weight("weight", W.shape, channels)
        rank, inputs = layout.rank, spatial_sizes(shape, layout.rank)
        kernel, positions = full[layout.rank + 2 :], full[1 : layout.rank + 1]
    limits = _middle("weight", kernel)
    check_reachable(limits, limits, tuple(map(min, positions, inputs)))
    offsets = tuple(out + n - 1 for out, n in zip(positions, inputs, strict=True))
    result = np.zeros((*full[: len(full) - rank], *offsets), W.dtype)
    axes = zip(positions, limits, strict=True)
    own: Any = (..., *(slice(out - 1 - limit, out + limit) for out, limit in axes))
    result[own] = W.reshape(full)
    if shared:
        return layout.kernel(result)
    inside = _inside(positions, inputs)
    return layout.weight(np.where(np.expand_dims(inside, rank), result, result.dtype.type(0)))


def _middle(name: str, kernel: Shape) -> Shape:
    """The index of offset 0, which is also the largest offset."""
    if any(taps % 2 == 0 for taps in kernel):
        raise ValueError(
            f"{name} has kernels of shape {kernel}, but offset 0 must be in the middle: "
            "pass odd lengths, 2 * delta + 1"
        )
    return tuple(taps // 2 for taps in kernel)


def _inside(positions: Shape, inputs: Shape) -> Array:
    """Which offsets lead from which positions into the image: bool, (*out, *offsets)."""
    rank = len(positions)
    inside: Any = True
    for axis, (out, n) in enumerate(zip(positions, inputs, strict=True)):
        reached = np.arange(out)[:, None] + np.arange(1 - out, n)
        others = [other for other in range(2 * rank) if other not in (axis, rank + axis)]
        inside = inside & np.expand_dims((reached >= 0) & (reached < n), others)
    return np.asarray(inside)


def tie(offsets_weight: npt.ArrayLike, *, channels: bool = False) -> Array:
    """The invariant layer that is nearest to a shifted one: from rung 2 to rung 4.

    ``V[a,b] = mean of V[i,j,a,b] over the positions i,j from which (a, b) leads into the image``

    Of all kernels, this one has the least sum of squared differences from the weights of the
    layer, ``sum((from_offsets(offsets_weight) - from_offsets(untie(kernel, in))) ** 2)``.

    Parameters
    ----------
    offsets_weight : array_like, shape (*out, *offsets), or (O, *out, C, *offsets) with `channels`
        V as `to_offsets` returns it.
    channels : bool
        Whether `offsets_weight` has axes of channels.

    Returns
    -------
    ndarray, shape (*offsets), or (O, C, *offsets) with `channels`
        The kernel for `invariant`.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `offsets_weight` does not have such axes.

    See Also
    --------
    untie : the way back; ``tie(untie(kernel, shape))`` is `kernel`, within rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.tie(ladder.to_offsets(np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])))
    array([7., 6., 5., 4., 3.])
    """
    (V,) = numbers(offsets_weight=offsets_weight)
    layout, shape = Layout.of_weight("offsets_weight", V.shape, channels)
    rank = layout.rank
    positions = shape[1 : rank + 1]
    inside = np.expand_dims(_inside(positions, input_sizes(positions, shape[rank + 2 :])), rank)
    axes = tuple(range(1, rank + 1))
    total = V.reshape(shape).sum(axis=axes, where=inside[np.newaxis], dtype=sums(V.dtype))
    count = inside.sum(axis=tuple(range(rank)), dtype=total.dtype)
    mean = total / count
    return layout.kernel(mean if V.dtype.kind in "biu" else mean.astype(V.dtype, copy=False))


def untie(
    kernel: npt.ArrayLike,
    shape: SupportsIndex | Sequence[SupportsIndex],
    *,
    channels: bool = False,
) -> Array:
    """Give every position a copy of the shared kernel: from rung 4 to rung 2.

    ``V[i,j,a,b] = V[a,b]`` where (a, b) leads from i,j into the image, else 0.

    Parameters
    ----------
    kernel : array_like, shape (*offsets), or (O, C, *offsets) with `channels`
        V as `invariant` takes it; a smaller one, `extend` first.
    shape : int or sequence of int
        Sizes of the image's spatial axes.
    channels : bool
        Whether `kernel` has axes of channels.

    Returns
    -------
    ndarray, shape (*out, *offsets), or (O, *out, C, *offsets) with `channels`
        ``out = offsets - in + 1``, for `shifted`.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `kernel` has other axes, or fewer offsets than reach an image of `shape`.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.untie(np.array([1.0, 2, 3, 4, 5]), 3)
    array([[0., 0., 3., 4., 5.],
           [0., 2., 3., 4., 0.],
           [1., 2., 3., 0., 0.]])
    """
    (V,) = numbers(kernel=kernel)
    layout, full = Layout.of_kernel("kernel", V.shape, channels)
    inputs = spatial_sizes(shape, layout.rank)
    inside = _inside(output_sizes(full[2:], inputs), inputs)
    everywhere = _at_each(V.reshape(full), layout.rank)
    inside = np.expand_dims(inside, layout.rank)
    return layout.weight(np.where(inside, everywhere, V.dtype.type(0)))


def _at_each(kernel: Array, rank: int) -> Array:
    """(O, C, *kernel) as (O, *ones, C, *kernel), to be repeated over positions."""
    return np.expand_dims(kernel, tuple(range(1, rank + 1)))


def to_local(
    kernel: npt.ArrayLike,
    shape: SupportsIndex | Sequence[SupportsIndex],
    *,
    channels: bool = False,
) -> Array:
    """Give every position a copy of a small shared kernel: from rung 5 to rung 3.

    ``V[i,j,a,b] = V[a,b]``

    Parameters
    ----------
    kernel : array_like, shape (*kernel), or (O, C // groups, *kernel) with `channels`
        The kernel of `faltung.conv`.
    shape : int or sequence of int
        Output positions along each spatial axis: those of the image, if the padding keeps its size.
    channels : bool
        Whether `kernel` has axes of channels.

    Returns
    -------
    ndarray, shape (*out, *kernel), or (O, *out, C // groups, *kernel) with `channels`
        For `local` with the options of the convolution.

    Raises
    ------
    TypeError
        A dtype that `faltung.conv` does not take.
    ValueError
        `kernel` has other axes, or `shape` as many entries.

    Examples
    --------
    >>> import numpy as np
    >>> from faltung import ladder
    >>> ladder.to_local(np.array([1.0, 2, 3]), 2)
    array([[1., 2., 3.],
           [1., 2., 3.]])
    """
    (V,) = numbers(kernel=kernel)
    layout, full = Layout.of_kernel("kernel", V.shape, channels)
    positions = spatial_sizes(shape, layout.rank)
    everywhere = _at_each(V.reshape(full), layout.rank)
    repeated = np.broadcast_to(everywhere, (full[0], *positions, *full[1:]))
    return layout.weight(repeated.copy())
