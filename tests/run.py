"""Run the tests of Rust and of Python and close with one line over both: ``make test``.

Each shows its own progress; this adds up what they count. The exit status is 0 if all passed.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Tally:
    """How many tests ended how."""

    passed: int
    failed: int
    skipped: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def checked(tally: Tally, status: int) -> Tally:
    """Count a run that ended badly without a failed test (it did not compile, it crashed)."""
    return tally + Tally(0, 1, 0) if status and not tally.failed else tally


def rust() -> Tally:
    """Run ``cargo test`` and count by its ``test result`` lines."""
    print("Rust tests", flush=True)
    command = ["cargo", "test", "--quiet", "--no-fail-fast"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = b""
    while chunk := process.stdout.read1(4096):
        output += chunk
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
    pattern = rb"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored"
    tallies = [Tally(*map(int, match)) for match in re.findall(pattern, output)]
    return checked(sum(tallies, Tally(0, 0, 0)), process.wait())


def python() -> Tally:
    """Run pytest and count by its JUnit report."""
    print("Python tests", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [sys.executable, "-m", "pytest", "--quiet", f"--junit-xml={report}"]
        status = subprocess.run(command, cwd=ROOT).returncode
        if not report.exists():
            return checked(Tally(0, 0, 0), status)
        tally = Tally(0, 0, 0)
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            total, failures, errors, skipped = (
                int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")
            )
            failed = failures + errors
            tally += Tally(total - failed - skipped, failed, skipped)
    return checked(tally, status)


def main() -> int:
    """Return the exit status."""
    tally = rust() + python()
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: what compares with it was skipped (make test TORCH=torch)")
    print(tally)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
