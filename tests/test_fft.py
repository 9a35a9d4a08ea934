"""Convolution by transforms: exact on small integers once rounded, and the direct method's promises."""

from __future__ import annotations

from dataclasses import replace

import faltung
import numpy as np
import pytest
from cases import KINDS, LAYOUTS, ConvCase, Operands, case, same_bits
from grid import GRIDS, difference, operands_of
from isa import available
from reference import conv_numpy

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def error_bound(problem: ConvCase, operands: Operands, found: np.ndarray) -> np.ndarray:
    """The bound of docs/fft.md for each output: it is the same for all of an image's."""
    from reference import conv_numpy  # noqa: F401

    raise NotImplementedError


@pytest.mark.parametrize("name", GRIDS)
def test_grid(name):
    grid = GRIDS[name]
    step = max(grid.cases // 400, 1)
    for number in range(0, grid.cases, step):
        problem = grid[number]
        operands = operands_of(problem, number)
        try:
            expected = problem.expected(operands).astype(operands.x.dtype)
        except ValueError:
            continue
        found = problem.run(operands, method="fft")
        assert np.abs(found - expected).max(initial=0) < 0.01
        assert difference(np.rint(found), expected) is None, (number, problem)
