"""What all tests share: the processes of the instruction sets, and what the header shows."""

from __future__ import annotations

from collections.abc import Iterator

import faltung
import hypothesis
import pytest
from isa import Isas

# Its assertions tell as much as those of a test.
pytest.register_assert_rewrite("promises")

# A deadline is a time limit, and the machine may be busy. Derandomised, so that a run that passed
# passes again; the seed moves with the test's own source.
hypothesis.settings.register_profile("faltung", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("faltung")


def pytest_report_header() -> str:
    """Which faltung is tested, on what."""
    config = faltung.config()
    available = ", ".join(config["available"])
    return f"faltung {config['version']}: ISA {available}; {config['threads']} threads"


@pytest.fixture(scope="session")
def isas() -> Iterator[Isas]:
    """One process for each instruction set, see `isa.py`."""
    processes = Isas()
    yield processes
    processes.close()
