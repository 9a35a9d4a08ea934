"""Each library in a process of its own.

The threads of one library's pool spin for a while after a call and would starve another's in the
same process, and environment variables that set their number are read when a library loads.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from libraries import LIBRARIES, Call, Problem, Unsupported
from shapes import Case
from threads import limit


@dataclass(frozen=True)
class Refusal:
    """Why a library did not do a case."""

    reason: str


class Worker:
    """A library in a process of its own, on some threads."""

    def __init__(self, name: str, dtype: str, threads: int) -> None:
        self.name = name
        limit(threads)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, name, dtype, threads)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self, case: Case) -> np.ndarray | Refusal:
        """Make a case ready, and return its result."""
        return self._ask(case)

    def time(self, seconds: float) -> list[float] | Refusal:
        """Return the seconds of each call, of as many as fit and at least three."""
        return self._ask(seconds)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _ask(self, request: Case | float) -> Any:
        try:
            self._connection.send(request)
            return self._connection.recv()
        except (EOFError, OSError):
            return Refusal("its process has ended")


def serve(connection: Connection, name: str, dtype: str, threads: int) -> None:
    """Do what a `Worker` asks, until it closes: the main function of its process."""
    # What a library prints belongs to no table.
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    if hasattr(os, "sched_setaffinity"):
        # XLA keeps to no other limit.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    call: Call | None = None
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            if isinstance(request, Case):
                call = LIBRARIES[name].prepare(Problem.of(request, dtype, threads))
                answer: object = np.asarray(call())
            else:
                assert call is not None, "a case comes before its times"
                answer = times(call, request)
        except Unsupported as reason:
            answer = Refusal(str(reason))
        except Exception as error:
            answer = Refusal(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        connection.send(answer)


def times(call: Call, seconds: float) -> list[float]:
    """Time calls for some seconds."""
    call()  # its threads have slept since the last turn
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found
