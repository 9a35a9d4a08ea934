"""The machine's rate of fused multiply-adds, measured by peak.c."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("peak.c")
FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
ELEMENTS = {"float32": "float", "float64": "double"}


class Peak:
    """A bare loop of fused multiply-adds on some threads, compiled once by the system's compiler.

    Clocks move with load and heat, so a figure holds for what is timed right before and after it.
    """

    def __init__(self, dtype: str, threads: int) -> None:
        self.threads = threads
        # Why there is none.
        self.missing: str | None = None
        self._directory = tempfile.TemporaryDirectory()
        self._program = str(Path(self._directory.name, "peak"))
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            self.missing = "there is no C compiler"
            return
        command = [compiler, *FLAGS, f"-DELEMENT={ELEMENTS[dtype]}"]
        command += [str(SOURCE), "-o", self._program]
        compiled = subprocess.run(command, capture_output=True, text=True)
        if compiled.returncode:
            first = compiled.stderr.strip().partition("\n")[0]
            self.missing = f"{compiler} does not compile {SOURCE.name}: {first}"

    def measure(self) -> float | None:
        """Return GFLOP/s now, or None where there is no compiler."""
        if self.missing is not None:
            return None
        command = [self._program, str(self.threads)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
