"""``out=`` receives the result, whatever its strides, and is refused before anything is written."""

from __future__ import annotations

import faltung
import numpy as np
import pytest
from cases import KINDS, Operands, case

PLAIN = case((2, 3, 9, 11), (5, 3, 3, 2), padding=1)
SENTINEL = -777.0


def storage(
    shape: tuple[int, ...], margin: int = 1, step: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """An array full of sentinels, and a view of `shape` inside it that is far from contiguous."""
    sizes = [step * size + 2 * margin for size in shape]
    whole = np.full(sizes, SENTINEL, np.float32)
    view = whole[tuple(slice(margin, margin + step * size, step) for size in shape)]
    assert view.shape == shape
    return whole, view


def targets(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays of `shape` to write to, in memory of every kind."""
    empty = np.full(shape, SENTINEL, np.float32)
    backwards = (slice(None, None, -1),) * len(shape)
    return {
        "c": empty.copy(),
        "fortran": np.asfortranarray(empty),
        "reversed": empty.copy()[backwards],
        "last axis reversed": empty.copy()[..., ::-1],
        "first axis last": np.moveaxis(np.moveaxis(empty, 0, -1).copy(), -1, 0),
        "last axis first": np.moveaxis(np.moveaxis(empty, -1, 0).copy(), 0, -1),
        "channels last": np.moveaxis(np.moveaxis(empty, 1, -1).copy(), -1, 1),
        "spaced": storage(shape)[1],
        "spaced backwards": storage(shape, 2, 3)[1][backwards],
        "subclass": empty.copy().view(np.memmap),
    }


@pytest.mark.parametrize("target", targets((1, 1)))
@pytest.mark.parametrize("name", KINDS)
def test_any_strides(name, target):
    operands = KINDS[name].integers()
    expected = KINDS[name].expected(operands)
    out = targets(expected.shape)[target]
    assert KINDS[name].run(operands, out=out) is out
    assert (out == expected).all()


@pytest.mark.parametrize("name", KINDS)
def test_nothing_beside_the_view_is_written(name):
    operands = KINDS[name].integers()
    expected = KINDS[name].expected(operands)
    whole, view = storage(expected.shape)
    KINDS[name].run(operands, out=view)
    assert (view == expected).all()
    view[...] = SENTINEL
    assert (whole == SENTINEL).all()


def test_large_with_threads():
    """Split between threads, into a view with rows apart."""
    problem = case((2, 8, 70, 71), (20, 8, 3, 3), padding=1)
    operands = problem.integers()
    whole = np.full((2, 20, 140, 80), SENTINEL, np.float32)
    view = whole[:, ::-1, ::2, 3:74]
    assert problem.run(operands, out=view, threads=3) is view
    assert (view == problem.expected(operands)).all()
    assert (whole[:, :, 1::2] == SENTINEL).all()
    assert (whole[..., :3] == SENTINEL).all() and (whole[..., 74:] == SENTINEL).all()


def test_empty_result():
    out = np.zeros((0, 5, 7, 9), np.float32)
    x = np.zeros((0, 3, 9, 11), np.float32)
    assert faltung.conv2d(x, np.ones((5, 3, 3, 3), np.float32), out=out) is out


def test_out_does_not_promote():
    """The dtype of the result is that of the operands; `out` must have it, not decide it."""
    operands = PLAIN.integers(np.float64)
    out = np.zeros(PLAIN.expected(operands).shape)
    assert PLAIN.run(operands, out=out) is out
    with pytest.raises(TypeError, match="out has dtype float64, but the result is float32"):
        PLAIN.run(PLAIN.integers(np.float32), out=out)


SHAPE = (2, 5, 9, 12)


def read_only() -> np.ndarray:
    out = np.full(SHAPE, SENTINEL, np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (
            np.zeros((2, 5, 9, 11), np.float32),
            ValueError,
            r"out has shape \(2, 5, 9, 11\), but the result has shape \(2, 5, 9, 12\)",
        ),
        (np.zeros((5, 9, 12), np.float32), ValueError, r"out has shape \(5, 9, 12\)"),
        (np.zeros((1, *SHAPE), np.float32), ValueError, "out has shape"),
        (np.float32(3), TypeError, "out must be .*not"),
        (np.zeros(SHAPE), TypeError, "out has dtype float64, but the result is float32"),
        (np.zeros(SHAPE, ">f4"), TypeError, "out has dtype >f4, but the result is float32"),
        (np.zeros(SHAPE, np.int32), TypeError, "out has dtype int32"),
        (np.zeros(SHAPE, np.float32).tolist(), TypeError, "out must be .*not"),
        ("out", TypeError, "out must be .*not"),
        (read_only(), ValueError, "out is read-only; pass a writable array"),
        (
            np.broadcast_to(np.zeros((2, 5, 9, 1), np.float32), SHAPE),
            ValueError,
            "out is read-only|out of shape .* share memory",
        ),
        (
            np.lib.stride_tricks.as_strided(np.zeros(400, np.float32), SHAPE, (480, 96, 8, 4)),
            ValueError,
            r"out of shape \(2, 5, 9, 12\) has elements that share memory",
        ),
    ],
    ids=["shape", "rank", "rank+", "scalar", "float64", "big endian", "int", "list", "str"]
    + ["read only", "broadcast", "itself"],
)
def test_refused(out, error, message):
    operands = PLAIN.integers()
    before = np.array(out)
    with pytest.raises(error, match=message):
        PLAIN.run(operands, out=out)
    assert (np.array(out) == before).all(), "a refused out was written to"


def test_unaligned():
    """A field of packed records is as good a view as any."""
    operands = PLAIN.integers()
    records = np.zeros(SHAPE, np.dtype([("pad", "u1"), ("value", np.float32)]))
    out = records["value"]
    assert PLAIN.run(operands, out=out) is out
    assert (out == PLAIN.expected(operands)).all()
    assert (records["pad"] == 0).all()


@pytest.mark.parametrize("argument", ["x", "weight", "bias"])
@pytest.mark.parametrize("kind", ["same", "part", "reversed", "last element"])
def test_overlap_is_refused(argument, kind):
    """Sharing even one element with an operand; nothing is written then."""
    problem = case((1, 1, 12), (1, 1, 1))
    operands = {name: array.copy() for name, array in problem.integers()._asdict().items()}
    size = operands[argument].size
    memory = np.arange(60, dtype=np.float32)
    operands[argument] = memory[20 : 20 + size].reshape(operands[argument].shape)
    last = 20 + size - 1
    start = {"same": 20, "part": max(last - 5, 9), "reversed": 20 + size // 2}.get(kind, last)
    out = memory[start : start + 12].reshape(1, 1, 12)
    if kind == "reversed":
        out = out[..., ::-1]
    before = memory.copy()
    with pytest.raises(ValueError, match=f"out shares memory with {argument}"):
        problem.run(Operands(**operands), out=out)
    assert (memory == before).all()


def test_beside_each_other_is_no_overlap():
    """Neighbours in one buffer, and interleaved columns, share no element."""
    problem = case((1, 1, 12), (1, 1, 1), bias=False)
    weight = np.full((1, 1, 1), 3, np.float32)
    memory = np.arange(24, dtype=np.float32)
    x, out = memory[:12].reshape(1, 1, 12), memory[12:].reshape(1, 1, 12)
    assert problem.run(Operands(x, weight, None), out=out) is out
    assert (out == 3 * x).all()
    memory = np.arange(24, dtype=np.float32)
    x, out = memory[::2].reshape(1, 1, 12), memory[1::2].reshape(1, 1, 12)
    assert problem.run(Operands(x, weight, None), out=out) is out
    assert (out == 3 * x).all()
