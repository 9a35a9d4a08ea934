"""Convolution of NumPy arrays as plain functions.

Every function here hands its arguments to the extension as they are: parsing and checking happen
there, once, so that a small call is not spent in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import numpy.typing as npt

from . import _core

__all__ = [
    "config",
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "get_num_threads",
    "output_shape",
    "set_num_threads",
]

IntPerAxis = SupportsIndex | Sequence[SupportsIndex]
Padding = (
    IntPerAxis
    | Sequence[Sequence[SupportsIndex]]
    | Literal["valid", "same", "same_lower", "full", "causal"]
)
PaddingMode = Literal[
    "zeros", "constant", "reflect", "symmetric", "replicate", "edge", "circular", "wrap"
]
Activation = Literal["relu"] | tuple[Literal["clip"], float, float]
Method = Literal["auto", "direct", "fft", "winograd", "separable", "pointwise"]
Precision = Literal["high", "fast", "exact"]


def conv(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: complex = 0,
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
    r"""Convolve over any number of spatial axes, taken from ``weight.ndim - 2``.

    This is what deep learning calls convolution: cross-correlation over the spatial axes, summed
    over the input channels. ``flip=True`` gives the convolution of mathematics instead.

    Parameters
    ----------
    x : array_like, shape (N, C, *spatial) or (C, *spatial)
        N images (signals, volumes) of C channels, or a single one. With `channels_last`,
        (N, *spatial, C) or (*spatial, C). Of any strides, byte order, and dtype in the notes.
    weight : array_like, shape (O, C // groups, *kernel)
        O kernels, one for each output channel; the same order of axes in both layouts.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride : int or one int per spatial axis
        Distance between neighbouring outputs, in elements of the input; at least 1.
    padding : int, one int per axis, one (before, after) pair per axis, or str
        Elements that are put around the input. Negative ones crop it, before anything is padded.

        ========================  ================================================================
        ``"valid"``               none
        ``"same"``                output = ceil(input / stride); an odd element goes after the
                                  input. This is TensorFlow's rule
        ``"same_lower"``          as ``"same"``, the odd element before the input
        ``"full"``                ``dilation * (kernel - 1)`` on both sides: wherever they touch
        ``"causal"``              ``dilation * (kernel - 1)``, all before: no output sees later
                                  input
        ========================  ================================================================
    dilation : int or one int per spatial axis
        Distance between neighbouring elements of the kernel, in elements of the input; at least 1.
    groups : int
        The channels are split into this many groups that do not see each other. With
        ``groups == C`` the convolution is depthwise. Must divide C and O.
    padding_mode : str or one str per spatial axis
        What the padding holds, in the words of `numpy.pad` and of PyTorch alike.

        ============================  ============================================================
        ``"zeros"``, ``"constant"``   `padding_value`
        ``"reflect"``                 ``c b | a b c | b a``, the edge once
        ``"symmetric"``               ``b a | a b c | c b``, the edge twice
        ``"replicate"``, ``"edge"``   ``a a | a b c | c c``
        ``"circular"``, ``"wrap"``    ``b c | a b c | a b``
        ============================  ============================================================

        `scipy.ndimage` says "mirror" for what is ``"reflect"`` here, and "reflect" for what is
        ``"symmetric"`` here.
    padding_value : float, int or complex
        The constant of ``"zeros"`` and ``"constant"``.
    flip : bool
        Flip the kernels along every spatial axis.
    activation : "relu", ("clip", low, high) or None
        Applied to the sum and its bias as they are stored: ``numpy.maximum(y, 0)`` or
        ``numpy.clip(y, low, high)``. NaN stays NaN. It sees the sum as `accumulate` keeps it, so
        that of uint8 arrays ``("clip", 0, 255)`` saturates.
    channels_last : bool
        The channels are the last axis of `x` and of the result.
    dtype : dtype, optional
        That of the result; by default `numpy.result_type` of `x`, `weight` and `bias`. An integer
        too large for it wraps as `numpy.ndarray.astype` has it: nine times 200 is 8 in uint8 and
        1800 in int16. A float is cut off towards zero in an integer.
    accumulate : dtype, optional
        What sums are kept in: int32, int64, float32, float64, complex64 or complex128, no narrower
        than the arrays. By default int32, or int64 for results of 64 bits; float32, or float64
        for those and for integers of more than 16 bits beside floats.
    out : ndarray, optional
        Receives the result and is returned. It must have exactly the shape and dtype of the
        result and not overlap an input; any strides will do.
    method : {"auto", "direct", "fft", "winograd", "separable", "pointwise"}
        ``"auto"`` chooses from shapes, dtypes and, where it may pay, whether kernels of a single
        channel are products of one vector an axis; never from the machine. ``"direct"`` is the
        plain sum, ``"fft"`` products of transforms: faster for long kernels, with an error that is
        small beside the largest outputs rather than beside each. ``"winograd"`` transforms small
        tiles along axes with three taps and a stride of 1, with two thirds of the products on each
        (S. Winograd, 1980): faster for many channels, with the error that ``docs/accuracy.md``
        tells. ``"separable"`` is passes along the axes, for kernels that are such products to
        within rounding. ``"pointwise"`` sums over channels a tap at a time, then moves and adds
        what came of each (kn2row; in gradients of inputs a product and col2im): faster from many
        channels to few, without a stride but in gradients. `explain` tells what is chosen, and why.
    precision : {"high", "fast", "exact"}
        What methods may allow themselves in floats; integers are always exact. ``"high"``: errors
        that are mostly beside the plain sum's, and within three times them. ``"fast"``:
        ``"winograd"`` may compute four outputs of an axis from six products, too, instead of two
        from four: faster, with some four times the plain sum's error. ``"exact"``: the plain sum,
        in its own order; another method is refused. ``docs/accuracy.md`` has bounds and figures.
    threads : int, optional
        How many threads at most work on this call; else as `set_num_threads` says. The result
        has the same bits for any number.

    Returns
    -------
    ndarray, shape (N, O, *output) or (O, *output), or with the channels last
        `out` if given, else a new C-contiguous array. Its dtype is `dtype`, or `numpy.result_type`
        of `x`, `weight` and `bias`; see `output_shape` for its shape.

    Raises
    ------
    TypeError
        A dtype that holds no numbers (object, datetime, structured) or extended ones, a `dtype` or
        `accumulate` that is too narrow, or an argument of the wrong type.
    ValueError
        Shapes or values that do not fit together, an empty output axis, a kernel larger than
        the padded input, an `out` that does not fit or overlaps an input.
    MemoryError
        The result could not be allocated.
    KeyboardInterrupt
        Ctrl-C during the call; what `out` then holds is undefined.

    See Also
    --------
    conv1d, conv2d, conv3d : the same for one number of axes, which they check.
    output_shape : the shape of the result, without computing it.

    Notes
    -----
    With one spatial axis, :math:`x` padded, and :math:`g` the group of output channel :math:`o`
    (each further axis has an index like :math:`i` and :math:`k`):

    .. math::

        y[n, o, i] = b[o] + \sum_{c=0}^{C/groups - 1} \sum_k
            w[o, c, k] \; x[n, g C/groups + c, i \cdot stride + k \cdot dilation]

    and the output has :math:`\lfloor (padded - dilation (kernel - 1) - 1) / stride \rfloor + 1`
    elements along the axis [1]_.

    Each output is computed with fused multiply-adds in an order that depends on the shape of the
    kernel and on C / groups alone. Hence the same bits for any number of threads, any layout of
    the arrays, any instruction set, and for a batch and its single images. Nothing but the
    elements under its window enters an output: NaN and infinities do not spread beyond it.

    Arrays may be of bool, int8 to int64, uint8 to uint64, float16, float32, float64, complex64,
    complex128, and of bfloat16 where the package ml_dtypes is installed. Integers are exact modulo
    2**n in a result of n bits, whatever `accumulate` holds more; bool says whether any product is
    true. float16 and bfloat16 are summed in float32 and rounded once. Complex numbers are summed by
    three real products of their parts, or four where `precision` or `method` asks for the plain
    sum. What is wider than float64 is computed in that only where
    `dtype` or `accumulate` names it (or complex128), and then gives it.

    References
    ----------
    .. [1] V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016,
       arXiv:1603.07285, relationships 6 and 15.

    Examples
    --------
    Sums over 2 x 2 x 2 blocks of a volume:

    >>> import numpy as np, faltung
    >>> volume = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
    >>> block = np.ones((1, 1, 2, 2, 2), dtype=np.float32)
    >>> faltung.conv(volume, block, stride=2)
    array([[[[ 84., 100.],
             [148., 164.]],
    <BLANKLINE>
            [[340., 356.],
             [404., 420.]]]], dtype=float32)

    Pictures of bytes, whose sums need more than bytes:

    >>> picture = np.full((1, 3, 3), 200, dtype=np.uint8)
    >>> box = np.ones((1, 1, 3, 3), dtype=np.uint8)
    >>> faltung.conv(picture, box), faltung.conv(picture, box, dtype=np.int32)
    (array([[[8]]], dtype=uint8), array([[[1800]]], dtype=int32))

    Four spatial axes work as one does:

    >>> faltung.conv(np.ones((2, 3, 3, 3, 3)), np.ones((5, 2, 2, 2, 2, 2))).shape
    (5, 2, 2, 2, 2)

    Depthwise, every channel with a kernel of its own; padding that differs by side:

    >>> x = np.array([[1, 2, 4], [1, 3, 9]], dtype=np.float64)
    >>> kernels = np.array([[[-1, 1]], [[1, 1]]], dtype=np.float64)
    >>> faltung.conv(x, kernels, padding=[(1, 0)], groups=2)
    array([[ 1.,  1.,  2.],
           [ 1.,  4., 12.]])
    """
    return _core.conv(
        0, x, weight, bias, stride, padding, dilation, groups, padding_mode, padding_value, flip,
        activation, channels_last, dtype, accumulate, out, method, precision, threads, None,
    )  # fmt: skip


def conv1d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: complex = 0,
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
    """Convolve signals: `conv` over exactly one spatial axis.

    Parameters
    ----------
    x : array_like, shape (N, C, W) or (C, W)
        Signals of W samples; (N, W, C) or (W, C) with `channels_last`.
    weight : array_like, shape (O, C // groups, kW)
        One kernel of kW samples for each output channel.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride, padding, dilation, groups, padding_mode, padding_value, flip, activation, \
channels_last, dtype, accumulate, out, method, precision, threads
        As in `conv`.

    Returns
    -------
    ndarray, shape (N, O, oW) or (O, oW); (N, oW, O) or (oW, O) with `channels_last`

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv`; ValueError too if `weight` has other than three axes.

    See Also
    --------
    conv : what every parameter means, the formula and its source.

    Examples
    --------
    >>> import numpy as np, faltung
    >>> x = np.array([[1, 2, 4, 8]], dtype=np.float32)
    >>> difference = np.array([[[-1, 0, 1]]], dtype=np.float32)
    >>> faltung.conv1d(x, difference)
    array([[3., 6.]], dtype=float32)
    >>> faltung.conv1d(x, difference, padding="same", padding_mode="edge")
    array([[1., 3., 6., 4.]], dtype=float32)
    >>> faltung.conv1d(x, difference, padding=1, activation="relu")
    array([[2., 3., 6., 0.]], dtype=float32)
    >>> faltung.conv1d(x, difference, padding="causal")
    array([[1., 2., 3., 6.]], dtype=float32)
    """
    return _core.conv(
        1, x, weight, bias, stride, padding, dilation, groups, padding_mode, padding_value, flip,
        activation, channels_last, dtype, accumulate, out, method, precision, threads, None,
    )  # fmt: skip


def conv2d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: complex = 0,
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
    """Convolve images: `conv` over exactly two spatial axes.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
        Images of H rows and W columns; (N, H, W, C) or (H, W, C) with `channels_last`.
    weight : array_like, shape (O, C // groups, kH, kW)
        One kernel of kH rows and kW columns for each output channel.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride, padding, dilation, groups, padding_mode, padding_value, flip, activation, \
channels_last, dtype, accumulate, out, method, precision, threads
        As in `conv`.

    Returns
    -------
    ndarray, shape (N, O, oH, oW) or (O, oH, oW)
        (N, oH, oW, O) or (oH, oW, O) with `channels_last`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv`; ValueError too if `weight` has other than four axes.

    See Also
    --------
    conv : what every parameter means, the formula and its source.

    Examples
    --------
    Where a picture of 3 channels gets brighter to the right, in the sum of its channels:

    >>> import numpy as np, faltung
    >>> row = np.array([0, 0, 5, 5], dtype=np.float32)
    >>> image = np.broadcast_to(row, (3, 4, 4))
    >>> sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float32)
    >>> weight = np.broadcast_to(sobel, (1, 3, 3, 3))
    >>> faltung.conv2d(image, weight, padding=1, padding_mode="replicate")
    array([[[ 0., 60., 60.,  0.],
            [ 0., 60., 60.,  0.],
            [ 0., 60., 60.,  0.],
            [ 0., 60., 60.,  0.]]], dtype=float32)

    A result that goes into an array of yours, here every second row of one:

    >>> canvas = np.zeros((1, 4, 2), dtype=np.float32)
    >>> _ = faltung.conv2d(image, weight, out=canvas[:, ::2])
    >>> canvas
    array([[[60., 60.],
            [ 0.,  0.],
            [60., 60.],
            [ 0.,  0.]]], dtype=float32)
    """
    return _core.conv(
        2, x, weight, bias, stride, padding, dilation, groups, padding_mode, padding_value, flip,
        activation, channels_last, dtype, accumulate, out, method, precision, threads, None,
    )  # fmt: skip


def conv3d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: complex = 0,
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
    """Convolve volumes: `conv` over exactly three spatial axes.

    Parameters
    ----------
    x : array_like, shape (N, C, D, H, W) or (C, D, H, W)
        Volumes of D slices (or video of D frames); (N, D, H, W, C) or (D, H, W, C) with
        `channels_last`.
    weight : array_like, shape (O, C // groups, kD, kH, kW)
        One kernel for each output channel.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride, padding, dilation, groups, padding_mode, padding_value, flip, activation, \
channels_last, dtype, accumulate, out, method, precision, threads
        As in `conv`.

    Returns
    -------
    ndarray, shape (N, O, oD, oH, oW) or (O, oD, oH, oW)
        (N, oD, oH, oW, O) or (oD, oH, oW, O) with `channels_last`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv`; ValueError too if `weight` has other than five axes.

    See Also
    --------
    conv : what every parameter means, the formula and its source.

    Examples
    --------
    The same scan with a wrap along the first axis and zeros along the others:

    >>> import numpy as np, faltung
    >>> x = np.ones((1, 3, 3, 3), dtype=np.float32)
    >>> weight = np.ones((1, 1, 3, 3, 3), dtype=np.float32)
    >>> y = faltung.conv3d(x, weight, padding=1, padding_mode=("wrap", "zeros", "zeros"))
    >>> y[0, 0]
    array([[12., 18., 12.],
           [18., 27., 18.],
           [12., 18., 12.]], dtype=float32)
    """
    return _core.conv(
        3, x, weight, bias, stride, padding, dilation, groups, padding_mode, padding_value, flip,
        activation, channels_last, dtype, accumulate, out, method, precision, threads, None,
    )  # fmt: skip


def output_shape(
    x_shape: Sequence[SupportsIndex],
    weight_shape: Sequence[SupportsIndex],
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    channels_last: bool = False,
) -> tuple[int, ...]:
    """Shape of the result of `conv`, from shapes alone.

    Parameters
    ----------
    x_shape : sequence of int
        The shape of `x`: (N, C, *spatial) or (C, *spatial), or with the channels last.
    weight_shape : sequence of int
        The shape of `weight`: (O, C // groups, *kernel).
    stride, padding, dilation, groups, padding_mode, channels_last
        As in `conv`.

    Returns
    -------
    tuple of int

    Raises
    ------
    TypeError, ValueError
        Exactly where `conv` itself would refuse these shapes.

    See Also
    --------
    conv : what every parameter means, the formula and its source.

    Examples
    --------
    >>> import faltung
    >>> faltung.output_shape((8, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
    (8, 64, 112, 112)
    >>> faltung.output_shape((480, 640, 3), (16, 3, 5, 5), padding="same", channels_last=True)
    (480, 640, 16)
    """
    return _core.output_shape(
        x_shape, weight_shape, stride, padding, dilation, groups, padding_mode, channels_last
    )


def config() -> dict[str, Any]:
    """Tell which version this is and what it uses of this machine.

    Returns
    -------
    dict
        ``"version"``
            Of the package.
        ``"isa"``
            The instruction set in use: ``"avx512"``, ``"avx2"`` or ``"scalar"``. The environment
            variable ``FALTUNG_ISA``, read when faltung is imported, chooses another one.
        ``"available"``
            What this CPU could use, the fastest first.
        ``"tiles"``
            For each dtype the register tiles, as output channels x positions.
        ``"threads"``
            As `get_num_threads` says.

    Examples
    --------
    >>> import faltung
    >>> sorted(faltung.config())
    ['available', 'isa', 'threads', 'tiles', 'version']
    """
    return _core.config()


def get_num_threads() -> int:
    """Tell how many threads a call uses at most, unless it says so itself.

    Returns
    -------
    int
        What `set_num_threads` set; else the environment variable ``FALTUNG_NUM_THREADS``, else
        ``RAYON_NUM_THREADS``, else the CPUs that this process may use by its affinity and its
        cgroup's quota.

    Examples
    --------
    >>> import faltung
    >>> faltung.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: SupportsIndex | None) -> None:
    """Set how many threads a call uses at most, for the whole process.

    Parameters
    ----------
    n : int or None
        At least 1; None goes back to the default that `get_num_threads` names. Results have the
        same bits for any number.

    Raises
    ------
    TypeError, ValueError
        `n` is no integer, or less than 1.

    Examples
    --------
    >>> import faltung
    >>> faltung.set_num_threads(1)
    >>> faltung.get_num_threads()
    1
    >>> faltung.set_num_threads(None)
    """
    _core.set_num_threads(n)
