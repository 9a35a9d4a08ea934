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


def any_case(rng: np.random.Generator) -> tuple[list[int], np.ndarray, dict[str, Any]]:
    """Signals, images and volumes, with kernels of any sides and borders wider than they are."""
    rank = int(rng.integers(1, 4))
    channels = int(rng.integers(1, 40))
    kernel = [int(rng.choice([1, 2, 3, 3, 4, 5, 7, 9])) for _ in range(rank)]
    if np.prod(kernel) > 128:  # sums of several chains
        kernel = kernel[:1] + [3] * (rank - 1)
    stride, dilation = ([int(rng.choice([1, 1, 2, 3])) for _ in range(rank)] for _ in range(2))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = [(int(rng.integers(0, 2 * n)), int(rng.integers(0, 2 * n))) for n in span]
    most = {1: 60, 2: 20, 3: 6}[rank]
    plane = [
        int(rng.integers(max(1, n - sum(pad)), n + most))
        for n, pad in zip(span, padding, strict=True)
    ]
    dtype = rng.choice(["float32", "float64", "int32", "int64"])
    weight = rng.integers(-4, 5, (channels, 1, *kernel)).astype(dtype)
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": channels,
        "threads": int(rng.integers(1, 4)),
    }
    return [int(rng.integers(1, 3)), channels, *plane], weight, options


def by_groups(x: np.ndarray, weight: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """The same with each channel as an image of its own, which no vector of channels computes."""
    alone = options | {"groups": 1, "threads": 1, "method": "direct"}
    planes = [faltung.conv(x[:, [c]], weight[[c]], **alone) for c in range(x.shape[1])]
    return np.concatenate(planes, 1)


def layouts(x: np.ndarray, weight: np.ndarray, options: dict[str, Any]) -> list[np.ndarray]:
    """Results of arrays whose channels are the last axis, of one that lies backwards, of planes."""
    given = options | {"method": "direct"}
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    turn = (slice(None), *[slice(None, None, -1)] * (x.ndim - 2))
    back = np.ascontiguousarray(last[turn])[turn]
    found = [faltung.conv(last, weight, channels_last=True, **given)]
    found.append(faltung.conv(back, weight, channels_last=True, **given))
    out = np.full(found[0].shape, 7, x.dtype)[::-1, ::-1]
    found.append(faltung.conv(last, weight, channels_last=True, out=out, **given))
    return [*(np.moveaxis(y, -1, 1) for y in found), faltung.conv(x, weight, **given)]


def wrong_of_any_rank(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(CASES):
        shape, weight, options = any_case(rng)
        x = rng.integers(-4, 5, shape).astype(weight.dtype)
        y = by_groups(x, weight, options)
        if any(not np.array_equal(y, other) for other in layouts(x, weight, options)):
            found.append(f"{shape} {weight.shape} {x.dtype} {options}")
    return found


def bits(y: np.ndarray) -> bytes:
    """All of a result, but for which NaN a NaN is."""
    return np.where(np.isnan(y), np.nan, y).tobytes()


def other_bits(seed: int) -> list[str]:
    """Cases in which layouts differ, of products some of which underflow or are no numbers."""
    rng = np.random.default_rng(seed)
    found = []
    with np.errstate(all="ignore"):
        for _ in range(CASES // 2):
            shape, weight, options = any_case(rng)
            weight = weight.astype(rng.choice(["float32", "float64"]))
            tiny = np.finfo(weight.dtype).tiny

            def strange(shape: Any, dtype: Any = weight.dtype, tiny: float = tiny) -> np.ndarray:
                numbers = [0, -0.0, 1, -1.5, tiny, -tiny, tiny / 8]
                if rng.random() < 0.5:
                    numbers += [np.inf, -np.inf, np.nan]
                often = [5] * 4 + [20] * 3 + [1] * (len(numbers) - 7)
                return rng.choice(numbers, shape, p=np.divide(often, sum(often))).astype(dtype)

            x, weight = strange(shape), strange(weight.shape)
            results = {bits(y) for y in layouts(x, weight, options)}
            if len(results | {bits(by_groups(x, weight, options))}) > 1:
                found.append(f"{shape} {weight.shape} {x.dtype} {options}")
    return found


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("check", [wrong_of_any_rank, other_bits])
def test_layouts_agree(isas, isa, check):
    assert isas.submit(isa, check, 1).result() == []


def test_channels_last_is_read_where_it_lies():
    x, weight = np.zeros((1, 20, 20, 64), "float32"), np.zeros((64, 1, 3, 3), "float32")
    facts = faltung.explain(x, weight, padding=1, groups=64, channels_last=True).as_dict()
    direct = next(method for method in facts["methods"] if method["method"] == "direct")
    assert direct["roles"] == ("positions", "channels")
    assert direct["in_place"]


@pytest.mark.parametrize("bias", [False, True])
def test_small_planes_are_turned(bias):
    rng = np.random.default_rng(3)
    x, weight = (rng.integers(-4, 5, n).astype("float32") for n in [(3, 83, 7, 7), (83, 1, 7, 7)])
    options = {"stride": 1, "padding": [3, 3], "dilation": 1, "groups": 83, "activation": "relu"}
    offset = rng.integers(-9, 9, 83).astype("float32") if bias else None
    y = faltung.conv2d(x, weight, offset, method="direct", **options)
    assert np.array_equal(y, expected(x, weight, offset, options))


@pytest.mark.parametrize("isa", available())
def test_random_layers(isas, isa):
    assert isas.submit(isa, wrong, 0).result() == []
