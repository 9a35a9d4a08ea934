"""Convolution a tap at a time: sums over channels, moved and added.

Exact on small integers, within the bound that it states, and with every promise of the direct
method about bits and what is not finite; as a convolution, and as the gradient of an input.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import faltung
import numpy as np
import promises
import pytest
from cases import KINDS, LAYOUTS, ConvCase, Operands, case, same_bits
from faltung import grad
from grid import GRIDS, difference, operands_of
from isa import available
from reference import input_numpy
from test_bounds import is_right_against_pages
from test_float import UNIT, gamma, touched

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# Blocks along the first axis, of images and of groups; rows that are cut into segments; taps that
# reach nothing; one chain of channels and several; weights in every order.
LAYERS = {
    "signal": case((3, 40, 3001), (2, 40, 5), padding=2),
    "long signal": case((1, 20, 70_001), (1, 20, 9), padding=((3, 5),)),
    "far signal": case((1, 13, 40), (1, 13, 3), padding=31, dilation=31),
    "image": case((2, 81, 57, 59), (3, 81, 3, 3), padding=1, activation="relu"),
    "blocks of rows": case((1, 30, 180, 190), (2, 30, 5, 3), padding=(3, 0)),
    "blocks of images": case((9, 20, 40, 41), (4, 20, 5, 5), padding=2),
    "many channels": case((1, 300, 14, 13), (2, 300, 3, 3), padding=1),
    "groups": case((2, 48, 60, 61), (6, 8, 5, 3), groups=6, padding=1),
    "rows": case((1, 20, 30, 41), (1, 20, 1, 7), padding=(0, 1)),
    "columns": case((1, 20, 30, 41), (5, 20, 7, 1), padding=(1, 0), activation=("clip", -9, 20)),
    "dilated": case((1, 20, 30, 41), (2, 20, 3, 3), dilation=(4, 2), padding=4),
    "volume": case((1, 32, 9, 14, 15), (3, 32, 3, 3, 3), padding=1),
    "blocks of a volume": case(
        (1, 24, 40, 30, 31), (1, 24, 3, 3, 2), padding=1, dilation=(2, 1, 1)
    ),
    "flipped": case((1, 20, 15, 16), (3, 20, 3, 3), flip=True, padding=(2, 1)),
    "channels last": case((2, 19, 30, 32), (3, 32, 3, 3), padding=1, channels_last=True),
    "cropped": case((1, 17, 20, 30), (2, 17, 3, 3), padding=((-2, 1), (3, -1))),
    "one tap": case((2, 20, 9, 8), (3, 20, 1, 1), padding=1),
    "beyond": case((1, 9, 3, 4), (2, 9, 2, 2), padding=9),
}


def can(problem: ConvCase) -> bool:
    found = faltung.explain(*problem.integers(), **vars(problem.options), method="pointwise")
    return found.as_dict()["why"] == "it was asked for"


CASES = {name: problem for name, problem in (KINDS | LAYERS).items() if can(problem)}
every_case = pytest.mark.parametrize("name", CASES)


def pointwise(problem: ConvCase, operands: Operands, **more: Any) -> np.ndarray:
    return problem.run(operands, method="pointwise", **more)


def test_cases():
    assert set(CASES) >= set(LAYERS)


@pytest.mark.parametrize("name", GRIDS)
def test_grid(name):
    """Every n-th case of the grid, of those that it can compute: the exact integers."""
    grid, done = replace(GRIDS[name], strides=(1,), modes=("zeros",)), 0
    for number in range(0, grid.cases, max(grid.cases // 1500, 1) | 1):
        problem = grid[number]
        operands = operands_of(problem, number)
        try:
            found = pointwise(problem, operands)
        except ValueError as error:
            if "another number than 0" not in str(error):
                with pytest.raises(ValueError, match=r"."):
                    problem.run(operands)
            continue
        expected = problem.expected(operands).astype(operands.x.dtype)
        assert difference(found, expected) is None, (number, problem)
        done += 1
    assert done > 20


@pytest.mark.parametrize("name", GRIDS)
def test_gradients_of_the_grid(name):
    """Of any stride and padding mode, and with the transposed convolution's bias and activation."""
    grid, done = GRIDS[name], 0
    for number in range(0, grid.cases, max(grid.cases // 1500, 1) | 1):
        problem = grid[number]
        plain = replace(problem.options, activation=None, padding_value=0)
        operands = operands_of(problem, number)
        x, weight, _ = operands
        try:
            y = replace(problem, options=plain).run(operands)
        except ValueError:
            continue
        g = case(y.shape, (1,)).integers(x.dtype, number + 1).x
        options = {k: v for k, v in vars(plain).items() if k not in ("activation", "padding_value")}
        expected = input_numpy(problem.x, weight, g, plain).astype(x.dtype)
        found = grad.conv_input(problem.x, weight, g, **options, method="pointwise")
        assert difference(found, expected) is None, (number, problem)
        done += 1
    assert done > 20


@both_dtypes
@every_case
def test_integers(name, dtype):
    operands = CASES[name].integers(dtype)
    expected = CASES[name].expected(operands).astype(dtype)
    assert difference(pointwise(CASES[name], operands), expected) is None


def test_it_is_another_sum():
    """Or else this module tests the direct method."""
    for name in LAYERS:
        if name != "one tap":
            operands = CASES[name].floats()
            assert not same_bits(pointwise(CASES[name], operands), CASES[name].run(operands)), name


@both_dtypes
@every_case
def test_error_bound(name, dtype):
    """The one that `explain` states: gamma(L + n) for L channels in a chain, n chains and taps."""
    problem = CASES[name]
    operands = problem.floats(dtype, seed=2)
    facts = faltung.explain(*operands, **vars(problem.options), method="pointwise").as_dict()
    (k,) = (m["roundings"] for m in facts["methods"] if m["method"] == "pointwise")
    channels, taps = problem.weight[1], np.prod(problem.weight[2:])
    assert k == min(channels, 128) + -(-channels // 128) + taps
    plain = replace(problem, options=replace(problem.options, activation=None))
    size = plain.expected(Operands(*(None if a is None else np.abs(a) for a in operands)))
    wide = Operands(*(None if a is None else a.astype(np.float64) for a in operands))
    error = np.abs(pointwise(problem, operands) - problem.expected(wide))
    slack = 2 if dtype == np.float64 else 1 + 1e-6  # the reference is rounded, too
    assert (error <= slack * gamma(k, UNIT[dtype]) * size).all()


@pytest.mark.parametrize("channels", [30, 300])
def test_error_beside_the_plain_sum(channels):
    """ "auto" may take it: within three times of what the plain sum's error is."""
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((1, channels, 40, 41)).astype(np.float32)
    weight = rng.standard_normal((2, channels, 5, 5)).astype(np.float32)
    exact = faltung.conv2d(x.astype(float), weight.astype(float), method="direct")
    error = [faltung.conv2d(x, weight, method=m) - exact for m in ("pointwise", "direct")]
    own, plain = (np.sqrt((e**2).mean()) for e in error)
    assert 0 < own < 3 * plain


@both_dtypes
@every_case
def test_threads(name, dtype):
    operands = CASES[name].floats(dtype)
    alone = pointwise(CASES[name], operands, threads=1)
    for threads in (2, 3, 8):
        assert same_bits(pointwise(CASES[name], operands, threads=threads), alone), threads


@both_dtypes
@every_case
def test_plans(name, dtype):
    problem = CASES[name]
    operands = problem.floats(dtype)
    options = vars(problem.options) | {"method": "pointwise"}
    plan = faltung.Plan(operands.weight, operands.bias, **options)
    wanted = pointwise(problem, operands)
    for threads in (None, 1, 2, 3):
        assert same_bits(plan(operands.x, threads=threads), wanted), threads
    # Another number of groups in a block.
    x = operands.x[..., :4] if name == "groups" else operands.x
    small = pointwise(problem, operands._replace(x=x))
    assert same_bits(plan(x), small)


@both_dtypes
@pytest.mark.parametrize("name", [n for n in CASES if len(CASES[n].x) == len(CASES[n].weight)])
def test_batch_and_single_images(name, dtype):
    promises.hold_for_images(pointwise, CASES[name], dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_layouts(name, layout):
    promises.hold_for_layout(pointwise, CASES[name], layout)


@both_dtypes
@every_case
def test_any_output(name, dtype):
    promises.hold_for_any_output(pointwise, CASES[name], dtype)


@both_dtypes
@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n].options.channels_last])
def test_channels_last(name, dtype):
    promises.hold_for_channels_last(pointwise, CASES[name], dtype)


def results(dtype: str) -> list[np.ndarray]:
    forward = [pointwise(problem, problem.floats(dtype)) for problem in CASES.values()]
    return forward + [transposed(name, dtype) for name in TRANSPOSED]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    found = isas.submit(isa, results, dtype).result()
    names = [*CASES, *TRANSPOSED]
    wanted = results(dtype)
    assert [n for n, f, w in zip(names, found, wanted, strict=True) if not same_bits(f, w)] == []


def against_pages(dtype: str) -> list[str]:
    """Which convolutions against forbidden pages are wrong."""

    def is_right(problem: ConvCase) -> bool:
        operands = problem.integers(dtype)
        call = partial(pointwise, problem, threads=2)
        return is_right_against_pages(call, operands, pointwise(problem, operands))

    return [name for name, problem in CASES.items() if not is_right(problem)]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_forbidden_pages(isas, isa, dtype):
    assert isas.submit(isa, against_pages, dtype).result() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_case
def test_not_finite_stays_in_its_window(name, value):
    problem = replace(CASES[name], options=replace(CASES[name].options, activation=None))
    operands = problem.floats(seed=6)
    clean = pointwise(problem, operands)
    rng = np.random.default_rng(7)
    for _ in range(4):
        at = tuple(int(rng.integers(size)) for size in problem.x)
        x = operands.x.copy()
        x[at] = value
        found = pointwise(problem, operands._replace(x=x), threads=2)
        mask = touched(problem, at)
        assert same_bits(np.where(mask, 0, found), np.where(mask, 0, clean))
        assert not np.isfinite(found[mask]).any()


# The transposed convolution: strides beyond and below the kernel, taps of few residues, blocks.
TRANSPOSED = {
    "patches": ((1, 60, 9, 11), (60, 3, 8, 8), {"stride": 8, "padding": (3, 1)}),
    "gaps": ((2, 30, 9, 11), (30, 2, 2, 3), {"stride": (5, 4), "output_padding": (2, 1)}),
    "odd": ((1, 70, 30, 31), (70, 2, 5, 2), {"stride": (2, 3), "padding": 1, "dilation": (3, 2)}),
    "same residue": ((1, 20, 30, 31), (20, 2, 3, 3), {"stride": 2, "dilation": 2}),
    "volume": ((1, 40, 9, 8, 7), (40, 3, 3, 3, 3), {"stride": (1, 3, 2), "padding": (1, 1, 0)}),
    "signal": ((2, 30, 9001), (30, 1, 7), {"stride": 3}),
    "blocks": ((3, 40, 60, 80), (40, 4, 5, 5), {"stride": 2, "padding": 2, "activation": "relu"}),
    "groups": ((1, 40, 60, 80), (40, 2, 7, 7), {"stride": 2, "groups": 4}),
    "circular": (
        (2, 30, 9, 11), (30, 2, 3, 3), {"stride": 2, "padding": 1, "padding_mode": "circular"}
    ),
}  # fmt: skip


def transposed(name: str, dtype: Any, integers: bool = False, **more: Any) -> np.ndarray:
    x, weight, options = TRANSPOSED[name]
    outputs = weight[1] * options.get("groups", 1)
    problem = ConvCase(x, weight, False)
    operands = problem.integers(dtype) if integers else problem.floats(dtype)
    bias = np.arange(outputs).astype(dtype)
    given = {"method": "pointwise"} | options | more
    return faltung.conv_transpose(operands.x, operands.weight, bias, **given)


@both_dtypes
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(name, dtype):
    exact = transposed(name, dtype, integers=True, method="direct")
    assert same_bits(transposed(name, dtype, integers=True), exact)
    found, plain = transposed(name, dtype), transposed(name, dtype, method="direct")
    # Where no result has more than one tap, and all channels are one chain, the sums are alike.
    assert same_bits(found, plain) == (name in ("patches", "gaps"))
    assert np.allclose(found, plain, rtol=0, atol=2e3 * UNIT[dtype] * np.abs(plain).max())
    for threads in (2, 3):
        assert same_bits(transposed(name, dtype, threads=threads), found)
    out = np.full([2 * n for n in found.shape], 7, dtype)[(slice(None, None, 2),) * found.ndim]
    assert same_bits(transposed(name, dtype, out=out), found)
    x, weight, options = TRANSPOSED[name]
    operands = ConvCase(x, weight, False).floats(dtype)
    bias = np.arange(found.shape[1]).astype(dtype)
    given = {"method": "pointwise"} | options
    one = faltung.conv_transpose(operands.x[-1], operands.weight, bias, **given)
    assert same_bits(one, found[-1])
    # Weights whose taps do not lie evenly apart, and results whose channels come last.
    lain = np.repeat(operands.weight, 2, axis=-1)[..., ::2]
    assert same_bits(faltung.conv_transpose(operands.x, lain, bias, **given), found)
    last = np.moveaxis(operands.x, 1, -1)
    y = faltung.conv_transpose(last, operands.weight, bias, channels_last=True, **given)
    assert same_bits(np.moveaxis(y, -1, 1), found)


def test_plans_of_gradients():
    """`Plan.T` and `Plan.vjp` keep the method, and what it makes of the weights."""
    rng = np.random.default_rng(9)
    weight = rng.standard_normal((40, 3, 5, 5)).astype(np.float32)
    plan = faltung.Plan(weight, stride=2, method="pointwise")
    with pytest.raises(ValueError, match="it has a stride"):
        plan(np.ones((3, 9, 9), np.float32))
    for size in (9, 60, 9):
        g = rng.standard_normal((2, 40, size, size)).astype(np.float32)
        wanted = faltung.conv_transpose(g, weight, stride=2, method="pointwise")
        assert same_bits(plan.T(g), wanted)


def test_accumulated_gradients():
    x, weight, options = TRANSPOSED["odd"]
    g, w, _ = ConvCase(x, weight, False).integers()
    found = faltung.conv_transpose(g, w, **options, method="pointwise")
    out = np.ones_like(found)
    grad.conv_input(found.shape, w, g, **options, method="pointwise", out=out, accumulate=True)
    assert (out == found + 1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite(value):
    """Where a window of the transposed convolution holds it, and nowhere else."""
    for name in ("patches", "gaps", "odd", "volume"):
        x, weight, options = TRANSPOSED[name]
        g, w, _ = ConvCase(x, weight, False).floats()
        clean = faltung.conv_transpose(g, w, **options, method="pointwise")
        at = tuple(n // 2 for n in x)
        one = np.zeros(x)
        one[at] = 1
        mask = faltung.conv_transpose(one, np.ones(weight), **options) > 0
        g[at] = value
        found = faltung.conv_transpose(g, w, **options, method="pointwise")
        assert same_bits(np.where(mask, 0, found), np.where(mask, 0, clean))
        assert not np.isfinite(found[mask]).any()


CHOICES = [
    ((1, 1, 145, 117), (81, 1, 3, 3), {}, True),
    ((1, 2, 96, 68), (185, 2, 5, 2), {"stride": (2, 3), "padding": 1}, True),
    ((1, 64, 32, 32), (64, 64, 3, 3), {"stride": 2, "padding": 1}, False),
]


@pytest.mark.parametrize(("x", "weight", "options", "taken"), CHOICES)
def test_auto(x, weight, options, taken):
    """It is taken for few channels, and not where there are many."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal(weight).astype(np.float32)
    shape = faltung.output_shape(x, weight, **options)
    g = rng.standard_normal(shape).astype(np.float32)
    auto = grad.conv_input(x, w, g, **options)
    assert same_bits(auto, grad.conv_input(x, w, g, **options, method="pointwise")) == taken
    exact = grad.conv_input(x, w, g, **options, precision="exact")
    assert same_bits(exact, grad.conv_input(x, w, g, **options, method="direct"))
    batch = grad.conv_input((3, *x[1:]), w, np.repeat(g, 3, axis=0), **options)
    assert same_bits(batch[1], auto[0])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stride": ({"stride": 2}, "it has a stride"),
    "mode": ({"padding": 1, "padding_mode": "reflect"}, "its padding shows elements of the input"),
    "value": ({"padding": 1, "padding_value": 2.0}, "the padding holds another number than 0"),
    "precision": ({"precision": "exact"}, 'precision is "exact", but method is "pointwise"'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    options, reason = REFUSED[name]
    x, weight = np.ones((9, 9, 9), np.float32), np.ones((1, 9, 3, 3), np.float32)
    with pytest.raises(ValueError, match="pointwise") as caught:
        faltung.conv(x, weight, method="pointwise", **options)
    assert reason in str(caught.value)


def test_nothing_to_sum():
    weight = np.ones((4, 30, 3, 3), np.float32)
    y = faltung.conv2d(np.zeros((0, 30, 9, 9), np.float32), weight, method="pointwise")
    assert y.shape == (0, 4, 7, 7)
    none = np.zeros((2, 0, 9, 9), np.float32)
    bias = np.arange(3.0, dtype=np.float32)
    found = faltung.conv_transpose2d(
        none, np.ones((0, 3, 3, 3), np.float32), bias, 2, method="pointwise"
    )
    assert (found == bias[:, None, None]).all()
