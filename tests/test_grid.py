"""Every small convolution equals the reference, on every instruction set.

The operands are small integers, so float32 has no rounding and results are compared with ``==``.
One process an ISA; all chunks are handed out at once, so the processes work side by side.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Future
from typing import Any

import faltung
import grid
import numpy as np
import pytest
from cases import case
from isa import Isas, available
from reference import conv_loops

CHUNKS = 4
# Blocks of rows, of channels and of output channels, and chains of taps that are cut: sizes that
# a grid of small shapes does not reach.
LARGE = {
    "7x7x512": case((1, 512, 7, 7), (40, 512, 3, 3), padding=1),
    "1x1 down": case((2, 1030, 9, 9), (50, 1030, 1, 1)),
    "rows": case((1, 8, 203, 301), (16, 8, 3, 3), padding=1),
    "one channel": case((1, 1, 401, 603), (1, 1, 7, 7), padding=3, padding_mode="symmetric"),
    "long signal": case((1, 2, 70_001), (3, 2, 25), padding="causal"),
    "long kernel": case((1, 1, 6_000), (2, 1, 4_001)),
    "large kernel": case((1, 2, 90, 95), (3, 2, 41, 37), padding="same"),
    "wide dilation": case((1, 3, 150, 140), (4, 3, 3, 3), dilation=(40, 33), padding="same"),
    "stem": case((2, 3, 112, 115), (32, 3, 7, 7), stride=2, padding=3),
    "wide stride": case((1, 2, 301, 305), (9, 2, 5, 5), stride=(11, 7), padding=2),
    "depthwise": case((1, 70, 61, 63), (70, 1, 5, 5), groups=70, padding=2),
    "groups": case((2, 96, 20, 21), (64, 6, 3, 3), groups=16, stride=2, padding=1),
    "volume": case((1, 6, 18, 40, 41), (20, 6, 3, 3, 3), padding=1, padding_mode="edge"),
    "batch": case((65, 4, 9, 9), (17, 4, 3, 3), padding=1),
    "one output": case((3, 200, 5, 5), (90, 200, 5, 5)),
    "channels last": case(
        (2, 40, 41, 19), (33, 19, 3, 3), stride=2, padding="same", channels_last=True
    ),
}


# What the reference says is the same for every ISA.
small_expected = functools.lru_cache(maxsize=1)(grid.expected)


@functools.lru_cache(maxsize=1)
def large_expected(name: str) -> np.ndarray:
    return LARGE[name].expected(LARGE[name].integers()).astype(np.float32)


def compute(name: str) -> np.ndarray:
    return LARGE[name].run(LARGE[name].integers())


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, isas: Isas) -> dict[tuple[Any, ...], Future[Any]]:
    """What the processes of the ISAs work on: a future for each test that was collected here."""
    futures = {}
    for item in request.session.items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path == request.path and "isa" in params:
            isa, name, chunk = params["isa"], params["name"], params.get("chunk")
            work = (compute, name) if chunk is None else (grid.computed, name, chunk, CHUNKS)
            futures[isa, name, chunk] = isas.submit(isa, *work)
    return futures


# The topmost decorator turns fastest: all ISAs of a chunk, then the next chunk.
@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", grid.GRIDS)
def test_grid(running, isa, name, chunk):
    wanted = small_expected(name, chunk, CHUNKS)
    found = running.pop((isa, name, chunk)).result()
    choices = list(grid.GRIDS[name].chunk(chunk, CHUNKS))
    wrong = [
        f"case {number}: {what}: {problem}"
        for (number, problem), one, other in zip(choices, found, wanted, strict=True)
        if (what := grid.difference(one, other))
    ]
    assert not wrong, f"{len(wrong)} of {len(choices)} cases, first:\n" + "\n".join(wrong[:5])
    assert sum(one is not None for one in wanted) > len(wanted) / 2, "most cases should be valid"


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("name", LARGE)
def test_large(running, isa, name):
    found = running.pop((isa, name, None)).result()
    assert grid.difference(found, large_expected(name)) is None


@pytest.mark.parametrize("name", grid.GRIDS)
def test_output_shape(name):
    """`output_shape` says beforehand what the grid found."""
    for number, problem in grid.GRIDS[name].chunk(0, 7):
        options = problem.options
        arguments = {
            key: value
            for key, value in vars(options).items()
            if key not in ("padding_value", "flip", "activation")
        }
        try:
            wanted = problem.expected(grid.operands_of(problem, number)).shape
        except ValueError:
            with pytest.raises(ValueError):
                faltung.output_shape(problem.x, problem.weight, **arguments)
            continue
        assert faltung.output_shape(problem.x, problem.weight, **arguments) == wanted


@pytest.mark.parametrize("name", grid.GRIDS)
def test_sample_against_loops(name):
    """A few cases of each grid straight against the plain loops, so that no twin is between."""
    compared = 0
    for number, problem in grid.GRIDS[name].chunk(1, grid.GRIDS[name].cases // 40):
        operands = problem.integers(np.float32, number)
        try:
            outputs = problem.expected(operands).size
        except ValueError:
            continue
        if outputs * problem.taps < 20_000:
            compared += 1
            assert (problem.run(operands) == conv_loops(*operands, problem.options)).all(), problem
    assert compared > 10 or name.startswith("wide")


@pytest.mark.parametrize("name", [name for name in grid.GRIDS if "wide" not in name])
def test_grid_meets_every_pair(name):
    """However a grid is sampled, all choices of one axis meet each other."""
    choices = grid.GRIDS[name]
    seen = set()
    for number in range(choices.cases):
        problem = choices[number]
        options = problem.options
        padding = options.padding if isinstance(options.padding, str) else options.padding[0]
        seen.add((options.padding_mode[0], padding, options.stride[0], problem.weight[2]))
    lists = choices.modes, choices.paddings, choices.strides, choices.kernels
    assert len(seen) == math.prod(map(len, lists))
