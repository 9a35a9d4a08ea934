"""Run SciPy's own tests of convolution with the functions of `faltung.compat` in place of SciPy's.

    python tests/scipy_tests.py

It runs the test files that the installed SciPy carries, under pytest and with this file as a
plugin: before they are collected, our functions replace SciPy's wherever a module of SciPy holds
them, so that filters of SciPy which are made of others run on ours, too. A test counts if it called
one of ours.

The last lines tell how many did and how they ended. The exit status is 0 if they all passed, but
for those that ``docs/compat.md`` lists with a reason, and if all of those failed.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ["signal/tests/test_signaltools.py", "ndimage/tests/test_filters.py"]
# The variable that tells the plugin, in a process of its own, where to leave its report.
REPORT = "FALTUNG_SCIPY_TESTS"
# The tables of array types that SciPy's tests are marked by came with this version.
LEAST = (1, 17)


def missing() -> str | None:
    """Why there are no tests to run, if so."""
    if importlib.util.find_spec("scipy") is None:
        return "SciPy is not installed"
    import scipy

    if tuple(map(int, scipy.__version__.split(".")[:2])) < LEAST:
        return f"SciPy {scipy.__version__} is older than {'.'.join(map(str, LEAST))}"
    if not all(Path(scipy.__path__[0], file).exists() for file in FILES):
        return f"SciPy in {scipy.__path__[0]} came without its tests"
    return None


def expected() -> set[str]:
    """The tests that ``docs/compat.md`` says cannot pass."""
    text = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
    return set(re.findall(r"^- `(\w+/tests/\w+\.py::[^`]+)`: \S", text, re.M))


def run() -> int:
    """Run them and compare with what is expected; the exit status."""
    if reason := missing():
        print(f"SciPy's own tests were skipped: {reason}")
        return 0
    import scipy

    scipy_root = Path(scipy.__path__[0])
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        command = [
            sys.executable, "-m", "pytest", "--quiet", "--quiet", "--tb=short", "--no-header",
            "-p", "no:cacheprovider", "-p", "scipy_tests", "-W", "ignore::pytest.PytestWarning",
            "-c", os.devnull, f"--rootdir={scipy_root}",
            *(str(scipy_root / file) for file in FILES),
        ]  # fmt: skip
        environment = {**os.environ, REPORT: str(report), "PYTHONPATH": str(ROOT / "tests")}
        # There, since Hypothesis keeps its examples where it is called.
        process = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True
        )
        if not report.exists():
            print(process.stdout, process.stderr, sep="\n")
            print("pytest did not come to an end")
            return 1
        ended: dict[str, str] = json.loads(report.read_text(encoding="utf-8"))
    failed = {test for test, outcome in ended.items() if outcome == "failed"}
    if failed != expected():
        print(process.stdout)
    for test in sorted(failed - expected()):
        print(f"failed: {test}")
    for test in sorted(expected() - failed):
        print(f"docs/compat.md says that it cannot pass, but it did not fail: {test}")
    for file in FILES:
        outcomes = [outcome for test, outcome in ended.items() if test.startswith(file)]
        print(
            f"SciPy {scipy.__version__}, {file}: {len(outcomes)} tests call faltung, "
            f"{outcomes.count('passed')} passed, {outcomes.count('failed')} failed"
        )
        if not outcomes:
            failed.add(file)
    return int(failed != expected())


# The plugin. What the test of the moment called of ours, and how those tests that did ended.
called: set[str] = set()
ended: dict[str, str] = {}


def counting(ours: Any) -> Any:
    """The function, telling that it was called."""

    @functools.wraps(ours)
    def call(*args: Any, **kwargs: Any) -> Any:
        called.add(ours.__name__)
        return ours(*args, **kwargs)

    return call


def swap() -> None:
    """Put our functions wherever SciPy's are."""
    import scipy.ndimage
    import scipy.signal
    from faltung.compat import scipy_ndimage, scipy_signal
    from scipy._lib._array_api import xp_capabilities_table

    ours_of = {}
    for package, inner, ours in (
        (scipy.signal, scipy.signal._signaltools, scipy_signal),
        (scipy.ndimage, scipy.ndimage._filters, scipy_ndimage),
    ):
        for name in ours.__all__:
            replacement = counting(getattr(ours, name))
            for function in (getattr(package, name), getattr(inner, name)):
                ours_of[id(function)] = replacement
                if function in xp_capabilities_table:
                    xp_capabilities_table[replacement] = xp_capabilities_table[function]
    for module in [module for name, module in sys.modules.items() if name.startswith("scipy")]:
        for name, value in list(vars(module).items()):
            if id(value) in ours_of:
                setattr(module, name, ours_of[id(value)])


def pytest_configure() -> None:
    """Swap before anything is collected."""
    swap()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch one test, with random numbers that are the same in every run."""
    import numpy

    called.clear()
    numpy.random.seed(0)  # noqa: NPY002 - the generator of SciPy's tests
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep how a test ended if it called ours."""
    if called and (report.when == "call" or report.failed):
        ended[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    """Leave the report."""
    Path(os.environ[REPORT]).write_text(json.dumps(ended), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run())
