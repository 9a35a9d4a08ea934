"""Rounding: the promised sum to the last bit, its error bound, NaN, infinities and denormals.

With the unit roundoff u, L taps in the longest chain and n chains (see `reference.chains`), no
term of an output is rounded more than L times in its chain, n - 1 times as chains are added and
once with the bias. So (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1)

    |found - exact| <= gamma(L + n) * (|bias| + sum |w x|),    gamma(k) = k u / (1 - k u)

and an activation can only shrink the difference.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import faltung
import numpy as np
import pytest
from cases import KINDS, ConvCase, Operands, case, same_bits
from reference import chains, conv_loops, conv_numpy, one_output, rounded

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
LONG = {
    "layer": case((1, 512, 7, 7), (20, 512, 3, 3), padding=1),
    "pointwise": case((1, 3000, 5, 6), (7, 3000, 1, 1)),
    "kernel of one chain and one tap": case((1, 2, 300), (3, 2, 257)),
    "long kernel": case((1, 3, 1200), (2, 3, 1000)),
}


def gamma(k: int, unit: float) -> float:
    return k * unit / (1 - k * unit)


def bound(problem: ConvCase, operands: Operands) -> np.ndarray:
    """The greatest error that each output may have."""
    lengths = chains(problem.weight)
    size = Operands(*(None if a is None else np.abs(a) for a in operands))
    # The activation comes after the sums whose sizes are wanted here.
    positive = replace(problem.options, activation=None)
    positive = replace(positive, padding_value=abs(positive.padding_value))
    sums = conv_numpy(*size, positive)
    return gamma(max(lengths) + len(lengths), UNIT[operands.x.dtype.type]) * sums


@pytest.mark.parametrize("name", [*KINDS, *LONG])
def test_float32_error(name):
    problem = {**KINDS, **LONG}[name]
    operands = problem.floats(np.float32, seed=2)
    allowed = bound(problem, operands)
    # The float64 reference is itself off by no more than this.
    reference = gamma(problem.taps + 1, UNIT[np.float64]) / gamma(1, UNIT[np.float32])
    error = np.abs(problem.run(operands) - problem.expected(operands))
    assert (error <= allowed * (1 + reference)).all()
    assert error.any(), "these sums cannot all be exact"


@pytest.mark.parametrize("name", [n for n in KINDS if not n.startswith(("many", "one", "4d"))])
def test_float64_error(name):
    """Against the exact sums, as fractions."""
    problem = KINDS[name]
    operands = problem.floats(np.float64, seed=3)
    fractions = (
        None if a is None else np.vectorize(Fraction, otypes=[object])(a) for a in operands
    )
    exact = conv_loops(*fractions, problem.options)
    found = np.vectorize(Fraction, otypes=[object])(problem.run(operands))
    # The bound itself is computed in float64, hence the last factor.
    assert (abs(found - exact) <= bound(problem, operands) * (1 + 2.0**-40)).all()
    assert (found != exact).any(), "these sums cannot all be exact"


@both_dtypes
def test_chains_are_cut(dtype):
    """A sum that one chain gets wrong by as many units as it has taps left."""
    taps = 9 * 512
    problem = case((1, 512, 3, 3), (1, 512, 3, 3), bias=False)
    large = 1 / UNIT[dtype]  # where adding 1 is lost to rounding
    x = np.ones(problem.x, dtype)
    x[0, 0, 0, 0] = large
    operands = Operands(x, np.ones(problem.weight, dtype), None)
    lengths = chains(problem.weight)
    lost = Fraction(large) + taps - 1 - Fraction(problem.run(operands).item())
    assert lost == lengths[0] - 1
    assert lost < bound(problem, operands).item() < taps - 1


@both_dtypes
@pytest.mark.parametrize(
    "weight",
    [
        (1, 1, 3, 3),
        (2, 5, 2, 3),
        (1, 14, 3, 3),  # 126 taps: as many channels of 9 as 128 hold
        (1, 15, 3, 3),  # one channel more: a second chain
        (1, 60, 3, 3),
        (1, 128, 1, 1),
        (1, 129, 1, 1),
        (1, 600, 1, 1),
        (1, 2, 128),
        (1, 2, 129),  # a kernel longer than a chain: cut within each channel
        (1, 3, 23, 23),  # in slices of 5 rows
        (1, 1, 2, 300),  # and in pieces of a row
        (1, 5, 3, 5, 7),
    ],
    ids=str,
)
def test_promised_sum(weight, dtype):
    """Every bit is that of the documented order of roundings, emulated with fractions."""
    problem = case((1, weight[1], *(k + 1 for k in weight[2:])), weight)
    x, kernels, bias = problem.floats(dtype, seed=4)
    found = problem.run(Operands(x, kernels, bias))
    for o, *position in np.ndindex(found.shape[1:]):
        window = tuple(slice(p, p + k) for p, k in zip(position, weight[2:], strict=True))
        exact = one_output(x[(0, slice(None), *window)], kernels[o], bias[o])
        assert Fraction(float(found[(0, o, *position)])) == exact


@both_dtypes
def test_emulated_rounding(dtype):
    """The emulation rounds as the hardware does where the hardware can be asked."""
    rng = np.random.default_rng(5)
    for a, b in rng.standard_normal((500, 2)).astype(dtype):
        assert rounded(Fraction(float(a)) + Fraction(float(b)), dtype) == Fraction(float(a + b))
        assert rounded(Fraction(float(a)) * Fraction(float(b)), dtype) == Fraction(float(a * b))
    # Halfway between two floats, and a hair beyond: two roundings would miss the hair.
    half = Fraction(1) + Fraction(UNIT[dtype])
    step = 2 * Fraction(UNIT[dtype])
    assert rounded(half, dtype) == 1
    assert rounded(half + Fraction(1, 10**40), dtype) == 1 + step
    assert rounded(half - Fraction(1, 10**40), dtype) == 1


def touched(problem: ConvCase, at: tuple[int, ...]) -> np.ndarray:
    """Which outputs have the element `at` of x in their window."""
    x = np.zeros(problem.x)
    x[at] = 1
    plain = replace(problem.options, activation=None, padding_value=0)
    return conv_numpy(x, np.ones(problem.weight), None, plain) > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", KINDS)
def test_not_finite_stays_in_its_window(name, value):
    problem = KINDS[name]
    operands = problem.floats(seed=6)
    clean = problem.run(operands)
    rng = np.random.default_rng(7)
    for _ in range(4):
        at = tuple(int(rng.integers(size)) for size in problem.x)
        x = operands.x.copy()
        x[at] = value
        found = problem.run(operands._replace(x=x))
        mask = touched(problem, at)
        assert mask.any() or problem.options.stride != 1 or name == "cropped"
        assert same_bits(np.where(mask, 0, found), np.where(mask, 0, clean))
        if np.isnan(value):
            assert np.isnan(found[mask]).all()
        elif problem.options.activation is None:
            assert not np.isfinite(found[mask]).any()


@pytest.mark.parametrize("name", ["2d", "strided", "grouped", "depthwise", "one_channel", "3d"])
def test_nan_in_a_weight_or_bias_stays_in_its_channel(name):
    problem = KINDS[name]
    operands = problem.floats(seed=8)
    clean = problem.run(operands)
    for number in (1, 2):
        spoiled = [array.copy() for array in operands]
        spoiled[number][-1, ...] = np.nan
        found = problem.run(Operands(*spoiled))
        assert np.isnan(found[:, -1]).all()
        assert same_bits(found[:, :-1], clean[:, :-1])


def test_not_finite_padding_value():
    """Only outputs that see padding see its value, and infinity times zero is not left out."""
    x, weight = np.ones((1, 6, 7), np.float32), np.ones((1, 1, 3, 3), np.float32)
    inside = np.zeros((1, 6, 7), bool)
    inside[:, 1:-1, 1:-1] = True
    for value in (np.nan, np.inf):
        found = faltung.conv2d(x, weight, padding=1, padding_value=value)
        assert (found[inside] == 9).all()
        assert (np.isnan(found[~inside]) if np.isnan(value) else found[~inside] == value).all()
    found = faltung.conv2d(x, 0 * weight, padding=1, padding_value=np.inf)
    assert np.isnan(found[~inside]).all() and (found[inside] == 0).all()


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@both_dtypes
def test_rows_of_padding_are_zeros_that_are_multiplied(kernel, stride, dtype):
    """Signs of zeros and NaN are those of an image that has its padding with it."""
    rng = np.random.default_rng(kernel)
    # Products that no number is as small as, so that sums of negative ones are minus zero, ...
    small = 1e-30 if dtype == np.float32 else 1e-300
    x, weight = np.full((9, 14, 20), small), np.full((9, 1, kernel, kernel), -small)
    weight[0, :, -1] *= -1
    weight[1, :, 0, 0] *= -1
    x[2:4] *= rng.choice([1, -1], (2, 14, 20))
    # ... and others.
    weight[4:] = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])[:, None, None, None]
    weight[6:, :, 1:] = -1
    x, weight = x.astype(dtype), weight.astype(dtype)
    pad = kernel // 2
    around = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    found, expected = (
        faltung.conv2d(image, weight, stride=stride, padding=p, groups=9)
        for image, p in ((x, pad), (around, 0))
    )
    assert np.array_equal(np.isnan(found), np.isnan(expected)) and np.isnan(expected).any()
    zeros = expected == 0
    assert np.array_equal(found, expected, equal_nan=True) and zeros.any()
    assert np.array_equal(np.signbit(found[zeros]), np.signbit(expected[zeros]))
    assert np.signbit(expected[zeros]).any() and not np.signbit(expected[zeros]).all()


@pytest.mark.parametrize("activation", ["relu", ("clip", -1, 1), ("clip", -np.inf, np.inf)])
def test_activations_as_numpy_has_them(activation):
    values = np.array([-np.inf, -2, -0.5, 0, 0.5, 2, np.inf, np.nan], np.float32)
    found = faltung.conv1d(
        values[np.newaxis], np.ones((1, 1, 1), np.float32), activation=activation
    )
    wanted = np.maximum(values, 0) if activation == "relu" else np.clip(values, *activation[1:])
    assert np.array_equal(found[0], wanted, equal_nan=True)


@both_dtypes
def test_denormals_are_kept(dtype):
    """Integers times the least number there is: sums are exact, and flushing would make them 0."""
    least = np.finfo(dtype).smallest_subnormal
    problem = case((1, 3, 12, 40), (17, 3, 3, 3), padding=1)
    integers = problem.integers(np.float64)
    operands = Operands(
        (integers.x * float(least)).astype(dtype),
        integers.weight.astype(dtype),
        (integers.bias * float(least)).astype(dtype),
    )
    expected = (problem.expected(integers) * float(least)).astype(dtype)
    assert np.count_nonzero(expected) > expected.size / 2
    assert (problem.run(operands) == expected).all()


@both_dtypes
def test_overflow_is_infinite(dtype):
    largest = np.finfo(dtype).max
    x = np.array([[largest, largest, 1]], dtype)
    assert faltung.conv1d(x, np.ones((1, 1, 2), dtype)).tolist() == [[np.inf, largest]]


def test_products_are_fused():
    """(1 + e)(1 - e) - 1 is -e**2, which a product rounded by itself would lose."""
    e = 2.0**-13
    x = np.array([[-1, 1 + e]], np.float32)
    weight = np.array([[[1, 1 - e]]], np.float32)
    assert faltung.conv1d(x, weight).item() == -(e**2)


def test_chains_by_hand():
    assert chains((1, 14, 3, 3)) == [126]
    assert chains((1, 16, 3, 3)) == [126, 18]
    assert chains((1, 2, 300)) == 2 * [128, 128, 44]
    assert chains((1, 1, 31, 31)) == 7 * [124] + [93]
    assert chains((1, 2, 2, 20, 20)) == 4 * [120, 120, 120, 40]
    assert chains((1, 0, 3, 3)) == []
