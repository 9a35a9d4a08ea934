"""No byte outside of the arrays is read or written.

Every operand and the result lie against a page that may not be touched, at its end or at its
start: vectors that reach beyond an array end the process, which is one of an instruction set.
"""

from __future__ import annotations

import ctypes
import mmap
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from cases import KINDS, Operands, case
from isa import available
from promises import Run
from test_bits import SPLIT

PROBLEMS = {
    **KINDS,
    **SPLIT,
    # The input is read in place: nothing is padded, and rows end where the array does.
    "valid": case((1, 5, 20, 37), (15, 5, 3, 3)),
    "valid batch": case((3, 5, 20, 37), (2, 5, 3, 3)),
    "valid 1d": case((1, 3, 1000), (7, 3, 9)),
    "valid dilated": case((1, 2, 30, 70), (15, 2, 3, 3), dilation=(2, 5)),
    "valid unbatched": case((2, 65, 33), (3, 2, 2, 2)),
    "pointwise odd": case((1, 7, 13, 11), (5, 7, 1, 1)),
    "one vector": case((1, 3, 16), (14, 3, 1)),
    "less than a vector": case((1, 3, 5), (14, 3, 2)),
    "one element": case((1, 1, 1), (1, 1, 1)),
}


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy of an array that ends at a forbidden page, or begins behind one."""
    page = mmap.PAGESIZE
    pages = max(-(-array.nbytes // page), 1)
    memory = mmap.mmap(-1, (pages + 2) * page)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for address in (first, first + (pages + 1) * page):
        assert libc.mprotect(ctypes.c_void_p(address), page, 0) == 0, ctypes.get_errno()
    begin = page + (pages * page - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, begin).reshape(array.shape)
    copy[...] = array
    return copy


def is_right_against_pages(run: Run, operands: Operands, expected: np.ndarray) -> bool:
    """Whether `run` gives what is expected with arrays against forbidden pages, at each end."""
    right = True
    for at_end in (True, False):
        lain = Operands(*(None if a is None else guarded(a, at_end) for a in operands))
        out = guarded(np.zeros(expected.shape, operands.x.dtype), at_end)
        run(lain, out=out)
        right &= bool((out == expected).all())
    return right


def run(name: str, dtype: str, threads: int) -> bool:
    """Whether a convolution against forbidden pages is right."""
    problem = PROBLEMS[name]
    right = True
    for bias in (True, False):
        operands = replace(problem, bias=bias).integers(dtype)
        expected = problem.expected(operands)
        call = partial(problem.run, threads=threads)
        right &= is_right_against_pages(call, operands, expected)
    return right


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_forbidden_pages(isas, name, dtype, isa):
    assert isas.submit(isa, run, name, dtype, 2).result()


def overrun(at_end: bool) -> bytes:
    """Read a byte too many at the end, or at the start."""
    array = guarded(np.zeros(8, np.float32), at_end)
    return ctypes.string_at(array.ctypes.data - (not at_end), array.nbytes + 1)


@pytest.mark.parametrize("at_end", [False, True])
def test_a_forbidden_page_is_noticed(isas, at_end):
    with pytest.raises(BrokenProcessPool):
        isas.submit(available()[-1], overrun, at_end).result()
