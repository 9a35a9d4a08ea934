"""A call takes little memory beside its arrays: padding, strides and dtypes cost no copy of x.

Measured as the growth of the process's greatest resident size, in a process of its own.
"""

from __future__ import annotations

import faltung
import numpy as np
import pytest
from test_threads import run

SCRIPT = """
import numpy as np, faltung
from isa import peak_bytes

x = np.ones({shape}, {dtype!r}){view}
weight = np.ones({weight}, "f4")
out = np.ones(faltung.output_shape(x.shape, weight.shape, **{shapes}), np.result_type(x, weight))
small = x[..., :40, :40] if not {shapes}.get("channels_last") else x[:, :40, :40]
faltung.conv2d(small, weight, **{shapes})  # starts the threads
before = peak_bytes()
faltung.conv2d(x, weight, out=out, threads=2, **{shapes})
print(peak_bytes() - before, x.nbytes)
"""


@pytest.mark.parametrize(
    ("shape", "dtype", "view", "weight", "options"),
    [
        ((1, 1, 4096, 4096), "f4", "", (1, 1, 5, 5), {"padding": 2}),
        ((1, 1, 4096, 4096), "f4", "", (1, 1, 3, 3), {"padding": 9, "padding_mode": "reflect"}),
        ((1, 4, 2048, 2048), "f4", "", (2, 4, 3, 3), {"padding": 1, "padding_mode": "circular"}),
        ((1, 4, 2048, 2048), "f4", "", (8, 4, 3, 3), {"stride": 2, "padding": 1}),
        ((1, 4, 2048, 2048), ">f4", "", (2, 4, 3, 3), {"dilation": 3, "padding": "same"}),
        ((1, 4, 2048, 2048), "f4", "[..., ::-1, :].swapaxes(2, 3)", (2, 4, 3, 3), {}),
        ((1, 2048, 2048, 4), "f4", "", (2, 4, 3, 3), {"channels_last": True}),
        ((64, 16, 128, 128), "f4", "", (4, 16, 1, 1), {}),
    ],
    ids=["zeros", "reflect", "circular", "stride", "big endian", "transposed", "last", "batch"],
)
def test_no_copy_of_the_input(shape, dtype, view, weight, options):
    script = SCRIPT.format(shape=shape, dtype=dtype, view=view, weight=weight, shapes=options)
    grown, size = map(int, run(script).split())
    assert size == 64 * 2**20
    # Slabs and sums of two threads; a padded or converted copy would be the size of x.
    assert grown < size / 8


LEAK = """
import numpy as np, faltung
from isa import peak_bytes

x, weight = np.ones((4, 64, 64), "f4"), np.ones((4, 4, 3, 3), "f4")
out = np.empty((4, 62, 62), "f4")

def call():
    {call}

for _ in range(50):
    call()
before = peak_bytes()
for _ in range(3000):
    call()
print(peak_bytes() - before)
"""
REFUSED = """try:
        faltung.conv2d(x.astype("f8"), weight.copy(), out=out.copy(), padding=9)
    except ValueError:
        pass
    else:
        raise AssertionError"""


@pytest.mark.parametrize(
    "call",
    [
        "faltung.conv2d(x, weight, threads=2)",
        "faltung.conv2d(x.copy(), weight.copy(), out=out.copy())",
        'faltung.conv2d(x.astype(">f8"), weight[:, ::-1].astype("f8"))',
        REFUSED,
    ],
    ids=["result", "operands", "converted", "refused"],
)
def test_nothing_is_kept(call):
    """Thousands of calls take no more memory than a few; one array of each kept would be 180 MB."""
    assert int(run(LEAK.format(call=call))) < 16 * 2**20


FILTERS = """
import numpy as np, faltung
from isa import peak_bytes

x, weight = np.ones((16, 512, 512)), np.ones((16, 16, 15, 15))
out = np.ones((16, 512, 512))
faltung.conv2d(x[:, :20, :20], weight, padding=7, method={method!r}, threads=2)
before = peak_bytes()
faltung.conv2d(x, weight, padding=7, out=out, method={method!r}, threads=2)
print(peak_bytes() - before)
"""


@pytest.mark.parametrize(("method", "most"), [("direct", 4), ("fft", 160)])
def test_large_kernels(method, most):
    """Windows of this image as columns of a matrix would be 7.5 GB.

    The direct sum takes weights once and slabs; transforms as much as docs/fft.md bounds: values of
    weights, and of an input or parts of it, for each thread.
    """
    assert int(run(FILTERS.format(method=method))) < most * 2**20


def test_results_own_memory_that_starts_at_a_cache_line():
    x, weight = np.ones((1, 8, 64, 64), np.float32), np.ones((16, 8, 1, 1), np.float32)
    for _ in range(3):
        result = faltung.conv2d(x, weight)
        assert result.flags.owndata and result.base is None and result.ctypes.data % 64 == 0
        assert (result == 8).all()
    result.resize((2, 16, 64, 64), refcheck=False)
    assert (result[0] == 8).all() and (result[1] == 0).all()
    assert np.empty(8).dtype == float  # NumPy's own memory is as before
    small = result[:1].copy()
    del result
    assert (small == 8).all()


def test_a_loop_takes_no_new_pages():
    resource = pytest.importorskip("resource")
    x, weight = np.ones((1, 4, 200, 200), np.float32), np.ones((16, 4, 1, 1), np.float32)

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    result = None
    for call in range(40):
        if call == 20:
            before = faults()
        # As in a loop: the last result lives until this one is there.
        result = faltung.conv2d(x, weight)
    assert faults() - before < 20 * result.nbytes / resource.getpagesize() / 4
