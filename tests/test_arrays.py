"""Whatever holds numbers is taken: any layout, byte order, container and dtype that promotes."""

from __future__ import annotations

import array as standard_array
from fractions import Fraction

import faltung
import numpy as np
import pytest
from cases import KINDS, LAYOUTS, Operands, case, same_bits
from reference import Options, conv_numpy

PLAIN = case((2, 3, 9, 11), (5, 3, 3, 2), padding=1)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, name):
    """Integers, so with ``==`` to the reference; `test_bits` has the same on floats."""
    problem = KINDS[name]
    operands = problem.integers(np.float64, 5)
    changed = Operands(*(None if a is None else LAYOUTS[layout](a) for a in operands))
    before = [None if a is None else a.copy() for a in changed]
    found = problem.run(changed)
    assert found.dtype == np.float64 and found.dtype.isnative
    assert found.flags.c_contiguous and found.flags.writeable
    assert (found == problem.expected(operands)).all()
    for array, copy in zip(changed, before, strict=True):
        assert array is None or (array == copy).all(), "an input was written to"


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (3,), (2, 3), (0, 1, 2, 3)])
def test_broadcast(axes):
    """Zero strides: one element seen many times."""
    x, weight, bias = PLAIN.integers()
    for number, array in enumerate((x, weight)):
        one = array[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))]
        seen = np.broadcast_to(one, array.shape)
        assert all(seen.strides[axis] == 0 for axis in axes)
        operands = Operands(*((seen, weight), (x, seen))[number], np.broadcast_to(bias[:1], 5))
        assert (PLAIN.run(operands) == PLAIN.expected(operands)).all()


def test_overlapping_windows_as_input():
    """A view whose elements overlap each other, as sliding windows do."""
    signal = np.arange(40, dtype=np.float32)
    x = np.lib.stride_tricks.as_strided(signal, (1, 15, 12), (0, 8, 4))
    weight = case((), (4, 15, 3)).integers().weight
    assert (faltung.conv(x, weight) == conv_numpy(x, weight)).all()


def test_memory_mapped(tmp_path):
    operands = PLAIN.integers()
    maps = []
    for name, array in zip(operands._fields, operands, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    found = PLAIN.run(Operands(*maps))
    assert type(found) is np.ndarray
    assert (found == PLAIN.expected(operands)).all()


def test_subclass_gives_plain_array():
    class Tagged(np.ndarray):
        pass

    operands = PLAIN.integers()
    found = PLAIN.run(Operands(*(array.view(Tagged) for array in operands)))
    assert type(found) is np.ndarray
    assert (found == PLAIN.expected(operands)).all()


class Wrapped:
    """Not an array, but gives one when asked."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def test_array_protocol():
    operands = PLAIN.integers()
    found = PLAIN.run(Operands(*map(Wrapped, operands)))
    assert (found == PLAIN.expected(operands)).all()


def test_nested_lists_and_buffers():
    x, weight, bias = PLAIN.integers(np.float64)
    expected = PLAIN.expected(Operands(x, weight, bias))
    found = PLAIN.run(Operands(x.tolist(), weight.tolist(), tuple(bias.tolist())))
    assert found.dtype == np.float64
    assert (found == expected).all()
    found = PLAIN.run(Operands(memoryview(x), weight, standard_array.array("d", bias)))
    assert (found == expected).all()


def test_lists_of_ints_are_ints():
    """As `np.asarray` has it."""
    found = faltung.conv([[1, 2, 3]], [[[1, 1]]])
    assert found.dtype == np.asarray([1]).dtype and found.tolist() == [[3, 5]]
    assert faltung.conv([[1, 2, 3]], np.ones((1, 1, 2))).dtype == np.float64


@pytest.mark.parametrize("x_type", [np.float32, np.float64, ">f4", ">f8"])
@pytest.mark.parametrize("weight_type", [np.float32, np.float64, ">f8"])
@pytest.mark.parametrize("bias_type", [None, np.float32, np.float64])
def test_promotion(x_type, weight_type, bias_type):
    x, weight, bias = PLAIN.integers(np.float64)
    operands = Operands(
        x.astype(x_type),
        weight.astype(weight_type),
        None if bias_type is None else bias.astype(bias_type),
    )
    found = PLAIN.run(operands)
    assert found.dtype == np.result_type(*(a for a in operands if a is not None))
    assert found.dtype.isnative
    assert (found == PLAIN.expected(operands)).all()


def test_promotion_keeps_float64_values():
    """A float64 operand is not rounded to float32 on the way, nor is the sum."""
    tiny = 2.0**-40
    for x, weight, bias in (
        (np.float64(1 + tiny), np.float32(1), np.float32(0)),
        (np.float32(1), np.float64(1 + tiny), np.float32(0)),
        (np.float32(1), np.float32(1), np.float64(tiny)),
    ):
        found = faltung.conv(x.reshape(1, 1), weight.reshape(1, 1, 1), bias.reshape(1))
        assert found.dtype == np.float64
        assert found.item() == 1 + tiny


@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_batch(channels_last):
    shape = (0, 9, 11, 3) if channels_last else (0, 3, 9, 11)
    x = np.zeros(shape, np.float32)
    found = faltung.conv2d(x, np.ones((5, 3, 2, 2), np.float32), channels_last=channels_last)
    assert found.shape == ((0, 8, 10, 5) if channels_last else (0, 5, 8, 10))
    assert found.dtype == np.float32


@pytest.mark.parametrize("groups", [1, 3])
def test_empty_channels(groups):
    """A sum of nothing: the bias, after the activation."""
    x, weight = np.zeros((2, 0, 7, 8), np.float32), np.zeros((6, 0, 3, 3), np.float32)
    bias = np.arange(-2, 4, dtype=np.float32)
    found = faltung.conv2d(x, weight, bias, groups=groups, activation="relu")
    assert found.shape == (2, 6, 5, 6)
    assert (found == np.maximum(bias, 0).reshape(6, 1, 1)).all()
    assert (faltung.conv2d(x, weight, groups=groups) == np.zeros((2, 6, 5, 6))).all()


def test_no_outputs():
    x = np.zeros((2, 3, 7, 8), np.float32)
    assert faltung.conv2d(x, np.zeros((0, 3, 3, 3), np.float32)).shape == (2, 0, 5, 6)


def test_empty_axis_with_zeros_around():
    """Nothing but padding: the kernel sees the constant."""
    x = np.zeros((1, 2, 0), np.float32)
    found = faltung.conv(x, np.ones((1, 2, 3), np.float32), padding=2, padding_value=5)
    assert found.tolist() == [[[30, 30]]]


def as_zero_dimensional(value: int) -> np.ndarray:
    return np.array(value)


class Index:
    """An int by `__index__` alone."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize("make", [np.int8, np.int64, np.uint16, as_zero_dimensional, Index])
def test_integers_of_any_kind(make):
    problem = case((1, 4, 15, 16), (6, 2, 3, 3), stride=2, padding=1, dilation=2, groups=2)
    operands = problem.integers()
    expected = problem.expected(operands)
    found = faltung.conv2d(*operands, make(2), make(1), make(2), make(2), threads=make(1))
    assert (found == expected).all()
    pairs = ((make(1), make(1)), [make(1), make(1)])
    found = faltung.conv2d(*operands, (make(2), 2), pairs, [2, make(2)], 2)
    assert (found == expected).all()


def test_arrays_and_ranges_as_sequences():
    problem = case((1, 2, 15, 16), (3, 2, 3, 3), stride=(1, 2), padding=((0, 1), (2, 3)))
    operands = problem.integers()
    expected = problem.expected(operands)
    found = faltung.conv2d(*operands, range(1, 3), np.array([[0, 1], [2, 3]]))
    assert (found == expected).all()
    found = faltung.conv2d(*operands, np.array([1, 2]), [range(2), np.array([2, 3])])
    assert (found == expected).all()


@pytest.mark.parametrize("value", [1.5, np.float32(1.5), np.array(1.5), Fraction(3, 2), 3])
def test_padding_value_of_any_kind(value):
    problem = case((1, 2, 5, 6), (3, 2, 3, 3), padding=2, padding_value=float(value))
    operands = problem.integers()
    found = faltung.conv2d(*operands, padding=2, padding_value=value)
    assert (found == problem.expected(operands)).all()


def test_same_array_as_every_operand():
    both = np.arange(8, dtype=np.float64).reshape(2, 2, 2)
    found = faltung.conv(both, both, both[0, 1])
    assert (found == conv_numpy(both, both, both[0, 1])).all()


def test_rank_functions_are_one():
    for rank, function in enumerate((faltung.conv1d, faltung.conv2d, faltung.conv3d), start=1):
        problem = case((2, 3, *range(6, 6 + rank)), (4, 3, *[3] * rank), padding=1, stride=2)
        operands = problem.integers()
        found = function(*operands, **vars(problem.options))
        assert (found == problem.expected(operands)).all()
        assert same_bits(found, problem.run(operands))


def test_five_axes():
    options = Options(padding=1, stride=(1, 2, 1, 2, 1), dilation=(1, 1, 2, 1, 1))
    x = case((2, 2, 3, 4, 5, 3, 4), (3, 2, 2, 3, 2, 1, 2)).integers()
    assert (faltung.conv(*x, **vars(options)) == conv_numpy(*x, options)).all()
