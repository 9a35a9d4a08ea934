"""The rungs from the fully connected layer to the convolution: each against its formula as loops.

Arrays hold small integers, so that every rung must equal its formula, and the rungs each other,
exactly.
"""

from __future__ import annotations

import itertools
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import faltung
import numpy as np
import pytest
from faltung import ladder
from numpy.lib.stride_tricks import sliding_window_view
from reference import Options, axes_of

# Distinct sizes, so that mixed-up axes show.
SHAPES = [(5,), (3, 4), (2, 3, 4)]
CHANNELS = [None, (2, 3)]  # (O, C)
DTYPES = [np.float32, np.float64]


def integers(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Integers from -4 to 4."""
    return np.random.default_rng([seed, *shape]).integers(-4, 5, shape).astype(dtype)


@dataclass(frozen=True)
class Layer:
    """Shapes of one layer, with channels (O, C) or none."""

    out: tuple[int, ...]
    inputs: tuple[int, ...]
    channels: tuple[int, int] | None = None

    @property
    def has(self) -> dict[str, bool]:
        """The argument that tells of the channels."""
        return {"channels": self.channels is not None}

    def x(self, *batch: int) -> np.ndarray:
        return integers(*batch, *(self.channels or ())[1:], *self.inputs, seed=1)

    def hidden(self, *batch: int) -> np.ndarray:
        return integers(*batch, *(self.channels or ())[:1], *self.out, seed=2)

    def weight(self, taps: tuple[int, ...] | None = None, groups: int = 1) -> np.ndarray:
        """One weight for each output and each of the `taps`, by default each input."""
        taps = self.inputs if taps is None else taps
        if self.channels is None:
            return integers(*self.out, *taps, seed=3)
        outputs, channels = self.channels
        return integers(outputs, *self.out, channels // groups, *taps, seed=3)

    def kernel(self, taps: tuple[int, ...], groups: int = 1) -> np.ndarray:
        """One weight for each of the `taps`."""
        if self.channels is None:
            return integers(*taps, seed=4)
        return integers(self.channels[0], self.channels[1] // groups, *taps, seed=4)

    @property
    def offsets(self) -> tuple[int, ...]:
        """How many offsets there are."""
        return tuple(out + n - 1 for out, n in zip(self.out, self.inputs, strict=True))


def layers() -> list[Layer]:
    """All ranks, with and without channels, with as many outputs as inputs and with others."""
    same = [Layer(shape, shape, c) for shape in SHAPES for c in CHANNELS]
    others = [((2,), (5,)), ((6,), (2,)), ((2, 5), (4, 3)), ((3, 1, 2), (2, 2, 3))]
    return same + [Layer(out, inputs, c) for out, inputs in others for c in CHANNELS]


LAYERS = layers()
SQUARE = [layer for layer in LAYERS if layer.out == layer.inputs]


def full(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """`weight` as (O, *out, C, *rest) of Python ints."""
    rank = len(layer.out)
    weight = weight if layer.channels else np.expand_dims(weight, (0, rank + 1))
    return weight.astype(int).astype(object)


def images(layer: Layer, x: np.ndarray) -> np.ndarray:
    """`x` as (C, *in) of Python ints."""
    return (x if layer.channels else x[np.newaxis]).astype(int).astype(object)


def ranges(shape: tuple[int, ...]) -> Any:
    return itertools.product(*map(range, shape))


def gathered(layer: Layer, x: np.ndarray, terms: Any) -> np.ndarray:
    """H[d, i] = sum over c and over all (k, w) that ``terms(d, c, i)`` yields, of w * X[c, k]."""
    pixels = images(layer, x)
    outputs, channels = layer.channels or (1, 1)
    hidden = np.zeros((outputs, *layer.out), dtype=object)
    for d, *i in ranges(hidden.shape):
        for c in range(channels):
            hidden[(d, *i)] += sum(w * pixels[(c, *k)] for k, w in terms(d, c, tuple(i)))
    return hidden if layer.channels else hidden[0]


def dense_loops(layer: Layer, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    w = full(layer, weight)
    return gathered(
        layer, x, lambda d, c, i: ((k, w[(d, *i, c, *k)]) for k in ranges(layer.inputs))
    )


def near(layer: Layer, i: tuple[int, ...], limits: tuple[int, ...]) -> Any:
    """(a, i + a) for every offset a with abs(a) <= limit that leads from i into the image."""
    for a in itertools.product(*(range(-limit, limit + 1) for limit in limits)):
        k = tuple(p + q for p, q in zip(i, a, strict=True))
        if all(0 <= p < n for p, n in zip(k, layer.inputs, strict=True)):
            yield a, k


def furthest(layer: Layer) -> tuple[int, ...]:
    """No offset that reaches the image is larger."""
    return tuple(max(out, n) for out, n in zip(layer.out, layer.inputs, strict=True))


def at(a: tuple[int, ...], zero: tuple[int, ...]) -> tuple[int, ...]:
    """The index of offset a where offset 0 has the index `zero`."""
    return tuple(p + q for p, q in zip(a, zero, strict=True))


def shifted_loops(layer: Layer, x: np.ndarray, offsets_weight: np.ndarray) -> np.ndarray:
    v, zero = full(layer, offsets_weight), tuple(out - 1 for out in layer.out)

    def terms(d: int, c: int, i: tuple[int, ...]) -> Any:
        return ((k, v[(d, *i, c, *at(a, zero))]) for a, k in near(layer, i, furthest(layer)))

    return gathered(layer, x, terms)


def local_loops(
    layer: Layer, x: np.ndarray, weight: np.ndarray, delta: tuple[int, ...]
) -> np.ndarray:
    v = full(layer, weight)

    def terms(d: int, c: int, i: tuple[int, ...]) -> Any:
        return ((k, v[(d, *i, c, *at(a, delta))]) for a, k in near(layer, i, delta))

    return gathered(layer, x, terms)


def invariant_loops(layer: Layer, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    v = (kernel if layer.channels else kernel[np.newaxis, np.newaxis]).astype(int).astype(object)
    zero = tuple(out - 1 for out in layer.out)

    def terms(d: int, c: int, i: tuple[int, ...]) -> Any:
        return ((k, v[(d, c, *at(a, zero))]) for a, k in near(layer, i, furthest(layer)))

    return gathered(layer, x, terms)


def assert_equal(result: Any, expected: Any) -> None:
    """Equal in shape and in every number."""
    assert np.shape(result) == np.shape(expected)
    assert (np.asarray(result) == np.asarray(expected)).all()


# ------------------------------------------------------------------------ each rung and its formula


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
class TestFormulas:
    def test_dense(self, layer: Layer, dtype: Any) -> None:
        x, weight, bias = layer.x(), layer.weight(), layer.hidden()
        result = ladder.dense(
            x.astype(dtype), weight.astype(dtype), bias.astype(dtype), **layer.has
        )
        assert result.dtype == dtype
        assert_equal(result, dense_loops(layer, x, weight) + bias)

    def test_shifted(self, layer: Layer, dtype: Any) -> None:
        # Offsets that lead out of the image have weights here too: they must meet nothing.
        x, weight, bias = layer.x(), layer.weight(layer.offsets), layer.hidden()
        args = x.astype(dtype), weight.astype(dtype), bias.astype(dtype)
        result = ladder.shifted(*args, **layer.has)
        assert result.dtype == dtype
        assert_equal(result, shifted_loops(layer, x, weight) + bias)

    def test_invariant(self, layer: Layer, dtype: Any) -> None:
        x, kernel = layer.x(), layer.kernel(layer.offsets)
        bias = integers(*(layer.channels or ())[:1], seed=5)
        args = x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)
        result = ladder.invariant(*args, **layer.has)
        assert result.dtype == dtype
        each = bias.reshape(-1, *[1] * len(layer.out)) if layer.channels else bias
        assert_equal(result, invariant_loops(layer, x, kernel) + each)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", SQUARE, ids=str)
def test_local(layer: Layer, dtype: Any) -> None:
    delta = tuple(range(1, 1 + len(layer.out)))
    delta = tuple(min(limit, n - 1) for limit, n in zip(delta, layer.out, strict=True))
    taps = tuple(2 * limit + 1 for limit in delta)
    x, weight, bias = layer.x(), layer.weight(taps), layer.hidden()
    args = x.astype(dtype), weight.astype(dtype), bias.astype(dtype)
    result = ladder.local(*args, delta=delta, **layer.has)
    assert result.dtype == dtype
    assert_equal(result, local_loops(layer, x, weight, delta) + bias)


# -------------------------------------------------------------------------------- between the rungs


@pytest.mark.parametrize("layer", LAYERS, ids=str)
class TestOffsets:
    def test_to_offsets_is_its_formula(self, layer: Layer) -> None:
        weight = layer.weight()
        w, v = full(layer, weight), full(layer, ladder.to_offsets(weight, **layer.has))
        assert v.shape == (*w.shape[: len(layer.out) + 2], *layer.offsets)
        seen = 0
        for index in ranges(v.shape):
            (d, *i), c = index[: len(layer.out) + 1], index[len(layer.out) + 1]
            a = at(index[len(layer.out) + 2 :], tuple(1 - out for out in layer.out))
            k = at(tuple(i), a)
            inside = all(0 <= p < n for p, n in zip(k, layer.inputs, strict=True))
            assert v[index] == (w[(d, *i, c, *k)] if inside else 0)
            seen += inside
        assert seen == w.size

    def test_there_and_back(self, layer: Layer) -> None:
        weight = layer.weight()
        back = ladder.from_offsets(ladder.to_offsets(weight, **layer.has), **layer.has)
        assert_equal(back, weight)

    def test_from_offsets_drops_what_leads_out_of_the_image(self, layer: Layer) -> None:
        weight = layer.weight(layer.offsets)
        back = ladder.from_offsets(weight, **layer.has)
        x = layer.x()
        assert_equal(dense_loops(layer, x, back), shifted_loops(layer, x, weight))

    def test_rungs_1_and_2_agree(self, layer: Layer) -> None:
        x, weight, bias = layer.x(2), layer.weight(), layer.hidden()
        down = ladder.dense(x, weight, bias, **layer.has)
        up = ladder.shifted(x, ladder.to_offsets(weight, **layer.has), bias, **layer.has)
        assert_equal(up, down)


@pytest.mark.parametrize("delta", [0, 1])
@pytest.mark.parametrize("layer", SQUARE, ids=str)
class TestDelta:
    def test_rungs_2_and_3_agree_where_far_offsets_are_0(self, layer: Layer, delta: int) -> None:
        x, weight = layer.x(2), layer.weight(layer.offsets)
        near_weight = ladder.truncate(weight, delta, **layer.has)
        far = ladder.extend(near_weight, layer.inputs, **layer.has)
        result = ladder.local(x, near_weight, delta=delta, **layer.has)
        assert_equal(ladder.shifted(x, far, **layer.has), result)
        # and what was cut is what is missing
        rest = weight - far
        whole = ladder.shifted(x, weight, **layer.has)
        assert_equal(result + ladder.shifted(x, rest, **layer.has), whole)

    def test_truncate_is_its_formula(self, layer: Layer, delta: int) -> None:
        rank = len(layer.out)
        for shared in (False, True):
            weight = layer.kernel(layer.offsets) if shared else layer.weight(layer.offsets)
            result = ladder.truncate(weight, delta, shared=shared, **layer.has)
            assert result.shape == weight.shape[:-rank] + (2 * delta + 1,) * rank
            for a in itertools.product(range(-delta, delta + 1), repeat=rank):
                zero = tuple(n - 1 for n in layer.out)
                assert_equal(result[(..., *at(a, (delta,) * rank))], weight[(..., *at(a, zero))])

    def test_there_and_back(self, layer: Layer, delta: int) -> None:
        limits = (delta,) * len(layer.out)
        taps = (2 * delta + 1,) * len(layer.out)
        kernel = layer.kernel(taps)
        large = ladder.extend(kernel, layer.inputs, shared=True, **layer.has)
        assert_equal(ladder.truncate(large, delta, shared=True, **layer.has), kernel)
        assert np.abs(large).sum() == np.abs(kernel).sum()  # all else is 0
        # A kernel for each position loses what looks beyond the border, which meets no pixel.
        weight = layer.weight(taps)
        far = ladder.extend(weight, layer.inputs, **layer.has)
        back = ladder.truncate(far, delta, **layer.has)
        assert np.abs(far).sum() == np.abs(back).sum()
        inside = ladder.to_offsets(ladder.from_offsets(far, **layer.has), **layer.has)
        assert_equal(far, inside)
        lost = back != weight
        assert (back[lost] == 0).all()
        x = layer.x()
        expected = local_loops(layer, x, weight, limits)
        assert_equal(local_loops(layer, x, back, limits), expected)

    def test_rungs_4_and_5_agree(self, layer: Layer, delta: int) -> None:
        x, kernel = layer.x(2), layer.kernel((2 * delta + 1,) * len(layer.out))
        everywhere = ladder.extend(kernel, layer.inputs, shared=True, **layer.has)
        result = ladder.invariant(x, everywhere, **layer.has)
        if layer.channels:
            assert_equal(result, faltung.conv(x, kernel, padding=delta))
        else:
            single = faltung.conv(x[:, None], kernel[None, None], padding=delta)
            assert_equal(result, single[:, 0])


@pytest.mark.parametrize("layer", LAYERS, ids=str)
class TestSharing:
    def test_rungs_2_and_4_agree(self, layer: Layer) -> None:
        x, kernel = layer.x(2), layer.kernel(layer.offsets)
        apart = ladder.untie(kernel, layer.inputs, **layer.has)
        assert_equal(
            ladder.shifted(x, apart, **layer.has), ladder.invariant(x, kernel, **layer.has)
        )

    def test_untied_weights_are_0_beyond_the_image(self, layer: Layer) -> None:
        apart = ladder.untie(layer.kernel(layer.offsets), layer.inputs, **layer.has)
        again = ladder.to_offsets(ladder.from_offsets(apart, **layer.has), **layer.has)
        assert_equal(apart, again)

    def test_there_and_back(self, layer: Layer) -> None:
        kernel = layer.kernel(layer.offsets)
        apart = ladder.untie(kernel, layer.inputs, **layer.has)
        assert_equal(ladder.tie(apart, **layer.has), kernel)

    def test_tie_is_the_mean(self, layer: Layer) -> None:
        weight = layer.weight(layer.offsets).astype(np.float64)
        kernel = ladder.tie(weight, **layer.has)
        v = full(layer, weight)
        kernel = kernel if layer.channels else kernel[None, None]
        zero = tuple(out - 1 for out in layer.out)
        for d, c, *index in ranges(kernel.shape):
            a = tuple(p - q for p, q in zip(index, zero, strict=True))
            values = [
                v[(d, *i, c, *index)]
                for i in ranges(layer.out)
                if all(0 <= p < n for p, n in zip(at(i, a), layer.inputs, strict=True))
            ]
            assert kernel[(d, c, *index)] == float(Fraction(sum(values), len(values)))

    def test_no_kernel_is_nearer_than_the_tied_one(self, layer: Layer) -> None:
        # The least-squares residual is orthogonal to every tied layer. Weights that are multiples
        # of every count of positions have integer means.
        multiple = math.lcm(*range(1, math.prod(layer.out) + 1))
        weight = multiple * layer.weight(layer.offsets).astype(np.float64)
        tied = ladder.untie(ladder.tie(weight, **layer.has), layer.inputs, **layer.has)
        residual = ladder.from_offsets(weight - tied, **layer.has)
        other = layer.kernel(layer.offsets).astype(np.float64)
        other = ladder.from_offsets(ladder.untie(other, layer.inputs, **layer.has), **layer.has)
        assert np.any(residual != 0) or math.prod(layer.out) == 1
        assert math.fsum((residual * other).ravel()) == 0


def test_all_rungs_agree_on_a_convolution() -> None:
    for layer, delta in itertools.product(SQUARE, (0, 1)):
        x, kernel = layer.x(2), layer.kernel((2 * delta + 1,) * len(layer.out))
        bias = integers(*(layer.channels or ())[:1], seed=5)
        each = bias.reshape(-1, *[1] * len(layer.out)) if layer.channels else bias
        everywhere = ladder.extend(kernel, layer.inputs, shared=True, **layer.has)
        apart = ladder.untie(everywhere, layer.inputs, **layer.has)
        weight = ladder.from_offsets(apart, **layer.has)
        small = ladder.to_local(kernel, layer.inputs, **layer.has)
        size = layer.x().shape
        matrix = ladder.as_matrix(kernel, size, padding=delta, sparse=False, **layer.has)
        rung5 = faltung.conv(
            x if layer.channels else x[:, None],
            kernel if layer.channels else kernel[None, None],
            np.atleast_1d(bias),
            padding=delta,
        )
        assert_equal(matrix.reshape(weight.shape), weight)
        for result in (
            ladder.dense(x, weight, each, **layer.has),
            ladder.shifted(x, apart, each, **layer.has),
            ladder.local(x, small, each, delta=delta, **layer.has),
            ladder.invariant(x, everywhere, bias, **layer.has),
        ):
            assert_equal(result, rung5 if layer.channels else rung5[:, 0])


# --------------------------------------------------------------------------------- the local family


@dataclass(frozen=True)
class Local:
    """A local layer with channels: images, kernel and the options of `conv`."""

    x: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...]
    options: Options

    @property
    def conv_weight(self) -> tuple[int, ...]:
        return (self.outputs, self.x[1] // self.options.groups, *self.kernel)

    @property
    def weight(self) -> tuple[int, ...]:
        axes = axes_of(np.empty(self.x), np.empty(self.conv_weight), self.options)
        out = tuple(axis.out for axis in axes)
        return (self.outputs, *out, self.conv_weight[1], *self.kernel)

    @property
    def out(self) -> tuple[int, ...]:
        rank = len(self.kernel)
        return (self.x[0], self.outputs, *self.weight[1 : rank + 1])

    @property
    def arguments(self) -> dict[str, Any]:
        names = "stride", "padding", "dilation", "groups", "padding_mode"
        return {name: getattr(self.options, name) for name in names}

    def terms(self) -> Any:
        """(index of the output, of the weight, of the input) of every product."""
        axes = axes_of(np.empty(self.x), np.empty(self.conv_weight), self.options)
        per_group = self.outputs // self.options.groups
        channels = self.conv_weight[1]
        for n, d, *i in ranges(self.out):
            for c, *a in ranges(self.conv_weight[1:]):
                k = tuple(
                    axis.source(p * axis.stride + q * axis.dilation)
                    for axis, p, q in zip(axes, i, a, strict=True)
                )
                if None not in k:
                    channel = d // per_group * channels + c
                    yield (n, d, *i), (d, *i, c, *a), (n, channel, *k)


LOCALS = [
    Local(x, outputs, kernel, Options(**options))
    for x, outputs, kernel, options in [
        ((2, 3, 9), 4, (3,), {}),
        ((2, 3, 9), 4, (4,), {"stride": 2, "padding": (3,), "dilation": 2}),
        ((1, 4, 10), 2, (5,), {"groups": 2, "padding": ((4, -1),), "padding_mode": "circular"}),
        ((2, 3, 5, 6), 2, (3, 2), {}),
        ((1, 1, 7, 8), 1, (3, 3), {"padding": 1}),
        ((2, 4, 7, 6), 6, (2, 3), {"groups": 2, "stride": (2, 1), "padding": ((1, 0), (2, 1))}),
        ((3, 3, 6, 5), 3, (3, 3), {"groups": 3, "dilation": (1, 2), "padding": "same"}),
        ((1, 2, 6, 7), 2, (2, 2), {"padding": "full", "padding_mode": "reflect"}),
        ((1, 2, 6, 7), 2, (3, 3), {"padding": "causal", "padding_mode": ("edge", "symmetric")}),
        ((1, 17, 3, 4), 3, (3, 3), {"padding": "same_lower", "stride": (1, 2)}),
        ((2, 2, 3, 4, 5), 3, (2, 3, 2), {"padding": (0, 1, 1), "stride": (1, 1, 2)}),
        ((1, 1, 4, 3, 3), 2, (2, 2, 3), {"padding": ((-1, 1), (0, 1), (2, 0))}),
        ((1, 2, 3, 2, 3, 2), 2, (2, 1, 2, 2), {"padding": 1, "stride": 2}),
        ((2, 1, 3, 70), 1, (3, 40), {"padding": (1, 3)}),
        ((1, 2, 40, 33), 3, (3, 3), {"padding": 1}),
    ]
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LOCALS, ids=str)
class TestLocalFamily:
    def arrays(self, case: Local, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input, weight, and a gradient of the output."""
        shapes = case.x, case.weight, case.out
        x, weight, gradient = (integers(*s, seed=n, dtype=dtype) for n, s in enumerate(shapes))
        return x, weight, gradient

    def test_local(self, case: Local, dtype: Any) -> None:
        x, weight, _ = self.arrays(case, dtype)
        expected = np.zeros(case.out)
        for y, w, k in case.terms():
            expected[y] += weight[w] * x[k]
        result = ladder.local(x, weight, channels=True, **case.arguments)
        assert result.dtype == dtype
        assert_equal(result, expected)

    def test_local_input(self, case: Local, dtype: Any) -> None:
        x, weight, gradient = self.arrays(case, dtype)
        expected = np.zeros(case.x)
        for y, w, k in case.terms():
            expected[k] += weight[w] * gradient[y]
        result = ladder.local_input(x.shape, weight, gradient, channels=True, **case.arguments)
        assert result.dtype == dtype
        assert_equal(result, expected)

    def test_local_weight(self, case: Local, dtype: Any) -> None:
        x, weight, gradient = self.arrays(case, dtype)
        expected = np.zeros(case.weight)
        for y, w, k in case.terms():
            expected[w] += gradient[y] * x[k]
        result = ladder.local_weight(x, weight.shape, gradient, channels=True, **case.arguments)
        assert result.dtype == dtype
        assert_equal(result, expected)

    def test_bits_are_those_of_one_thread_and_of_one_image(self, case: Local, dtype: Any) -> None:
        rng = np.random.default_rng(0)
        x, weight, gradient = (
            rng.standard_normal(shape).astype(dtype) for shape in (case.x, case.weight, case.out)
        )
        given = {"channels": True, **case.arguments}
        calls = [
            lambda n, **more: ladder.local(x[n], weight, **given, **more),
            lambda n, **more: ladder.local_input(x[n].shape, weight, gradient[n], **given, **more),
            lambda n, **more: ladder.local_weight(x[n], weight.shape, gradient[n], **given, **more),
        ]
        for call in calls:
            once = call(slice(None), threads=1)
            for threads in (2, 5):
                assert call(slice(None), threads=threads).tobytes() == once.tobytes()
        for call in calls[:2]:
            once = call(slice(None), threads=1)
            single = np.stack([call(n) for n in range(len(x))])
            assert single.tobytes() == once.tobytes()

    def test_a_shared_kernel_makes_it_the_convolution(self, case: Local, dtype: Any) -> None:
        x, _, _ = self.arrays(case, dtype)
        kernel = integers(*case.conv_weight, dtype=dtype)
        weight = ladder.to_local(kernel, case.out[2:], channels=True)
        result = ladder.local(x, weight, channels=True, **case.arguments)
        assert_equal(result, faltung.conv(x, kernel, **case.arguments))


def test_options_may_be_numpy_integers() -> None:
    x, weight = integers(7), integers(7, 3)
    expected = ladder.local(x, weight, delta=1)
    one, none = np.int64(1), np.int8(0)
    assert_equal(ladder.local(x, weight, None, one, none, one, one, delta=one), expected)
    assert_equal(ladder.local(x, weight, None, [1], np.array([1]), (one,)), expected)


def test_delta_counts_in_steps_of_the_dilation() -> None:
    x, weight = integers(7, 8), integers(7, 8, 3, 5)
    result = ladder.local(x, weight, dilation=(2, 1), delta=(1, 2))
    assert_equal(result, ladder.local(x, weight, dilation=(2, 1), padding=(2, 2)))
    kernel = integers(3, 5)
    shared = ladder.to_local(kernel, (7, 8))
    result = ladder.local(x, shared, dilation=(2, 1), delta=(1, 2))
    expected = faltung.conv(x[None], kernel[None, None], dilation=(2, 1), padding="same")
    assert_equal(result, expected[0])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    ("out", "kernel", "options", "size"),
    [
        ((4,), (3,), {}, (6,)),
        ((4,), (3,), {"stride": 2, "output_padding": 1}, (10,)),
        ((3, 4), (3, 2), {"padding": ((1, 0), (0, 2)), "dilation": (2, 1)}, (6, 3)),
        ((3, 4), (3, 3), {"delta": 1}, (3, 4)),
        ((3, 4), (3, 5), {"delta": (1, 2), "stride": 2, "output_padding": (1, 0)}, (6, 7)),
        ((2, 3, 2), (2, 2, 3), {"stride": (1, 2, 1), "padding": (0, 1, 1)}, (3, 4, 2)),
    ],
)
def test_local_transpose_is_the_adjoint(
    channels: Any, out: Any, kernel: Any, options: dict[str, Any], size: Any
) -> None:
    layer = Layer(out, size, channels)
    weight, y, x = layer.weight(kernel), layer.hidden(2), layer.x(2)
    bias = layer.x()
    result = ladder.local_transpose(y, weight, bias, **options, **layer.has)
    assert result.shape == x.shape
    options = {k: v for k, v in options.items() if k != "output_padding"}
    forward = ladder.local(x, weight, **options, **layer.has)
    assert forward.shape == y.shape
    assert np.vdot(forward, y) == np.vdot(x, result - bias)
    assert_equal(result - bias, ladder.local_input(x.shape, weight, y, **options, **layer.has))


def test_local_transpose_with_groups() -> None:
    weight, y = integers(4, 5, 3, 2), integers(2, 4, 5)  # 4 outputs at 5 positions, 2 groups of 3
    result = ladder.local_transpose(y, weight, groups=2, channels=True)
    x = integers(2, 6, 6)
    assert np.vdot(ladder.local(x, weight, groups=2, channels=True), y) == np.vdot(x, result)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("outputs", [2, 48])
def test_layers_of_many_blocks(groups: int, outputs: int) -> None:
    # Enough weights for several blocks of work, which the loops above are too slow for.
    x = integers(2, 4, 61, 50, dtype=np.float64)
    weight = integers(outputs, 61, 50, 4 // groups, 3, 5, dtype=np.float64)
    gradient = integers(2, outputs, 61, 50, dtype=np.float64)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (2, 2))).reshape(2, groups, -1, 63, 54)
    windows = sliding_window_view(padded, (3, 5), axis=(3, 4))  # n g c i j a b
    w = weight.reshape(groups, -1, *weight.shape[1:])  # g o i j c a b
    g = gradient.reshape(2, groups, -1, 61, 50)  # n g o i j
    given = {"delta": (1, 2), "groups": groups, "channels": True}
    for threads in (1, 2, 3):
        result = ladder.local(x, weight, threads=threads, **given)
        expected = np.einsum("ngcijab,goijcab->ngoij", windows, w)
        assert_equal(result, expected.reshape(result.shape))
        result = ladder.local_weight(x, weight.shape, gradient, threads=threads, **given)
        expected = np.einsum("ngcijab,ngoij->goijcab", windows, g)
        assert_equal(result, expected.reshape(result.shape))
        # The adjoint, told from the forward sums: <local(x), g> for each pixel of x alone.
        result = ladder.local_input(x.shape, weight, gradient, threads=threads, **given)
        patches = np.einsum("goijcab,ngoij->ngcijab", w, g)
        expected = np.zeros(padded.shape)
        for a, b in np.ndindex(3, 5):
            expected[..., a : a + 61, b : b + 50] += patches[..., a, b]
        assert_equal(result, expected[..., 1:62, 2:52].reshape(result.shape))


def test_a_signal_ends_a_long_call() -> None:
    kernel = 25
    weight = np.ones((64, 64, kernel, kernel), np.float32)
    x = np.ones((3000, 64, 64), np.float32)

    def call(images: int) -> None:
        ladder.local(x[:images], weight, delta=kernel // 2)

    call(150)
    begin = time.perf_counter()
    call(150)
    expected = 20 * (time.perf_counter() - begin)  # what the call below would take
    raised: list[float] = []

    class Stopped(Exception):
        pass

    def stop(*_: Any) -> None:
        raised.append(time.perf_counter())
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, expected / 20)
    try:
        with pytest.raises(Stopped):
            call(3000)
        # Python would raise it after the call too: what counts is that the call did not go on.
        assert time.perf_counter() - raised[0] < expected / 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(raised) == 1


# ------------------------------------------------------------------------------------ as a matrix


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("case", LOCALS, ids=str)
def test_matrix_of_a_convolution(case: Local, sparse: bool) -> None:
    if sparse:
        pytest.importorskip("scipy")
    x, kernel = integers(*case.x), integers(*case.conv_weight)
    for flip in (False, True):
        given = {"flip": flip, **case.arguments}
        matrix = ladder.as_matrix(kernel, x.shape[1:], channels=True, sparse=sparse, **given)
        assert matrix.dtype == np.float32
        assert isinstance(matrix, np.ndarray) != sparse
        result = (matrix @ x.reshape(len(x), -1).T).T
        assert_equal(result.reshape(case.out), faltung.conv(x, kernel, **given))


def test_matrix_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    assert isinstance(ladder.as_matrix(np.ones(3), 5), np.ndarray)
    with pytest.raises(ImportError, match="pip install scipy"):
        ladder.as_matrix(np.ones(3), 5, sparse=True)


# -------------------------------------------------------------------- translation, batches, dtypes


@pytest.mark.parametrize("layer", SQUARE, ids=str)
def test_rungs_4_and_5_move_with_the_image_and_others_do_not(layer: Layer) -> None:
    # Somewhere within a larger frame of zeros, so that nothing leaves it when it moves by one.
    frame = Layer(*[tuple(n + 2 for n in layer.inputs)] * 2, layer.channels)
    rank = len(frame.out)
    x = np.zeros(frame.x().shape, np.float32)
    x[(..., *[slice(0, n) for n in layer.inputs])] = layer.x()
    moved = np.roll(x, (1,) * rank, tuple(range(-rank, 0)))
    inner = (..., *[slice(1, None)] * rank)
    origin = (..., *[slice(None, -1)] * rank)

    def moves(rung: Any) -> bool:
        return bool((rung(moved)[inner] == rung(x)[origin]).all())

    kernel = frame.kernel(frame.offsets)
    small = frame.kernel((3,) * rank)
    assert moves(lambda x: ladder.invariant(x, kernel, **frame.has))
    lone = (slice(None),) if frame.channels else (None, None)
    assert moves(lambda x: faltung.conv(x if frame.channels else x[None], small[lone], padding=1))
    assert not moves(lambda x: ladder.dense(x, frame.weight(), **frame.has))
    assert not moves(lambda x: ladder.shifted(x, frame.weight(frame.offsets), **frame.has))
    assert not moves(lambda x: ladder.local(x, frame.weight((3,) * rank), delta=1, **frame.has))


@pytest.mark.parametrize("layer", [Layer((3, 4), (3, 4), c) for c in CHANNELS], ids=str)
def test_batch_axes_lead(layer: Layer) -> None:
    calls = [
        lambda x: ladder.dense(x, layer.weight(), **layer.has),
        lambda x: ladder.shifted(x, layer.weight(layer.offsets), **layer.has),
        lambda x: ladder.local(x, layer.weight((3, 3)), delta=1, **layer.has),
        lambda x: ladder.invariant(x, layer.kernel(layer.offsets), **layer.has),
        lambda x: (
            ladder.local_transpose(x, layer.weight((3, 3)), delta=1, **layer.has)
            if not layer.channels
            else x
        ),
    ]
    x = layer.x(2, 3)
    for call in calls:
        single = np.stack([[call(image) for image in row] for row in x])
        assert_equal(call(x), single)
        assert call(x[:0]).shape == (0, *single.shape[1:])


def test_gradients_of_a_batch() -> None:
    x, weight, gradient = integers(2, 3, 6), integers(4, 3), integers(2, 3, 4)
    given = ladder.local_input(x.shape, weight, gradient)
    assert_equal(given[1, 2], ladder.local_input((6,), weight, gradient[1, 2]))
    total = sum(
        ladder.local_weight(a, (4, 3), b)
        for a, b in zip(x.reshape(6, 6), gradient.reshape(6, 4), strict=True)
    )
    assert_equal(ladder.local_weight(x, (4, 3), gradient), total)
    empty = ladder.local_weight(x[:0], (4, 3), gradient[:0])
    assert_equal(empty, np.zeros((4, 3)))


def test_no_channels_give_the_bias() -> None:
    bias = integers(2, 4)
    assert_equal(ladder.dense(np.ones((0, 3)), np.ones((2, 4, 0, 3)), bias, channels=True), bias)
    none = np.ones((0, 4, 2, 3))
    assert ladder.local(np.ones((2, 4)), none, delta=1, channels=True).shape == (0, 4)
    grad = ladder.local_input((2, 4), none, np.ones((0, 4)), delta=1, channels=True)
    assert_equal(grad, np.zeros((2, 4)))
    grad = ladder.local_weight(np.ones((2, 4)), none.shape, np.ones((0, 4)), delta=1, channels=True)
    assert grad.shape == none.shape
    assert_equal(
        ladder.local(np.ones((0, 4)), np.ones((2, 4, 0, 3)), bias, delta=1, channels=True), bias
    )
    assert_equal(
        ladder.local_input((0, 4), np.ones((2, 4, 0, 3)), bias, delta=1, channels=True),
        np.ones((0, 4)),
    )


def test_bias_may_repeat() -> None:
    x, weight = integers(2, 5), integers(2, 5, 2, 5)
    plain = ladder.dense(x, weight, channels=True)
    assert_equal(ladder.dense(x, weight, 3, channels=True), plain + 3)
    each = np.array([[1], [2]], np.float32)
    assert_equal(ladder.dense(x, weight, each, channels=True), plain + each)
    local = ladder.local(x, weight[..., :3], each, delta=1, channels=True)
    assert_equal(local, ladder.local(x, weight[..., :3], delta=1, channels=True) + each)


def test_dtypes_combine_and_python_numbers_do_not_count() -> None:
    x, weight = integers(5), integers(5, 3)
    assert ladder.local(x, weight, 0.5, delta=1).dtype == np.float32
    assert ladder.local(x, weight.astype(np.float64), delta=1).dtype == np.float64
    assert ladder.local(x, weight, np.zeros(5), delta=1).dtype == np.float64
    big = ladder.local(x.astype(">f4"), weight.astype(">f4"), delta=1)
    assert big.dtype == np.float32
    assert_equal(big, ladder.local(x, weight, delta=1))


def test_strides_do_not_matter() -> None:
    x, weight = integers(2, 3, 8, 9), integers(4, 8, 9, 3, 3, 3)
    for call in (
        lambda x, w: ladder.local(x, w, delta=1, channels=True),
        lambda x, w: ladder.local_input(
            x.shape, w, np.ones((2, 4, 8, 9), "f4")[:, ::-1], padding=1, channels=True
        ),
        lambda x, w: ladder.tie(ladder.extend(w, (8, 9), channels=True)[::-1], channels=True),
    ):
        expected = call(x, weight)
        odd = np.asfortranarray(x), np.asfortranarray(weight)
        assert_equal(call(*odd), expected)
        flipped = x[:, ::-1][:, ::-1], weight[..., ::-1].copy()[..., ::-1]
        assert_equal(call(*flipped), expected)


def test_inputs_are_left_alone() -> None:
    layer = Layer((3, 4), (3, 4))
    x, weight, kernel = layer.x(), layer.weight(layer.offsets), layer.kernel(layer.offsets)
    for array in (x, weight, kernel):
        array.flags.writeable = False
    ladder.dense(x, layer.weight(), x)
    ladder.shifted(x, weight, x)
    ladder.local(x, ladder.truncate(weight, 1), x, delta=1)
    ladder.invariant(x, kernel, 1.0)
    results = [
        ladder.tie(weight),
        ladder.untie(kernel, (3, 4)),
        ladder.from_offsets(weight),
        ladder.to_local(kernel, (3, 4)),
        ladder.truncate(weight, 0),
    ]
    for result in results:  # they are the caller's own
        result += 1


def test_nan_stays_under_its_window() -> None:
    x, weight = integers(9), integers(9, 3)
    expected = ladder.local(x, weight, delta=1)
    x[4] = np.nan
    result = ladder.local(x, weight, delta=1)
    assert np.isnan(result[3:6]).all()
    assert_equal(result[[0, 1, 2, 6, 7, 8]], expected[[0, 1, 2, 6, 7, 8]])
    # and so does one in a weight
    weight[4, 0] = np.inf
    assert np.isfinite(ladder.local(integers(9), weight, delta=1)).sum() >= 8


# -------------------------------------------------------------------------------------- parameters


def test_parameters_of_the_book() -> None:
    counts = ladder.parameters((1000, 1000), delta=10)
    assert counts == {
        "dense": 10**12,
        "shifted": 10**12,
        "local": 10**6 * 21**2,
        "invariant": 1999**2,
        "conv": 21**2,
    }
    assert all(type(count) is int for count in counts.values())
    table = str(counts).splitlines()
    assert len(table) == 5
    assert "1 000 000 000 000" in table[0]
    assert "3 996 001" in table[3]


@pytest.mark.parametrize("layer", SQUARE, ids=str)
def test_parameters_are_what_the_arrays_hold(layer: Layer) -> None:
    outputs, channels = layer.channels or (1, 1)
    counts = ladder.parameters(layer.inputs, 1, channels=channels, out_channels=outputs)
    taps = (3,) * len(layer.inputs)
    assert counts["dense"] == layer.weight().size
    ones = ladder.to_offsets(np.ones(layer.weight().shape), **layer.has)
    assert counts["shifted"] == np.count_nonzero(ones)
    assert counts["local"] == layer.weight(taps).size
    assert counts["invariant"] == layer.kernel(layer.offsets).size
    assert counts["conv"] == layer.kernel(taps).size


def test_parameters_are_exact_beyond_64_bits() -> None:
    assert ladder.parameters((10**6,) * 3, 1)["dense"] == 10**36


# ------------------------------------------------------------------------------------- the example


def test_example_shows_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    script = Path(__file__).parent.parent / "examples" / "ladder.py"
    command = [sys.executable, str(script), "--output", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^\d  (\w+) .* <= (\S+)$", done.stdout, re.MULTILINE)
    moves = {rung: float(difference) == 0 for rung, difference in lines}
    assert moves == {
        "dense": False,
        "shifted": False,
        "local": False,
        "invariant": True,
        "conv2d": True,
    }
    for name in ("ladder.png", "ladder-channels.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------ errors

F4 = np.float32
ONE = np.ones


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ladder.dense(ONE(3), ONE((3, 3, 3))), ValueError, r"3 axes .*\(\*out, \*in\)"),
        (lambda: ladder.dense(ONE(3), ONE((3, 3)), channels=True), ValueError, "leave channels"),
        (lambda: ladder.dense(ONE((3, 3)), ONE((2, 2, 2, 2))), ValueError, r"takes \(\.\.\., 2, 2"),
        (lambda: ladder.dense(ONE(3), ONE((2, 2, 3, 3))), ValueError, "at least 2 axes"),
        (lambda: ladder.dense(ONE(3), ONE((0, 3))), ValueError, "length 0"),
        (lambda: ladder.dense(ONE(3), ONE((2, 3)), ONE(3)), ValueError, r"bias has shape \(3,\)"),
        (lambda: ladder.dense(ONE(3, "O"), ONE((2, 3))), TypeError, r"x has dtype object.*astype"),
        (lambda: ladder.dense(ONE(3), ONE((2, 3), "g")), TypeError, "weight has dtype float128"),
        (
            lambda: ladder.dense(ONE(3), ONE((2, 3)), ONE(2, "M8")),
            TypeError,
            "bias has dtype datet",
        ),
        (lambda: ladder.to_offsets(ONE(3)), ValueError, "1 axes"),
        (lambda: ladder.from_offsets(ONE((3, 2))), ValueError, "positions . n - 1"),
        (lambda: ladder.shifted(ONE(3), ONE((3, 2))), ValueError, "weight of `local`"),
        (lambda: ladder.shifted(ONE(4), ONE((3, 5))), ValueError, r"takes \(\.\.\., 3\)"),
        (
            lambda: ladder.local(ONE(5), ONE((5, 3)), delta=2),
            ValueError,
            r"delta is 2, but .*\(3,\)",
        ),
        (lambda: ladder.local(ONE(3), ONE((3, 7)), delta=3), ValueError, "pass a smaller delta"),
        (lambda: ladder.local(ONE(9), ONE((9, 5)), delta=-1), ValueError, "at least 0"),
        (lambda: ladder.local(ONE(9), ONE((9, 5)), delta=(2, 2)), ValueError, "1 spatial axes"),
        (lambda: ladder.local(ONE(9), ONE((9, 5)), padding=2, delta=2), ValueError, "not both"),
        (lambda: ladder.local(ONE(9), ONE((9, 5))), ValueError, r"for \(9,\) positions.*\(5,\)"),
        (lambda: ladder.local(ONE(9), ONE((9, 0))), ValueError, "length 0"),
        (lambda: ladder.local(ONE(9), ONE((5, 5)), groups=2), ValueError, "groups is 1"),
        (
            lambda: ladder.local(ONE((3, 9)), ONE((4, 5, 2, 5)), channels=True),
            ValueError,
            "x has 3 channels, but weight expects 2",
        ),
        (lambda: ladder.local(ONE(9), ONE((5, 5)), stride=0), ValueError, "stride"),
        (lambda: ladder.local(ONE(9), ONE((9, 5)), threads=0, padding=2), ValueError, "threads"),
        (lambda: ladder.local(ONE(9), ONE((5, 5)), padding_mode="mirror"), ValueError, "mirror"),
        (
            lambda: ladder.local_input((9,), ONE((5, 5)), ONE(4)),
            ValueError,
            "grad_output has shape",
        ),
        (lambda: ladder.local_input((2, 9), ONE((5, 5)), ONE(5)), ValueError, "batch axes"),
        (lambda: ladder.local_weight(ONE(9), (5, 5), ONE((1, 5))), ValueError, "batch axes"),
        (lambda: ladder.local_weight(ONE(9), (6, 5), ONE(6)), ValueError, "for .6,. positions"),
        (
            lambda: ladder.local_transpose(ONE(5), ONE((5, 3)), padding="same"),
            ValueError,
            "numbers",
        ),
        (
            lambda: ladder.local_transpose(ONE(5), ONE((5, 3)), padding=9),
            ValueError,
            "less padding",
        ),
        (
            lambda: ladder.local_transpose(ONE(5), ONE((5, 3)), output_padding=1),
            ValueError,
            "for .5,. positions",
        ),
        (
            lambda: ladder.local_transpose(ONE(5), ONE((5, 3)), output_padding=-1),
            ValueError,
            "at least 0",
        ),
        (
            lambda: ladder.local_transpose(ONE(5), ONE((5, 3)), stride=(1, 2)),
            ValueError,
            "stride is",
        ),
        (lambda: ladder.invariant(ONE(5), ONE(3)), ValueError, r"fewer .*\(9,\)"),
        (lambda: ladder.invariant(ONE(5), ONE(0)), ValueError, "kernel is empty"),
        (lambda: ladder.invariant(ONE(5), ONE(9), ONE(5)), ValueError, "pass a number"),
        (
            lambda: ladder.invariant(ONE((3, 5)), ONE((2, 3, 9)), ONE(3), channels=True),
            ValueError,
            r"shape \(2,\)",
        ),
        (lambda: ladder.invariant(ONE(5), ONE((9, 9))), ValueError, "2 spatial axes"),
        (lambda: ladder.invariant(ONE((3, 5)), ONE((3, 9)), channels=True), ValueError, "2 axes"),
        (lambda: ladder.truncate(ONE((3, 5)), 3), ValueError, "smaller delta"),
        (lambda: ladder.truncate(ONE(5), 3, shared=True), ValueError, "smaller delta"),
        (lambda: ladder.truncate(ONE(4), 1, shared=True), ValueError, "odd lengths"),
        (lambda: ladder.truncate(ONE((3, 5)), -1), ValueError, "at least 0"),
        (lambda: ladder.extend(ONE((3, 4)), 3), ValueError, "odd lengths"),
        (lambda: ladder.extend(ONE(5), 2, shared=True), ValueError, "nothing in an image"),
        (lambda: ladder.extend(ONE(5), (3, 3), shared=True), ValueError, "the 1 spatial axes"),
        (lambda: ladder.extend(ONE(5), 0, shared=True), ValueError, "each at least 1"),
        (lambda: ladder.tie(ONE((5, 3))), ValueError, "is this the weight of `local`"),
        (lambda: ladder.untie(ONE(3), 5), ValueError, "extend it"),
        (lambda: ladder.to_local(ONE((3, 3)), 5), ValueError, "the 2 spatial axes"),
        (lambda: ladder.as_matrix(ONE((3, 3)), 5), ValueError, "input_shape is"),
        (lambda: ladder.as_matrix(ONE(3), 2), ValueError, "kernel"),
        (lambda: ladder.parameters(5, 5), ValueError, "smaller delta"),
        (lambda: ladder.parameters((), 0), ValueError, "sizes of spatial axes"),
        (lambda: ladder.parameters(5, 1, channels=0), ValueError, "at least 1 of each"),
        (lambda: ladder.parameters(5, 1.5), TypeError, "integer"),
    ],
)
def test_errors_say_what_to_pass(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
