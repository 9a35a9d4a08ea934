"""The adapters, each with the real library where that is installed."""

from __future__ import annotations

import faltung
import numpy as np
import pytest

OPTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": ((2, -1), (0, 1)), "padding_mode": "reflect", "flip": True},
    {"dilation": 2, "padding": 2, "groups": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("biased", [False, True])
def test_torch_gradcheck(options, biased):
    torch = pytest.importorskip("torch")
    from faltung.interop.torch import conv, conv_transpose

    generator = torch.Generator().manual_seed(1)

    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    groups = options.get("groups", 1)
    x, weight = tensor(2, 4, 7, 6), tensor(2, 4 // groups, 3, 2)
    bias = tensor(2) if biased else None
    assert torch.autograd.gradcheck(lambda *a: conv(*a, **options), (x, weight, bias))
    y, bias = tensor(2, 2, 5, 4), tensor(4) if biased else None
    assert torch.autograd.gradcheck(lambda *a: conv_transpose(*a, **options), (y, weight, bias))


def test_torch_trains_as_its_own():
    torch = pytest.importorskip("torch")
    from faltung.interop.torch import conv

    rng = np.random.default_rng(1)
    x, w, b = (rng.integers(-3, 4, s).astype(np.float32) for s in ((2, 3, 9, 9), (4, 3, 3, 3), 4))
    results = []
    for function in (conv, torch.nn.functional.conv2d):
        tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, w, b)]
        function(*tensors, stride=2, padding=1).square().sum().backward()
        results.append([t.grad.numpy() for t in tensors])
    for ours, theirs in zip(*results, strict=True):
        assert (ours == theirs).all()


def test_torch_in_the_last_dimension():
    torch = pytest.importorskip("torch")
    from faltung.interop.torch import conv

    x = torch.ones(2, 7, 6, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.ones(4, 3, 3, 2).double().requires_grad_(), torch.zeros(4).double()
    bias.requires_grad_()
    options = {"channels_last": True}
    assert torch.autograd.gradcheck(lambda *a: conv(*a, **options), (x, weight, bias))


@pytest.mark.parametrize("options", OPTIONS)
def test_jax(options):
    jax = pytest.importorskip("jax")
    from faltung.interop.jax import conv

    rng = np.random.default_rng(1)
    groups = options.get("groups", 1)
    shapes = ((2, 4, 7, 6), (2, 4 // groups, 3, 2), (2,))
    x, weight, bias = (rng.integers(-3, 4, s).astype(np.float32) for s in shapes)
    y = faltung.conv(x, weight, bias, **options)
    g = rng.integers(-3, 4, y.shape).astype(np.float32)

    def loss(x, weight, bias):
        return (conv(x, weight, bias, **options) * g).sum()

    assert (np.asarray(jax.jit(lambda *a: conv(*a, **options))(x, weight, bias)) == y).all()
    wanted = (
        faltung.grad.conv_input(x.shape, weight, g, **options),
        faltung.grad.conv_weight(x, weight.shape, g, **options),
        faltung.grad.conv_bias(g),
    )
    for differentiate in (jax.grad, lambda *a: jax.jit(jax.grad(*a))):
        found = differentiate(loss, (0, 1, 2))(x, weight, bias)
        assert all((np.asarray(f) == w).all() for f, w in zip(found, wanted, strict=True))
