"""Windows as columns, and back."""

from __future__ import annotations

import faltung
import numpy as np
import pytest
from reference import NUMPY_MODES


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_torch(kernel, dilation, padding, stride):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 8))
    arguments = (kernel, dilation, padding, stride)
    wanted = functional.unfold(torch.from_numpy(x), *arguments).numpy()
    assert (faltung.unfold(x, *arguments) == wanted).all()
    assert (faltung.unfold(x[0], (kernel, kernel), *arguments[1:]) == wanted[0]).all()
    integers = np.random.default_rng(2).integers(-9, 9, wanted.shape).astype(float)
    folded = functional.fold(torch.from_numpy(integers), (9, 8), *arguments).numpy()
    assert (faltung.fold(integers, (9, 8), *arguments) == folded).all()
    assert (faltung.fold(integers[0], (9, 8), *arguments) == folded[0]).all()


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("padding", ["same", "same_lower", "full", "causal", "valid", (-1, 2)])
def test_convolution_is_a_product_with_windows(rank, mode, padding):
    rng = np.random.default_rng(3)
    x = rng.integers(-4, 5, (2, 3, *(6, 5, 7, 4)[:rank])).astype(np.float64)
    weight = rng.integers(-4, 5, (2, 3, *(3, 2, 3, 2)[:rank])).astype(np.float64)
    sides = padding if isinstance(padding, str) else [padding] * rank
    options = {"padding": sides, "stride": 2, "padding_mode": mode}
    windows = faltung.unfold(x, weight.shape[2:], padding_value=3, **options)
    wanted = faltung.conv(x, weight, padding_value=3, **options)
    assert (weight.reshape(2, -1) @ windows == wanted.reshape(2, 2, -1)).all()
    # <unfold(x), y> == <x, fold(y)>
    windows = faltung.unfold(x, weight.shape[2:], **options)
    y = rng.integers(-4, 5, windows.shape).astype(np.float64)
    folded = faltung.fold(y, x.shape[2:], weight.shape[2:], **options)
    assert folded.shape == x.shape
    assert (windows * y).sum() == (folded * x).sum()


def test_a_view_where_one_suffices():
    x = np.arange(24.0).reshape(1, 2, 12)
    assert np.shares_memory(faltung.unfold(x, 1), x)
    assert np.shares_memory(faltung.unfold(x[:, :1], 3), x)  # overlapping windows of one channel
    assert not np.shares_memory(faltung.unfold(x, 3, padding=1), x)


@pytest.mark.parametrize("dtype", ["i2", "c16", "f4", ">f8", "?", "O"])
def test_any_dtype(dtype):
    x = np.arange(12).reshape(1, 1, 12).astype(dtype)
    assert faltung.unfold(x, 3).dtype == x.dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: faltung.unfold(np.ones((1, 2, 5)), 6), "kernel is 6 long"),
        (lambda: faltung.unfold(np.ones((1, 2, 5)), 0), "kernel_size is 0"),
        (lambda: faltung.unfold(np.ones((2, 5, 5, 5)), (3,)), "x has 4 dimensions"),
        (lambda: faltung.unfold(np.ones((1, 2, 5)), 3, stride=0), "stride is 0"),
        (lambda: faltung.fold(np.ones((1, 7, 3)), 5, 3), "x has 7 rows"),
        (lambda: faltung.fold(np.ones((1, 6, 4)), 5, 3), "x has 4 windows"),
        (lambda: faltung.fold(np.ones((1, 6, 3, 3)), 5, 3), "x has 4 dimensions"),
        (lambda: faltung.fold(np.ones((1, 6, 3)), (5, 5), (3,)), "output_size has 2 entries"),
    ],
)
def test_error(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)
