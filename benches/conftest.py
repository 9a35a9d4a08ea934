"""Options of the benches: ``pytest benches --dtype float64 --threads 1``.

Nothing here may import NumPy, which takes its number of threads when it loads.
"""

from __future__ import annotations

import pytest
import threads
from peak import ELEMENTS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faltung")
    group.addoption("--dtype", choices=list(ELEMENTS), default="float32", help="of the arrays")
    group.addoption(
        "--threads",
        type=int,
        default=threads.default(),
        help="of each library (FALTUNG_NUM_THREADS, else all cores)",
    )


def pytest_configure(config: pytest.Config) -> None:
    threads.limit(config.getoption("threads"))
    # All columns are wider than a screen, and means tell little on a shared machine.
    columns = config.option.benchmark_columns or ["min", "median", "iqr", "rounds"]
    config.option.benchmark_columns = columns
