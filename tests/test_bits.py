"""The bits of a result depend on the problem alone.

Not on the threads, on the layout of the arrays, on the batch around an image, on the part of the
output that is asked for, or on the instruction set. The operands are random floats, so that sums
in another order would differ in their last bits.
"""

from __future__ import annotations

from dataclasses import replace

import faltung
import numpy as np
import promises
import pytest
from cases import KINDS, LAYOUTS, ConvCase, Operands, case, same_bits
from isa import available

# Large enough to be split between threads, in each of the ways there is to split.
SPLIT = {
    "rows": case((1, 3, 130, 131), (9, 3, 3, 3), padding=1),
    "batch": case((9, 16, 14, 15), (24, 16, 3, 3), padding=1),
    "outputs": case((1, 160, 7, 7), (150, 160, 3, 3), padding=1),
    "groups": case((1, 48, 30, 31), (96, 6, 3, 3), groups=8, padding=1),
    "depthwise": case((1, 33, 65, 66), (33, 1, 5, 5), groups=33, padding=2),
    "one_channel": case((1, 1, 300, 310), (1, 1, 9, 9), padding="same"),
    "strided": case((1, 5, 120, 121), (18, 5, 5, 5), stride=2, padding=2),
    "pointwise": case((1, 300, 28, 28), (40, 300, 1, 1)),
    "signal": case((1, 2, 40_001), (3, 2, 31), padding="causal"),
    "volume": case((1, 4, 20, 21, 22), (12, 4, 3, 3, 3), padding=1),
}
ALL = {**KINDS, **{f"split_{name}": problem for name, problem in SPLIT.items()}}
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_case = pytest.mark.parametrize("name", ALL)


@both_dtypes
@every_case
def test_threads(name, dtype):
    operands = ALL[name].floats(dtype)
    alone = ALL[name].run(operands, threads=1)
    for threads in (2, 3, 8):
        assert same_bits(ALL[name].run(operands, threads=threads), alone), threads


@both_dtypes
@every_case
def test_repeated(name, dtype):
    """Nothing depends on what a scratch buffer held or on which thread came first."""
    operands = ALL[name].floats(dtype)
    first = ALL[name].run(operands)
    for other in ("rows", "strided", "signal"):
        # Leaves NaN wherever a call keeps anything.
        x, weight, bias = SPLIT[other].floats(dtype)
        SPLIT[other].run(Operands(np.full_like(x, np.nan), weight, bias), threads=2)
        assert same_bits(ALL[name].run(operands), first)


@both_dtypes
@pytest.mark.parametrize("name", [n for n in ALL if len(ALL[n].x) == len(ALL[n].weight)])
def test_batch_and_single_images(name, dtype):
    promises.hold_for_images(ConvCase.run, ALL[name], dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_layouts(name, layout):
    promises.hold_for_layout(ConvCase.run, ALL[name], layout)


@both_dtypes
@pytest.mark.parametrize("name", [n for n in ALL if not ALL[n].options.channels_last])
def test_channels_last(name, dtype):
    promises.hold_for_channels_last(ConvCase.run, ALL[name], dtype)


@both_dtypes
@pytest.mark.parametrize("name", SPLIT)
def test_part_of_the_outputs(name, dtype):
    """One output channel, or one group, is the same by itself as among the others."""
    problem = SPLIT[name]
    x, weight, bias = problem.floats(dtype)
    whole = problem.run(Operands(x, weight, bias))
    outputs, inputs = len(weight) // problem.options.groups, weight.shape[1]
    alone = replace(problem.options, groups=1)
    for channel in sorted({0, len(weight) // 2, len(weight) - 1}):
        first = channel // outputs * inputs
        part = ConvCase((), (), options=alone).run(
            Operands(
                x[:, first : first + inputs],
                weight[channel : channel + 1],
                bias[channel : channel + 1],
            )
        )
        assert same_bits(part[:, 0], whole[:, channel])


@both_dtypes
@pytest.mark.parametrize("name", ["rows", "one_channel", "depthwise", "signal", "volume"])
def test_part_of_the_image(name, dtype):
    """An output is the same wherever its window lies, in the image and in a tile."""
    problem = replace(SPLIT[name], options=replace(SPLIT[name].options, padding=0))
    x, weight, bias = problem.floats(dtype)
    whole = problem.run(Operands(x, weight, bias))
    spatial = weight.ndim - 2
    for start in range(1, 6):
        cut = (..., *(slice(start, start + k + 7 + start) for k in weight.shape[2:]))
        part = problem.run(Operands(x[cut], weight, bias))
        there = (..., *(slice(start, start + size) for size in part.shape[-spatial:]))
        assert same_bits(part, whole[there])


def results(names: list[str], dtype: str) -> list[np.ndarray]:
    """The results of some cases, computed in the process of an ISA."""
    return [ALL[name].run(ALL[name].floats(dtype)) for name in names]


@both_dtypes
@pytest.mark.parametrize("isa", available())
def test_instruction_sets(isas, isa, dtype):
    names = list(ALL)
    found = isas.submit(isa, results, names, dtype).result()
    wanted = results(names, dtype)
    assert [n for n, f, w in zip(names, found, wanted, strict=True) if not same_bits(f, w)] == []


def test_every_instruction_set_of_this_cpu_is_tested():
    with open("/proc/cpuinfo") as text:
        flags = set(text.read().split())
    assert "scalar" in available()
    assert ("avx512" in available()) == ("avx512f" in flags)
    assert ("avx2" in available()) == ({"avx2", "fma"} <= flags)
    assert faltung.config()["isa"] in available()
