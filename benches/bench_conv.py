"""faltung beside NumPy and PyTorch on every case of cases.json, by pytest-benchmark.

The libraries share this process, and their spinning threads its cores: with more than one thread
``compare.py`` is fairer.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from libraries import LIBRARIES, Problem, Unsupported
from shapes import Case, load


@functools.lru_cache(maxsize=1)
def solved(case: Case, dtype: str, threads: int) -> tuple[Problem, np.ndarray]:
    """Return the arrays of a case and what faltung makes of them; libraries take turns on one."""
    problem = Problem.of(case, dtype, threads)
    return problem, LIBRARIES["faltung"].prepare(problem)()


@pytest.mark.benchmark(min_rounds=3, max_time=0.3)
@pytest.mark.parametrize("name", ["faltung", "numpy", "torch"])
@pytest.mark.parametrize("case", load(), ids=lambda case: case.name)
def test_speed(benchmark, request: pytest.FixtureRequest, case: Case, name: str) -> None:
    library, option = LIBRARIES[name], request.config.getoption
    if missing := library.missing():
        pytest.skip(f"{' and '.join(missing)} not installed")
    problem, expected = solved(case, option("dtype"), option("threads"))
    try:
        call = library.prepare(problem)
    except Unsupported as reason:
        pytest.skip(f"{library.title}: {reason}")
    # Sums of small integers are exact, in whichever order.
    np.testing.assert_array_equal(call(), expected)
    benchmark.group = f"{case.name} ({case.flop / 1e9:.3f} GFLOP)"
    benchmark.extra_info.update(flop=case.flop, library=name, threads=problem.threads)
    benchmark(call)
