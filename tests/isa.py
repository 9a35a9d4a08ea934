"""One process for each instruction set, since faltung chooses one when it is first imported.

This module must not import faltung itself: the new process reads it before it sets FALTUNG_ISA.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any


def available() -> list[str]:
    """The instruction sets that this CPU can be tested with, fastest first."""
    import faltung

    return list(faltung.config()["available"])


def _force(isa: str) -> None:
    os.environ["FALTUNG_ISA"] = isa


def _call(isa: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import faltung

    running = faltung.config()["isa"]
    assert running == isa, f"this process was to run {isa}, but runs {running}"
    return function(*args)


def peak_bytes() -> int:
    """The greatest resident size that this process has had.

    Not `getrusage`, which counts what the parent had when it started this process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Isas:
    """Calls functions in the process of an ISA. A process starts when it is first needed."""

    def __init__(self) -> None:
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def submit(self, isa: str, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start ``function(*args)`` in the process that runs `isa`; calls to one ISA queue up."""
        try:
            return self._pools[isa].submit(_call, isa, function, args)
        except (KeyError, BrokenProcessPool):  # none yet, or a test has crashed it
            self._pools[isa] = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_force,
                initargs=(isa,),
            )
        return self._pools[isa].submit(_call, isa, function, args)

    def close(self) -> None:
        """End the processes, and the calls that they have not begun."""
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
