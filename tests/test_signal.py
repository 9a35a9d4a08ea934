"""`convolve`, `correlate` and `sampled` against their formulas as loops, SciPy and NumPy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import faltung
import numpy as np
import pytest
from faltung import convolve, correlate, sampled
from reference import NUMPY_MODES, Axis

BOUNDARIES = ["zeros", "reflect", "symmetric", "edge", "wrap"]
# Kernels shorter than x and longer, of odd and even length, and a mixture.
SHAPES = [
    ((7,), (3,)),
    ((7,), (4,)),
    ((3,), (6,)),
    ((1,), (1,)),
    ((5, 6), (2, 3)),
    ((3, 4), (4, 5)),
    ((4, 3), (2, 5)),
    ((3, 4, 5), (2, 3, 2)),
]


def integers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Integers from -4 to 4."""
    return np.random.default_rng([seed, *shape]).integers(-4, 5, shape).astype(dtype)


def loops(
    x: np.ndarray, kernel: np.ndarray, sign: int, boundary: Any = "zeros", value: Any = 0
) -> np.ndarray:
    """All of sum over a of x(i + sign * a) kernel(a), over every i whose window touches x."""
    modes = [boundary] * x.ndim if isinstance(boundary, str) else boundary
    reach = [k - 1 for k in kernel.shape]
    axes = [
        Axis(n, 1, 1, 1, far, far, NUMPY_MODES[mode])
        for n, far, mode in zip(x.shape, reach, modes, strict=True)
    ]
    out = np.zeros([n + far for n, far in zip(x.shape, reach, strict=True)], dtype=object)
    for index in np.ndindex(out.shape):
        for a in np.ndindex(kernel.shape):
            # A convolution begins at i = 0; a correlation at i = -(k - 1).
            place = [
                i + sign * p + (far if sign < 0 else 0)
                for i, p, far in zip(index, a, reach, strict=True)
            ]
            source = [axis.source(p) for axis, p in zip(axes, place, strict=True)]
            element = value if None in source else int(x[tuple(source)])
            out[index] += element * int(kernel[a])
    return out


def part(full: np.ndarray, x: Any, kernel: Any, mode: str) -> np.ndarray:
    """The part of the full result that `mode` names."""
    slices = []
    for n, k in zip(x, kernel, strict=True):
        if mode == "full":
            slices.append(slice(0, n + k - 1))
        elif mode == "same":
            slices.append(slice((k - 1) // 2, (k - 1) // 2 + n))
        else:
            slices.append(slice(min(n, k) - 1, max(n, k)))
    return full[tuple(slices)]


def within(x: Any, kernel: Any) -> bool:
    """Whether one fits into the other, as "valid" demands."""
    pairs = list(zip(x, kernel, strict=True))
    return all(n >= k for n, k in pairs) or all(n <= k for n, k in pairs)


def assert_equal(result: Any, expected: Any) -> None:
    """Equal in shape and in every number."""
    assert np.shape(result) == np.shape(expected)
    assert (np.asarray(result) == np.asarray(expected)).all()


# ------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize(("function", "sign"), [(convolve, -1), (correlate, 1)])
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_formula(function: Any, sign: int, n: Any, k: Any, mode: str) -> None:
    for dtype in (np.float32, np.float64):
        x, kernel = integers(*n, dtype=dtype), integers(*k, seed=1, dtype=dtype)
        for boundary in [*BOUNDARIES, ("edge", "zeros", "wrap")[: len(n)]]:
            if mode == "valid" and not within(n, k):
                with pytest.raises(ValueError, match="hold the other"):
                    function(x, kernel, mode)
                continue
            result = function(x, kernel, mode, boundary=boundary)
            assert result.dtype == dtype
            # Where nothing but whole overlaps count, there is no boundary.
            full = loops(x, kernel, sign, "zeros" if mode == "valid" else boundary)
            assert_equal(result, part(full, n, k, mode))


def test_boundary_value() -> None:
    x, kernel = integers(3, 4), integers(3, 2, seed=1)
    result = convolve(x, kernel, boundary="constant", boundary_value=7)
    assert_equal(result, loops(x, kernel, -1, "constant", 7))


def test_other_names_of_boundaries() -> None:
    x, kernel = integers(6), integers(4, seed=1)
    for name, other in [("replicate", "edge"), ("circular", "wrap"), ("constant", "zeros")]:
        assert_equal(convolve(x, kernel, boundary=name), convolve(x, kernel, boundary=other))


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_convolution_commutes(n: Any, k: Any) -> None:
    x, kernel = integers(*n), integers(*k, seed=1)
    assert_equal(convolve(x, kernel), convolve(kernel, x))
    if within(n, k):
        assert_equal(convolve(x, kernel, "valid"), convolve(kernel, x, "valid"))
    assert_equal(correlate(x, kernel), np.flip(correlate(kernel, x)))


def test_convolution_is_associative_and_has_a_unit() -> None:
    a, b, c = integers(5, 6), integers(3, 2, seed=1), integers(2, 4, seed=2)
    assert_equal(convolve(convolve(a, b), c), convolve(a, convolve(b, c)))
    unit = np.zeros((3, 3), np.float32)
    unit[1, 1] = 1
    for boundary in BOUNDARIES:
        assert_equal(convolve(a, unit, "same", boundary=boundary), a)
        assert_equal(correlate(a, unit, "same", boundary=boundary), a)


def test_correlation_is_the_adjoint_of_convolution() -> None:
    x, kernel = integers(5, 6), integers(3, 2, seed=1)
    y = integers(7, 7, seed=2)
    assert np.vdot(convolve(x, kernel), y) == np.vdot(x, correlate(y, kernel, "valid"))


# ---------------------------------------------------------------------------------- batch and axes


@pytest.mark.parametrize("function", [convolve, correlate])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(
    ("axes", "k"),
    [
        (None, (2,)),
        (None, (3, 2)),
        (0, (2,)),
        (-3, (2,)),
        ((0, 2), (2, 3)),
        ((2, 0), (3, 2)),  # in the kernel's order
        ((1,), (6,)),  # longer than x
        ((0, 1, 2), (2, 2, 2)),
        ((2, 0, 1), (2, 1, 3)),
    ],
)
def test_axes(function: Any, mode: str, axes: Any, k: Any) -> None:
    x, kernel = integers(3, 4, 5), integers(*k, seed=1)
    result = function(x, kernel, mode, axes=axes)
    along = range(-len(k), 0) if axes is None else np.atleast_1d(axes)
    last = np.moveaxis(x, list(along), range(-len(k), 0))
    batch = last.shape[: -len(k)]
    single = np.empty(batch, dtype=object)
    for index in np.ndindex(batch):
        single[index] = function(last[index], kernel, mode)
    expected = np.array([*single.ravel()]).reshape(*batch, *single.flat[0].shape)
    assert_equal(result, np.moveaxis(expected, range(-len(k), 0), list(along)))


def test_empty_batch() -> None:
    assert convolve(np.ones((0, 5)), np.ones(3)).shape == (0, 7)
    assert convolve(np.ones((2, 0, 5)), np.ones(3), "same", axes=-1).shape == (2, 0, 5)
    assert convolve(np.ones((5, 0)), np.ones(3), "valid", axes=0).shape == (3, 0)
    assert convolve(np.ones((0, 3)), np.ones(5), "valid").shape == (0, 3)


@pytest.mark.parametrize("mode", ["full", "valid"])
@pytest.mark.parametrize(
    ("shape", "axes", "k"),
    [((4, 5, 6), (0, 2), (2, 3)), ((4, 5, 6), 1, (7,)), ((2, 3, 4, 5), (1, 3), (2, 2))],
)
def test_out(mode: str, shape: Any, axes: Any, k: Any) -> None:
    x, kernel = integers(*shape), integers(*k, seed=1)
    expected = convolve(x, kernel, mode, axes=axes)
    large = np.full([2 * n for n in expected.shape], np.nan, np.float32)
    # Every other element, one axis backwards.
    out = large[tuple(slice(None, None, 2) for _ in expected.shape)][::-1]
    assert convolve(x, kernel, mode, axes=axes, out=out) is out
    assert_equal(out, expected)
    assert np.isnan(large).sum() == large.size - out.size
    assert_equal(convolve(x, kernel, mode, axes=axes, out=np.empty_like(expected)), expected)


def test_threads_and_method_pass_through() -> None:
    x = np.random.default_rng(0).standard_normal((64, 64))
    kernel = np.random.default_rng(1).standard_normal((5, 5))
    one = convolve(x, kernel, threads=1, method="direct")
    assert one.tobytes() == convolve(x, kernel, threads=3, method="direct").tobytes()


def test_dtypes() -> None:
    x, kernel = integers(6), integers(3, seed=1)
    assert convolve(x, kernel.astype(np.float64)).dtype == np.float64
    assert convolve(x.astype(">f4"), kernel).dtype == np.float32
    assert_equal(convolve(x.astype(">f4"), kernel[::-1]), convolve(x, kernel[::-1].copy()))
    assert convolve([1.0, 2.0], [3.0]).tolist() == [3.0, 6.0]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_flip_makes_conv_the_sum_of_convolutions(rank: int) -> None:
    x, weight = integers(2, 3, *(6, 5, 4)[:rank]), integers(4, 3, *(3, 2, 3)[:rank], seed=1)
    result = faltung.conv(x, weight, flip=True)
    for n, o in itertools.product(range(2), range(4)):
        channels = [convolve(x[n, c], weight[o, c], "valid") for c in range(3)]
        assert_equal(result[n, o], sum(channels))


# ---------------------------------------------------------------------------------- SciPy and NumPy


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_scipy_agrees(n: Any, k: Any, mode: str) -> None:
    scipy_signal = pytest.importorskip("scipy.signal")
    if mode == "valid" and not within(n, k):
        return
    x, kernel = integers(*n), integers(*k, seed=1)
    expected = scipy_signal.convolve(x, kernel, mode, method="direct")
    assert_equal(convolve(x, kernel, mode), expected)
    expected = scipy_signal.correlate(x, kernel, mode, method="direct")
    assert_equal(correlate(x, kernel, mode), expected)


@pytest.mark.parametrize(
    ("name", "boundary"), [("fill", "zeros"), ("wrap", "wrap"), ("symm", "symmetric")]
)
@pytest.mark.parametrize("mode", ["full", "same"])
def test_convolve2d_of_scipy_agrees(name: str, boundary: str, mode: str) -> None:
    scipy_signal = pytest.importorskip("scipy.signal")
    value = 3 if name == "fill" else 0
    for n, k in [((5, 6), (3, 3)), ((5, 6), (2, 4)), ((4, 7), (1, 5)), ((3, 3), (5, 4))]:
        x, kernel = integers(*n), integers(*k, seed=1)
        expected = scipy_signal.convolve2d(x, kernel, mode, boundary=name, fillvalue=value)
        result = convolve(x, kernel, mode, boundary=boundary, boundary_value=value)
        assert_equal(result, expected)


def test_numpy_agrees() -> None:
    for n, k, mode in itertools.product(range(1, 8), range(1, 8), ("full", "same", "valid")):
        if mode == "same" and k > n:  # NumPy's "same" has the size of the longer one
            continue
        x, kernel = integers(n), integers(k, seed=1)
        assert_equal(convolve(x, kernel, mode), np.convolve(x, kernel, mode))
        assert_equal(correlate(x, kernel, mode), np.correlate(x, kernel, mode))


# ------------------------------------------------------------------------------- sampled functions


@pytest.mark.parametrize("rule", ["rectangle", "trapezoid"])
@pytest.mark.parametrize(
    ("n", "k"), [((5,), (3,)), ((2,), (2,)), ((3,), (6,)), ((3, 4), (2, 5)), ((2, 3, 2), (3, 2, 2))]
)
def test_rules_are_their_formulas(rule: str, n: Any, k: Any) -> None:
    f, g = integers(*n, dtype=np.float64), integers(*k, seed=1, dtype=np.float64)
    values, grid = sampled(f, g, 1.0, rule=rule)
    expected = np.zeros(values.shape)
    for x in np.ndindex(values.shape):
        # Along each axis the samples of f that g, turned around and moved to x, overlaps.
        overlap = [
            range(max(0, p - b + 1), min(p, a - 1) + 1) for p, a, b in zip(x, n, k, strict=True)
        ]
        for z in itertools.product(*overlap):
            halved = [
                0 if len(o) == 1 else 0.5 if p in (o[0], o[-1]) else 1
                for p, o in zip(z, overlap, strict=True)
            ]
            share = math.prod(halved) if rule == "trapezoid" else 1
            expected[x] += share * f[z] * g[tuple(np.subtract(x, z))]
    assert_equal(values, expected)
    assert [len(axis) for axis in grid] == list(values.shape)
    if rule == "trapezoid":
        assert_equal(sampled(g, f, 1.0, rule=rule)[0], values)


def test_grid_and_spacing() -> None:
    f, g = np.ones((3, 2), np.float32), np.ones((2, 4), np.float32)
    values, grid = sampled(f, g, (0.5, 2.0), f_start=(1.0, -1.0), g_start=0.25)
    assert values.dtype == np.float32
    assert_equal(values, convolve(f, g))  # the area of a cell is 1
    assert_equal(grid[0], [1.25, 1.75, 2.25, 2.75])
    assert_equal(grid[1], [-0.75, 1.25, 3.25, 5.25, 7.25])


def order(error: Any, spacing: float) -> float:
    """The measured order of convergence: how fast the error falls when the spacing is halved."""
    return math.log2(error(spacing) / error(spacing / 2))


def exponentials(rule: str, rank: int = 1) -> Any:
    """The greatest error for exp(-x) with exp(-2x), both from 0 on, times itself over the axes."""

    def error(spacing: float) -> float:
        x = spacing * np.arange(round(2 / spacing) + 1)
        f, g, exact = np.exp(-x), np.exp(-2 * x), np.exp(-x) - np.exp(-2 * x)
        for _ in range(rank - 1):
            f, g, exact = (np.multiply.outer(a, a) for a in (f, g, exact))
        values, grid = sampled(f, g, spacing, rule=rule)
        assert all(np.array_equal(axis[: len(x)], x) for axis in grid)
        return float(np.abs(values[(slice(len(x)),) * rank] - exact).max())

    return error


@pytest.mark.parametrize("rank", [1, 2])
def test_exponential_with_exponential(rank: int) -> None:
    assert 0.9 < order(exponentials("rectangle", rank), 1 / 16) < 1.1
    assert 1.9 < order(exponentials("trapezoid", rank), 1 / 16) < 2.1


def test_box_with_box() -> None:
    def error(spacing: float, rule: str) -> float:
        wide, narrow = np.ones(round(2 / spacing) + 1), np.ones(round(1 / spacing) + 1)
        values, (x,) = sampled(wide, narrow, spacing, rule=rule, f_start=-1.0, g_start=-0.5)
        # A trapezium: 1 in the middle, falling to 0 over the narrow box.
        exact = np.clip(1.5 - np.abs(x), 0, 1)
        return float(np.abs(values - exact).max())

    assert 0.9 < order(lambda h: error(h, "rectangle"), 1 / 32) < 1.1
    # The product of boxes is constant where they overlap; powers of two make sums exact.
    assert error(1 / 32, "trapezoid") == 0


@pytest.mark.parametrize("rule", ["rectangle", "trapezoid"])
def test_two_gaussians(rule: str) -> None:
    def gaussian(x: Any, sigma: float) -> Any:
        return np.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    def error(spacing: float) -> float:
        n = round(40 / spacing)
        x = spacing * np.arange(-n, n + 1)
        f, g = gaussian(x, 3.0), gaussian(x, 4.0)
        values, (at,) = sampled(f, g, spacing, rule=rule, f_start=-40.0, g_start=-40.0)
        return float(np.abs(values - gaussian(at, 5.0)).max())

    # Smooth everywhere: the order itself grows, until rounding is all that is left.
    first, second = order(error, 8.0), order(error, 5.0)
    assert 4 < first < second
    assert error(1.0) < 80 * np.finfo(np.float64).eps


# ------------------------------------------------------------------------------------------ errors

ONE = np.ones


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: convolve(ONE(5), ONE((2, 2))), ValueError, "one axis for each"),
        (lambda: convolve(ONE(5), np.float64(1)), ValueError, "one axis for each"),
        (lambda: convolve(ONE((5, 5)), ONE(2), axes=(0, 1)), ValueError, "axes is .0, 1., but"),
        (lambda: convolve(ONE((5, 5)), ONE(2), axes=2), ValueError, "one of the 2 axes"),
        (lambda: convolve(ONE((5, 5)), ONE((2, 2)), axes=(0, -2)), ValueError, "twice"),
        (lambda: convolve(ONE((5, 5)), ONE(2), axes=0.5), TypeError, "integer"),
        (lambda: convolve(ONE(5), ONE(0)), ValueError, "at least one element"),
        (lambda: convolve(ONE(0), ONE(5)), ValueError, "at least one element"),
        (lambda: convolve(ONE(5), ONE(2), "whole"), ValueError, "'full', 'same' or 'valid'"),
        (lambda: convolve(ONE(5), ONE(2), boundary="fill"), ValueError, "fill"),
        (lambda: convolve(ONE(5, object), ONE(2)), TypeError, "x has dtype object"),
        (lambda: correlate(ONE(5), ONE(2, "g")), TypeError, "weight has dtype float128"),
        (lambda: convolve(ONE(5), ONE(2), out=ONE(5)), ValueError, r"the result has shape \(6,\)"),
        (lambda: convolve(ONE(5), ONE(2), out=ONE(6, "f4")), TypeError, "out"),
        (lambda: convolve(ONE(5), ONE(2), out=[0.0] * 6), TypeError, "out must be an ndarray"),
        (lambda: convolve(ONE(5), ONE(2), threads=0), ValueError, "threads"),
        (lambda: convolve(ONE(5), ONE(2), method="fast"), ValueError, "method"),
        (lambda: sampled(ONE(5), ONE((2, 2)), 1.0), ValueError, "f has 1 axes and g 2"),
        (lambda: sampled(1.0, 1.0, 1.0), ValueError, "at least one"),
        (lambda: sampled(ONE(5), ONE(2), 0.0), ValueError, "must be positive"),
        (lambda: sampled(ONE(5), ONE(2), math.nan), ValueError, "must be positive"),
        (lambda: sampled(ONE(5), ONE(2), (1.0, 1.0)), ValueError, "spacing is"),
        (lambda: sampled(ONE(5), ONE(2), 1.0, f_start=(0, 0)), ValueError, "f_start is"),
        (lambda: sampled(ONE(5), ONE(2), 1.0, rule="simpson"), ValueError, "'trapezoid'"),
        (lambda: sampled(ONE(5), ONE(1), 1.0, rule="trapezoid"), ValueError, "at least 2"),
        (lambda: sampled(ONE(5), ONE(0), 1.0), ValueError, "at least 1"),
        (lambda: sampled(ONE(5, object), ONE(2), 1.0), TypeError, "f has dtype object"),
    ],
)
def test_errors_say_what_to_pass(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
