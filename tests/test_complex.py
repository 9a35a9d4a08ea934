"""Complex numbers by three real products: their bits, their error, and where there are four.

`rust/complex.rs` has the products and the bound. That integers are exact is in `test_numbers.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import faltung
import numpy as np
import promises
import pytest
from cases import KINDS, LAYOUTS, ConvCase, Operands, case, same_bits
from reference import chains, conv_numpy
from test_float import UNIT, gamma

# What is computed by the plain sum, by each kind of transform, and by sliding windows.
CASES = {
    **{name: KINDS[name] for name in ("1d", "strided", "mixed_modes", "channels_last")},
    "unbatched": case((3, 9, 11), (5, 3, 3, 3), padding=1),
    "layer": case((2, 40, 20, 21), (33, 40, 3, 3), padding=1),
    "signal": case((1, 1, 9000), (1, 1, 300)),
    "depthwise": case((2, 33, 20, 30), (33, 1, 3, 3), groups=33, padding=1),
}
every_case = pytest.mark.parametrize("name", CASES)


def run(problem: ConvCase, operands: Operands, **more: Any) -> np.ndarray:
    """The result of a call that says nothing of its method."""
    return problem.run(operands, **({"method": "auto"} | more))


def parts(problem: ConvCase, operands: Operands, **more: Any) -> np.ndarray:
    """The sums of four real products, as they are promised."""
    (x, w, _), zero = operands, replace(problem, bias=False)

    def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return run(zero, Operands(x, w, None), **more)

    real = product(x.real, w.real) + product(x.imag, -w.imag)
    return real + 1j * (product(x.real, w.imag) + product(x.imag, w.real))


@every_case
def test_bits(name):
    problem = CASES[name]
    operands = problem.floats(np.complex64)
    alone = run(problem, operands, threads=1)
    assert same_bits(run(problem, operands, threads=3), alone)
    promises.hold_for_any_output(run, problem, np.complex64)
    for layout in LAYOUTS:
        promises.hold_for_layout(run, problem, layout, np.complex64)
    if len(problem.x) == len(problem.weight):
        promises.hold_for_images(run, problem, np.complex64)
    if not problem.options.channels_last:
        promises.hold_for_channels_last(run, problem, np.complex64)


def test_more_images_than_fit_together():
    problem = case((7, 64, 100, 101), (3, 64, 1, 1))
    x, weight, bias = problem.floats(np.complex64)
    found = run(problem, Operands(x, weight, bias))
    for image in (0, 3, 6):
        assert same_bits(run(problem, Operands(x[image], weight, bias)), found[image])


@pytest.mark.parametrize("name", KINDS)
def test_error(name):
    """The bound, of sums that are made directly."""
    options = replace(KINDS[name].options, activation=None, padding_value=0)
    problem = replace(KINDS[name], options=options)
    x, weight, _ = problem.floats(np.complex64, seed=3)
    lengths = chains(problem.weight)
    allowed = gamma(max(lengths) + len(lengths) + 3, UNIT[np.float32]) * (1 + math.sqrt(2))
    allowed = allowed * conv_numpy(np.abs(x), np.abs(weight), None, options)
    zero = replace(problem, bias=False)

    def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return conv_numpy(x, w, None, options)

    real = product(x.real, weight.real) - product(x.imag, weight.imag)
    imaginary = product(x.real, weight.imag) + product(x.imag, weight.real)
    found = run(zero, Operands(x, weight, None)).astype(complex)
    assert (np.abs(found.real - real) <= allowed).all()
    assert (np.abs(found.imag - imaginary) <= allowed).all()
    assert (found != real + 1j * imaginary).any(), "these sums cannot all be exact"


def test_error_beside_four_products():
    """As those of other methods: three times theirs at most, as the root of the mean square."""
    problem = CASES["layer"]
    operands = problem.floats(np.complex64)
    wide = problem.run(Operands(*(a.astype(np.complex128) for a in operands)), precision="exact")
    three, four = (
        np.sqrt(np.mean(np.abs(run(problem, operands, precision=precision) - wide) ** 2))
        for precision in ("high", "exact")
    )
    assert 0 < three < 3 * four


@every_case
def test_the_plain_sum_is_of_four_products(name):
    problem = replace(CASES[name], bias=False)
    operands = problem.floats(np.complex64)
    four = parts(problem, operands, method="direct")
    for asked in ({"precision": "exact"}, {"method": "direct"}):
        assert same_bits(run(problem, operands, **asked), four)
    assert not same_bits(run(problem, operands), four)


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, np.inf), complex(np.inf, np.nan)])
@pytest.mark.parametrize("argument", ["x", "weight", "bias"])
def test_not_finite(argument, value):
    """Images with it are computed by four products, and touch no others."""
    problem = case((3, 20, 9, 12), (10, 20, 3, 3), padding=1)
    parts = [problem.integers(np.float32, seed) for seed in (1, 2)]
    operands = Operands(*(a + 1j * b for a, b in zip(*parts, strict=True)))
    exact = run(problem, operands)
    changed = operands._replace(**{argument: getattr(operands, argument).copy()})
    getattr(changed, argument)[(1,) * getattr(changed, argument).ndim] = value
    found = run(problem, changed)
    assert same_bits(found, run(problem, changed, precision="exact"))
    odd = ~np.isfinite(found)
    assert odd.any() and (found[~odd] == exact[~odd]).all()


def test_what_only_a_sum_of_parts_overflows():
    x = np.full((1, 2, 40), 3e38 + 3e38j, np.complex64)
    weight = np.full((1, 2, 1), 0.25, np.complex64)
    assert (faltung.conv1d(x, weight) == np.complex64(1.5e38 + 1.5e38j)).all()


def test_out_and_wider_sums():
    problem = CASES["layer"]
    operands = problem.floats(np.complex64)
    wide = Operands(*(a.astype(np.complex128) for a in operands))
    expected = run(problem, wide).astype(np.complex64)
    assert same_bits(run(problem, operands, accumulate=np.complex128), expected)
    assert same_bits(run(problem, operands, dtype=np.complex128), run(problem, wide))


def test_plans_keep_three_products():
    problem = CASES["layer"]
    x, weight, bias = problem.floats(np.complex64)
    plan = faltung.Plan(weight, bias, padding=1)
    expected = faltung.conv(x, weight, bias, padding=1)
    for _ in range(2):
        assert same_bits(plan(x), expected)
    assert "packed" in repr(plan)
    assert same_bits(plan(x.real), faltung.conv(x.real, weight, bias, padding=1))


def test_explain_tells_how_many_products():
    weight = np.ones((40, 40, 3, 3), np.complex64)
    shape = (1, 40, 30, 30)
    found = faltung.explain(shape, weight)
    facts = found.as_dict()
    real = faltung.explain(shape, weight.real).as_dict()
    assert facts["products"] == 3 and "as 3 real products" in str(found)
    assert facts["flops"] == 4 * real["flops"]
    four = faltung.explain(shape, weight, precision="exact").as_dict()
    assert four["products"] == 4 and four["methods"][0]["flops"] == facts["flops"]
    assert faltung.explain(np.ones(shape), weight).as_dict()["products"] == 2
    assert faltung.explain(shape, weight, padding=1, padding_value=1).as_dict()["products"] == 4
