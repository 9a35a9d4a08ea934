"""From the fully connected layer to the convolution, one rung at a time.

A fully connected layer on images has a number of its own for every pair of an output position and
an input position. Four steps make it the convolutional layer, and every rung is a function:

====  =================  ===================================================================
rung  function           hidden image H of the image X
====  =================  ===================================================================
1     `dense`            H[i,j] = U[i,j] + sum over k,l of W[i,j,k,l] X[k,l]
2     `shifted`          H[i,j] = U[i,j] + sum over a,b of V[i,j,a,b] X[i+a,j+b]: the same
                         weights, told by how far they look
3     `local`            the same, but nobody looks further than delta: abs(a), abs(b) <= delta
4     `invariant`        H[i,j] = u + sum over a,b of V[a,b] X[i+a,j+b]: all look alike
5     `faltung.conv2d`   both: the convolutional layer, `padding` = delta, with channels
====  =================  ===================================================================

Between the rungs lead `to_offsets` and `from_offsets` (1 to 2 and back), `truncate` and `extend`
(2 to 3, 4 to 5 and back), `tie` and `untie` (2 to 4 and back), `to_local` (5 to 3) and `as_matrix`
(5 to 1). On integers, rungs that should agree do so exactly. `parameters` counts their weights.

All functions take any number of spatial axes and of leading batch axes, in float32 and float64,
which combine as in NumPy. Whether there are channels is said, never guessed: a weight has spatial
axes alone, ``(*out, *in)``, and images are ``(..., *in)``; with ``channels=True`` an axis of
channels leads each half of the weight, ``(O, *out, C, *in)``, and the spatial axes of images,
``(..., C, *in)``. The number of axes of the weight then tells the number of spatial axes.

The steps are those of A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning",
2023, section 7.1, https://d2l.ai/chapter_convolutional-neural-networks/why-conv.html.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from . import _core
from ._arrays import floats, ints, per_axis
from .functional import IntPerAxis, Padding, PaddingMode, conv, output_shape

__all__ = [
    "Parameters",
    "as_matrix",
    "dense",
    "extend",
    "from_offsets",
    "invariant",
    "local",
    "local_input",
    "local_transpose",
    "local_weight",
    "parameters",
    "shifted",
    "tie",
    "to_local",
    "to_offsets",
    "truncate",
    "untie",
]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


# -------------------------------------------------------------------------------- what rungs share


def _positions(shape: SupportsIndex | Sequence[SupportsIndex], rank: int | None = None) -> Shape:
    """`shape` as the sizes of spatial axes."""
    sizes = ints(shape)
    if not sizes or min(sizes) < 1 or rank not in (None, len(sizes)):
        axes = "spatial" if rank is None else f"the {rank} spatial"
        raise ValueError(f"shape is {sizes}, but must be the sizes of {axes} axes, each at least 1")
    return sizes


def _rank(name: str, shape: Shape, halves: int, channels: bool) -> int:
    """Spatial axes of a kernel, or of a weight that has them once for outputs, once for inputs."""
    rank, odd = divmod(len(shape) - 2 * channels, halves)
    if odd or rank < 1:
        plain, full = {
            1: ("(*kernel)", "(O, C, *kernel)"),
            2: ("(*out, *in)", "(O, *out, C, *in)"),
        }[halves]
        expected = f"{full}; leave channels=True out for" if channels else plain + "; for"
        other = plain if channels else f"{full} pass channels=True"
        raise ValueError(f"{name} has {len(shape)} axes {shape}, not {expected} {other}")
    return rank


@dataclass(frozen=True)
class _Layout:
    """Leads the caller's arrays to the form that has batch and channels, and back."""

    rank: int
    channels: bool

    @staticmethod
    def of_weight(name: str, shape: Shape, channels: bool) -> tuple[_Layout, Shape]:
        """The layout, and the shape of the weight as (O, *out, C, *in)."""
        rank = _rank(name, shape, 2, channels)
        full = shape if channels else (1, *shape[:rank], 1, *shape[rank:])
        if 0 in full[1 : rank + 1] + full[rank + 2 :]:
            raise ValueError(
                f"{name} has shape {shape}, with a spatial axis of length 0; "
                "pass at least one position and one tap along each axis"
            )
        return _Layout(rank, channels), full

    @staticmethod
    def of_kernel(name: str, shape: Shape, channels: bool) -> tuple[_Layout, Shape]:
        """The layout, and the shape of the kernel as (O, C, *kernel)."""
        rank = _rank(name, shape, 1, channels)
        full = shape if channels else (1, 1, *shape)
        if 0 in full[2:]:
            raise ValueError(
                f"{name} is empty (shape {shape}); pass at least one tap along each axis"
            )
        return _Layout(rank, channels), full

    def batch(self, name: str, shape: Shape) -> Shape:
        """The leading batch axes of images of `shape`."""
        own = self.rank + self.channels
        if len(shape) < own:
            layout = "(..., C, *spatial)" if self.channels else "(..., *spatial)"
            raise ValueError(
                f"{name} has {len(shape)} axes (shape {shape}), but this weight has {self.rank} "
                f"spatial axes: pass {name} as {layout}, with at least {own} axes"
            )
        return shape[: len(shape) - own]

    def images_shape(self, name: str, shape: Shape) -> Shape:
        """`shape` as (N, C, *spatial)."""
        batch = self.batch(name, shape)
        own = shape[len(batch) :]
        return (math.prod(batch), *(own if self.channels else (1, *own)))

    def images(self, name: str, x: Array, expected: Shape | None = None) -> Array:
        """Images as (N, C, *spatial), with (C, *spatial) as `expected`."""
        shape = self.images_shape(name, x.shape)
        if expected is not None and shape[1:] != expected:
            wanted = expected if self.channels else expected[1:]
            raise ValueError(
                f"{name} has shape {x.shape}, but this weight takes (..., "
                f"{', '.join(map(str, wanted))}): pass such images, or a weight for these"
            )
        return x.reshape(shape)

    def gradient(self, gradient: Array, batch: Shape, weight: Shape) -> Array:
        """A gradient of the result for this `weight` as (N, O, *out)."""
        images = self.images("grad_output", gradient, weight[: self.rank + 1])
        if self.batch("grad_output", gradient.shape) != batch:
            raise ValueError(
                f"grad_output has shape {gradient.shape}, but x has batch axes {batch}: "
                "pass the same for both"
            )
        return images

    def restore(self, result: Array, batch: Shape) -> Array:
        """(N, O, *out) with the caller's batch axes, and channels only where the caller has any."""
        return result.reshape(*batch, *result.shape[1 if self.channels else 2 :])

    def weight(self, weight: Array) -> Array:
        """(O, *out, C, *in), without its channels where the caller has none."""
        return weight if self.channels else weight[0].squeeze(self.rank)

    def kernel(self, kernel: Array) -> Array:
        """(O, C, *kernel), without its channels where the caller has none."""
        return kernel if self.channels else kernel[0, 0]

    def add_bias(self, result: Array, bias: Array | None) -> Array:
        """Adds U, one number for each output position, in place."""
        if bias is None:
            return result
        shape = result.shape[1:] if self.channels else result.shape[2:]
        fits = bias.ndim in (0, len(shape)) and all(
            n in (1, size) for n, size in zip(bias.shape, shape, strict=bias.ndim > 0)
        )
        if not fits:
            raise ValueError(
                f"bias has shape {bias.shape}, but the layer has outputs {shape}: pass one number, "
                "or that shape, in which axes of length 1 are repeated"
            )
        result += bias
        return result


# ------------------------------------------------------------------------------- 1: fully connected


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
        Images X, float32 or float64.
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
        A dtype other than float32 and float64.
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
    X, W, U = floats(x=x, weight=weight, bias=bias)
    layout, shape = _Layout.of_weight("weight", W.shape, channels)
    W = W.reshape(shape)
    rank, outputs = layout.rank, W.shape[: layout.rank + 1]
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X, W.shape[rank + 1 :])
    inputs = math.prod(images.shape[1:])
    matrix = W.reshape(math.prod(outputs), inputs)
    result = images.reshape(len(images), inputs) @ matrix.T
    result = layout.add_bias(result.reshape(len(images), *outputs), U)
    return layout.restore(result, batch)


# ---------------------------------------------------------------------- 2: the same, told by offset


def _by_input(offsets_weight: Array, rank: int) -> Array:
    """The view ``view[o, i, c, k] = offsets_weight[o, i, c, k - i + (out - 1)]``.

    It re-indexes V by the input position k = i + a, which touches exactly those entries of V whose
    offset reaches the image: W and V are two names for the same numbers.
    """
    positions = offsets_weight.shape[1 : rank + 1]
    inputs = _inputs(positions, offsets_weight.shape[rank + 2 :])
    step = offsets_weight.strides
    # A step to the next position with k held fast is a step to the offset before.
    diagonal = tuple(step[1 + axis] - step[2 + rank + axis] for axis in range(rank))
    from_zero: Any = (..., *(slice(size - 1, None) for size in positions))
    return as_strided(
        offsets_weight[from_zero],
        (*offsets_weight.shape[: rank + 2], *inputs),
        (step[0], *diagonal, *step[rank + 1 :]),
    )


def _inputs(positions: Shape, offsets: Shape) -> Shape:
    """The sizes of the image that all `offsets` from all `positions` reach."""
    inputs = tuple(many - out + 1 for out, many in zip(positions, offsets, strict=True))
    if min(inputs) < 1:
        raise ValueError(
            f"offsets_weight has {offsets} offsets at {positions} positions, but an image of n has "
            f"positions + n - 1 of them along an axis; is this the weight of `local`? "
            "extend it, or call `local`"
        )
    return inputs


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
        A dtype other than float32 and float64.
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
    (W,) = floats(weight=weight)
    layout, shape = _Layout.of_weight("weight", W.shape, channels)
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
        A dtype other than float32 and float64.
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
    (V,) = floats(offsets_weight=offsets_weight)
    layout, shape = _Layout.of_weight("offsets_weight", V.shape, channels)
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
        Images X, float32 or float64.
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
        A dtype other than float32 and float64.
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
    X, V, U = floats(x=x, offsets_weight=offsets_weight, bias=bias)
    layout, shape = _Layout.of_weight("offsets_weight", V.shape, channels)
    rank = layout.rank
    positions = shape[1 : rank + 1]
    inputs = _inputs(positions, shape[rank + 2 :])
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X, (shape[rank + 1], *inputs))
    # A window of all offsets around every position: a local layer without a bound.
    window = _Window(1, [(size - 1, size - 1) for size in positions], 1, 1, "zeros")
    result = window.apply(images, V.reshape(shape), threads)
    return layout.restore(layout.add_bias(result, U), batch)


# ----------------------------------------------------------------------------------------- 3: local


@dataclass(frozen=True)
class _Window:
    """Where the windows of a local layer lie: the options of `faltung.conv`, in its order."""

    stride: IntPerAxis
    padding: Padding
    dilation: IntPerAxis
    groups: SupportsIndex
    padding_mode: PaddingMode | Sequence[PaddingMode]

    def within(self, delta: IntPerAxis | None, kernel: Shape) -> _Window:
        """The windows whose taps lie at the offsets from -delta to delta, if there is a delta."""
        if delta is None:
            return self
        if not np.isscalar(self.padding) or self.padding != 0:
            raise ValueError("delta decides the padding; pass delta or padding, not both")
        limits = _deltas(delta, len(kernel))
        if tuple(2 * limit + 1 for limit in limits) != kernel:
            raise ValueError(
                f"delta is {delta}, but the kernels of weight have shape {kernel}; pass kernels of "
                f"{tuple(2 * limit + 1 for limit in limits)} (2 * delta + 1), or another delta"
            )
        return replace(self, padding=self.reach(limits))

    def reach(self, limits: Shape) -> Shape:
        """How far in the image the offsets up to `limits` lead."""
        steps = ints(per_axis("dilation", self.dilation, len(limits)))
        return tuple(limit * step for limit, step in zip(limits, steps, strict=True))

    def options(self) -> tuple[Any, Any, Any, Any, Any]:
        """As the extension takes them."""
        return self.stride, self.padding, self.dilation, self.groups, self.padding_mode

    def check(self, images: Shape, weight: Shape, delta: IntPerAxis | None = None) -> None:
        """Refuse shapes, with batch and channels, that do not fit together."""
        rank = len(images) - 2
        positions, channels, kernel = weight[1 : rank + 1], weight[rank + 1], weight[rank + 2 :]
        *options, mode = self.options()
        groups = operator.index(self.groups)
        if images[1] != channels * groups:
            raise ValueError(
                f"x has {images[1]} channels, but weight expects {channels * groups}: {channels} "
                f"(its axis after the positions) * {groups} groups; without channels groups is 1"
            )
        size = output_shape(images, (weight[0], channels, *kernel), *options, padding_mode=mode)[2:]
        if delta is not None:
            _reachable(delta, self.reach(_deltas(delta, rank)), images[2:])
        if size != positions:
            raise ValueError(
                f"weight has kernels for {positions} positions, but these options make {size} of "
                f"an image of {images[2:]}; pass weight with one kernel for each, or other options"
            )

    def apply(self, images: Array, weight: Array, threads: SupportsIndex | None) -> Array:
        """The sums of a layer that has been checked."""
        return _core.local(_plain(images), _plain(weight), *self.options(), threads)

    def to_input(
        self, images: Shape, weight: Array, gradient: Array, threads: SupportsIndex | None
    ) -> Array:
        """Its adjoint, on images of that shape."""
        weight, gradient = _plain(weight), _plain(gradient)
        return _core.local_input(images, weight, gradient, *self.options(), threads)

    def to_weight(
        self, images: Array, weight: Shape, gradient: Array, threads: SupportsIndex | None
    ) -> Array:
        """Its gradient with respect to a weight of that shape."""
        images, gradient = _plain(images), _plain(gradient)
        return _core.local_weight(images, weight, gradient, *self.options(), threads)


def _plain(array: Array) -> Array:
    """The array as the extension takes it: C order, aligned; without a copy if it is so."""
    return np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"])


def _deltas(delta: IntPerAxis, rank: int) -> Shape:
    """The largest offset along each axis."""
    limits = ints(per_axis("delta", delta, rank))
    if min(limits) < 0:
        raise ValueError(f"delta is {delta}, but the largest offset is at least 0")
    return limits


def _reachable(delta: IntPerAxis, reach: Shape, size: Shape) -> None:
    """Refuse a delta whose furthest offsets meet no pixel of an image of `size` from anywhere."""
    if any(offset >= n for offset, n in zip(reach, size, strict=True)):
        limit = tuple(n - 1 for n in size)
        raise ValueError(
            f"delta is {delta}, which looks {reach} far, but nothing in an image of {size} is "
            f"further than {limit} away; pass a smaller delta"
        )


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
        Images X, float32 or float64.
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
        A dtype other than float32 and float64, or an argument of the wrong type.
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
    X, W, U = floats(x=x, weight=weight, bias=bias)
    layout, shape = _Layout.of_weight("weight", W.shape, channels)
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X)
    window = _Window(stride, padding, dilation, groups, padding_mode)
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
        What `local` would return, float32 or float64.
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
    X, W, U = floats(x=x, weight=weight, bias=bias)
    layout, shape = _Layout.of_weight("weight", W.shape, channels)
    rank = layout.rank
    kernel = shape[rank + 2 :]
    batch = layout.batch("x", X.shape)
    gathered = layout.images("x", X, shape[: rank + 1])
    window = _Window(stride, padding, dilation, groups, padding_mode).within(delta, kernel)
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
        V, float32 or float64.
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
    W, G = floats(weight=weight, grad_output=grad_output)
    layout, shape = _Layout.of_weight("weight", W.shape, channels)
    size = ints(input_size)
    batch = layout.batch("input_size", size)
    images = layout.images_shape("input_size", size)
    window = _Window(stride, padding, dilation, groups, padding_mode)
    window = window.within(delta, shape[layout.rank + 2 :])
    window.check(images, shape, delta)
    gradient = layout.gradient(G, batch, shape)
    result = window.to_input(images, W.reshape(shape), gradient, threads)
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
        X, float32 or float64.
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
    X, G = floats(x=x, grad_output=grad_output)
    layout, shape = _Layout.of_weight("weight_size", ints(weight_size), channels)
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X)
    window = _Window(stride, padding, dilation, groups, padding_mode)
    window = window.within(delta, shape[layout.rank + 2 :])
    window.check(images.shape, shape, delta)
    gradient = layout.gradient(G, batch, shape)
    result = window.to_weight(images, shape, gradient, threads)
    return layout.weight(result)


# ------------------------------------------------------------------------- 4: translation invariant


def invariant(
    x: npt.ArrayLike,
    kernel: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    channels: bool = False,
    threads: SupportsIndex | None = None,
) -> Array:
    """Rung 4: one kernel of all offsets for every position; a shifted image shifts the result.

    ``H[i,j] = u + sum over all a,b of V[a,b] X[i+a,j+b]``

    where X is 0 outside the image. With channels there is a sum over c of ``V[d,c,a,b]
    X[c,i+a,j+b]``, and one ``u[d]`` for each output channel.

    Parameters
    ----------
    x : array_like, shape (..., *in), or (..., C, *in) with `channels`
        Images X, float32 or float64.
    kernel : array_like, shape (*offsets), or (O, C, *offsets) with `channels`
        V, for every offset that reaches the image: ``2 * in - 1`` of them along an axis, offset 0
        in the middle. In general ``out + in - 1``, as `to_offsets` has them.
    bias : float, or array_like of shape (O,) with `channels`, optional
        u, one for all positions.
    channels : bool
        Whether the arrays have axes of channels.
    threads : int, optional
        As in `faltung.conv`.

    Returns
    -------
    ndarray, shape (..., *out), or (..., O, *out) with `channels`
        ``out = offsets - in + 1``.

    Raises
    ------
    TypeError
        A dtype other than float32 and float64.
    ValueError
        Shapes that do not fit together, as a kernel that is shorter than the image: it belongs to
        `faltung.conv`, or to `extend`.

    Notes
    -----
    It is `faltung.conv` with enough padding for every offset.

    Examples
    --------
    What an image of one bright pixel gives is the kernel, seen from that pixel:

    >>> import numpy as np
    >>> from faltung import ladder
    >>> kernel = np.array([1.0, 2, 3, 4, 5])
    >>> ladder.invariant(np.array([1.0, 0, 0]), kernel)
    array([3., 2., 1.])
    >>> ladder.invariant(np.array([0.0, 1, 0]), kernel)
    array([4., 3., 2.])
    """
    X, V, U = floats(x=x, kernel=kernel, bias=bias)
    layout, shape = _Layout.of_kernel("kernel", V.shape, channels)
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X)
    padding = [(out - 1, out - 1) for out in _outputs(shape[2:], images.shape[2:])]
    if U is not None:
        if U.shape not in ((), shape[:1] if channels else ()):
            raise ValueError(
                f"bias has shape {U.shape}, but one number serves all positions: pass "
                + (f"shape {shape[:1]}, one for each output channel" if channels else "a number")
            )
        U = np.broadcast_to(U, shape[:1])
    result = conv(images, V.reshape(shape), U, padding=padding, threads=threads)
    return layout.restore(result, batch)


def _outputs(offsets: Shape, inputs: Shape) -> Shape:
    """How many positions a kernel of all `offsets` stands for on an image of `inputs`."""
    outputs = tuple(many - n + 1 for many, n in zip(offsets, inputs, strict=True))
    if min(outputs) < 1 or min(inputs) < 1:
        raise ValueError(
            f"kernel has {offsets} offsets, fewer than reach an image of {inputs}, which are "
            f"{tuple(2 * n - 1 for n in inputs)}; extend it, or call faltung.conv with padding"
        )
    return outputs


# ------------------------------------------------------------------------------- between the rungs


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
        A dtype other than float32 and float64.
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
    (W,) = floats(weight=weight)
    if shared:
        layout, shape = _Layout.of_kernel("weight", W.shape, channels)
        zero = _middle("weight", shape[2:])
        size = tuple(limit + 1 for limit in zero)
    else:
        layout, shape = _Layout.of_weight("weight", W.shape, channels)
        positions = shape[1 : layout.rank + 1]
        zero = tuple(n - 1 for n in positions)
        size = tuple(map(min, positions, _inputs(positions, shape[layout.rank + 2 :])))
    limits = _deltas(delta, layout.rank)
    _reachable(delta, limits, size)
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
        A dtype other than float32 and float64.
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
    (W,) = floats(weight=weight)
    if shared:
        layout, full = _Layout.of_kernel("weight", W.shape, channels)
        rank, inputs = layout.rank, _positions(shape, layout.rank)
        kernel, positions = full[2:], inputs
    else:
        layout, full = _Layout.of_weight("weight", W.shape, channels)
        rank, inputs = layout.rank, _positions(shape, layout.rank)
        kernel, positions = full[layout.rank + 2 :], full[1 : layout.rank + 1]
    limits = _middle("weight", kernel)
    _reachable(limits, limits, tuple(map(min, positions, inputs)))
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
        A dtype other than float32 and float64.
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
    (V,) = floats(offsets_weight=offsets_weight)
    layout, shape = _Layout.of_weight("offsets_weight", V.shape, channels)
    rank = layout.rank
    positions = shape[1 : rank + 1]
    inside = np.expand_dims(_inside(positions, _inputs(positions, shape[rank + 2 :])), rank)
    axes = tuple(range(1, rank + 1))
    total = V.reshape(shape).sum(axis=axes, where=inside[np.newaxis])
    count = inside.sum(axis=tuple(range(rank)), dtype=V.dtype)
    return layout.kernel(total / count)


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
        A dtype other than float32 and float64.
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
    (V,) = floats(kernel=kernel)
    layout, full = _Layout.of_kernel("kernel", V.shape, channels)
    inputs = _positions(shape, layout.rank)
    inside = _inside(_outputs(full[2:], inputs), inputs)
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
        The kernel of `faltung.conv`, float32 or float64.
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
        A dtype other than float32 and float64.
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
    (V,) = floats(kernel=kernel)
    layout, full = _Layout.of_kernel("kernel", V.shape, channels)
    positions = _positions(shape, layout.rank)
    everywhere = _at_each(V.reshape(full), layout.rank)
    repeated = np.broadcast_to(everywhere, (full[0], *positions, *full[1:]))
    return layout.weight(repeated.copy())


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
        The kernel of `faltung.conv`, float32 or float64.
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
        A dtype other than float32 and float64, or an argument of the wrong type.
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
    (V,) = floats(kernel=kernel)
    layout, shape = _Layout.of_kernel("kernel", V.shape, channels)
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
        indices, at_tap, None, stride, padding, dilation, padding_mode=padding_mode, flip=flip
    )
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


# ---------------------------------------------------------------------------------- what rungs cost


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
    sizes = _positions(shape)
    limits = _deltas(delta, len(sizes))
    _reachable(delta, limits, sizes)
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
