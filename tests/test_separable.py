"""Kernels of rank one, as passes along their axes.

Exact where the plain sum is, and within its documented bound; the same outputs hold what is not
finite, and the same bits come out for any layout, batch, number of threads and instruction set.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from typing import Any

import faltung
import numpy as np
import pytest
from cases import LAYOUTS, ConvCase, Operands, case, same_bits
from isa import available

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}

CASES = {
    "image": case((1, 1, 41, 53), (1, 1, 7, 5), padding=(3, 2)),
    "valid": case((2, 1, 30, 31), (1, 1, 5, 6)),
    "rows": case((1, 1, 700, 500), (1, 1, 9, 11), padding="same"),
    "depthwise": case((2, 12, 20, 19), (12, 1, 5, 5), groups=12, padding=2),
    "multiplier": case((2, 3, 40, 50), (9, 1, 3, 4), groups=3, padding="full", bias=True),
    "outputs": case((1, 1, 64, 40), (5, 1, 7, 3), padding=(3, 1), activation="relu"),
    "stride": case((1, 2, 61, 59), (2, 1, 5, 4), groups=2, stride=(2, 3), padding=2),
    "dilation": case((1, 1, 60, 70), (1, 1, 3, 5), dilation=(7, 2), padding="same"),
    "both": case((1, 1, 60, 70), (1, 1, 4, 5), stride=(2, 3), dilation=(3, 2), padding=4),
    "reflect": case((1, 1, 20, 31), (1, 1, 9, 7), padding=(4, 3), padding_mode="reflect"),
    "edge": case((1, 1, 20, 31), (1, 1, 9, 7), padding=(9, 8), padding_mode="edge"),
    "wrap": case((1, 1, 6, 5), (1, 1, 9, 7), padding=(14, 8), padding_mode="wrap"),
    "symmetric": case((1, 1, 300, 31), (1, 1, 9, 7), padding=(9, 8), padding_mode="symmetric"),
    "mixed modes": case((1, 1, 20, 31), (1, 1, 9, 7), padding=4, padding_mode=("wrap", "reflect")),
    "crop": case((1, 1, 40, 41), (1, 1, 5, 5), padding=[(-3, 2), (1, -4)], padding_mode="reflect"),
    "channels last": case((2, 30, 31, 3), (6, 1, 5, 3), groups=3, padding=2, channels_last=True),
    "flipped": case((1, 1, 30, 31), (2, 1, 4, 5), flip=True),
    "volume": case((2, 2, 9, 14, 15), (2, 1, 3, 4, 5), groups=2, padding=(1, 2, 2)),
    "thin volume": case((1, 1, 9, 14, 15), (1, 1, 3, 1, 5), stride=2, padding=(1, 1, 2)),
    "slices": case((1, 1, 9, 14, 15), (1, 1, 1, 4, 5), stride=(2, 1, 1), padding=(1, 0, 2)),
    "four axes": case((1, 1, 5, 6, 7, 8), (1, 1, 2, 3, 2, 3), padding=1),
    "whole": case((1, 1, 9, 8), (1, 1, 9, 8)),
}
every_case = pytest.mark.parametrize("name", CASES)


def factors(problem: ConvCase, seed: int) -> list[np.ndarray]:
    """Of each output a vector an axis, of small integers: 0 among them, and common divisors."""
    rng = np.random.default_rng(seed)
    outputs, _, *kernel = problem.weight
    found = [rng.integers(-3, 4, (outputs, n)) for n in kernel]
    for vectors in found:
        vectors[:, 0] += 4 * (vectors[:, 0] == 0)
    return found


def outer(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the kernels whose factors these are."""
    pairs = reduce(lambda a, b: a[..., None] * b[(slice(None),) + (None,) * (a.ndim - 1)], vectors)
    return pairs[:, None]


def operands_of(problem: ConvCase, dtype: Any, *, floats: bool = False, seed: int = 3) -> Operands:
    x, weight, bias = problem.floats(dtype) if floats else problem.integers(dtype)
    del weight
    return Operands(x, outer(factors(problem, seed)).astype(dtype), bias)


def separable(problem: ConvCase, operands: Operands, **more: Any) -> np.ndarray:
    return problem.run(operands, method="separable", **more)


@both_dtypes
@every_case
def test_integers(name, dtype):
    problem = CASES[name]
    operands = operands_of(problem, dtype)
    wanted = problem.expected(operands).astype(dtype)
    for threads in (1, 3):
        assert np.array_equal(separable(problem, operands, threads=threads), wanted)


def gamma(k: int, dtype: Any) -> float:
    return k * UNIT[dtype] / (1 - k * UNIT[dtype])


@both_dtypes
@every_case
def test_error_bound(name, dtype):
    """What the passes promise: for these kernels no more than the plain sum does."""
    problem = CASES[name]
    operands = operands_of(problem, dtype, floats=True)
    plain = replace(problem, options=replace(problem.options, activation=None))
    wide = Operands(*(None if a is None else a.astype(np.float64) for a in operands))
    size = plain.expected(Operands(*(None if a is None else np.abs(a) for a in wide)))
    taps = sum(n for n in problem.weight[2:] if n > 1)
    error = np.abs(separable(problem, operands) - problem.expected(wide))
    slack = 2 if dtype == np.float64 else 1  # the reference is rounded, too
    assert np.all(error <= slack * gamma(taps + 1, dtype) * size)


@both_dtypes
def test_rounded_products(dtype):
    """Rounded weights have factors too, where asked for, and a bound of their own."""
    rng = np.random.default_rng(1)
    g = np.exp(-(np.linspace(-3, 3, 15) ** 2) / 2)
    g /= g.sum()
    weight = np.outer(g, g).astype(dtype)[None, None]
    x = rng.standard_normal((1, 80, 90)).astype(dtype)
    found = faltung.conv2d(x, weight, padding="same", method="separable")
    problem = case((1, 80, 90), (1, 1, 15, 15), padding="same")
    wide = [np.abs(a).astype(np.float64) for a in (x, weight)]
    size = problem.expected(Operands(wide[0], wide[1], None))
    ones = problem.expected(Operands(wide[0], np.ones_like(wide[1]), None))
    near = 16 * UNIT[dtype] * np.abs(weight).max() * ones
    exact = problem.expected(Operands(x.astype(np.float64), weight.astype(np.float64), None))
    assert np.all(np.abs(found - exact) <= near + 2 * gamma(33, dtype) * size)
    # "auto" does not take them for products.
    auto = faltung.conv2d(np.tile(x, (1, 9, 9)), weight, padding="same")
    assert not same_bits(
        auto, faltung.conv2d(np.tile(x, (1, 9, 9)), weight, padding="same", method="separable")
    )


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@every_case
def test_not_finite(name, odd):
    """One such number touches what it touches in the plain sum, with zero taps too."""
    problem = CASES[name]
    for seed in range(3):
        operands = operands_of(problem, np.float32, seed=seed)
        rng = np.random.default_rng(seed)
        for count in (1, 4):
            at = rng.integers(0, operands.x.size, count)
            operands.x.ravel()[at] = odd * np.where(rng.random(count) < 0.5, 1, -1)
            wanted = problem.run(operands, method="direct")
            assert np.array_equal(separable(problem, operands), wanted, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_layouts(name, layout):
    problem = CASES[name]
    operands = operands_of(problem, np.float32, floats=True)
    wanted = separable(problem, operands)
    change = LAYOUTS[layout]
    changed = Operands(change(operands.x), change(operands.weight), operands.bias)
    assert same_bits(separable(problem, changed), wanted)
    out = change(np.full_like(wanted, 7))
    if out.flags.writeable and out.dtype.isnative and out.shape == wanted.shape:
        out = np.empty_like(out)
        separable(problem, operands, out=out)
        assert same_bits(out, wanted)


@both_dtypes
@every_case
def test_threads_batch_and_plan(name, dtype):
    problem = CASES[name]
    operands = operands_of(problem, dtype, floats=True)
    wanted = separable(problem, operands)
    for threads in (1, 2, 5):
        assert same_bits(separable(problem, operands, threads=threads), wanted)
    for image, one in zip(operands.x, wanted, strict=True):
        assert same_bits(separable(problem, operands._replace(x=image)), one)
    options = vars(problem.options) | {"method": "separable"}
    plan = faltung.Plan(operands.weight, operands.bias, **options)
    for _ in range(2):
        assert same_bits(plan(operands.x), wanted)


def results(names: list[str], dtype: Any) -> list[np.ndarray]:
    return [separable(CASES[n], operands_of(CASES[n], dtype, floats=True)) for n in names]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    names = list(CASES)
    found = isas.submit(isa, results, names, dtype).result()
    wanted = results(names, dtype)
    assert [n for n, f, w in zip(names, found, wanted, strict=True) if not same_bits(f, w)] == []


def test_auto_takes_what_is_exactly_a_product():
    x = np.random.default_rng(0).standard_normal((1, 300, 400)).astype(np.float32)
    binomial = np.array([math.comb(14, k) for k in range(15)], np.float32) / 2**14
    weight = np.outer(binomial, binomial)[None, None]
    run = {m: faltung.conv2d(x, weight, method=m) for m in ("auto", "direct", "fft", "separable")}
    assert same_bits(run["auto"], run["separable"])
    assert not same_bits(run["auto"], run["direct"])
    weight[0, 0, 7, 7] = np.nextafter(weight[0, 0, 7, 7], np.float32(1))
    changed = {m: faltung.conv2d(x, weight, method=m) for m in ("auto", "direct", "fft")}
    assert same_bits(changed["auto"], changed["fft"]) or same_bits(
        changed["auto"], changed["direct"]
    )


def test_a_plan_tells_exact_factors_from_near_ones():
    bell = np.exp(-(np.arange(-9.0, 10) ** 2) / 20)
    weight = np.outer(bell, bell).astype(np.float32)[None, None]  # a product but for rounding
    weight = np.repeat(weight, 9, axis=0)
    x = np.random.default_rng(0).standard_normal((1, 1, 200, 220)).astype(np.float32)
    plan = faltung.Plan(weight, padding="same")
    before = plan(x)
    explained = faltung.explain(x, weight, padding="same"), plan.explain(x.shape)
    alone, kept = ({m["method"]: m for m in e.as_dict()["methods"]} for e in explained)
    assert "not exactly" in alone["separable"]["why"] and alone["separable"]["flops"] > 0
    assert kept["separable"] == alone["separable"]
    assert same_bits(plan(x), before)


ONES = np.ones((1, 1, 5, 5), np.float32)
X = np.ones((1, 1, 30, 30), np.float32)


@pytest.mark.parametrize(
    ("x", "weight", "options", "reason"),
    [
        (X, np.eye(5, dtype=np.float32)[None, None], {}, "weight[0, 0] is not nearly of rank one"),
        (np.ones((1, 3, 9, 9)), np.ones((2, 3, 3, 3)), {}, "an output sums over 3 channels"),
        (X, np.ones((1, 1, 1, 5)), {}, "more than one tap along one axis at most"),
        (np.ones((1, 1, 9)), np.ones((1, 1, 5)), {}, "more than one tap along one axis at most"),
        (X, ONES, {"padding": 1, "padding_value": 2}, "the padding holds another number than 0"),
        (X, ONES * np.nan, {}, "weight[0, 0] is not nearly of rank one"),
    ],
)
def test_what_cannot_be_says_why(x, weight, options, reason):
    with pytest.raises(ValueError, match='method is "separable"') as caught:
        faltung.conv(x, weight, method="separable", **options)
    assert reason in str(caught.value)
    # No method but this one minds.
    assert np.array_equal(
        faltung.conv(x, weight, **options),
        faltung.conv(x, weight, method="direct", **options),
        equal_nan=True,
    )
    if options:
        assert faltung.conv(x, weight, method="separable", padding=1).shape == (1, 1, 28, 28)


def test_gradients_go_on_where_a_phase_has_no_passes():
    x, weight = np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3))
    plan = faltung.Plan(weight, stride=2, method="separable")
    g = np.ones_like(plan(x))
    plain = faltung.Plan(weight, stride=2, method="direct")
    for name, found in plan.vjp(x, g).items():
        assert np.array_equal(found, plain.vjp(x, g)[name])
