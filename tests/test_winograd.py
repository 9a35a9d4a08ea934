"""Convolution by transforms of small tiles.

Exact on small integers but where `precision` is "fast", close on other numbers, and with every
promise of the direct method about bits and what is not finite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import faltung
import numpy as np
import promises
import pytest
from cases import KINDS, LAYOUTS, ConvCase, Operands, case, same_bits
from grid import GRIDS, difference, operands_of
from isa import available
from test_bounds import is_right_against_pages
from test_float import touched

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# Each way there is to go through tiles: of one axis, two and three; several blocks, channels in
# several chains, taps that are left, residues of a dilation; weights in every order.
LAYERS = {
    "signal": case((3, 20, 3001), (17, 20, 3), padding=1),
    "dilated signal": case((2, 9, 900), (14, 9, 3), padding=8, dilation=8),
    "far signal": case((1, 3, 40), (9, 3, 3), padding=31, dilation=31),
    "image": case((2, 30, 57, 59), (33, 30, 3, 3), padding=1, activation="relu"),
    "long rows": case((1, 3, 9, 700), (5, 3, 3, 3), padding=(1, 2), padding_mode="reflect"),
    "many channels": case((1, 300, 14, 13), (66, 300, 3, 3), padding=1),
    "many of both": case((1, 160, 14, 15), (128, 160, 3, 3), padding=1, activation="relu"),
    "many outputs": case((1, 5, 30, 31), (150, 5, 3, 3)),
    "small images": case((19, 20, 5, 7), (24, 20, 3, 3), padding=1),
    "groups": case((2, 24, 20, 21), (60, 8, 3, 3), groups=3, padding=1),
    "depthwise": case((1, 9, 31, 30), (9, 1, 3, 3), groups=9, padding=1),
    "rows": case((1, 20, 30, 41), (17, 20, 1, 3), padding=(0, 1)),
    "columns": case((1, 20, 30, 41), (17, 20, 3, 1), padding=(1, 0), activation=("clip", -9, 20)),
    "taps left": case((2, 20, 30, 41), (17, 20, 5, 3), padding="same"),
    "taps left within": case((1, 20, 30, 41), (17, 20, 3, 4), padding="same"),
    "stride left": case((1, 20, 30, 41), (17, 20, 3, 3), stride=(2, 1), padding=1),
    "stride left within": case((1, 20, 30, 41), (17, 20, 3, 3), stride=(1, 3), padding=1),
    "dilated": case((1, 20, 30, 41), (17, 20, 3, 3), dilation=(4, 2), padding=4),
    "dilated, many outputs": case((1, 60, 24, 24), (48, 60, 3, 3), dilation=(3, 4), padding=4),
    "dilated rows": case((1, 20, 30, 41), (48, 20, 5, 3), dilation=(1, 3), padding="same"),
    # Blocks have some residues of the last axis, but not all.
    "farther signal": case((1, 100, 2000), (34, 100, 3), dilation=500, padding=500),
    "farther, many outputs": case((1, 100, 2001), (60, 100, 3), dilation=500, padding=500),
    "volume": case((1, 12, 9, 14, 15), (14, 12, 3, 3, 3), padding=1),
    "deep volume": case((1, 24, 10, 18, 18), (40, 24, 3, 3, 3)),
    "wide volume": case((1, 96, 8, 16, 16), (96, 96, 3, 3, 3), padding=1),
    "large volume": case((1, 24, 16, 24, 32), (40, 24, 3, 3, 3), padding=1),
    "low image": case((1, 30, 6, 64), (30, 30, 3, 3), padding=1),
    "flipped": case((1, 20, 15, 16), (24, 20, 3, 3), flip=True, padding=(2, 1)),
    "channels last": case((2, 19, 30, 32), (35, 32, 3, 3), padding=1, channels_last=True),
    "cropped": case((1, 7, 20, 30), (8, 7, 3, 3), padding=((-2, 1), (3, -1)), padding_value=1.5),
    "circular": case((1, 7, 6, 30), (8, 7, 3, 3), padding=4, padding_mode="circular"),
}


@dataclass(frozen=True)
class Tiles(ConvCase):
    """A convolution of a precision."""

    precision: str = "high"

    def run(self, operands: Operands, **more: Any) -> np.ndarray:
        return super().run(operands, **({"precision": self.precision} | more))

    def facts(self) -> dict[str, Any]:
        """What the method would do, or why not."""
        asked: dict[str, Any] = {"precision": self.precision, "method": "winograd"}
        facts = faltung.explain(*self.integers(), **vars(self.options), **asked).as_dict()
        (found,) = (method for method in facts["methods"] if method["method"] == "winograd")
        return found


EXACT = {name: Tiles(**vars(problem)) for name, problem in (KINDS | LAYERS).items()}
EXACT = {name: problem for name, problem in EXACT.items() if problem.facts()["state"] == "chosen"}
FAST = {f"{name}, fast": replace(EXACT[name], precision="fast") for name in LAYERS}
FAST = {name: problem for name, problem in FAST.items() if "F(4,3)" in problem.facts()["forms"]}
ALL = EXACT | FAST
every_case = pytest.mark.parametrize("name", ALL)


def winograd(problem: ConvCase, operands: Operands, **more: Any) -> np.ndarray:
    return problem.run(operands, method="winograd", **more)


@pytest.mark.parametrize("name", GRIDS)
def test_grid(name):
    """Every n-th case of the grid of all options: the exact integers."""
    grid, done = GRIDS[name], 0
    for number in range(0, grid.cases, max(grid.cases // 1500, 1) | 1):
        problem = grid[number]
        operands = operands_of(problem, number)
        try:
            found = winograd(problem, operands)
        except ValueError as error:
            if "no axis has a kernel of 3" not in str(error):
                with pytest.raises(ValueError, match=r"."):
                    problem.run(operands)
            continue
        expected = problem.expected(operands).astype(operands.x.dtype)
        assert difference(found, expected) is None, (number, problem)
        done += 1
    assert done > 20 or name == "4d"


@both_dtypes
@pytest.mark.parametrize("name", EXACT)
def test_integers(name, dtype):
    operands = ALL[name].integers(dtype)
    expected = ALL[name].expected(operands).astype(dtype)
    assert difference(winograd(ALL[name], operands), expected) is None


@pytest.mark.parametrize("name", FAST)
def test_nearly_integers(name):
    """Thirds and their products are rounded, by little beside what a wrong term would change."""
    operands = ALL[name].integers(np.float64)
    error = winograd(ALL[name], operands) - ALL[name].expected(operands)
    assert np.abs(error).max() < 1e-10


def test_forms():
    """Which transforms are tested: both, of one axis to three, alike and mixed."""
    forms = {tuple(filter(None, problem.facts()["forms"])) for problem in ALL.values()}
    two, four = "F(2,3)", "F(4,3)"
    assert forms >= {(two,), (four,), (two, two), (four, four), (two, two, two)}
    assert any(len(set(form)) == 2 for form in forms)


def test_roles():
    """Rows are tiles where vectors of output channels are full, or nearly."""
    by_tiles = {name for name, problem in EXACT.items() if problem.facts()["roles"][0] == "tiles"}
    assert by_tiles >= {"many of both", "many outputs", "low image", "dilated, many outputs"}
    assert set(EXACT) - by_tiles >= {"image", "many channels", "depthwise"}


def test_it_is_another_sum():
    """Or else this module tests the direct method."""
    for name, problem in ALL.items():
        operands = problem.floats()
        assert not same_bits(winograd(problem, operands), problem.run(operands)), name


@both_dtypes
@every_case
def test_threads(name, dtype):
    operands = ALL[name].floats(dtype)
    alone = winograd(ALL[name], operands, threads=1)
    for threads in (2, 3, 8):
        assert same_bits(winograd(ALL[name], operands, threads=threads), alone), threads


@both_dtypes
@every_case
def test_repeated(name, dtype):
    """Nothing depends on what a scratch buffer held."""
    operands = ALL[name].floats(dtype)
    first = winograd(ALL[name], operands)
    for other in ("image", "signal", "volume"):
        x, weight, bias = LAYERS[other].floats(dtype)
        winograd(ALL[other], Operands(np.full_like(x, np.nan), weight, bias), threads=2)
        assert same_bits(winograd(ALL[name], operands), first)


@both_dtypes
@every_case
def test_plans(name, dtype):
    problem = ALL[name]
    operands = problem.floats(dtype)
    options = vars(problem.options) | {"method": "winograd", "precision": problem.precision}
    plan = faltung.Plan(operands.weight, operands.bias, **options)
    before, wanted = plan._kept.nbytes, winograd(problem, operands)
    for threads in (None, 1, 2, 3):
        assert same_bits(plan(operands.x, threads=threads), wanted), threads
    assert plan._kept.nbytes > before


def test_plans_of_many_shapes():
    """What is transformed, and how, may depend on the input: of a row of pixels it is one axis."""
    problem = ALL["image, fast"]
    _, weight, bias = problem.floats()
    options = vars(problem.options) | {"method": "winograd", "precision": "fast"}
    plan = faltung.Plan(weight, bias, **options)
    for shape in [(30, 40, 50), (30, 1, 50), (2, 30, 33, 1), (30, 20, 20)]:
        x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        assert same_bits(plan(x), winograd(problem, Operands(x, weight, bias)))


@both_dtypes
@pytest.mark.parametrize("name", [n for n in ALL if len(ALL[n].x) == len(ALL[n].weight)])
def test_batch_and_single_images(name, dtype):
    promises.hold_for_images(winograd, ALL[name], dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_layouts(name, layout):
    promises.hold_for_layout(winograd, ALL[name], layout)


@both_dtypes
@every_case
def test_any_output(name, dtype):
    promises.hold_for_any_output(winograd, ALL[name], dtype)


@both_dtypes
@pytest.mark.parametrize("name", [n for n in ALL if not ALL[n].options.channels_last])
def test_channels_last(name, dtype):
    promises.hold_for_channels_last(winograd, ALL[name], dtype)


def results(dtype: str) -> list[np.ndarray]:
    return [winograd(problem, problem.floats(dtype)) for problem in ALL.values()]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    found = isas.submit(isa, results, dtype).result()
    wanted = results(dtype)
    assert [n for n, f, w in zip(ALL, found, wanted, strict=True) if not same_bits(f, w)] == []


def against_pages(dtype: str) -> list[str]:
    """Which convolutions against forbidden pages are wrong."""

    def is_right(problem: ConvCase) -> bool:
        operands = problem.integers(dtype)
        call = partial(winograd, problem, threads=2)
        return is_right_against_pages(call, operands, winograd(problem, operands))

    return [name for name, problem in ALL.items() if not is_right(problem)]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_forbidden_pages(isas, isa, dtype):
    assert isas.submit(isa, against_pages, dtype).result() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_case
def test_not_finite_stays_in_its_window(name, value):
    problem = replace(ALL[name], options=replace(ALL[name].options, activation=None))
    operands = problem.floats(seed=6)
    clean = winograd(problem, operands)
    rng = np.random.default_rng(7)
    for count in (1, 5):
        x = operands.x.copy()
        mask = np.zeros(clean.shape, bool)
        for _ in range(count):
            at = tuple(int(rng.integers(size)) for size in problem.x)
            x[at] = value
            mask |= touched(problem, at)
        found = winograd(problem, operands._replace(x=x), threads=2)
        near = 1e-5 * np.abs(clean).max()
        assert np.abs(np.where(mask, 0, found) - np.where(mask, 0, clean)).max() <= near
        # Where it is seen, it is the plain sum.
        assert same_bits(found[mask], problem.run(operands._replace(x=x))[mask])


def test_all_that_is_not_finite():
    problem = ALL["image"]
    x, weight, bias = problem.floats()
    assert np.isnan(winograd(problem, Operands(np.full_like(x, np.nan), weight, bias))).all()


@pytest.mark.parametrize("name", ["2d", "grouped", "depthwise", "many channels", "image, fast"])
def test_weights_that_are_not_finite(name):
    problem = ALL[name]
    operands = problem.floats(seed=8)
    for value in (np.nan, np.inf, 3e38):
        weight = operands.weight.copy()
        weight[-1, 0] = value
        spoiled = operands._replace(weight=weight)
        assert same_bits(winograd(problem, spoiled), problem.run(spoiled))


def test_not_finite_padding_value():
    x, weight = np.ones((1, 20, 30), np.float32), np.ones((1, 1, 3, 3), np.float32)
    inside = np.zeros((1, 20, 30), bool)
    inside[:, 1:-1, 1:-1] = True
    for value in (np.nan, np.inf):
        y = faltung.conv2d(x, weight, padding=1, padding_value=value, method="winograd")
        assert (y[inside] == 9).all()
        assert (np.isnan(y[~inside]) if np.isnan(value) else y[~inside] == value).all()


@both_dtypes
@pytest.mark.parametrize("name", ["image", "image, fast"])
def test_numbers_near_overflow(name, dtype):
    """A sum in a transform overflows where that over a window does not."""
    problem = replace(ALL[name], bias=False)
    x, weight, _ = problem.floats(dtype)
    large = dtype(np.finfo(dtype).max / 8)
    x, weight = np.clip(x, -1, 1) * large, np.clip(weight, -1, 1) / 300
    spoiled = Operands(x, weight.astype(dtype), None)
    found, wanted = winograd(problem, spoiled), problem.run(spoiled)
    assert np.isfinite(wanted).all()
    assert np.abs(found / large - wanted / large).max() <= 1e-5


@pytest.mark.parametrize("shape", [(0, 30, 9, 9), (2, 30, 9, 9)])
def test_nothing_to_sum(shape):
    weight = np.ones((4, shape[1], 3, 3), np.float32)
    y = faltung.conv2d(np.zeros(shape, np.float32), weight, method="winograd")
    assert y.shape == (shape[0], 4, 7, 7)
    assert (y == 0).all()


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
def test_gradients_of_inputs(stride):
    """The same method, where a phase of the stride has an axis for it."""
    rng = np.random.default_rng(5)
    g = rng.integers(-4, 5, (2, 20, 14, 15)).astype(np.float32)
    weight = rng.integers(-4, 5, (20, 17, 3, 5)).astype(np.float32)
    options: dict[str, Any] = {"stride": stride, "padding": 1}
    wanted = faltung.conv_transpose2d(g, weight, **options, method="direct")
    assert (faltung.conv_transpose2d(g, weight, **options, method="winograd") == wanted).all()


# Numbers of one size; a wave; numbers that are nearly alike; numbers of very different sizes.
INPUTS = {
    "random": lambda rng, shape: rng.standard_normal(shape),
    "smooth": lambda rng, shape: np.sin(np.arange(np.prod(shape)).reshape(shape) / 9),
    "large mean": lambda rng, shape: 1000 + rng.standard_normal(shape),
    "wide range": lambda rng, shape: rng.standard_normal(shape) * 10 ** rng.uniform(-6, 6, shape),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("channels", [1, 30, 300])
@pytest.mark.parametrize("precision", ["high", "fast"])
def test_error_bound(kind, channels, precision):
    """The one that `explain` states: gamma(k) growth sum |w|_1 max |x| over a tile."""
    rng = np.random.default_rng(channels)
    x = INPUTS[kind](rng, (1, channels, 22, 25)).astype(np.float32)
    weight = rng.standard_normal((9, channels, 3, 3)).astype(np.float32)
    found = faltung.conv2d(x, weight, method="winograd", precision=precision)
    exact = faltung.conv2d(x.astype(float), weight.astype(float), method="direct")
    tiles = Tiles(x.shape, weight.shape, precision=precision).facts()
    assert channels == 1 or ("F(4,3)" in tiles["forms"]) == (precision == "fast")
    k = tiles["roundings"] * 2.0**-24
    # A tile's windows begin at an output or before it.
    outputs = [{None: 1, "F(2,3)": 2, "F(4,3)": 4}[form] for form in tiles["forms"]]
    sides = [(0, 0), *((n - 1, n) for n in outputs)]
    windows = np.pad(np.abs(x[0].astype(float)), sides, mode="edge")
    size = [2 * n + 1 for n in outputs]
    windows = np.lib.stride_tricks.sliding_window_view(windows, size, axis=(1, 2))
    largest = windows.max((-2, -1))[:, :20, :23]
    sizes = np.einsum("oc,chw->ohw", np.abs(weight.astype(float)).sum((2, 3)), largest)
    bound = k / (1 - k) * tiles["growth"] * sizes
    error = np.abs(found - exact)[0]
    assert (error <= bound).all()
    assert error.max() > 0, "these sums cannot all be exact"
    # "auto" may take it: within three times of what the plain sum's error is; or so many, by leave.
    plain = np.abs(faltung.conv2d(x, weight, method="direct") - exact)
    times = {"high": 3, "fast": 10}[precision]
    assert np.sqrt((error**2).mean()) < times * np.sqrt((plain**2).mean())


def test_gradients_of_a_precision():
    """The input gradient, the transposed convolution and a plan's pass it on."""
    rng = np.random.default_rng(9)
    g, weight = rng.standard_normal((64, 40, 40)), rng.standard_normal((64, 64, 3, 3))
    found = {
        precision: [
            faltung.conv_transpose(g, weight, padding=1, precision=precision),
            faltung.grad.conv_input(g.shape, weight, g, padding=1, precision=precision),
            faltung.Plan(weight, padding=1, precision=precision).T(g),
            faltung.Plan(weight, padding=1, precision=precision).vjp(g, g, ["x"])["x"],
        ]
        for precision in ("exact", "high", "fast")
    }
    for results in found.values():
        assert all(same_bits(result, results[0]) for result in results)
    exact, high, fast = (results[0] for results in found.values())
    plain = faltung.conv_transpose(g, weight, padding=1, method="direct")
    assert same_bits(exact, plain)
    assert not same_bits(high, plain)
    assert 0 < np.abs(high - plain).max() < np.abs(fast - plain).max() < 1e-11
