"""What every method promises about bits, asked of `run`, which computes a case with operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cases import LAYOUTS, ConvCase, Operands, same_bits

Run = Callable[..., np.ndarray]


def hold_for_images(run: Run, problem: ConvCase, dtype: Any) -> None:
    """An image's results are the same by itself as in a batch."""
    problem = replace(problem, x=(3, *problem.x[1:]))
    x, weight, bias = problem.floats(dtype)
    together = run(problem, Operands(x, weight, bias))
    for image, result in zip(x, together, strict=True):
        assert same_bits(run(problem, Operands(image, weight, bias)), result)
        assert same_bits(run(problem, Operands(image[np.newaxis], weight, bias))[0], result)


def hold_for_layout(run: Run, problem: ConvCase, layout: str, dtype: Any = np.float32) -> None:
    """Results do not depend on how the operands lie in memory, each by itself and all."""
    operands = problem.floats(dtype)
    plain = run(problem, operands)
    change = LAYOUTS[layout]
    for number, array in enumerate(operands):
        if array is not None:
            changed = operands._replace(**{operands._fields[number]: change(array)})
            assert same_bits(run(problem, changed), plain), operands._fields[number]
    if problem.bias:
        assert same_bits(run(problem, Operands(*map(change, operands))), plain)


def hold_for_any_output(run: Run, problem: ConvCase, dtype: Any) -> None:
    """Nor on how the result lies; and nothing is written between its elements."""
    operands = problem.floats(dtype)
    plain = run(problem, operands)
    room = np.full([2 * n + 1 for n in plain.shape], 7, dtype)
    out = room[(slice(1, None, 2),) * plain.ndim][..., ::-1]
    assert run(problem, operands, out=out) is out
    assert same_bits(out, plain)
    assert (room[(slice(None, None, 2),) * plain.ndim] == 7).all()


def hold_for_channels_last(run: Run, problem: ConvCase, dtype: Any) -> None:
    """Nor on where the channels are, be it as a view or in memory."""
    x, weight, bias = problem.floats(dtype)
    channel = x.ndim - weight.ndim + 1
    last = replace(problem, options=replace(problem.options, channels_last=True))
    moved = np.moveaxis(x, channel, -1)
    wanted = np.moveaxis(run(problem, Operands(x, weight, bias)), channel, -1)
    assert same_bits(run(last, Operands(moved, weight, bias)), wanted)
    assert same_bits(run(last, Operands(moved.copy(), weight, bias)), wanted)
