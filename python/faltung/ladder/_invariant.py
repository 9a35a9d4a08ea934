"""Rung 4: the translation invariant layer."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from .._arrays import numbers
from ..functional import conv
from ._layout import Array, Layout
from ._offsets import output_sizes

__all__ = ["invariant"]


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
        Images X.
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
        A dtype that `faltung.conv` does not take.
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
    X, V, U = numbers(x=x, kernel=kernel, bias=bias)
    layout, shape = Layout.of_kernel("kernel", V.shape, channels)
    batch = layout.batch("x", X.shape)
    images = layout.images("x", X)
    padding = [(out - 1, out - 1) for out in output_sizes(shape[2:], images.shape[2:])]
    if U is not None:
        if U.shape not in ((), shape[:1] if channels else ()):
            raise ValueError(
                f"bias has shape {U.shape}, but one number serves all positions: pass "
                + (f"shape {shape[:1]}, one for each output channel" if channels else "a number")
            )
        U = np.broadcast_to(U, shape[:1])
    # The plain sum: rungs that should agree do so exactly.
    weight = V.reshape(shape)
    result = conv(images, weight, U, padding=padding, method="direct", threads=threads)
    return layout.restore(result, batch)
