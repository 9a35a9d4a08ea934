"""The reference is right: by hand-worked numbers, and loops against the NumPy twin."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from cases import KINDS, ConvCase, case
from reference import NUMPY_MODES, Axis, Options, conv_loops, conv_numpy, pads


def test_worked_by_hand():
    x = [[1, 2, 3, 4]]
    weight = [[[1, 10]]]
    assert conv_loops(x, weight).tolist() == [[21, 32, 43]]
    assert conv_loops(x, weight, [5]).tolist() == [[26, 37, 48]]
    assert conv_loops(x, weight, None, Options(flip=True)).tolist() == [[12, 23, 34]]
    assert conv_loops(x, weight, None, Options(stride=2)).tolist() == [[21, 43]]
    assert conv_loops(x, weight, None, Options(dilation=2)).tolist() == [[31, 42]]
    assert conv_loops(x, weight, None, Options(padding=((1, 0),))).tolist() == [[10, 21, 32, 43]]
    assert conv_loops(x, weight, None, Options(padding=((-1, 0),))).tolist() == [[32, 43]]
    assert conv_loops(x, weight, [-40], Options(activation="relu")).tolist() == [[0, 0, 3]]
    clip = Options(activation=("clip", 25, 40))
    assert conv_loops(x, weight, None, clip).tolist() == [[25, 32, 40]]


def test_channels_and_groups_by_hand():
    x = [[1, 2], [10, 20]]
    together = [[[1], [2]], [[3], [4]]]
    assert conv_loops(x, together).tolist() == [[21, 42], [43, 86]]
    apart = [[[1]], [[2]], [[3]], [[4]]]
    split = conv_loops(x, apart, None, Options(groups=2))
    assert split.tolist() == [[1, 2], [2, 4], [30, 60], [40, 80]]
    last = conv_loops([[1, 10], [2, 20]], together, None, Options(channels_last=True))
    assert last.tolist() == [[21, 43], [42, 86]]


@pytest.mark.parametrize(
    ("mode", "padded"),
    [
        ("zeros", [7, 7, 7, 1, 2, 3, 7, 7]),
        ("reflect", [2, 3, 2, 1, 2, 3, 2, 1]),
        ("symmetric", [3, 2, 1, 1, 2, 3, 3, 2]),
        ("replicate", [1, 1, 1, 1, 2, 3, 3, 3]),
        ("circular", [1, 2, 3, 1, 2, 3, 1, 2]),
    ],
)
def test_padding_by_hand(mode, padded):
    options = Options(padding=((3, 2),), padding_mode=mode, padding_value=7)
    assert conv_loops([[1, 2, 3]], [[[1]]], None, options).tolist() == [padded]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "same", "same_lower"),
    [
        # TensorFlow's own table: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
        (5, 3, 1, (1, 1), (1, 1)),
        (5, 2, 1, (0, 1), (1, 0)),
        (13, 6, 5, (1, 2), (2, 1)),
        (6, 3, 2, (0, 1), (1, 0)),
        (7, 3, 2, (1, 1), (1, 1)),
        (4, 1, 3, (0, 0), (0, 0)),
    ],
)
def test_same_by_hand(size, kernel, stride, same, same_lower):
    axis = Axis(size, kernel, stride, 1, 0, 0, "constant")
    assert pads("same", axis) == same
    assert pads("same_lower", axis) == same_lower


def test_fractions_stay_exact():
    third = Fraction(1, 3)
    out = conv_loops([[third, 2 * third, Fraction(5, 7)]], [[[third, 3]]], [third])
    assert out.tolist() == [[Fraction(1, 9) + 2 + third, Fraction(2, 9) + Fraction(15, 7) + third]]


def agrees(problem: ConvCase, start: int) -> None:
    operands = problem.integers(np.int64, start)
    expected = conv_loops(*operands, problem.options)
    found = conv_numpy(*operands, problem.options)
    assert found.shape == expected.shape
    assert (found == expected).all()


@pytest.mark.parametrize("name", [name for name in KINDS if "many" not in name])
def test_twin_agrees_on_kinds(name):
    agrees(KINDS[name], 3)


@pytest.mark.parametrize("mode", sorted(NUMPY_MODES))
def test_twin_agrees_on_padding(mode):
    """Any pads, also several times the size of the axis and after a crop."""
    number = 0
    for size in range(1, 5):
        for before in range(-2, 9):
            for after in range(-2, 9):
                if size + min(before, 0) + min(after, 0) < 1:
                    continue
                number += 1
                if size + before + after >= 2:
                    padding = ((before, after),)
                    agrees(case((2, size), (1, 2, 2), padding=padding, padding_mode=mode), number)


@pytest.mark.parametrize("padding", ["valid", "same", "same_lower", "full", "causal"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_twin_agrees_on_named_padding(padding, stride, dilation):
    for size in (5, 6, 7):
        options = {"stride": stride, "dilation": dilation, "padding": padding}
        agrees(case((1, 1, size, size + 1), (1, 1, 3, 2), **options), size)


def test_no_output_is_an_error():
    for options in (Options(), Options(padding=((-3, 9),), padding_mode="edge")):
        for function in (conv_loops, conv_numpy):
            with pytest.raises(ValueError, match="no output"):
                function(np.ones((1, 1, 3)), np.ones((1, 1, 4)), None, options)
