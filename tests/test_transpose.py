"""Transposed convolution: the adjoint of the convolution, with a bias and an activation."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import faltung
import numpy as np
import pytest
from cases import case, same_bits
from reference import Options, input_numpy

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
NAMED = {rank: getattr(faltung, f"conv_transpose{rank}d") for rank in (1, 2, 3)}


def operands(x: tuple[int, ...], weight: tuple[int, ...], outputs: int, dtype: Any, number: int):
    a, w, _ = case(x, weight).integers(dtype, number)
    return a, w, case((outputs,), (1,)).integers(dtype, number + 900).x


@both_dtypes
@every_rank
@pytest.mark.parametrize(("stride", "more"), [(1, 0), (2, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_torch(rank, dtype, stride, more, padding, dilation, groups):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, f"conv_transpose{rank}d")
    sizes, kernels = (7, 6, 5)[:rank], (3, 2, 4)[:rank]
    x, weight, bias = operands((2, 4, *sizes), (4, 3, *kernels), 3 * groups, dtype, rank)
    arguments = (stride, padding, more, groups, dilation)
    try:
        wanted = theirs(*map(torch.from_numpy, (x, weight, bias)), *arguments).numpy()
    except RuntimeError:
        with pytest.raises(ValueError, match="the result would be"):
            NAMED[rank](x, weight, bias, *arguments)
        return
    found = NAMED[rank](x, weight, bias, *arguments)
    assert (found.dtype, found.shape) == (dtype, wanted.shape)
    assert (found == wanted).all()
    assert (NAMED[rank](x[0], weight, bias, *arguments) == wanted[0]).all()
    assert same_bits(faltung.conv_transpose(x, weight, bias, *arguments), found)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "symmetric", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    "padding", [((2, 1), (0, 3)), ((-1, 2), (3, -2)), "same", "full", "causal"]
)
def test_every_mode_is_the_adjoint(mode, stride, padding):
    for number, flip in enumerate([False, True]):
        x, weight, bias = operands((2, 4, 8, 9), (4, 3, 3, 2), 6, np.float64, number)
        options = {"stride": stride, "padding": padding, "padding_mode": mode, "flip": flip}
        found = faltung.conv_transpose(x, weight, bias, groups=2, **options)
        reference = Options(groups=2, **options)
        plain = input_numpy(found.shape, weight, x, reference)
        assert (found == plain + bias[:, None, None]).all()
        y = case(found.shape, (1,)).integers(np.float64, 77).x
        forward = faltung.conv(y, weight, groups=2, **options)
        assert forward.shape == x.shape
        without = faltung.conv_transpose(x, weight, groups=2, **options)
        assert (forward * x).sum() == (without * y).sum()


def test_same_is_stride_times_as_long():
    x, weight = np.ones((1, 2, 5, 7)), np.ones((2, 3, 4, 3))
    for stride in (1, 2, 3):
        found = faltung.conv_transpose(x, weight, stride=stride, padding="same")
        assert found.shape == (1, 3, 5 * stride, 7 * stride)


def test_output_size():
    x, weight, bias = operands((2, 4, 8), (4, 3, 3), 3, np.float32, 1)
    for stride in (1, 2, 5):
        for padding in (0, 1, "same"):
            shortest = None
            for size in range(1, 60):
                arguments = {"stride": stride, "padding": padding, "output_size": size}
                shape = None
                with contextlib.suppress(ValueError):
                    shape = faltung.output_shape((2, 3, size), weight.shape, stride, padding)
                if shape is None or shape[-1] != 8:
                    with pytest.raises(ValueError, match="output_size is"):
                        faltung.conv_transpose(x, weight, bias, **arguments)
                    continue
                shortest = size if shortest is None else shortest
                found = faltung.conv_transpose(x, weight, bias, **arguments)
                assert found.shape == (2, 3, size)
                if padding != "same":
                    more = faltung.conv_transpose(x, weight, bias, stride, padding, size - shortest)
                    assert same_bits(found, more)
            assert shortest is not None


@every_rank
def test_activation_layouts_out(rank):
    sizes, kernels = (7, 6, 5)[:rank], (3, 2, 4)[:rank]
    x, weight, bias = operands((2, 4, *sizes), (4, 3, *kernels), 3, np.float32, 3)
    for mode, stride in itertools.product(["zeros", "reflect"], [1, 2]):
        options = {"stride": stride, "padding": 1, "padding_mode": mode}
        plain = NAMED[rank](x, weight, bias, **options)
        relu = NAMED[rank](x, weight, bias, activation="relu", **options)
        assert (relu == np.maximum(plain, 0)).all()
        clipped = NAMED[rank](x, weight, bias, activation=("clip", -9, 20), **options)
        assert (clipped == plain.clip(-9, 20)).all()
        last = np.moveaxis(x, 1, -1)
        found = NAMED[rank](last, weight, bias, channels_last=True, **options)
        assert (found == np.moveaxis(plain, 1, -1)).all()
        wide = np.full([2 * n for n in plain.shape], 7, np.float32)
        out = wide[(slice(None, None, 2),) * plain.ndim]
        assert NAMED[rank](x, weight, bias, out=out, **options) is out
        assert (out == plain).all()
        out[...] = 7
        assert (wide == 7).all()


def test_is_the_gradient_of_the_input():
    x, weight, _ = operands((2, 4, 8, 9), (4, 3, 3, 2), 3, np.float32, 1)
    for stride in (1, 2):
        found = faltung.conv_transpose2d(x, weight, stride=stride, padding=1)
        gradient = faltung.grad.conv2d_input(found.shape, weight, x, stride, 1)
        assert same_bits(found, gradient)


def test_stride_one_is_a_flipped_convolution_bit_for_bit():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 40, 13, 14), np.float32)
    weight = rng.standard_normal((40, 30, 3, 3), np.float32)
    found = faltung.conv_transpose2d(x, weight, padding=1)
    wanted = faltung.conv2d(x, weight.swapaxes(0, 1), padding=1, flip=True)
    assert same_bits(found, wanted)


X, W = np.ones((2, 4, 5, 6)), np.ones((4, 3, 3, 3))
ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "channels": (
        lambda: faltung.conv_transpose2d(X, W[:3]),
        ValueError,
        "x has 4 channels (axis 1), but weight expects 3 (weight.shape[0])",
    ),
    "channels last": (
        lambda: faltung.conv_transpose2d(np.moveaxis(X, 1, -1), W),
        ValueError,
        "x has 5 channels (axis 1), but weight expects 4 (weight.shape[0]); is x channels-last?",
    ),
    "groups": (
        lambda: faltung.conv_transpose2d(X, W, groups=3),
        ValueError,
        "x has 4 channels, which groups=3 does not divide",
    ),
    "rank": (
        lambda: faltung.conv_transpose1d(X, W),
        ValueError,
        "weight has 4 dimensions (shape (4, 3, 3, 3)), but conv_transpose1d takes 3",
    ),
    "bias": (
        lambda: faltung.conv_transpose2d(X, W, np.ones(4)),
        ValueError,
        "bias has shape (4,), but weight has 3 outputs",
    ),
    "too much padding": (
        lambda: faltung.conv_transpose2d(X, W, padding=5),
        ValueError,
        "the result would be -3 long on spatial axis 0, where x is 5; pass less padding",
    ),
    "empty": (
        lambda: faltung.conv_transpose2d(X[:, :, :0], W),
        ValueError,
        "the result would be",
    ),
    "output padding": (
        lambda: faltung.conv_transpose2d(X, W, stride=2, output_padding=2),
        ValueError,
        "output_padding is 2 on spatial axis 0, but must be from 0 to 1",
    ),
    "negative output padding": (
        lambda: faltung.conv_transpose2d(X, W, stride=2, output_padding=-1),
        ValueError,
        "output_padding is -1 on spatial axis 0, but must be from 0 to 1",
    ),
    "output size": (
        lambda: faltung.conv_transpose2d(X, W, stride=2, output_size=(11, 20)),
        ValueError,
        "output_size is 20 on spatial axis 1, but with these options it can be from 13 to 14",
    ),
    "both": (
        lambda: faltung.conv_transpose2d(X, W, stride=2, output_padding=1, output_size=12),
        ValueError,
        "output_padding and output_size both",
    ),
    "output padding with same": (
        lambda: faltung.conv_transpose2d(X, W, None, 2, "same", 1),
        ValueError,
        'output_padding does not go with padding="same"',
    ),
    "count": (
        lambda: faltung.conv_transpose2d(X, W, output_padding=(0, 0, 0)),
        ValueError,
        "output_padding has 3 entries, but there are 2 spatial axes",
    ),
    "huge": (
        lambda: faltung.conv_transpose2d(X, W, stride=2**61),
        (ValueError, MemoryError),
        "",
    ),
    "type": (
        lambda: faltung.conv_transpose2d(X, W, output_size=1.5),
        TypeError,
        "output_size must be",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(message)
