"""Plans: the bits of the functions, with weights that are the plan's own."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import faltung
import numpy as np
import pytest
from cases import KINDS, LAYOUTS, ConvCase, Operands, case, same_bits
from grid import GRIDS, difference, operands_of
from isa import available
from test_bits import SPLIT

# More layers in which vectors of output channels pay.
LAYERS = {
    "few positions": case((2, 40, 7, 7), (70, 40, 3, 3), padding=1),
    "rows of 14": case((1, 64, 14, 14), (48, 64, 3, 3), padding=1),
    "strided": case((1, 33, 29, 31), (40, 33, 3, 3), stride=2, padding=1),
    "dilated": case((1, 20, 28, 28), (32, 20, 3, 3), padding=4, dilation=4),
    "pointwise": case((2, 100, 9, 10), (37, 100, 1, 1)),
    "groups": case((1, 24, 20, 21), (60, 8, 3, 3), groups=3, padding=1),
    "signal": case((2, 50, 700), (34, 50, 3), stride=2),
    "volume": case((1, 9, 6, 7, 8), (17, 9, 3, 3, 3), padding=1, activation="relu"),
    "channels last": case((2, 9, 10, 32), (32, 32, 3, 3), padding=1, channels_last=True),
    "channels last in place": case((2, 9, 10, 33), (31, 33, 3, 3), channels_last=True),
    "flipped": case((1, 20, 15, 16), (24, 20, 3, 2), flip=True, padding=(2, 1)),
    "long chains": case((1, 3, 40, 41), (16, 3, 17, 19), padding=8),
}
ALL = {**KINDS, **LAYERS, **{f"split_{name}": problem for name, problem in SPLIT.items()}}
every_case = pytest.mark.parametrize("name", ALL)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def plan_of(problem: ConvCase, operands: Operands, **more: Any) -> faltung.Plan:
    options = vars(problem.options) | {"method": "direct"} | more
    return faltung.Plan(operands.weight, operands.bias, **options)


@both_dtypes
@every_case
def test_bits_of_the_function(name, dtype):
    problem = ALL[name]
    operands = problem.floats(dtype)
    wanted = problem.run(operands)
    plan = plan_of(problem, operands)
    for threads in (None, 1, 2, 3):
        assert same_bits(plan(operands.x, threads=threads), wanted), threads
    assert same_bits(plan_of(problem, operands, threads=2)(operands.x), wanted)


@both_dtypes
@pytest.mark.parametrize("name", ["signal", "long chains", "groups"])
def test_bits_of_transforms(name, dtype):
    """Kept for one size of blocks, and not at all where some are not finite."""
    problem = LAYERS[name]
    x, weight, bias = problem.floats(dtype)
    for scale in (1, 2.0**100, np.nan):
        scaled = weight.copy()
        scaled[0, 0] *= dtype(scale)
        plan = plan_of(problem, Operands(x, scaled, bias), method="fft")
        before = plan._kept.nbytes
        for size in (x, np.concatenate([x, x, x, x], axis=-1), x):
            wanted = problem.run(Operands(size, scaled, bias), method="fft")
            for threads in (1, 2):
                assert same_bits(plan(size, threads=threads), wanted), (scale, size.shape)
        assert (plan._kept.nbytes > before) == np.isfinite(scale)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_layouts(name, layout):
    problem = ALL[name]
    x, weight, bias = problem.floats()
    wanted = problem.run(Operands(x, weight, bias))
    change = LAYOUTS[layout]
    changed = plan_of(problem, Operands(x, change(weight), None if bias is None else change(bias)))
    assert same_bits(changed(x), wanted)
    assert same_bits(plan_of(problem, Operands(x, weight, bias))(change(x)), wanted)


def results(names: list[str], dtype: str) -> list[np.ndarray]:
    operands = [ALL[name].floats(dtype) for name in names]
    return [plan_of(ALL[n], o)(o.x) for n, o in zip(names, operands, strict=True)]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    names = list(ALL)
    found = isas.submit(isa, results, names, dtype).result()
    wanted = [ALL[name].run(ALL[name].floats(dtype)) for name in names]
    assert [n for n, f, w in zip(names, found, wanted, strict=True) if not same_bits(f, w)] == []


@pytest.mark.parametrize("name", ["2d", "wide1d", "wide2d", "wide3d"])
def test_grid(name):
    """Whatever the function refuses, the plan or its call refuses."""
    grid, wrong = GRIDS[name], []
    step = max(grid.cases // 400, 1)
    for number, problem in grid.chunk(0, step):
        operands = operands_of(problem, number)
        try:
            wanted = problem.run(operands)
        except ValueError as error:
            with pytest.raises(ValueError) as caught:
                plan_of(problem, operands)(operands.x)
            assert str(caught.value) == str(error)
            continue
        found = difference(plan_of(problem, operands)(operands.x), wanted)
        if found is not None:
            wrong.append((number, found))
    assert wrong == []


def test_any_input_that_fits():
    problem = LAYERS["strided"]
    operands = problem.floats()
    plan = plan_of(problem, operands)
    rng = np.random.default_rng(0)
    for shape in [(33, 3, 3), (1, 33, 50, 4), (5, 33, 8, 90), (0, 33, 9, 9), (33, 200, 200)]:
        x = rng.standard_normal(shape).astype(np.float32)
        wanted = problem.run(Operands(x, operands.weight, operands.bias))
        assert plan.output_shape(shape) == wanted.shape
        assert same_bits(plan(x), wanted)
    # Computed in float64, as the function does, with weights packed for that when they are needed.
    before = plan._kept.nbytes
    wide = x.astype(np.float64)
    assert same_bits(plan(wide), problem.run(Operands(wide, operands.weight, operands.bias)))
    assert plan._kept.nbytes > 2 * before > 0


def test_out():
    problem = LAYERS["rows of 14"]
    operands = problem.floats()
    plan, wanted = plan_of(problem, operands), problem.run(operands)
    out = np.empty_like(wanted)
    assert plan(operands.x, out) is out
    assert same_bits(out, wanted)
    with pytest.raises(ValueError, match="out shares memory with x"):
        faltung.Plan(np.ones((1, 1, 1), np.float32))(out[0, 0, :1], out=out[0, 0, :1])


def test_weights_are_its_own():
    x, weight, bias = LAYERS["pointwise"].floats()
    plan = faltung.Plan(weight, bias)
    wanted = plan(x)
    weight[...], bias[...] = 0, 0
    assert same_bits(plan(x), wanted)
    for own in (plan.weight, plan.bias):
        with pytest.raises(ValueError, match="read-only"):
            own[...] = 0


@pytest.mark.parametrize("name", ["few positions", "channels last", "flipped"])
def test_copies(name):
    problem = LAYERS[name]
    operands = problem.floats()
    plan = plan_of(problem, operands)
    wanted = plan(operands.x)
    for again in (pickle.loads(pickle.dumps(plan)), copy.copy(plan), copy.deepcopy(plan)):
        assert same_bits(again(operands.x), wanted)
        assert (repr(again), again.options) == (repr(plan), plan.options)
        assert again._kept.nbytes == plan._kept.nbytes
    # A pickle holds the weights once, and not what is made of them.
    assert len(pickle.dumps(plan)) < 1.1 * operands.weight.nbytes + 2000


def test_many_threads():
    """The first calls, which may find nothing packed yet, among them."""
    problem = LAYERS["few positions"]
    operands = problem.floats()
    wanted = problem.run(Operands(operands.x.astype(np.float64), *operands[1:]))
    plan, start, found = plan_of(problem, operands), threading.Barrier(8), []

    def work() -> None:
        start.wait()
        for _ in range(5):
            found.append(plan(operands.x.astype(np.float64), threads=2))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 40
    assert all(same_bits(result, wanted) for result in found)


def test_repr():
    weight, bias = np.ones((8, 4, 3, 3), np.float32), np.ones(8)
    plan = faltung.Plan(weight, bias, padding="same", groups=1, activation=("clip", 0, 6))
    assert repr(plan).startswith(
        "<faltung.Plan: weight (8, 4, 3, 3) float32, bias (8,) float64, padding='same', "
        "activation=('clip', 0, 6), "
    )
    assert repr(plan).endswith(" MB packed>")
    assert repr(faltung.Plan(weight[:1])) == "<faltung.Plan: weight (1, 4, 3, 3) float32>"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.ones((4, 3)),), {}, ValueError, "weight"),
        ((np.ones((4, 3, 0)),), {}, ValueError, "weight"),
        ((np.ones((4, 3, 3), object),), {}, TypeError, "weight has dtype object"),
        ((np.ones((4, 3, 3)), np.ones(3)), {}, ValueError, "bias"),
        ((np.ones((4, 3, 3)),), {"groups": 3}, ValueError, "groups"),
        ((np.ones((4, 3, 3)),), {"groups": 0}, ValueError, "groups"),
        ((np.ones((4, 3, 3)),), {"stride": 0}, ValueError, "stride"),
        ((np.ones((4, 3, 3)),), {"stride": (1, 1)}, ValueError, "stride"),
        ((np.ones((4, 3, 3)),), {"dilation": -1}, ValueError, "dilation"),
        ((np.ones((4, 3, 3)),), {"padding": "all"}, ValueError, "padding"),
        ((np.ones((4, 3, 3)),), {"padding": [(1, 1), (1, 1)]}, ValueError, "padding"),
        ((np.ones((4, 3, 3)),), {"padding_mode": "mirror"}, ValueError, "padding_mode"),
        ((np.ones((4, 3, 3)),), {"flip": "yes"}, TypeError, "flip"),
        ((np.ones((4, 3, 3)),), {"padding_value": "no"}, TypeError, "padding_value"),
        ((np.ones((4, 3, 3)),), {"activation": "tanh"}, ValueError, "activation"),
        ((np.ones((4, 3, 3)),), {"channels_last": 3}, TypeError, "channels_last"),
        ((np.ones((4, 3, 3)),), {"method": "magic"}, ValueError, "method"),
        ((np.ones((4, 3, 3)),), {"threads": 0}, ValueError, "threads"),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments, options, error, message):
    with pytest.raises(error, match=message):
        faltung.Plan(*arguments, **options)


@pytest.mark.parametrize("padding", [-3, [(-2, 0)], [(4, -9)], "same", "full", "causal"])
def test_what_depends_on_the_input_is_said_by_the_call(padding):
    plan = faltung.Plan(np.ones((8, 3, 3), np.float32), padding=padding)
    assert plan(np.ones((3, 30), np.float32)).shape[0] == 8
    with pytest.raises(ValueError, match="x has 2 channels"):
        plan(np.ones((2, 30), np.float32))
