"""Locally connected layers beside a copy of their weights: ``python benches/local.py``.

Each weight is used once an image, so reading the weights is what such a layer cannot do without.
The table gives the best time of a copy of the weights' bytes to an array that is there already, and
of `faltung.ladder.local` and its gradients, all taking turns, with the share of the copy's speed:
100 % is a byte of weights for each byte that the copy moves from one place to the other. The
gradient of the weights makes a new array of their size, whose pages the system has yet to find:
its share is that of a copy to a new array.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import faltung
import numpy as np
from faltung import ladder


@dataclass(frozen=True)
class Case:
    """Images (N, C, *in) of a layer with `outputs` channels and a kernel of 2 delta + 1."""

    x: tuple[int, ...]
    outputs: int
    delta: int
    dtype: str = "float32"

    def __str__(self) -> str:
        size, kernel = "x".join(map(str, self.x[2:])), 2 * self.delta + 1
        batch = f"{self.x[0]} of " if self.x[0] > 1 else ""
        return f"{batch}{size}, {self.x[1]} to {self.outputs} channels, {kernel}x{kernel}"


CASES = [
    Case((1, 16, 64, 64), 16, 2),
    Case((1, 16, 64, 64), 16, 2, "float64"),
    Case((1, 3, 128, 128), 32, 1),
    Case((1, 64, 28, 28), 64, 1),
    Case((1, 1, 1000, 1000), 1, 2),
    Case((1, 1, 1000, 1000), 1, 1),
    Case((8, 16, 64, 64), 16, 2),
]


def best(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each call in seconds, all taking turns."""
    times = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            times[i] = min(times[i], time.perf_counter() - begin)
    return times


def measure(case: Case, threads: int, rounds: int) -> str:
    """One row of the table."""
    rng = np.random.default_rng(0)
    weight_shape = (case.outputs, *case.x[2:], case.x[1], *[2 * case.delta + 1] * 2)
    x = rng.standard_normal(case.x).astype(case.dtype)
    weight = rng.standard_normal(weight_shape, dtype=np.dtype(case.dtype).type)
    gradient = rng.standard_normal((case.x[0], case.outputs, *case.x[2:])).astype(case.dtype)
    there = np.empty_like(weight)
    options = {"delta": case.delta, "channels": True, "threads": threads}
    copy, forward, to_input, to_weight, new = best(
        [
            lambda: np.copyto(there, weight),
            lambda: ladder.local(x, weight, **options),
            lambda: ladder.local_input(x.shape, weight, gradient, **options),
            lambda: ladder.local_weight(x, weight.shape, gradient, **options),
            lambda: weight.copy(),
        ],
        rounds,
    )
    return (
        f"{case!s:36} {case.dtype:8} {weight.nbytes / 1e6:4.0f} MB {threads:7} "
        f"{copy * 1e3:8.2f} ms {forward * 1e3:7.2f} ms {copy / forward:4.0%} "
        f"{to_input * 1e3:7.2f} ms {copy / to_input:4.0%} "
        f"{to_weight * 1e3:7.2f} ms {new / to_weight:4.0%}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, faltung.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=20, help="calls of each; the best counts")
    arguments = parser.parse_args()
    print(
        f"{'layer':36} {'dtype':8} {'weights':>7} {'threads':>7} {'copy':>11} "
        f"{'local':>10}{'':5} {'input':>10}{'':5} {'weight':>10}"
    )
    for case in CASES:
        for threads in sorted(set(arguments.threads)):
            print(measure(case, threads, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
