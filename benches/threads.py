"""The environment variables that tell libraries how many threads to have, when they load."""

from __future__ import annotations

import os

VARIABLES = (
    "FALTUNG_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)


def limit(threads: int) -> None:
    """Set them all, for what loads later and for processes that start later."""
    os.environ.update(dict.fromkeys(VARIABLES, str(threads)))


def default() -> int:
    """Return ``FALTUNG_NUM_THREADS``, else the cores that this process may run on."""
    return int(os.environ.get("FALTUNG_NUM_THREADS") or len(os.sched_getaffinity(0)))
