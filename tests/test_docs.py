"""The documentation does what it says: docstrings, README, and an import that stays light."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import faltung
import pytest
from faltung.compat import scipy_ndimage, scipy_signal

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = ["faltung"] + [
    module.name
    for module in pkgutil.walk_packages(faltung.__path__, "faltung.")
    if module.name not in ("faltung.__main__", "faltung._core")
]
# What needs another library, which need not be installed.
ADAPTED = {"faltung.interop.jax": "jax", "faltung.interop.torch": "torch"}


FUNCTIONS = [
    function
    for module in (faltung, faltung.grad, scipy_ndimage, scipy_signal)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if name in module.__all__
]


def examples() -> dict[str, doctest.DocTest]:
    """Every docstring with an example, by its name."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {}
    for name in MODULES:
        if name in ADAPTED and importlib.util.find_spec(ADAPTED[name]) is None:
            continue
        for test in finder.find(importlib.import_module(name), name):
            if test.examples:
                found[test.name] = test
    # The finder passes by functions that are made rather than written where they are.
    for function in FUNCTIONS:
        name = f"{function.__module__}.{function.__name__}"
        test = doctest.DocTestParser().get_doctest(function.__doc__ or "", {}, name, None, None)
        if test.examples:
            found.setdefault(name, test)
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring(name):
    report = io.StringIO()
    runner = doctest.DocTestRunner()
    runner.run(EXAMPLES[name], out=report.write)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_public_function_has_example(function):
    assert f"{function.__module__}.{function.__name__}" in EXAMPLES


# A block of Python and, where it prints, the block that shows what.
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", README, re.M | re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme(number):
    code, shown = BLOCKS[number]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"README.md, block {number}", "exec"), {})
    assert printed.getvalue() == shown


def test_readme_has_blocks():
    assert BLOCKS
    assert len(BLOCKS) == README.count("```python")


def test_readme_names_existing_files_and_targets():
    for target in re.findall(r"\[[^]]*\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README, re.M)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_import_is_light():
    """Nothing is imported beyond NumPy, but for small modules of the standard library."""
    code = (
        "import sys, numpy; before = set(sys.modules); import faltung; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small = {"__future__", "copy", "dataclasses"}
    assert set(done.stdout.split()) - small == {"faltung", "numpy"}
