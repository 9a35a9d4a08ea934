"""Random depthwise layers against sums of shifted planes, which small integers make exact.

Windows that slide have functions of their own for rows narrower than a vector, edges that cut
vectors, strides, dilations, and channels that slide together: too many for a list of cases.
"""

from __future__ import annotations

from typing import Any

import faltung
import numpy as np
import pytest
from isa import available

CASES = 300


def case(
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict[str, Any]]:
    kernel, stride = int(rng.choice([3, 5, 7])), int(rng.choice([1, 1, 2]))
    dilation = int(rng.choice([1, 1, 1, 2, 3]))
    last = bool(rng.random() < 0.3)
    channels, outputs, batch = (int(rng.integers(1, n)) for n in (14, 4, 3))
    if last:  # vectors are of channels
        channels, outputs = int(rng.integers(1, 70)), int(rng.choice([1, 1, 2]))
    span = (kernel - 1) * dilation + 1
    padding = [int(rng.integers(0, span)) for _ in range(2)]
    most = 9 if last else 34
    plane = [int(rng.integers(max(1, span - 2 * pad), span + most)) for pad in padding]
    dtype = rng.choice(["float32", "float64"])

    def small(*shape: int) -> np.ndarray:
        return rng.integers(-4, 5, shape).astype(dtype)

    x = small(batch, channels, *plane)
    if rng.random() < 0.3:
        x = x[:, ::-1]
    weight = small(channels * outputs, 1, kernel, kernel)
    bias = small(channels * outputs) if rng.random() < 0.6 else None
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": channels,
        "threads": int(rng.integers(1, 4)),
        "channels_last": last,
        "activation": "relu" if rng.random() < 0.3 else None,
    }
    return x, weight, bias, options


def expected(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, options: dict[str, Any]
) -> np.ndarray:
    stride, dilation, (top, left) = options["stride"], options["dilation"], options["padding"]
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    kernel = weight.shape[2]
    lens = [(n - (kernel - 1) * dilation - 1) // stride + 1 for n in padded.shape[2:]]
    of_output = np.arange(len(weight)) // (len(weight) // x.shape[1])
    y = np.zeros((len(x), len(weight), *lens), x.dtype)
    for i, j in np.ndindex(kernel, kernel):
        rows, columns = (
            slice(k * dilation, k * dilation + (n - 1) * stride + 1, stride)
            for k, n in zip((i, j), lens, strict=True)
        )
        y += weight[:, 0, i, j, None, None] * padded[:, of_output, rows, columns]
    if bias is not None:
        y += bias[:, None, None]
    return np.maximum(y, 0) if options["activation"] else y


def wrong(seed: int) -> list[str]:
    """What was asked of random cases whose results differ."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(CASES):
        x, weight, bias, options = case(rng)
        last = options["channels_last"]
        given = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
        y = faltung.conv2d(given, weight, bias, method="direct", **options)
        y = np.moveaxis(y, -1, 1) if last else y
        if not np.array_equal(y, expected(x, weight, bias, options)):
            found.append(f"{x.shape} {weight.shape} {x.dtype} bias={bias is not None} {options}")
    return found


@pytest.mark.parametrize("isa", available())
def test_random_layers(isas, isa):
    assert isas.submit(isa, wrong, 0).result() == []
