"""What `explain` says is what happens."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import faltung
import numpy as np
import pytest
from cases import KINDS, case, same_bits
from test_threads import run

CASES = KINDS | {
    "image": case((1, 300, 400), (1, 1, 31, 31), padding=15),
    "signal": case((1, 1, 60_000), (1, 1, 501)),
    "layer": case((1, 64, 28, 28), (64, 64, 3, 3), padding=1),
    "dense": case((1, 256, 14, 14), (256, 256, 1, 1)),
    "large": case((1, 3, 120, 130), (4, 3, 17, 19), padding=8),
}
every_case = pytest.mark.parametrize("name", CASES)


def explain(problem: Any, operands: Any, **more: Any) -> dict[str, Any]:
    return faltung.explain(*operands, **vars(problem.options), **more).as_dict()


def of(found: dict[str, Any], method: str) -> dict[str, Any]:
    return next(rival for rival in found["methods"] if rival["method"] == method)


@every_case
def test_the_chosen_method_is_the_one_that_runs(name):
    problem = CASES[name]
    operands = problem.floats()
    found = explain(problem, operands)
    auto = problem.run(operands, method="auto")
    assert same_bits(auto, problem.run(operands, method=found["method"]))
    states = [rival["state"] for rival in found["methods"]]
    assert states.count("chosen") == 1
    assert of(found, found["method"])["state"] == "chosen"
    for rival in found["methods"]:
        assert rival["why"]
        if rival["state"] == "impossible":
            with pytest.raises(ValueError, match="cannot compute this convolution") as caught:
                problem.run(operands, method=rival["method"])
            assert rival["why"] in str(caught.value)
        else:
            problem.run(operands, method=rival["method"])
    text = str(faltung.explain(*operands, **vars(problem.options)))
    assert found["why"] in text
    for rival in found["methods"]:
        assert rival["state"] == "chosen" or rival["why"] in text
    json.dumps(found)


@every_case
def test_numbers(name):
    problem = CASES[name]
    operands = problem.floats(np.float64)
    found = explain(problem, operands)
    wanted = problem.expected(operands)
    assert found["output_shape"] == wanted.shape
    assert found["flops"] == 2 * wanted.size * problem.taps
    assert found["bytes"] == wanted.nbytes + operands.x.nbytes + operands.weight.nbytes
    assert found["dtype"] == "float64"
    direct = of(found, "direct")
    assert direct["flops"] == found["flops"]
    assert direct["roles"][0] != direct["roles"][1]
    for a, n in enumerate(direct["block"][1:]):
        assert (
            1
            <= n
            <= wanted.shape[
                wanted.ndim - problem.options.channels_last - 1 - (len(direct["block"]) - 2 - a)
            ]
        )
    # A shape is as good as an array of it.
    by_shape = explain(problem, operands._replace(x=operands.x.shape))
    assert by_shape["methods"] == found["methods"]


@pytest.mark.parametrize(
    ("kernel", "channels", "roundings"),
    [((3, 3), 1, 10), ((3, 3), 300, 14 * 9 + 22), ((31, 31), 2, 4 * 31 + 2 * 8), ((300,), 1, 131)],
)
def test_error_of_the_plain_sum(kernel, channels, roundings):
    """The longest chain, and as many chains as docs/design.md says."""
    x = (channels, *(40 + n for n in kernel))
    found = faltung.explain(x, np.ones((2, channels, *kernel), np.float32)).as_dict()
    assert of(found, "direct")["roundings"] == roundings


WORKSPACE = """
import numpy as np, faltung
from isa import peak_bytes

x, weight = np.ones({x}, "f4"), np.ones({weight}, "f4")
options = {{"padding": "same", "method": {method!r}, "threads": 2}}
out = np.ones(faltung.output_shape(x.shape, weight.shape, padding="same"), "f4")
small = (slice(None),) + (slice(0, 12),) * (x.ndim - 1)
faltung.conv(x[small], weight, **options)  # starts the threads
said = faltung.explain(x, weight, **options).as_dict()
before = peak_bytes()
faltung.conv(x, weight, out=out, **options)
print(peak_bytes() - before, *(m["workspace"] for m in said["methods"] if m["state"] == "chosen"))
"""


@pytest.mark.parametrize(
    ("method", "x", "weight"),
    [
        ("direct", (64, 300, 300), (64, 64, 3, 3)),
        ("fft", (64, 112, 112), (64, 64, 7, 7)),
        ("winograd", (64, 300, 300), (64, 64, 3, 3)),
        ("separable", (1, 40, 900, 900), (1, 1, 5, 3, 3)),
        ("pointwise", (64, 600, 600), (2, 64, 3, 3)),
    ],
)
def test_workspace_is_what_is_taken(method, x, weight):
    """In a process that has done little else, so that its memory is new."""
    script = WORKSPACE.format(x=x, weight=weight, method=method)
    grown, said = map(int, run(script).split())
    # Stacks, tables and pages that are taken whole.
    assert grown <= said + 2**21
    # And it is no figure that would always be enough.
    assert said <= 4 * grown + 2**22


def test_measure():
    weight = np.ones((1, 1, 5, 5), np.float32)
    found = faltung.explain((1, 64, 64), weight, measure=True)
    for rival in found.as_dict()["methods"]:
        assert rival["state"] == "impossible" or rival["measured"] > 0
    assert "measured" in str(found)
    assert "measured" not in str(faltung.explain((1, 64, 64), weight))


def test_plan():
    weight = np.random.default_rng(0).standard_normal((8, 3, 5, 5)).astype(np.float32)
    plan = faltung.Plan(weight, padding=2, method="fft")
    found = plan.explain((1, 3, 64, 64)).as_dict()
    assert (found["method"], found["asked"], found["why"]) == ("fft", "fft", "it was asked for")
    alike = faltung.explain((1, 3, 64, 64), weight, padding=2, method="fft")
    assert found == alike.as_dict()
    with pytest.raises(ValueError, match="x has 2 channels"):
        plan.explain((2, 64, 64))


def test_precision():
    """What a precision leaves is told, and is what is done."""
    weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((64, 56, 56)).astype(np.float32)
    forms = {"high": "F(2,3) x F(2,3)", "fast": "F(4,3) x F(4,3)"}
    times = {}
    for precision, form in forms.items():
        found = faltung.explain(x, weight, padding=1, precision=precision)
        facts = found.as_dict()
        assert (facts["method"], facts["precision"]) == ("winograd", precision)
        assert f"transforms: {form}" in str(found)
        by_name = faltung.conv(x, weight, padding=1, precision=precision, method="winograd")
        assert same_bits(faltung.conv(x, weight, padding=1, precision=precision), by_name)
        times[precision] = min(m["predicted"] for m in facts["methods"] if m["predicted"])
    assert times["fast"] < times["high"]
    facts = faltung.explain(x, weight, padding=1, precision="exact").as_dict()
    assert (facts["method"], facts["why"]) == ("direct", 'precision is "exact"')
    states = {m["method"]: m["state"] for m in facts["methods"]}
    assert states == {"direct": "chosen"} | dict.fromkeys(
        ["fft", "winograd", "separable", "pointwise"], "impossible"
    )
    exact = faltung.conv(x, weight, padding=1, precision="exact")
    assert same_bits(exact, faltung.conv(x, weight, padding=1, method="direct"))


COSTS = """
import faltung
import numpy as np

for x, weight, options in {shapes}:
    found = faltung.explain(x, np.ones(weight, "f4"), padding="same", **options).as_dict()
    print(found["isa"], found["method"], [rival["predicted"] for rival in found["methods"]])
"""
SHAPES = [
    ((64, 28, 28), (64, 64, 3, 3), {}),
    ((1, 300, 400), (1, 1, 9, 9), {}),
    ((96, 56, 56), (96, 1, 5, 5), {"groups": 96}),
    ((3, 60_000), (5, 3, 40), {}),
]


def test_predictions_are_of_no_machine():
    """Only that keeps the choice, and so the bits, the same everywhere."""
    found = {run(COSTS.format(shapes=SHAPES), FALTUNG_ISA=isa) for isa in ("", "scalar")}
    isas = {line.split()[0] for text in found for line in text.splitlines()}
    assert "scalar" in isas
    assert len({text.replace(isa, "") for text in found for isa in isas if isa in text}) == 1


def test_predictions_count_what_is_done():
    """Each price is paid: more of one thing is never cheaper, by about as much as it is more."""

    def direct(x: tuple[int, ...], weight: tuple[int, ...], **options: Any) -> float:
        weights = np.ones(weight, np.float32)
        facts = faltung.explain(x, weights, padding="same", **options).as_dict()
        return of(facts, "direct")["predicted"]

    layer = direct((64, 56, 56), (64, 64, 3, 3))
    assert 1.9 < direct((64, 56, 56), (128, 64, 3, 3)) / layer < 2.1
    assert 1.9 < direct((64, 112, 56), (64, 64, 3, 3)) / layer < 2.1
    # A few wide rows are cheaper than as many outputs in narrow ones.
    assert direct((64, 4, 784), (64, 64, 3, 3)) < direct((64, 784, 4), (64, 64, 3, 3))
    # Windows read a row once for all taps: less than in proportion to the taps.
    small, large = (direct((96, 56, 56), (96, 1, k, k), groups=96) for k in (3, 7))
    assert 1.2 < large / small < 49 / 9


def test_a_shape_takes_no_memory():
    tracemalloc.start()
    try:
        found = faltung.explain((1, 1, 2**28), np.ones((1, 1, 99), np.float32)).as_dict()
    finally:
        tracemalloc.stop()
    assert found["output_shape"] == (1, 1, 2**28 - 98)
    assert found["method"] == "fft"


def test_a_method_that_cannot_is_explained():
    weight = np.eye(9, dtype=np.float32)[None, None]
    found = faltung.explain((1, 200, 200), weight, method="separable")
    assert found.as_dict()["why"] == "weight[0, 0] is not nearly of rank one"
    assert "separable: weight[0, 0] is not nearly of rank one" in str(found)


def test_facts_are_a_copy():
    found = faltung.explain((1, 9, 9), np.ones((1, 1, 3, 3)))
    found.as_dict()["methods"].clear()
    assert found.as_dict()["methods"]
