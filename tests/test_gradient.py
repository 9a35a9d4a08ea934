"""Gradients of inputs, weights and biases: exactly the adjoints of the convolution.

The form ``<conv(x, w), g>`` is linear in each of its three arrays, so with small integers both the
reference and finite differences are exact, and everything is compared with ``==``. Random floats
show that bits depend on the problem alone.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import faltung
import grid
import numpy as np
import pytest
from cases import KINDS, LAYOUTS, ConvCase, case, same_bits
from faltung import grad
from isa import Isas, available
from reference import input_numpy, weight_numpy

CHUNKS = 2
# How many cases of each grid are taken: they are the forward's, which sampled them well.
SHARE = 3
# Blocks of positions, parts of channels, slices, few and many of each.
LARGE = {
    "rows": case((1, 8, 203, 301), (16, 8, 3, 3), padding=1),
    "7x7": case((1, 130, 7, 7), (150, 130, 3, 3), padding=1),
    "batch": case((70, 20, 9, 9), (33, 20, 3, 3), padding=1),
    "pointwise": case((2, 70, 40, 41), (130, 70, 1, 1)),
    "pointwise stride": case((2, 70, 40, 41), (20, 70, 1, 1), stride=2),
    "pointwise few outputs": case((2, 70, 40, 41), (3, 70, 1, 1)),
    "pointwise few channels": case((3, 5, 61, 67), (90, 5, 1, 1)),
    "pointwise one channel": case((1, 1, 9, 300), (130, 1, 1, 1)),
    "pointwise small planes": case((90, 20, 5, 7), (13, 20, 1, 1)),
    "pointwise tiny planes": case((40, 6, 3, 3), (12, 6, 1, 1)),
    "pointwise groups": case((2, 36, 30, 31), (24, 9, 1, 1), groups=4),
    "pointwise crop": case((2, 20, 90, 41), (11, 20, 1, 1), stride=(2, 1), padding=(-3, 0)),
    "pointwise signal": case((1, 9, 70_001), (11, 9, 1)),
    "pointwise channels last": case((2, 41, 37, 21), (13, 21, 1, 1), channels_last=True),
    "pointwise padding": case((1, 5, 40, 43), (40, 5, 1, 1), padding=(2, 3)),
    "one channel to many": case((1, 1, 147, 115), (81, 1, 3, 3), padding=(0, 2)),
    "two channels to many": case(
        (5, 2, 40, 61), (70, 2, 3, 4), stride=(3, 1), padding="same", padding_mode="reflect"
    ),
    "three channels to many": case((1, 3, 9, 31, 30), (33, 3, 3, 1, 2), dilation=(2, 1, 3)),
    "few channels of groups": case(
        (3, 30, 41, 23), (60, 2, 2, 3), groups=15, stride=(2, 1), padding=1
    ),
    "few channels last": case(
        (2, 61, 59, 3), (20, 3, 5, 5), stride=2, padding=2, channels_last=True
    ),
    "patches": case((2, 5, 64, 71), (150, 5, 16, 16), stride=16, padding=2),
    "patches of a volume": case((3, 1, 10, 17, 10), (181, 1, 8, 8, 8), stride=8, padding=(4, 6, 4)),
    "patches of groups": case((2, 6, 41, 43), (64, 3, 5, 6), groups=2, stride=6, dilation=2),
    "patches channels last": case(
        (2, 65, 50, 3), (50, 3, 8, 8), stride=8, padding=3, channels_last=True
    ),
    "patches of many images": case((50, 3, 16, 16), (40, 3, 8, 8), stride=8),
    "few channels of a signal": case((2, 2, 30_011), (40, 2, 5), padding="causal"),
    "stem": case((2, 3, 112, 115), (64, 3, 7, 7), stride=2, padding=3),
    "depthwise": case((2, 70, 61, 63), (70, 1, 5, 5), groups=70, padding=2),
    "multiplier": case((1, 9, 61, 63), (36, 1, 3, 3), groups=9, stride=2, padding=1),
    "depthwise stride": case((2, 24, 90, 101), (24, 1, 3, 4), groups=24, stride=(2, 3), padding=1),
    "strided signal": case((1, 3, 100_003), (6, 3, 5), stride=4, padding=1),
    "groups": case((2, 96, 20, 21), (64, 6, 3, 3), groups=16, padding=1),
    "few outputs": case((1, 64, 128, 130), (3, 64, 3, 3), padding=1),
    "one channel": case((1, 1, 401, 603), (1, 1, 7, 7), padding=3, padding_mode="symmetric"),
    "long kernel": case((1, 1, 30_000), (1, 1, 1025)),
    "large kernel": case((1, 20, 50, 55), (24, 20, 31, 29), padding="same"),
    "wide dilation": case((1, 30, 150, 140), (24, 30, 3, 3), dilation=(40, 33), padding="same"),
    "rows apart": case(
        (2, 6, 150, 75), (6, 1, 5, 3), groups=6, stride=(2, 1), dilation=(3, 2), padding=6
    ),
    "rows far apart": case((1, 4, 40, 40), (4, 1, 3, 3), groups=4, dilation=70, padding=70),
    "tall kernel": case((1, 1, 300, 20), (2, 1, 40, 2), padding=3),
    "long kernel apart": case((2, 2, 7_001), (2, 1, 90), groups=2, dilation=4, padding=9),
    "wide stride": case((1, 12, 301, 305), (19, 12, 5, 5), stride=(11, 7), padding=2),
    "signal": case((2, 40, 5_000), (50, 40, 9), padding="causal"),
    "upsample": case((1, 32, 16_00), (64, 32, 16), stride=8, padding=4),
    "phases in turn": case((1, 130, 6_001), (352, 130, 3), stride=2, padding=1),
    "whole vectors": case((2, 192, 9, 8), (130, 96, 1, 1), groups=2),
    "volume": case((1, 12, 18, 20, 21), (20, 12, 3, 3, 3), padding=1, padding_mode="edge"),
    "channels last": case(
        (2, 40, 41, 19), (33, 19, 3, 3), stride=2, padding="same", channels_last=True
    ),
}
LARGE = {name: replace(problem, bias=False) for name, problem in LARGE.items()}
ALL = {**KINDS, **LARGE}
# Those of which all taps of all channels are rows of one product.
ROWS = [name for name in LARGE if name.startswith(("pointwise ", "patches", "few channels"))]
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def options(problem: ConvCase, *without: str) -> dict[str, Any]:
    """The options of a convolution that its gradients have too."""
    left_out = {"activation", *without}
    return {key: v for key, v in vars(problem.options).items() if key not in left_out}


def shape_of(problem: ConvCase) -> tuple[int, ...]:
    return faltung.output_shape(
        problem.x, problem.weight, **options(problem, "padding_value", "flip")
    )


def integers(shape: tuple[int, ...], dtype: Any, number: int) -> np.ndarray:
    return case(shape, (1,)).integers(dtype, number + 5000).x


def of_input(problem: ConvCase, weight: np.ndarray, g: np.ndarray, **more: Any) -> np.ndarray:
    given = {"method": "direct"} | options(problem, "padding_value") | more
    return grad.conv_input(problem.x, weight, g, **given)


def of_weight(problem: ConvCase, x: np.ndarray, g: np.ndarray, **more: Any) -> np.ndarray:
    return grad.conv_weight(x, problem.weight, g, **options(problem), **more)


# --- against the definition -----------------------------------------------------------------------


def chunk(name: str, index: int) -> list[tuple[int, ConvCase, np.ndarray]]:
    """Some cases of a grid, with a gradient of their outputs; none where there is no output."""
    found = []
    for number, problem in grid.GRIDS[name].chunk(index, CHUNKS):
        if number // CHUNKS % SHARE:
            continue
        try:
            shape = shape_of(problem)
        except ValueError:
            continue
        dtype = grid.operands_of(problem, number).x.dtype
        found.append((number, problem, integers(shape, dtype, number)))
    return found


def per_sample(number: int, problem: ConvCase) -> bool:
    return len(problem.x) == len(problem.weight) and number % 2 == 0


@functools.lru_cache(maxsize=1)
def expected(name: str, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    results = []
    for number, problem, g in chunk(name, index):
        x, weight, _ = grid.operands_of(problem, number)
        of_images = weight_numpy(x, problem.weight, g, problem.options)
        results.append(
            (
                input_numpy(problem.x, weight, g, problem.options),
                of_images if per_sample(number, problem) else of_images.sum(axis=0),
            )
        )
    return results


def computed(name: str, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    results = []
    for number, problem, g in chunk(name, index):
        x, weight, _ = grid.operands_of(problem, number)
        apart = per_sample(number, problem)
        results.append((of_input(problem, weight, g), of_weight(problem, x, g, per_sample=apart)))
    return results


@functools.lru_cache(maxsize=1)
def large_expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    problem = LARGE[name]
    x, weight, _ = problem.integers()
    g = integers(shape_of(problem), np.float32, 1)
    of_images = weight_numpy(x, problem.weight, g, problem.options)
    return input_numpy(problem.x, weight, g, problem.options), of_images.sum(axis=0)


def large_computed(name: str) -> tuple[np.ndarray, np.ndarray]:
    problem = LARGE[name]
    x, weight, _ = problem.integers()
    g = integers(shape_of(problem), np.float32, 1)
    return of_input(problem, weight, g), of_weight(problem, x, g)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, isas: Isas) -> dict[tuple[Any, ...], Future[Any]]:
    """What the processes of the ISAs work on: a future for each test that was collected here."""
    futures = {}
    for item in request.session.items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path == request.path and "isa" in params and "name" in params:
            isa, name, index = params["isa"], params["name"], params.get("index")
            work = (large_computed, name) if index is None else (computed, name, index)
            futures[isa, name, index] = isas.submit(isa, *work)
    return futures


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("index", range(CHUNKS))
@pytest.mark.parametrize("name", grid.GRIDS)
def test_grid(running, isa, name, index):
    found = running.pop((isa, name, index)).result()
    cases, wanted = chunk(name, index), expected(name, index)
    assert len(found) == len(wanted) == len(cases) > 10
    for (number, problem, g), results, references in zip(cases, found, wanted, strict=True):
        for result, reference in zip(results, references, strict=True):
            assert result.dtype == g.dtype
            difference = grid.difference(result, reference.astype(g.dtype))
            assert difference is None, f"case {number}: {difference}: {problem}"


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("name", LARGE)
def test_large(running, isa, name):
    found = running.pop((isa, name, None)).result()
    for result, reference in zip(found, large_expected(name), strict=True):
        assert grid.difference(result, reference.astype(np.float32)) is None


@both_dtypes
@pytest.mark.parametrize("name", ALL)
def test_adjoint(name, dtype):
    """Both gradients and the convolution itself are one trilinear form."""
    problem = replace(
        ALL[name],
        bias=False,
        options=replace(ALL[name].options, activation=None, padding_value=0),
    )
    x, weight, _ = problem.integers(dtype)
    y = problem.run(problem.integers(dtype))
    g = integers(y.shape, dtype, 2)
    form = int((y.astype(np.float64) * g).sum())
    assert int((of_input(problem, weight, g).astype(np.float64) * x).sum()) == form
    assert int((of_weight(problem, x, g).astype(np.float64) * weight).sum()) == form


@pytest.mark.parametrize("name", KINDS)
def test_finite_differences(name):
    """A step of 1 in one element changes the form by the gradient there, exactly."""
    problem = replace(KINDS[name], options=replace(KINDS[name].options, activation=None))
    operands = problem.integers(np.float64)
    y = problem.run(operands)
    g = integers(y.shape, np.float64, 3)
    gradients = {
        "x": of_input(problem, operands.weight, g),
        "weight": of_weight(problem, operands.x, g),
    }
    if operands.bias is not None:
        last = problem.options.channels_last
        rank = len(problem.weight) - 2
        gradients["bias"] = grad.conv_bias(g, rank=rank, channels_last=last)
    for field, gradient in gradients.items():
        array = getattr(operands, field)
        for at in np.random.default_rng(1).integers(0, array.size, 5):
            moved = array.copy()
            moved.flat[at] += 1
            change = problem.run(operands._replace(**{field: moved})) - y
            assert (change * g).sum() == gradient.flat[at]


# --- bits -----------------------------------------------------------------------------------------


def floats(problem: ConvCase, dtype: Any = np.float32) -> tuple[np.ndarray, ...]:
    x, weight, _ = problem.floats(dtype)
    g = np.random.default_rng(7).standard_normal(shape_of(problem)).astype(dtype)
    return x, weight, g


def all_bits(names: list[str], dtype: str) -> list[np.ndarray]:
    results = []
    for name in names:
        x, weight, g = floats(ALL[name], dtype)
        results += [of_input(ALL[name], weight, g), of_weight(ALL[name], x, g)]
    return results


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    names = list(ALL)
    found = isas.submit(isa, all_bits, names, np.dtype(dtype).name).result()
    wanted = all_bits(names, dtype)
    wrong = [
        n // 2 for n, (f, w) in enumerate(zip(found, wanted, strict=True)) if not same_bits(f, w)
    ]
    assert [names[n] for n in wrong] == []


@both_dtypes
@pytest.mark.parametrize("name", ALL)
def test_threads(name, dtype):
    x, weight, g = floats(ALL[name], dtype)
    one, other = (
        (of_input(ALL[name], weight, g, threads=1), of_weight(ALL[name], x, g, threads=1)),
        [],
    )
    for threads in (2, 5):
        other = [of_input(ALL[name], weight, g, threads=threads)]
        other.append(of_weight(ALL[name], x, g, threads=threads))
        assert all(map(same_bits, other, one)), threads


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*KINDS, *ROWS])
def test_layouts(name, layout):
    x, weight, g = floats(ALL[name])
    change = LAYOUTS[layout]
    found = of_input(ALL[name], change(weight), change(g))
    assert same_bits(found, of_input(ALL[name], weight, g))
    found = of_weight(ALL[name], change(x), change(g))
    assert same_bits(found, of_weight(ALL[name], x, g))


@both_dtypes
@pytest.mark.parametrize("name", [name for name in ALL if not ALL[name].options.channels_last])
def test_channels_last(name, dtype):
    problem = ALL[name]
    x, weight, g = floats(problem, dtype)
    channel = x.ndim - weight.ndim + 1
    last = replace(
        problem,
        x=np.moveaxis(x, channel, -1).shape,
        options=replace(problem.options, channels_last=True),
    )
    turned = np.ascontiguousarray(np.moveaxis(g, channel, -1))
    found = np.moveaxis(of_input(last, weight, turned), -1, channel)
    assert same_bits(found, of_input(problem, weight, g))
    found = of_weight(last, np.ascontiguousarray(np.moveaxis(x, channel, -1)), turned)
    assert same_bits(found, of_weight(problem, x, g))


@both_dtypes
@pytest.mark.parametrize(
    "name", [name for name in ALL if len(ALL[name].x) == len(ALL[name].weight)]
)
def test_single_images(name, dtype):
    """An image's gradients are the same in a batch and alone."""
    problem = replace(ALL[name], x=(3, *ALL[name].x[1:]))
    x, weight, g = floats(problem, dtype)
    together = of_input(problem, weight, g), of_weight(problem, x, g, per_sample=True)
    for n in range(3):
        alone = replace(problem, x=problem.x[1:])
        assert same_bits(of_input(alone, weight, g[n]), together[0][n])
        assert same_bits(of_weight(alone, x[n], g[n]), together[1][n])


# --- out, accumulate, bias, what is not finite ----------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_accumulate(name):
    x, weight, g = floats(KINDS[name])
    for call, operand in ((of_input, weight), (of_weight, x)):
        gradient = call(KINDS[name], operand, g)
        wide = np.full([2 * n + 1 for n in gradient.shape], 3, np.float32)
        out = wide[tuple(slice(1, None, 2) for _ in gradient.shape)]
        assert call(KINDS[name], operand, g, out=out) is out
        assert same_bits(out, gradient)
        call(KINDS[name], operand, g, out=out, accumulate=True)
        assert same_bits(out, gradient + gradient)
        out[...] = 3
        assert (wide == 3).all()
        backwards = np.zeros_like(gradient)[(slice(None, None, -1),) * gradient.ndim]
        assert same_bits(call(KINDS[name], operand, g, out=backwards, accumulate=True), gradient)


@pytest.mark.parametrize("channels", [(32, 32, 3), (64, 16, 1), (48, 37, 3), (32, 128, 1)])
def test_accumulate_channels_last(channels):
    """Vectors of channels are neighbours in the result, and must be added to it all the same."""
    inputs, outputs, kernel = channels
    shape = (2, 20, 21, inputs)
    weight = integers((outputs, inputs, kernel, kernel), np.float32, 1)
    g = integers((2, 21 - kernel, 22 - kernel, outputs), np.float32, 2)
    gradient = grad.conv2d_input(shape, weight, g, channels_last=True)
    out = integers(shape, np.float32, 3)
    wanted = out + gradient
    grad.conv2d_input(shape, weight, g, channels_last=True, out=out, accumulate=True)
    assert (out == wanted).all()


def test_accumulate_large():
    for name in ("rows", "depthwise", "stem", "pointwise"):
        x, weight, g = floats(LARGE[name])
        for call, operand in ((of_input, weight), (of_weight, x)):
            gradient = call(LARGE[name], operand, g)
            out = gradient.copy()
            call(LARGE[name], operand, g, out=out, accumulate=True)
            assert same_bits(out, gradient + gradient)


@both_dtypes
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_bias(rank, dtype):
    call = getattr(grad, f"conv{rank}d_bias")
    for shape in ((2, 3, 4, 37, 18)[: rank + 2], (5, 70, 33, 20, 9)[: rank + 2]):
        g = integers(shape, dtype, rank)
        spatial = tuple(range(2, rank + 2))
        assert (call(g) == g.sum(axis=(0, *spatial))).all()
        assert (call(g, per_sample=True) == g.sum(axis=spatial)).all()
        assert (call(g[0]) == g[0].sum(axis=tuple(range(1, rank + 1)))).all()
        last = np.moveaxis(g, 1, -1)
        assert (call(last, channels_last=True) == call(g)).all()
        out = call(g)
        assert call(g, out=out, accumulate=True) is out
        assert (out == 2 * call(g)).all()
        noise = np.random.default_rng(1).standard_normal(shape).astype(dtype)
        assert same_bits(call(np.moveaxis(noise, 1, -1).copy(), channels_last=True), call(noise))
        assert same_bits(call(noise, threads=2), call(noise, threads=1))


def test_empty_batch():
    x, g = np.zeros((0, 3, 9, 9), np.float32), np.zeros((0, 5, 7, 7), np.float32)
    assert (grad.conv2d_weight(x, (5, 3, 3, 3), g) == np.zeros((5, 3, 3, 3))).all()
    out = np.ones((5, 3, 3, 3), np.float32)
    assert (grad.conv2d_weight(x, (5, 3, 3, 3), g, out=out, accumulate=True) == 1).all()
    assert grad.conv2d_weight(x, (5, 3, 3, 3), g, per_sample=True).shape == (0, 5, 3, 3, 3)
    assert grad.conv2d_input(x.shape, np.ones((5, 3, 3, 3), np.float32), g).shape == x.shape
    assert (grad.conv2d_bias(g) == np.zeros(5)).all()


@pytest.mark.parametrize(
    "name",
    ["2d", "depthwise", "strided", "grouped", "one_channel"]
    + ["pointwise few channels", "one channel to many", "patches"],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_is_seen(name, value):
    """An element of x is in the gradient of the taps that see it, and in no other."""
    problem = replace(ALL[name], options=replace(ALL[name].options, activation=None))
    x = problem.integers(np.float64).x
    g = np.abs(integers(shape_of(problem), np.float64, 4)) + 1
    plain = of_weight(problem, x, g)
    for at in (0, x.size // 2, x.size - 1):
        hurt, mark = x.copy(), np.zeros_like(x)
        hurt.flat[at], mark.flat[at] = value, 1
        seen = of_weight(problem, mark, g) != 0
        found = of_weight(problem, hurt, g)
        assert (~np.isfinite(found) == seen).all()
        assert (found[~seen] == plain[~seen]).all()


# --- PyTorch --------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_torch(rank, dtype, stride, padding, dilation, groups):
    """`torch.nn.grad`, whose calls move over by their prefix."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.grad
    sizes, kernels = (13, 10, 11)[:rank], (3, 2, 4)[:rank]
    problem = case((2, 4, *sizes), (6, 4 // groups, *kernels))
    x, weight, _ = problem.integers(dtype)
    arguments = (stride, padding, dilation, groups)
    g = integers(faltung.conv(x, weight, None, *arguments).shape, dtype, 1)
    tensors = [torch.from_numpy(array) for array in (x, weight, g)]
    wanted = getattr(theirs, f"conv{rank}d_input")(x.shape, *tensors[1:], *arguments)
    found = getattr(grad, f"conv{rank}d_input")(x.shape, weight, g, *arguments)
    assert (found == wanted.numpy()).all()
    wanted = getattr(theirs, f"conv{rank}d_weight")(
        tensors[0], weight.shape, tensors[2], *arguments
    )
    found = getattr(grad, f"conv{rank}d_weight")(x, weight.shape, g, *arguments)
    assert (found == wanted.numpy()).all()


# --- bad input ------------------------------------------------------------------------------------

X, W, G = np.ones((2, 4, 9, 10)), np.ones((6, 2, 3, 3)), np.ones((2, 6, 7, 8))
ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "length": (
        lambda: grad.conv2d_input((2, 4, 9, 12), W, G, groups=2),
        ValueError,
        "grad_output is 8 long on spatial axis 1, but the convolution of an input of 12 gives 10; "
        "an input of 10 gives 8",
    ),
    "strided length": (
        lambda: grad.conv2d_input((2, 4, 9, 9), W, G, groups=2, stride=2),
        ValueError,
        "grad_output is 7 long on spatial axis 0, but the convolution of an input of 9 gives 4; an "
        "input of 15 to 16 gives 7",
    ),
    "batch": (
        lambda: grad.conv2d_weight(X[:1], W.shape, G, groups=2),
        ValueError,
        "grad_output has shape (2, 6, 7, 8), but the convolution gives shape (1, 6, 7, 8)",
    ),
    "outputs": (
        lambda: grad.conv2d_weight(X, (4, 2, 3, 3), G, groups=2),
        ValueError,
        "grad_output has shape (2, 6, 7, 8), but the convolution gives shape (2, 4, 7, 8)",
    ),
    "channels": (
        lambda: grad.conv2d_input((2, 5, 9, 10), W, G, groups=2),
        ValueError,
        "x has 5 channels (axis 1), but weight expects 4 (weight.shape[1] * groups = 2 * 2)",
    ),
    "rank": (
        lambda: grad.conv1d_weight(X, W.shape, G),
        ValueError,
        "weight has 4 dimensions (shape (6, 2, 3, 3)), but conv1d takes 3",
    ),
    "accumulate": (
        lambda: grad.conv2d_input(X.shape, W, G, groups=2, accumulate=True),
        ValueError,
        "accumulate=True adds to out; pass out",
    ),
    "samples": (
        lambda: grad.conv2d_weight(X[0], W.shape, G[0], groups=2, per_sample=True),
        ValueError,
        "per_sample=True keeps the images of a batch apart, but there is no batch axis",
    ),
    "out shape": (
        lambda: grad.conv2d_weight(X, W.shape, G, groups=2, out=np.zeros((6, 2, 3))),
        ValueError,
        "out has shape (6, 2, 3), but the result has shape (6, 2, 3, 3)",
    ),
    "out dtype": (
        lambda: grad.conv2d_input(X.shape, W, G, groups=2, out=np.zeros(X.shape, np.float32)),
        TypeError,
        "out has dtype float32, but the result is float64",
    ),
    "out overlap": (
        lambda: grad.conv2d_input(G.shape, np.ones((6, 6, 1, 1)), G, out=G),
        ValueError,
        "out shares memory with grad_output",
    ),
    "dtype": (
        lambda: grad.conv2d_input(X.shape, W, G.astype(str), groups=2),
        TypeError,
        "grad_output has dtype",
    ),
    "size": (
        lambda: grad.conv2d_input(9, W, G, groups=2),
        TypeError,
        "input_size must be a shape",
    ),
    "negative size": (
        lambda: grad.conv2d_weight(X, (6, 2, -3, 3), G, groups=2),
        ValueError,
        "weight_size is -3",
    ),
    "huge size": (
        lambda: grad.conv1d_input((2, 4, 2**62), np.ones((6, 4, 3)), np.ones((2, 6, 7))),
        (ValueError, MemoryError),
        "",
    ),
    "bias rank": (
        lambda: grad.conv2d_bias(np.ones((3, 4))),
        ValueError,
        "grad_output has 2 dimensions (shape (3, 4)), but (batch, channels, *spatial)",
    ),
    "bias samples": (
        lambda: grad.conv2d_bias(G[0], per_sample=True),
        ValueError,
        "per_sample=True",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(message)


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_plan(name):
    """`Plan.vjp`, `Plan.T` and the linear operator are the functions, bit for bit."""
    problem = KINDS[name]
    x, weight, g = floats(problem)
    bias = problem.floats()[2]
    plan = faltung.Plan(weight, bias, **vars(problem.options))
    last, rank = problem.options.channels_last, weight.ndim - 2
    assert same_bits(plan.T(g, problem.x), of_input(problem, weight, g))
    assert plan.T.T is plan
    y = plan(x)
    if problem.options.activation is not None:
        low, high = (0, np.inf) if problem.options.activation == "relu" else (-20, 30)
        g = np.where((y > low) & (y < high), g, np.float32(0))
    found = plan.vjp(x, g)
    assert same_bits(found["x"], of_input(problem, weight, g))
    assert same_bits(found["weight"], of_weight(problem, x, g))
    assert ("bias" in found) == (bias is not None)
    bias_gradient = grad.conv_bias(g, rank=rank, channels_last=last)
    assert same_bits(plan.vjp(x, g, ["bias"])["bias"], bias_gradient)
    with pytest.raises(ValueError, match="wanted is"):
        plan.vjp(x, g, ["w"])
    pytest.importorskip("scipy")
    operator = plan.as_linear_operator(problem.x)
    linear = replace(problem.options, activation=None, padding_value=0)
    y = replace(problem, options=linear).run(problem.floats()._replace(bias=None))
    assert same_bits(operator.matvec(x.ravel()), y.ravel())
    assert same_bits(operator.rmatvec(g.ravel()), of_input(problem, weight, g).ravel())


@pytest.mark.parametrize(
    ("dtype", "activation"),
    [
        # Complex numbers have no order.
        ("complex64", None),
        *itertools.product(
            ["float32", "float16", ">f4", ">f8", "int8", "uint16", "int64"],
            [None, "relu", ("clip", -3, 20)],
        ),
    ],
)
def test_vjp_of_any_numbers(dtype, activation):
    """Gradients of a plan are those of the functions, whatever its gradient is read as."""
    problem = case((2, 3, 9, 70), (9, 3, 3, 3), padding=1)
    x, weight, _ = problem.integers(start=2)
    operands = (x, weight, np.arange(9) - 4)
    x, weight, bias = ((abs(a) if dtype[0] == "u" else a).astype(dtype) for a in operands)
    plan = faltung.Plan(weight, bias, padding=1, activation=activation)
    y = plan(x)
    g = (np.arange(y.size) % 13 - 6).reshape(y.shape).astype(dtype)
    if dtype == "complex64":
        g = g * (1 - 2j)
    # Every other number of a larger array, and its axes in another order.
    wide = np.empty((*y.shape[:1], *y.shape[2:], 2 * y.shape[1]), g.dtype)[..., ::2].transpose(
        0, 3, 1, 2
    )
    wide[...] = g
    if activation is not None:
        low, high = (0, np.inf) if activation == "relu" else activation[1:]
        g = np.where((y > low) & (y < high), g, g.dtype.type(0))
    expected = {
        "x": grad.conv_input(x.shape, weight, g, padding=1),
        "weight": grad.conv_weight(x, weight.shape, g, padding=1),
        "bias": grad.conv_bias(g),
    }
    for threads in (1, 2):
        found = plan.vjp(x, wide, threads=threads)
        assert list(found) == list(expected)
        for name, gradient in expected.items():
            assert same_bits(found[name], gradient)
            assert same_bits(plan.vjp(x, wide, [name], threads=threads)[name], gradient)


def test_vjp_checks_all_that_it_is_given():
    plan = faltung.Plan(np.ones((2, 3, 3)), np.ones(2), activation="relu")
    with pytest.raises(ValueError, match="grad_output"):
        plan.vjp(np.ones((3, 8)), np.ones((2, 7)))
    with pytest.raises(ValueError, match="channels"):
        plan.vjp(np.ones((4, 8)), np.ones((2, 6)), ["bias"])
    assert plan.vjp(np.ones((3, 8)), np.ones((2, 6)), []) == {}


def test_what_a_plan_keeps_of_its_adjoint_serves_any_size():
    problem = case((1, 64, 1, 1), (70, 32, 3, 4), stride=(2, 3), padding=1, groups=2)
    weight = problem.floats().weight
    plan = faltung.Plan(weight, method="direct", stride=(2, 3), padding=1, groups=2)
    for size in [(1, 64, 31, 33), (64, 9, 9), (3, 64, 120, 125), (1, 64, 31, 33)]:
        g = case(plan.output_shape(size), (1,)).floats().x
        found = grad.conv_input(size, weight, g, (2, 3), 1, groups=2, method="direct")
        assert same_bits(plan.T(g, size), found)
