"""Each rule has an error that names the argument, what it holds and the way out.

And nothing else comes out of a call: not from nonsense, not from arrays that pretend to be larger
than any memory. Those calls run in a process of their own, so that a crash is a failed test.
"""

from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import faltung
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isa import Isas, available, peak_bytes
from reference import Options, conv_numpy


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


X, W = ones(2, 4, 9, 9), ones(6, 4, 3, 3)

# What is called, what it raises, and every part that its message must have.
RULES: dict[str, tuple[Any, ...]] = {
    "weight rank": (
        lambda: faltung.conv(ones(9, 9), ones(3, 3)),
        ValueError,
        "weight has 2 dimensions (shape (3, 3)), but needs at least 3",
        "pass weight[None, None]",
    ),
    "weight rank of conv1d": (
        lambda: faltung.conv1d(X, W),
        ValueError,
        "weight has 4 dimensions (shape (6, 4, 3, 3)), but conv1d takes 3",
        "call conv2d",
    ),
    "weight rank of conv2d": (
        lambda: faltung.conv2d(ones(9, 9), ones(3, 3)),
        ValueError,
        "weight has 2 dimensions (shape (3, 3)), but conv2d takes 4",
        "pass weight[None, None]",
    ),
    "weight rank of conv3d": (
        lambda: faltung.conv3d(ones(1, 2, 3, 3, 3, 3), ones(1, 2, 2, 2, 2, 2)),
        ValueError,
        "weight has 6 dimensions",
        "conv3d takes 5",
        "call conv",
    ),
    "x rank": (
        lambda: faltung.conv2d(ones(1, 1, 4, 9, 9), W),
        ValueError,
        "x has 5 dimensions (shape (1, 1, 4, 9, 9))",
        "4 (batch, channels, *spatial) or 3 (channels, *spatial)",
    ),
    "x without channels": (
        lambda: faltung.conv2d(ones(9, 9), ones(1, 1, 3, 3)),
        ValueError,
        "x has 2 dimensions (shape (9, 9))",
        "for one channel pass x[None]",
    ),
    "x without channels, last": (
        lambda: faltung.conv2d(ones(9, 9), ones(1, 1, 3, 3), channels_last=True),
        ValueError,
        "(batch, *spatial, channels) or 3 (*spatial, channels)",
        "for one channel pass x[..., None]",
    ),
    "channels": (
        lambda: faltung.conv2d(ones(2, 5, 9, 9), W),
        ValueError,
        "x has 5 channels (axis 1), but weight expects 4 (weight.shape[1] * groups = 4 * 1)",
    ),
    "channels of an unbatched x": (
        lambda: faltung.conv2d(ones(5, 9, 9), W),
        ValueError,
        "x has 5 channels (axis 0), but weight expects 4",
    ),
    "channels are last": (
        lambda: faltung.conv2d(ones(2, 9, 9, 4), W),
        ValueError,
        "x has 9 channels (axis 1), but weight expects 4 (weight.shape[1] * groups = 4 * 1)",
        "is x channels-last? pass channels_last=True",
    ),
    "channels are first": (
        lambda: faltung.conv2d(X, W, channels_last=True),
        ValueError,
        "x has 9 channels (axis 3), but weight expects 4",
        "is x channels-first? pass channels_last=False",
    ),
    "channels are grouped": (
        lambda: faltung.conv2d(ones(2, 12, 9, 9), W),
        ValueError,
        "x has 12 channels (axis 1), but weight expects 4",
        "is it grouped? pass groups=3",
    ),
    "groups": (
        lambda: faltung.conv2d(X, W, groups=0),
        ValueError,
        "groups is 0, but must be at least 1",
    ),
    "outputs by groups": (
        lambda: faltung.conv2d(X, ones(6, 1, 3, 3), groups=4),
        ValueError,
        "weight has 6 outputs (weight.shape[0]), which groups=4 does not divide",
    ),
    "bias": (
        lambda: faltung.conv2d(X, W, ones(5)),
        ValueError,
        "bias has shape (5,), but weight has 6 outputs",
        "shape (6,)",
    ),
    "bias rank": (
        lambda: faltung.conv2d(X, W, ones(6, 1)),
        ValueError,
        "bias has shape (6, 1), but weight has 6 outputs",
    ),
    "bias scalar": (
        lambda: faltung.conv2d(X, W, np.float32(1)),
        ValueError,
        "bias has shape (), but weight has 6 outputs",
    ),
    "empty kernel": (
        lambda: faltung.conv2d(X, ones(6, 4, 3, 0)),
        ValueError,
        "kernel axis 1 (weight.shape[3]) is 0 in shape (6, 4, 3, 0)",
        "at least 1",
    ),
    "stride count": (
        lambda: faltung.conv2d(X, W, stride=(1, 2, 3)),
        ValueError,
        "stride has 3 entries, but there are 2 spatial axes",
        "one for all or one an axis",
    ),
    "dilation count": (
        lambda: faltung.conv2d(X, W, dilation=[1]),
        ValueError,
        "dilation has 1 entry, but there are 2 spatial axes",
    ),
    "padding count": (
        lambda: faltung.conv2d(X, W, padding=(1, 1, 1, 1)),
        ValueError,
        "padding has 4 entries, but there are 2 spatial axes",
    ),
    "padding mode count": (
        lambda: faltung.conv2d(X, W, padding_mode=["zeros"] * 3),
        ValueError,
        "padding_mode has 3 entries, but there are 2 spatial axes",
    ),
    "stride": (
        lambda: faltung.conv2d(X, W, stride=(1, 0)),
        ValueError,
        "stride is 0 on spatial axis 1, but must be at least 1",
    ),
    "dilation": (
        lambda: faltung.conv2d(X, W, dilation=-2),
        ValueError,
        "dilation is -2 on spatial axis 0, but must be at least 1",
    ),
    "crop": (
        lambda: faltung.conv2d(X, W, padding=((0, 0), (-4, -5))),
        ValueError,
        "padding (-4, -5) crops all of spatial axis 1, which is 9 long",
    ),
    "crop and pad": (
        lambda: faltung.conv2d(X, W, padding=((-9, 20), (0, 0)), padding_mode="edge"),
        ValueError,
        "padding (-9, 20) crops all of spatial axis 0",
    ),
    "empty axis": (
        lambda: faltung.conv(ones(1, 1, 0), ones(1, 1, 2), padding=3, padding_mode="edge"),
        ValueError,
        "x is empty on spatial axis 0",
        'padding_mode="replicate"',
        'only padding_mode="zeros" pads an empty axis',
    ),
    "kernel too large": (
        lambda: faltung.conv2d(X, ones(1, 4, 3, 14), padding=2),
        ValueError,
        "kernel is 14 long on spatial axis 1, but the padded input is 13 (9 with padding (2, 2))",
        "smaller kernel",
    ),
    "dilated kernel too large": (
        lambda: faltung.conv2d(X, W, dilation=(5, 1)),
        ValueError,
        "kernel is 11 long on spatial axis 0 (3 taps with dilation 5), but the padded input is 9",
    ),
    "empty output axis": (
        lambda: faltung.conv(ones(1, 1, 0), ones(1, 1, 1)),
        ValueError,
        "kernel is 1 long on spatial axis 0, but the padded input is 0",
    ),
    "result too large": (
        lambda: faltung.output_shape((1, 2**60), (8, 1, 1)),
        MemoryError,
        "the result would have shape (8, 1152921504606846976), more bytes than",
    ),
    "padded input too large": (
        lambda: faltung.conv1d(ones(1, 9), ones(1, 1, 3), padding=2**62),
        MemoryError,
        "the padded input would have shape",
        "more bytes than",
    ),
    "padding name": (
        lambda: faltung.conv2d(X, W, padding="SAME"),
        ValueError,
        'padding is "SAME", but must be "valid", "same", "same_lower", "full", "causal"',
    ),
    "padding mode name": (
        lambda: faltung.conv2d(X, W, padding_mode="mirror"),
        ValueError,
        'padding_mode is "mirror", but must be "zeros" ("constant"), "reflect"',
    ),
    "method name": (
        lambda: faltung.conv2d(X, W, method="magic"),
        ValueError,
        'method is "magic", but must be "auto", "direct", "fft", "winograd", '
        '"separable" or "pointwise"',
    ),
    "precision name": (
        lambda: faltung.conv2d(X, W, precision="low"),
        ValueError,
        'precision is "low", but must be "high", "fast" or "exact"',
    ),
    "precision type": (
        lambda: faltung.conv2d(X, W, precision=2),
        TypeError,
        "precision must be a str, not int",
    ),
    "method of a precision": (
        lambda: faltung.Plan(W, method="fft", precision="exact"),
        ValueError,
        'precision is "exact", but method is "fft", which adds in another order than the plain '
        'sum; pass method="auto" or "direct", or precision="high"',
    ),
    "method of a precision, transposed": (
        lambda: faltung.conv_transpose2d(ones(6, 9, 9), W, method="winograd", precision="exact"),
        ValueError,
        'precision is "exact", but method is "winograd"',
    ),
    "method that cannot": (
        lambda: faltung.conv2d(
            np.ones((1, 5, 7)), np.ones((2, 1, 3, 2)), stride=2, method="winograd"
        ),
        ValueError,
        'method is "winograd", which cannot compute this convolution because no axis has a kernel '
        "of 3, a stride of 1, and more outputs than the dilation (kernel (3, 2), stride (2, 2), "
        "output (2, 3)); faltung.explain with the same arguments tells what each method would take",
    ),
    "activation name": (
        lambda: faltung.conv2d(X, W, activation="gelu"),
        ValueError,
        'activation is "gelu", but must be None, "relu" or ("clip", low, high)',
    ),
    "activation shape": (
        lambda: faltung.conv2d(X, W, activation=("clip", 0)),
        ValueError,
        "activation is ('clip', 0), but must be None",
    ),
    "clip bounds": (
        lambda: faltung.conv2d(X, W, activation=("clip", 6, 0)),
        ValueError,
        'activation ("clip", 6, 0) needs low <= high',
    ),
    "clip NaN": (
        lambda: faltung.conv2d(X, W, activation=("clip", 0, np.nan)),
        ValueError,
        'activation ("clip", 0, NaN) needs low <= high, neither of them NaN',
    ),
    "clip type": (
        lambda: faltung.conv2d(X, W, activation=("clip", 0, "6")),
        TypeError,
        "activation must be clipped at numbers, not str",
    ),
    "more than 63 bits": (
        lambda: faltung.conv2d(X, W, stride=2**70),
        ValueError,
        "stride is 1180591620717411303424, but must be a number of at most 63 bits",
    ),
    "dtype": (
        lambda: faltung.conv2d(X.astype(object), W),
        TypeError,
        "x has dtype object, but bool, int8 to int64, uint8 to uint64, float16, ",
        "x.astype(numpy.float32)",
    ),
    "stride type": (
        lambda: faltung.conv2d(X, W, stride=1.0),
        TypeError,
        "stride must be an int or a sequence of ints, not float",
    ),
    "stride item type": (
        lambda: faltung.conv2d(X, W, stride=(1, "1")),
        TypeError,
        "stride must be a sequence of ints, not str",
    ),
    "dilation type": (
        lambda: faltung.conv2d(X, W, dilation="2"),
        TypeError,
        "dilation must be an int or a sequence of ints, not str",
    ),
    "padding type": (
        lambda: faltung.conv2d(X, W, padding=None),
        TypeError,
        "padding must be an int, a sequence",
        "not NoneType",
    ),
    "padding pair": (
        lambda: faltung.conv2d(X, W, padding=((1, 2, 3), (1, 2))),
        TypeError,
        "padding must be",
        "(before, after) pair",
    ),
    "padding pair type": (
        lambda: faltung.conv2d(X, W, padding=((1, 2), (1, 2.5))),
        TypeError,
        "padding must be ints in each (before, after) pair, not",
    ),
    "groups type": (
        lambda: faltung.conv2d(X, W, groups=(1, 1)),
        TypeError,
        "groups must be an int, not tuple",
    ),
    "padding mode type": (
        lambda: faltung.conv2d(X, W, padding_mode=0),
        TypeError,
        "padding_mode must be a str or a sequence with one str an axis, not int",
    ),
    "padding value type": (
        lambda: faltung.conv2d(X, W, padding_value="0"),
        TypeError,
        "padding_value must be a number, not str",
    ),
    "flip type": (
        lambda: faltung.conv2d(X, W, flip="no"),
        TypeError,
        "flip must be True or False, not str",
    ),
    "channels_last type": (
        lambda: faltung.conv2d(X, W, channels_last=None),
        TypeError,
        "channels_last must be True or False, not NoneType",
    ),
    "activation type": (
        lambda: faltung.conv2d(X, W, activation=6),
        TypeError,
        'activation must be None, "relu" or ("clip", low, high), not int',
    ),
    "method type": (
        lambda: faltung.conv2d(X, W, method=None),
        TypeError,
        "method must be a str, not NoneType",
    ),
    "out type": (
        lambda: faltung.conv2d(X, W, out=[0.0]),
        TypeError,
        "out must be a numpy.ndarray or None, not list",
    ),
    "threads": (
        lambda: faltung.conv2d(X, W, threads=0),
        ValueError,
        "threads is 0, but must be from 1 to",
        "None takes the default",
    ),
    "too many threads": (
        lambda: faltung.conv2d(X, W, threads=1_000_000),
        ValueError,
        "threads is 1000000, but must be from 1 to",
    ),
    "threads type": (
        lambda: faltung.conv2d(X, W, threads=1.5),
        TypeError,
        "threads must be an int or None, not float",
    ),
    "set_num_threads": (
        lambda: faltung.set_num_threads(-1),
        ValueError,
        "threads is -1, but must be from 1 to",
    ),
    "set_num_threads type": (
        lambda: faltung.set_num_threads("2"),
        TypeError,
        "threads must be an int or None, not str",
    ),
    "shape": (
        lambda: faltung.output_shape((2, 4, -9), (6, 4, 3)),
        ValueError,
        "x_shape is -9, but must be a shape of sizes that are at least 0",
    ),
    "shape type": (
        lambda: faltung.output_shape((2, 4, 9), 3),
        TypeError,
        "weight_shape must be a shape (a sequence of ints), not int",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule):
    call, error, *parts = RULES[rule]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("function", [faltung.conv1d, faltung.conv2d, faltung.conv3d])
def test_keyword_only_arguments(function):
    """Beyond the arguments that PyTorch has, names are needed."""
    with pytest.raises(TypeError, match="positional argument"):
        function(X, W, None, 1, 0, 1, 1, "zeros")


@pytest.mark.parametrize(
    "x", [None, object(), "text", b"bytes", {"x": 1}, {1.0, 2.0}, [[1.0], [1.0, 2.0]], 1 + 2j]
)
def test_what_is_no_array(x):
    with pytest.raises((TypeError, ValueError)):
        faltung.conv(x, ones(1, 1, 2))


def test_error_of_the_caller_comes_through():
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise ZeroDivisionError("the caller's own")

    class Crooked:
        def __index__(self):
            raise ZeroDivisionError("the caller's own")

    for call in (
        lambda: faltung.conv(Broken(), ones(1, 1, 2)),
        lambda: faltung.conv2d(X, W, stride=Crooked()),
    ):
        with pytest.raises(ZeroDivisionError, match="the caller's own"):
            call()


def huge(*shape: int) -> np.ndarray:
    """An array of one element that is seen everywhere: any size, no memory."""
    return np.broadcast_to(np.float32(1), shape)


# Larger than the address space of 2**47 bytes, so that no allocation can succeed, however lenient.
GIANTS = {
    "overflow": lambda: faltung.conv1d(huge(1, 2**60), huge(8, 1, 1)),
    "result": lambda: faltung.conv1d(huge(1, 2**50), huge(1, 1, 1)),
    "float64 result": lambda: faltung.conv1d(huge(1, 2**50), np.ones((1, 1, 1))),
    "batch": lambda: faltung.conv1d(huge(2**50, 1, 3), huge(1, 1, 1)),
    "outputs": lambda: faltung.conv1d(huge(1, 9), huge(2**50, 1, 1), huge(2**50)),
    "axes": lambda: faltung.conv3d(huge(1, 2**17, 2**17, 2**17), huge(1, 1, 3, 3, 3)),
    "padding": lambda: faltung.conv1d(ones(1, 9), ones(1, 1, 3), padding=2**55),
    "padding mode": lambda: faltung.conv1d(
        ones(1, 9), ones(1, 1, 3), padding=((2**55, 0),), padding_mode="reflect"
    ),
    "full": lambda: faltung.conv1d(ones(1, 9), ones(1, 1, 3), padding="full", dilation=2**55),
    "dilation": lambda: faltung.conv1d(ones(1, 9), ones(1, 1, 3), dilation=2**63 - 1),
    "kernel": lambda: faltung.conv1d(huge(1, 2**50), huge(1, 1, 2**50)),
    "swapped weight": lambda: faltung.conv1d(
        huge(2**50, 1), np.broadcast_to(np.array(1, ">f4"), (1, 2**50, 1))
    ),
    "not overflowing by a zero": lambda: faltung.conv1d(huge(0, 1, 2**60), huge(8, 1, 1)),
}


def attempt(name: str) -> tuple[str, str, int]:
    """What a giant raises, its message, and by how many bytes the process grew."""
    # Whatever begins to compute would go on for years: the alarm ends the process, and the test.
    signal.alarm(120)
    before = peak_bytes()
    try:
        result = GIANTS[name]()
    except BaseException as error:  # a panic is no Exception
        raised = type(error).__name__, str(error)
    else:
        raised = "no error", f"{result.shape}"
    signal.alarm(0)
    return *raised, peak_bytes() - before


@pytest.fixture
def process():
    """A process for one test, which may die of it."""
    own = Isas()
    yield lambda *work: own.submit(available()[0], *work).result()
    own.close()


@pytest.mark.parametrize("name", GIANTS)
def test_giants_raise_before_anything_is_allocated(process, name):
    error, message, grown = process(attempt, name)
    assert error in ("MemoryError", "ValueError"), message
    assert message
    assert grown < 2**26


def far_apart() -> list[bool]:
    """Huge strides and dilations whose results are small; each True if right, or too large."""
    right = []
    for options in (
        Options(stride=2**62),
        Options(stride=2**40, padding="same"),
        Options(dilation=2**45, padding="same"),
        Options(dilation=2**58, padding="same", stride=2),
        Options(dilation=2**33, padding=((2**33, 2**33),)),
    ):
        x, weight = np.arange(9, dtype=np.float32).reshape(1, 9), ones(1, 1, 3)
        # Whatever lies so far apart meets x with its middle or its first tap alone.
        small = Options(
            stride=min(options.stride, 9),
            dilation=min(options.dilation, 9),
            padding=((9, 9),) if isinstance(options.padding, tuple) else options.padding,
        )
        try:
            found = faltung.conv(x, weight, **vars(options))
        except MemoryError:
            right.append(True)
        else:
            right.append(bool((found == conv_numpy(x, weight, None, small)).all()))
    return right


def test_far_apart(process):
    assert process(far_apart) == [True] * 5


NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-4, 6),
    st.sampled_from([2**55, -(2**55), 2**62, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**100)]),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from(["same", "valid", "full", "causal", "same_lower", "zeros", "reflect", "wrap"]),
    st.sampled_from(["symmetric", "edge", "relu", "auto", "direct", ("clip", 0, 6), ("clip",)]),
    st.sampled_from([object(), int, {}, {1}, slice(None), Ellipsis, np.nan, range(2)]),
    st.sampled_from([np.int8(2), np.array(1), np.array([1, 2]), np.array("x"), np.array(None)]),
)
DTYPES = st.sampled_from(["f4", "f8", ">f4", ">f8", "f2", "i4", "?", "c8", "O", "U1", "M8[s]"])


@st.composite
def arrays(draw, ranks):
    """Arrays of any small shape and now and then of one that is only pretended."""
    rank = draw(st.sampled_from(ranks))
    huge_size = st.sampled_from([2**20, 2**50])
    size = st.integers(0, 4) if draw(st.integers(0, 5)) else st.integers(1, 4) | huge_size
    shape = draw(st.tuples(*[size] * rank))
    dtype = draw(st.sampled_from(["f4", "f8"]) | DTYPES)
    try:
        return np.broadcast_to(np.zeros((), dtype), shape)
    except ValueError:  # larger than NumPy allows
        return np.zeros((1,) * rank, dtype)


def mostly(usual, other):
    return st.sampled_from([usual] * 5 + [other]).flatmap(lambda chosen: chosen)


@st.composite
def fitting(draw):
    """x and weight that go together, so that it is the options that have to be refused."""
    rank, channels = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    batch = draw(st.tuples() | st.tuples(st.integers(0, 2)))
    spatial = draw(st.tuples(*[st.integers(1, 9)] * rank))
    if not draw(st.integers(0, 9)):
        spatial = (2**50, *spatial[1:])
    kernel = draw(st.tuples(*[st.integers(1, 3)] * rank))
    types = [draw(st.sampled_from(["f4", "f8", ">f4"])) for _ in range(2)]
    shapes = (*batch, channels, *spatial), (draw(st.integers(0, 3)), channels, *kernel)
    zeros = zip(shapes, types, strict=True)
    return [np.broadcast_to(np.zeros((), dtype), shape) for shape, dtype in zeros]


def nested(values):
    return values | st.lists(values, max_size=4) | st.tuples(values, values)


ANY = nested(nested(NONSENSE))
SMALL = nested(st.integers(0, 4) | st.integers(-4, 9))
PLAUSIBLE = {
    "stride": SMALL | st.just(2**55),
    "padding": nested(SMALL) | st.sampled_from(["same", "valid", "full", "causal"]),
    "dilation": SMALL | st.just(2**55),
    "groups": st.integers(0, 4),
    "padding_mode": nested(st.sampled_from(["zeros", "reflect", "symmetric", "edge", "wrap"])),
    "padding_value": st.floats() | st.integers(-3, 3),
    "flip": st.booleans(),
    "activation": st.just("relu") | st.tuples(st.just("clip"), st.floats(), st.floats()),
    "channels_last": st.booleans(),
    "out": arrays([2, 3, 4]),
    "method": st.sampled_from(["auto", "direct"]),
    "threads": st.integers(0, 4),
}


@st.composite
def some_options(draw):
    """A few options, most of them of the right kind."""
    names = draw(st.sets(st.sampled_from(sorted(PLAUSIBLE)), max_size=3))
    return {name: draw(mostly(PLAUSIBLE[name], ANY)) for name in sorted(names)}


def call_with_nonsense(log: str) -> tuple[int, int]:
    """How many calls gave a result and how many an error, of hundreds. Each is logged first."""
    counts = [0, 0]

    anything = arrays([3, 4, 2, 0, 6]) | ANY

    others = [faltung.conv1d, faltung.conv2d, faltung.conv3d, faltung.output_shape]

    @given(
        mostly(fitting(), st.tuples(anything, anything)),
        mostly(st.none(), arrays([1]) | ANY),
        some_options(),
        mostly(st.just(faltung.conv), st.sampled_from(others)),
    )
    # As `conftest` has it, which the process that runs this does not read.
    @settings(
        deadline=None,
        derandomize=True,
        database=None,
        max_examples=1500,
        suppress_health_check=list(HealthCheck),
    )
    def calls(operands, bias, options, function):
        x, weight = operands
        arguments = [x, weight, bias]
        shapes = [a.shape for a in arguments if isinstance(a, np.ndarray)]
        if sum(shapes, ()).count(2**20) > 1:
            return  # legitimate, but it would compute for hours
        if function is faltung.output_shape:
            arguments = [getattr(a, "shape", a) for a in (x, weight)]
        Path(log).write_text(f"{function.__name__}: {shapes} {arguments!r:.300} {options}")
        try:
            result = function(*arguments, **options)
        except (ValueError, TypeError, MemoryError, OverflowError) as error:
            assert str(error)
            counts[1] += 1
        except BaseException as error:  # a panic is no Exception, and cannot be pickled
            raise AssertionError(f"{type(error).__name__}: {error}") from None
        else:
            assert isinstance(result, (np.ndarray, tuple))
            counts[0] += 1

    calls()
    return counts[0], counts[1]


@pytest.mark.filterwarnings("ignore")
def test_nonsense_raises(process, tmp_path):
    """Whatever it is given, a call gives an array or raises one of Python's own errors."""
    log = tmp_path / "last call"
    try:
        results, errors = process(call_with_nonsense, str(log))
    except BrokenProcessPool:
        pytest.fail(f"the process died of {log.read_text()}")
    assert min(results, errors) > 200, "some of it should be fine, and most of it should not"
