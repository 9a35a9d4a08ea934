"""Transposed convolution: the adjoint of `faltung.conv`, which upsamples where that has a stride.

Every function hands its arguments to the extension as they are, as those of `faltung.functional`
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy.typing as npt

from . import _core
from ._ranks import over_ranks
from .functional import Activation, IntPerAxis, Method, Padding, PaddingMode, Precision

__all__ = ["conv_transpose", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def _conv_transpose(
    rank: int,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    output_padding: IntPerAxis = 0,
    groups: SupportsIndex = 1,
    dilation: IntPerAxis = 1,
    *,
    output_size: IntPerAxis | None = None,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    flip: bool = False,
    activation: Activation | None = None,
    channels_last: bool = False,
    dtype: npt.DTypeLike | None = None,
    accumulate: npt.DTypeLike | None = None,
    out: npt.NDArray[Any] | None = None,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
) -> npt.NDArray[Any]:
    r"""Convolve transposed: the adjoint of `conv` as a function of its input.

    If `conv` with these options is multiplication by a matrix, this is multiplication by the
    transposed matrix. Axes that `conv` with a stride makes shorter become longer by it; hence also
    "deconvolution" and "fractionally strided convolution", although it inverts nothing. `grad`'s
    `conv_input` is the same for a size that is given.

    Parameters
    ----------
    x : array_like, shape (N, C, *spatial) or (C, *spatial)
        What `conv` would give. With `channels_last`, (N, *spatial, C) or (*spatial, C). Of
        any strides, byte order, and dtype that `conv` takes.
    weight : array_like, shape (C, O // groups, *kernel)
        The weight that `conv` would take: C is its number of outputs, and O of its channels.
    bias : array_like, shape (O,), optional
        Added to each channel of the result.
    stride, dilation, flip
        Those of `conv`, whose adjoint this is.
    padding : int, one int per axis, one (before, after) pair per axis, or str
        That of `conv`: so much is cropped from the result. With ``"same"`` and ``"same_lower"``
        the result is `stride` times as long as `x`, unless `output_size` says otherwise.
    output_padding : int or one int per axis
        How much longer than necessary the result is, at its end. With a stride, `conv` gives the
        same length for several lengths; the least of them is the default. Less than the stride or
        the dilation.
    groups : int
        The channels are split into this many groups that do not see each other. Must divide C.
    output_size : int or one int per axis, optional
        The spatial size of the result, instead of `output_padding`.
    padding_mode : str or one str per axis
        That of `conv`. What padding showed of an element is added to the element, so that this is
        the exact adjoint with every mode.
    activation, channels_last, dtype, accumulate, out, method, precision, threads
        As in `conv`.

    Returns
    -------
    ndarray, shape (N, O, *output) or (O, *output), or with the channels last
        Along each axis :math:`(input - 1) stride - before - after + dilation (kernel - 1) + 1 +
        output\_padding` long [1]_. Positions that no element of the kernel reaches hold the bias.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As in `conv`; ValueError too where the result would have a length that `conv` cannot have
        come from.

    See Also
    --------
    conv : what the options mean.
    grad.conv_input : the same for the size of an input.

    Notes
    -----
    With one spatial axis and no padding, and :math:`g` the group of :math:`o`:

    .. math::

        y[n, o, q] = b[o] + \sum_{c \in g} \; \sum_{i, k: \; i \cdot stride + k \cdot dilation = q}
            w[c, o, k] \; x[n, c, i]

    No product with a zero between strides is computed: each combination of residues of `q` modulo
    the stride is a convolution of its own, with the taps that reach it. Its sum runs over c and,
    within c, over k from the last to the first, in chains of fused multiply-adds as `conv` has
    them; so the bits depend on shapes and options alone. Outside of `x` lie zeros, which are
    multiplied with the weights: with infinite weights, borders become NaN.

    PyTorch has no padding mode here but zeros; with that, the arguments are PyTorch's.

    References
    ----------
    .. [1] V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016,
       arXiv:1603.07285, relationship 14.

    Examples
    --------
    >>> import numpy as np, faltung
    >>> x = np.array([[1, 10, 100]], dtype=np.float32)
    >>> weight = np.array([[[1, 2, 3]]], dtype=np.float32)
    >>> faltung.conv_transpose(x, weight)
    array([[  1.,  12., 123., 230., 300.]], dtype=float32)
    >>> faltung.conv_transpose(x, weight, stride=2)
    array([[  1.,   2.,  13.,  20., 130., 200., 300.]], dtype=float32)
    >>> faltung.conv_transpose(x, weight, stride=2, padding="same").shape
    (1, 6)

    It is the adjoint: both of these are the same number.

    >>> y = np.array([[3, 1, 4, 1, 5, 9, 2]], dtype=np.float32)
    >>> float((faltung.conv(y, weight, stride=2) * x).sum())
    3127.0
    >>> float((y * faltung.conv_transpose(x, weight, stride=2)).sum())
    3127.0
    """
    return _core.conv_transpose(
        rank, x, weight, bias, stride, padding, output_padding, groups, dilation, output_size,
        padding_mode, flip, activation, channels_last, dtype, accumulate, out, method, precision,
        threads, None,
    )  # fmt: skip


conv_transpose, conv_transpose1d, conv_transpose2d, conv_transpose3d = over_ranks(
    "conv_transpose{}",
    _conv_transpose,
    [
        """
    >>> import numpy as np, faltung
    >>> x = np.array([[1, 2, 4]], dtype=np.float32)
    >>> tent = np.array([[[0.5, 1, 0.5]]], dtype=np.float32)

    Twice as many samples, those between as means:

    >>> faltung.conv_transpose1d(x, tent, stride=2, padding=1)
    array([[1. , 1.5, 2. , 3. , 4. ]], dtype=float32)
    >>> faltung.conv_transpose1d(x, tent, stride=2, padding=1, output_padding=1)
    array([[1. , 1.5, 2. , 3. , 4. , 2. ]], dtype=float32)
    """,
        """
    Each pixel becomes a block of four:

    >>> import numpy as np, faltung
    >>> x = np.array([[[1, 2], [3, 4]]], dtype=np.float32)
    >>> faltung.conv_transpose2d(x, np.ones((1, 1, 2, 2), np.float32), stride=2)
    array([[[1., 1., 2., 2.],
            [1., 1., 2., 2.],
            [3., 3., 4., 4.],
            [3., 3., 4., 4.]]], dtype=float32)
    """,
        """
    >>> import numpy as np, faltung
    >>> x = np.ones((16, 4, 8, 8), dtype=np.float32)
    >>> weight = np.ones((16, 5, 3, 3, 3), dtype=np.float32)
    >>> faltung.conv_transpose3d(x, weight, stride=2, padding=1, output_size=(8, 16, 16)).shape
    (5, 8, 16, 16)
    """,
    ],
)
