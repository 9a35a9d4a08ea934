"""The gradient of weights by transforms of tiles: another sum than the direct one.

Small integers are exact, so that both must agree; random floats show that bits depend on the
problem alone, and how far the two are from the exact sum.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import faltung
import numpy as np
import pytest
from cases import LAYOUTS, ConvCase, case, same_bits
from faltung import grad
from isa import available

KINDS: dict[str, ConvCase] = {
    "signal": case((2, 20, 300), (40, 20, 3), padding=1),
    "2d": case((1, 33, 19, 22), (35, 33, 3, 3), padding=1),
    "even": case((2, 16, 16, 16), (32, 16, 3, 3), padding=1),
    "valid": case((3, 9, 14, 9), (20, 9, 3, 3)),
    "many blocks": case((2, 30, 61, 75), (40, 30, 3, 3), padding=1),
    "many channels": case((1, 150, 9, 10), (130, 150, 3, 3), padding=1),
    "a batch of few tiles": case((37, 20, 6, 5), (33, 20, 3, 3), padding=1),
    "groups": case((2, 24, 13, 14), (60, 8, 3, 3), groups=3, padding="same"),
    "rows": case((2, 20, 9, 41), (24, 20, 1, 3), padding=(0, 1)),
    "columns with a stride": case((2, 20, 41, 9), (24, 20, 3, 1), stride=(1, 2), padding=(1, 0)),
    "reflected": case((1, 12, 13, 12), (24, 12, 3, 3), padding=2, padding_mode="reflect"),
    "circular": case((2, 12, 9, 11), (24, 12, 3, 3), padding=1, padding_mode="circular"),
    "edge": case((1, 12, 9, 10), (24, 12, 3, 3), padding=[(3, 0), (0, 2)], padding_mode="edge"),
    "cropped": case((1, 12, 19, 18), (24, 12, 3, 3), padding=[(-2, 1), (1, -3)]),
    "a number around": case((1, 12, 9, 9), (24, 12, 3, 3), padding=1, padding_value=3),
    "flipped": case((1, 12, 9, 9), (24, 12, 3, 3), padding=1, flip=True),
    "volume": case((2, 10, 7, 8, 9), (20, 10, 3, 3, 3), padding=1),
    "planes of a volume": case((1, 10, 6, 9, 9), (20, 10, 1, 3, 3), padding=(0, 1, 1)),
    "one output": case((1, 20, 30, 31), (1, 20, 3, 3), padding=1),
    "one channel": case((1, 1, 30, 31), (20, 1, 3, 3), padding=1),
    "without a batch": case((20, 30, 31), (24, 20, 3, 3), padding=1),
}
KINDS = {name: replace(problem, bias=False) for name, problem in KINDS.items()}
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def gradient(problem: ConvCase, x: Any, g: Any, **more: Any) -> np.ndarray:
    options = {key: v for key, v in vars(problem.options).items() if key != "activation"}
    given = {"method": "winograd"} | options | more
    return grad.conv_weight(x, problem.weight, g, **given)


def output_shape(problem: ConvCase) -> tuple[int, ...]:
    left_out = ("activation", "padding_value", "flip")
    options = {key: v for key, v in vars(problem.options).items() if key not in left_out}
    return faltung.output_shape(problem.x, problem.weight, **options)


def integers(problem: ConvCase, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = problem.x, output_shape(problem)
    x, g = (rng.integers(-4, 5, shape).astype(dtype) for shape in shapes)
    return x, g


def floats(problem: ConvCase, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    shapes = problem.x, output_shape(problem)
    x, g = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, g


def with_channels_last(problem: ConvCase, *arrays: np.ndarray) -> tuple[ConvCase, Any]:
    options = replace(problem.options, channels_last=True)
    axis = len(problem.x) - len(problem.weight) + 1
    moved = [np.ascontiguousarray(np.moveaxis(array, axis, -1)) for array in arrays]
    return replace(problem, x=moved[0].shape, options=options), moved


@both_dtypes
@pytest.mark.parametrize("name", KINDS)
def test_integers(name, dtype):
    problem = KINDS[name]
    x, g = integers(problem, dtype)
    last, moved = with_channels_last(problem, x, g)
    for apart in {False, len(problem.x) == len(problem.weight)}:
        wanted = gradient(problem, x, g, per_sample=apart, method="direct")
        for threads in (1, 3):
            found = gradient(problem, x, g, per_sample=apart, threads=threads)
            assert (found == wanted).all()
        out = wanted.copy()
        gradient(problem, x, g, per_sample=apart, out=out, accumulate=True)
        assert (out == 2 * wanted).all()
        assert (gradient(last, *moved, per_sample=apart) == wanted).all()


@pytest.mark.parametrize("dtype", [np.float16, ">f4", "complex64"])
def test_any_numbers(dtype):
    problem = KINDS["2d"]
    x, g = integers(problem, np.float32)
    if dtype == "complex64":
        x, g = x * (1 + 2j), g * (2 - 1j)
    x, g = x.astype(dtype), g.astype(dtype)
    assert (gradient(problem, x, g) == gradient(problem, x, g, method="direct")).all()


@both_dtypes
@pytest.mark.parametrize("name", KINDS)
def test_bits(name, dtype):
    """They are those of one thread and plain arrays; and they are not those of the plain sum."""
    problem = KINDS[name]
    x, g = floats(problem, dtype)
    wanted = gradient(problem, x, g, threads=1)
    assert not same_bits(wanted, gradient(problem, x, g, method="direct"))
    for threads in (2, 5):
        assert same_bits(gradient(problem, x, g, threads=threads), wanted)
    for change in LAYOUTS.values():
        assert same_bits(gradient(problem, change(x), change(g)), wanted)
    last, moved = with_channels_last(problem, x, g)
    assert same_bits(gradient(last, *moved), wanted)
    if len(problem.x) == len(problem.weight):
        together = gradient(problem, x, g, per_sample=True)
        for n in range(len(x)):
            assert same_bits(gradient(problem, x[n], g[n]), together[n])
    out = np.zeros_like(wanted)
    gradient(problem, x, g, out=out, accumulate=True)
    gradient(problem, x, g, out=out, accumulate=True)
    assert same_bits(out, wanted + wanted)


def all_bits(dtype: str) -> list[np.ndarray]:
    return [gradient(problem, *floats(problem, dtype)) for problem in KINDS.values()]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    found = isas.submit(isa, all_bits, np.dtype(dtype).name).result()
    assert all(map(same_bits, found, all_bits(np.dtype(dtype).name)))


@pytest.mark.parametrize("name", ["signal", "2d", "groups", "cropped", "reflected", "volume"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_stays_where_it_is_seen(name, value):
    """What is not finite is where the plain sum has it, and all else is the plain sum."""
    problem = KINDS[name]
    x, g = floats(problem, np.float32)
    sound = gradient(problem, x, g)
    for operand, at in itertools.product((0, 1), (0, 101, -1)):
        hurt = [x.copy(), g.copy()]
        hurt[operand].flat[at] = value
        wanted = gradient(problem, *hurt, method="direct")
        if np.isfinite(wanted).all():
            assert name == "cropped", "no window sees what is cropped"
            wanted = sound
        assert same_bits(gradient(problem, *hurt), wanted)
        out = np.ones_like(wanted)
        gradient(problem, *hurt, out=out, accumulate=True)
        assert same_bits(out, 1 + wanted)


def test_numbers_near_overflow():
    problem = KINDS["2d"]
    x, g = floats(problem, np.float32)
    x, g = x * 0, g * 0 + 1
    x[0, :, 5, 5:7] = 3e38, -3e38
    wanted = gradient(problem, x, g, method="direct")
    assert np.isfinite(wanted).all()
    assert same_bits(gradient(problem, x, g), wanted)


@pytest.mark.parametrize("apart", [False, True])
def test_empty_batch(apart):
    x, g = np.zeros((0, 16, 9, 9), np.float32), np.zeros((0, 16, 7, 7), np.float32)
    found = grad.conv2d_weight(x, (16, 16, 3, 3), g, per_sample=apart, method="winograd")
    assert found.shape == ((0,) if apart else ()) + (16, 16, 3, 3)
    assert (found == 0).all()


# Channels, outputs, positions along each axis, and what "auto" takes.
CHOICES = [
    ((1, 64, 56, 56), (64, 64, 3, 3), "winograd"),
    ((1, 256, 14, 14), (256, 256, 3, 3), "winograd"),
    ((1, 512, 7, 7), (512, 512, 3, 3), "direct"),
    ((1, 3, 112, 112), (32, 3, 3, 3), "direct"),
    ((1, 16, 9, 9), (16, 16, 3, 3), "direct"),
    ((8, 64, 1, 1), (64, 64, 1, 1), "direct"),
]


@pytest.mark.parametrize(("shape", "weight", "method"), CHOICES)
def test_auto(shape, weight, method):
    problem = replace(case(shape, weight, padding="same"), bias=False)
    x, g = floats(problem, np.float32)
    wanted = gradient(problem, x, g, method=method)
    assert same_bits(gradient(problem, x, g, method="auto"), wanted)
    direct = gradient(problem, x, g, method="direct")
    assert same_bits(gradient(problem, x, g, method="auto", precision="exact"), direct)
    plan = faltung.Plan(np.ones(weight, np.float32), padding="same")
    assert same_bits(plan.vjp(x, g, ["weight"])["weight"], wanted)
    exact = faltung.Plan(np.ones(weight, np.float32), padding="same", precision="exact")
    assert same_bits(exact.vjp(x, g, ["weight"])["weight"], direct)


def test_auto_of_a_batch_is_that_of_its_images():
    """`per_sample` must not choose by how many images there are."""
    problem = replace(case((9, 64, 16, 16), (64, 64, 3, 3), padding=1), bias=False)
    x, g = floats(problem, np.float32)
    together = gradient(problem, x, g, method="auto", per_sample=True)
    for n in range(len(x)):
        assert same_bits(gradient(problem, x[n], g[n], method="auto"), together[n])


def test_integers_under_auto_are_summed_as_such():
    x = np.random.default_rng(1).integers(-(2**31), 2**31, (1, 64, 56, 56))
    wanted = grad.conv2d_weight(x, (64, 64, 3, 3), x, padding=1, method="direct")
    assert (grad.conv2d_weight(x, (64, 64, 3, 3), x, padding=1) == wanted).all()


@pytest.mark.parametrize("method", ["fft", "separable", "winograd"])
def test_a_plan_of_another_method(method):
    """A plan's method is for its convolution; its weight's gradient has it where it can."""
    x, g = integers(KINDS["signal"], np.float32)
    plan = faltung.Plan(np.ones(KINDS["signal"].weight, np.float32), padding=1, method=method)
    found = plan.vjp(x, g, ["weight"])["weight"]
    assert (found == gradient(KINDS["signal"], x, g, method="direct")).all()
    strided = faltung.Plan(np.ones((8, 8, 3, 5), np.float32), method=method)
    x, g = np.ones((8, 20, 20), np.float32), np.ones((8, 18, 16), np.float32)
    assert (strided.vjp(x, g, ["weight"])["weight"] == 288).all()


@pytest.mark.parametrize("method", ["fft", "winograd"])
def test_a_plan_keeps_its_method_for_the_input(method):
    """Whatever the weight's gradient can be computed with: here, by fft it cannot."""
    problem = KINDS["2d"]
    x, g = floats(problem, np.float32)
    weight = np.random.default_rng(7).standard_normal(problem.weight).astype(np.float32)
    found = faltung.Plan(weight, padding=1, method=method).vjp(x, g, ["x"])["x"]
    wanted, direct = (
        grad.conv_input(x.shape, weight, g, padding=1, method=by) for by in (method, "direct")
    )
    assert same_bits(found, wanted)
    assert not same_bits(found, direct)


X, G = np.ones((1, 8, 20, 20)), np.ones((1, 8, 18, 18))
ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "fft": ({"method": "fft"}, 'method is "fft", which cannot compute the gradient of weights'),
    "separable": ({"method": "separable"}, 'method is "separable", which cannot compute'),
    "exact": ({"method": "winograd", "precision": "exact"}, 'precision is "exact", but method is'),
    "name": ({"method": "tiles"}, 'method is "tiles", but must be'),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    options, message = ERRORS[name]
    with pytest.raises(ValueError) as caught:
        grad.conv2d_weight(X, (8, 8, 3, 3), G, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((5, 3), {}),
        ((1, 1), {}),
        ((3, 3), {"stride": 2}),
        ((3, 3), {"dilation": 2}),
    ],
)
def test_why_not(kernel, options):
    g = np.ones(faltung.output_shape(X.shape, (8, 8, *kernel), **options))
    with pytest.raises(ValueError, match="along one to three axes with a kernel of 3"):
        grad.conv2d_weight(X, (8, 8, *kernel), g, method="winograd", **options)


def test_integers_have_no_transform():
    x, g = X.astype(int), G.astype(int)
    with pytest.raises(ValueError, match="integers are summed exactly"):
        grad.conv2d_weight(x, (8, 8, 3, 3), g, method="winograd")


# Numbers of one size; a wave; numbers that are nearly alike; numbers of very different sizes.
INPUTS = {
    "random": lambda rng, shape: rng.standard_normal(shape),
    "smooth": lambda rng, shape: np.sin(np.arange(np.prod(shape)).reshape(shape) / 9),
    "large mean": lambda rng, shape: 1000 + rng.standard_normal(shape),
    "wide range": lambda rng, shape: rng.standard_normal(shape) * 10 ** rng.uniform(-6, 6, shape),
}


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize(("kind_of_x", "kind_of_g"), list(itertools.product(INPUTS, INPUTS)))
def test_error_bound(kind_of_x, kind_of_g, images):
    """The one of docs/gradients.md: gamma(k) 4^axes sum over tiles of max |x| |g|_1."""
    rng = np.random.default_rng(images)
    x = INPUTS[kind_of_x](rng, (images, 9, 42, 44)).astype(np.float32)
    g = INPUTS[kind_of_g](rng, (images, 17, 40, 42)).astype(np.float32)
    found = grad.conv2d_weight(x, (17, 9, 3, 3), g, method="winograd")
    wide, of_wide = x.astype(float), g.astype(float)
    exact = grad.conv2d_weight(wide, (17, 9, 3, 3), of_wide, method="direct")
    windows = np.lib.stride_tricks.sliding_window_view(np.abs(wide), (4, 4), axis=(2, 3))
    largest = windows[:, :, ::2, ::2].max((-2, -1))
    sums = np.abs(of_wide).reshape(images, 17, 20, 2, 21, 2).sum((3, 5))
    sizes = np.einsum("nohw,nchw->oc", sums, largest)
    # 4 of each axis's transforms; chains of 256 tiles at most, and as many again at the very most.
    tiles = images * 20 * 21
    k = (2 * 4 + 256 + -(-tiles // 64) + 4) * 2.0**-24
    bound = k / (1 - k) * 4**2 * sizes[..., None, None]
    error = np.abs(found - exact)
    assert (error <= bound).all()
    assert error.max() > 0, "these sums cannot all be exact"
    plain = np.abs(grad.conv2d_weight(x, (17, 9, 3, 3), g, method="direct") - exact)
    assert np.sqrt((error**2).mean()) < 3 * np.sqrt((plain**2).mean())
