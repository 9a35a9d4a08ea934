"""Every NumPy number: integers exact modulo 2**n, halves rounded once, complex ones by parts."""

from __future__ import annotations

import itertools
from typing import Any

import faltung
import numpy as np
import pytest
from cases import KINDS, LAYOUTS, Operands, case, same_bits
from faltung import ladder
from reference import Options, conv_loops, conv_numpy, input_numpy, weight_numpy

INTEGERS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64", "complex64", "complex128"]
SMALL = case((2, 3, 5, 6), (4, 3, 3, 2), padding=1)


def whole(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers over all of an integer's range, its ends among them."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) > 0.5
    ends = np.iinfo(dtype)
    numbers = rng.integers(ends.min, ends.max, shape, dtype.newbyteorder("="), endpoint=True)
    numbers.flat[:2] = ends.min, ends.max
    return numbers.astype(dtype)


def wrapped(exact: np.ndarray, dtype: Any) -> np.ndarray:
    """Python's integers modulo 2**n in a dtype; of bool, whether they are not 0."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return (exact != 0).astype(bool)
    bits, low = 8 * dtype.itemsize, int(np.iinfo(dtype).min)
    return np.frompyfunc(lambda n: (int(n) - low) % 2**bits + low, 1, 1)(exact).astype(dtype)


def pythonic(array: np.ndarray | None) -> Any:
    """An array as numbers of Python, which do not wrap."""
    return None if array is None else array.tolist()


def exact(operands: Operands, options: Options) -> np.ndarray:
    return conv_loops(*map(pythonic, operands), options)


@pytest.mark.parametrize("x_type", [*INTEGERS, ">i2", ">u4", ">i8"])
@pytest.mark.parametrize("weight_type", INTEGERS)
def test_integers_are_exact_modulo_their_bits(x_type, weight_type):
    """With the dtype that NumPy promotes to, and with each that `dtype` can name."""
    x, weight = whole(x_type, SMALL.x), whole(weight_type, SMALL.weight, 1)
    expected = exact(Operands(x, weight, None), SMALL.options)
    natural = np.result_type(x, weight)
    for dtype in INTEGERS if natural.kind == "f" else [None, *INTEGERS]:
        found = SMALL.run(Operands(x, weight, None), dtype=dtype)
        assert found.dtype == (natural if dtype is None else dtype) and found.dtype.isnative
        assert (found == wrapped(expected, found.dtype)).all(), dtype


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if kind.taps < 200])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint64"])
def test_integers_in_every_kind_of_convolution(name, dtype):
    problem = KINDS[name]
    options = problem.options
    if options.padding_value == 1.5:
        options = Options(**{**vars(options), "padding_value": 3})
    clipped = options.activation is not None
    x, weight = whole(dtype, problem.x), whole(dtype, problem.weight, 1)
    bias = whole(dtype, problem.weight[:1], 2) if problem.bias else None
    if clipped:  # small enough for the reference and the accumulator to see the same number
        x, weight, bias = (None if a is None else a // 2 % 11 for a in (x, weight, bias))
    if dtype == "uint64" and options.activation not in (None, "relu"):
        return
    found = faltung.conv(x, weight, bias, **vars(options))
    expected = exact(Operands(x, weight, bias), options)
    assert (found == wrapped(expected, dtype)).all()
    assert same_bits(found, faltung.conv(x, weight, bias, **vars(options), threads=2))


@pytest.mark.parametrize("name", [n for n, kind in KINDS.items() if kind.taps >= 200])
@pytest.mark.parametrize("dtypes", [("uint8", "int8"), ("int16", "int16"), ("int32", "int8")])
def test_integers_with_many_taps(name, dtypes):
    problem = KINDS[name]
    x, weight = whole(dtypes[0], problem.x), whole(dtypes[1], problem.weight, 1)
    found = problem.run(Operands(x, weight, None), dtype=np.int64)
    assert (found == conv_numpy(x, weight, None, problem.options)).all()
    for narrow in ("int32", "uint8"):
        assert same_bits(problem.run(Operands(x, weight, None), dtype=narrow), found.astype(narrow))


BYTES = ["bool", "int8", "uint8"]


@pytest.mark.parametrize(
    "problem",
    [
        case((2, 5, 9, 11), (7, 5, 3, 3), padding=2, flip=True),
        case((1, 64, 20), (3, 64, 5), padding=2, stride=2),
        case((3, 6, 7, 8), (4, 3, 2, 2), groups=2, dilation=2, padding=1, padding_mode="reflect"),
        case((2, 3, 4, 5, 6), (9, 3, 2, 3, 2), padding=1),
        case((1, 12, 40, 40), (1, 12, 3, 3), padding=1),
        case((1, 66, 1), (40, 66, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtypes", [*itertools.product(BYTES, BYTES)])
def test_bytes_four_at_a_time(problem, dtypes):
    """Of either sign, in any layout, with and without what a plan keeps."""
    x, weight = whole(dtypes[0], problem.x), whole(dtypes[1], problem.weight, 1)
    bias = whole("int32", problem.weight[:1], 2)
    wide = Operands(x.astype(np.int64), weight.astype(np.int64), None)
    expected = conv_numpy(*wide, problem.options).astype(np.int64)
    plan = faltung.Plan(weight, dtype=np.int32, **vars(problem.options))
    for turned in (x, np.asfortranarray(x), x[..., ::-1].copy()[..., ::-1]):
        operands = Operands(turned, np.asfortranarray(weight), None)
        for dtype in ["int8", "uint16", "int32", "int64", "uint64"]:
            assert (problem.run(operands, dtype=dtype) == wrapped(expected, dtype)).all(), dtype
        assert (plan(turned) == expected).all()
        found = problem.run(operands._replace(bias=bias), dtype=np.int32)
        summed = conv_numpy(*wide._replace(bias=bias.astype(np.int64)), problem.options)
        assert (found == wrapped(summed, "int32")).all()
        options = vars(problem.options) | {"activation": "relu"}
        clipped = faltung.conv(turned, weight, bias, **options, dtype=np.int32)
        assert (clipped == np.maximum(found, 0)).all()


@pytest.mark.parametrize("value", [-128, -1, 127, 128, 255, 300, -70_000])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_padding_beyond_the_range_of_bytes(dtype, value):
    x, weight = whole(dtype, (1, 8, 5, 5)), whole("int8", (4, 8, 3, 3), 1)
    wide = Operands(x.astype(np.int64), weight.astype(np.int64), None)
    found = faltung.conv2d(x, weight, padding=1, padding_value=value, dtype=np.int32)
    assert (found == faltung.conv2d(*wide, padding=1, padding_value=value)).all()


def test_nine_times_two_hundred():
    """What wraps in uint8 does not in a wider result, in no matter which of the two ways."""
    image, box = np.full((1, 3, 3), 200, np.uint8), np.ones((1, 1, 3, 3), np.uint8)
    assert faltung.conv2d(image, box).item() == 8
    for wide in (np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64):
        found = faltung.conv2d(image, box, dtype=wide)
        assert (found.dtype, found.item()) == (wide, 1800)
    assert faltung.conv2d(image, box, activation=("clip", 0, 255)).item() == 255


def test_extremes():
    lowest = np.full((1, 3, 4), -128, np.int8)
    found = faltung.conv2d(lowest, lowest[None, :, :3, :3][:, :1], dtype=np.int32)
    assert (found == 9 * 128 * 128).all()
    top = np.full((1, 5), 2**64 - 1, np.uint64)
    assert (faltung.conv1d(top, top[None, :, :2]) == 2).all()
    assert faltung.conv1d(top, np.ones((1, 1, 1), np.uint64), activation="relu").max() == 2**64 - 1
    high = np.full((1, 5), 3_000_000_000, np.uint32)
    one = np.ones((1, 1, 1), np.uint32)
    assert (faltung.conv1d(high, one, activation="relu") == high).all()
    assert (faltung.conv1d(high, one, activation=("clip", 0, 5)) == 5).all()
    huge = faltung.conv1d(top[:, :1], np.ones((1, 1, 3), np.uint64), padding=1, padding_value=2**63)
    assert huge.item() == (2**64 - 1 + 2**64) % 2**64


def test_truth_values():
    """As `numpy.convolve` has it: whether any product is true. An integer dtype counts."""
    x, kernel = np.array([1, 0, 1, 1, 0, 0], bool), np.array([1, 0, 1], bool)
    assert same_bits(faltung.convolve(x, kernel), np.convolve(x, kernel))
    counts = np.convolve(x.astype(int), kernel.astype(int))
    assert (faltung.convolve(x, kernel, dtype=np.uint8) == counts).all()
    many = np.ones((1, 256), bool)
    assert faltung.conv1d(many, many[None]).item() is True
    assert faltung.conv1d(many.view(np.uint8), many[None]).item() == 0
    assert faltung.conv1d(many.view(np.uint8), many[None], dtype=bool).item() is True


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "complex64", "int64"])
def test_layouts(layout, dtype):
    problem = KINDS["2d"]
    operands = problem.integers(np.int8, 3)
    real = Operands(*(abs(array).astype(dtype) for array in operands))
    if layout == "spaced" and dtype[0] in "ui":
        spaced = [np.repeat(array, 3, -1) for array in real]
        changed = Operands(*(array[..., ::3] for array in spaced))
    else:
        changed = Operands(*(LAYOUTS[layout](array) for array in real))
    expected = wrapped if dtype[0] in "ui" else (lambda a, t: a.astype(t))
    reference = exact(Operands(*map(abs, operands)), problem.options)
    found = problem.run(changed)
    assert found.dtype == dtype
    assert (found == expected(reference, dtype)).all()
    out = np.zeros((*found.shape, 2), dtype)[..., 1]
    assert problem.run(changed, out=out) is out
    assert (out == found).all()


def _on_this_isa() -> list[bytes]:
    results = []
    for name in ("2d", "strided", "depthwise", "one_channel", "channels_last", "many_taps", "1d"):
        problem = KINDS[name]
        for dtype in ["uint8", "int16", "int32", "uint64", "float16"]:
            if dtype == "float16":
                operands = problem.floats(dtype)
            else:
                operands = Operands(whole(dtype, problem.x), whole(dtype, problem.weight, 1), None)
            found = problem.run(operands)
            wide = problem.run(operands, dtype=np.float64 if dtype == "float16" else np.int32)
            size = {"weight_size": problem.weight, "grad_output": found}
            options = vars(problem.options) | {}
            options.pop("activation")
            gradient = faltung.grad.conv_weight(operands.x, **size, **options)
            results += [found.tobytes(), wide.tobytes(), gradient.tobytes()]
    parts = [KINDS["2d"].floats(np.float32, seed) for seed in (1, 2)]
    pairs = (a.astype(np.complex64) + 1j * b for a, b in zip(*parts, strict=True))
    return [*results, KINDS["2d"].run(Operands(*pairs)).tobytes()]


def test_bits_do_not_depend_on_the_instruction_set(isas):
    from isa import available

    results = [isas.submit(isa, _on_this_isa) for isa in available()]
    first, *others = [result.result() for result in results]
    assert all(other == first for other in others)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_summed_in_singles_and_rounded_once(dtype):
    half = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    for problem in (KINDS["2d"], KINDS["channels_last"], KINDS["many_taps"]):
        operands = Operands(*(a.astype(half) for a in problem.floats(np.float32)))
        found = problem.run(operands)
        assert found.dtype == half
        singles = problem.run(Operands(*(a.astype(np.float32) for a in operands)))
        assert same_bits(found, singles.astype(half))
        wide = problem.run(operands, dtype=np.float32)
        assert same_bits(wide, singles)
        double = problem.run(Operands(*(a.astype(np.float64) for a in operands)))
        assert same_bits(problem.run(operands, accumulate=np.float64), double.astype(half))


@pytest.mark.parametrize("layout", ["C", "channels last", "spaced"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float16", ">f4"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_windows_whose_results_are_converted(kernel, dtype, layout):
    """Depthwise, in rows of more than a vector, to other numbers and strides than sums have."""
    problem = case((2, 19, 12, 45), (38, 1, kernel, kernel), groups=19, padding=1, stride=(2, 1))
    operands = problem.integers(dtype)
    expected = problem.expected(operands)
    sums = np.dtype(dtype).newbyteorder("=")
    for result in (sums, np.int32, np.float64):
        if sums.kind == "f" and result == np.int32:
            continue
        storage = np.zeros([2 * n for n in expected.shape], result)
        if layout == "C":
            out = np.zeros(expected.shape, result)
        elif layout == "spaced":
            out = storage[::2, ::2, ::2, ::2]
        else:
            out = np.moveaxis(np.zeros(np.moveaxis(expected, 1, -1).shape, result), -1, 1)
        problem.run(operands, dtype=result, out=out, threads=2)
        assert (out == (wrapped(expected, result) if out.dtype.kind in "iu" else expected)).all()


def test_halves_beside_others():
    brain = pytest.importorskip("ml_dtypes").bfloat16
    x, weight = np.ones((1, 4), brain), np.ones((1, 1, 2))
    assert faltung.conv1d(x, weight).dtype == np.float64
    assert faltung.conv1d(x, weight.astype(np.int8)).dtype == brain
    assert faltung.conv1d(x.astype(np.float16), weight.astype(np.int16)).dtype == np.float32
    assert faltung.conv1d(x, weight, dtype=brain).tolist() == [[2, 2, 2]]
    with pytest.raises(TypeError, match="no dtype for both"):
        faltung.conv1d(x, weight.astype(np.float16))


def complex_integers(problem: Any, dtype: Any, seeds: tuple[int, int] = (1, 2)) -> Operands:
    parts = [problem.integers(np.float64, seed) for seed in seeds]
    together = ((a + 1j * b).astype(dtype) for a, b in zip(*parts, strict=True) if a is not None)
    return Operands(*together, *[None] * (not problem.bias))


@pytest.mark.parametrize("name", [n for n in KINDS if KINDS[n].options.activation is None])
def test_complex_numbers(name):
    problem = KINDS[name]
    operands = complex_integers(problem, np.complex64)
    parts = problem.integers(np.float32, 1), problem.integers(np.float32, 2)
    kinds = itertools.product(
        *((both, part) for both, part in zip(operands, parts[0], strict=True))
    )
    zero = Options(**{**vars(problem.options), "padding_value": 0})
    constant = problem.options.padding_value

    def by_parts(x: Any, weight: Any, bias: Any) -> np.ndarray:
        def conv(x: Any, weight: Any, options: Options) -> np.ndarray:
            return conv_numpy(x, weight, None, options)

        real = conv(x.real, weight.real, problem.options) - conv(x.imag, weight.imag, zero)
        imaginary = conv(x.real, weight.imag, problem.options) + conv(x.imag, weight.real, zero)
        total = real + 1j * imaginary
        if bias is None:
            return total
        last = problem.options.channels_last
        return total + (bias if last else bias.reshape(-1, *[1] * (weight.ndim - 2)))

    for x, weight, bias in kinds:
        if not any(np.iscomplexobj(a) for a in (x, weight, bias)):
            continue
        found = problem.run(Operands(x, weight, bias), method="auto")
        assert found.dtype == np.complex64, constant
        assert (found == by_parts(x, weight, bias)).all()
    found = problem.run(operands, accumulate=np.complex128)
    assert found.dtype == np.complex64 and (found == by_parts(*operands)).all()


def test_real_arrays_with_a_complex_result():
    operands = SMALL.integers(np.float32)
    found = SMALL.run(operands, dtype=np.complex128)
    assert found.dtype == np.complex128
    assert (found == SMALL.expected(operands)).all()
    out = np.full(found.shape, 9 + 9j)
    grad = faltung.grad.conv_input(
        operands.x.shape, operands.weight, found.real.astype(np.float32), padding=1, dtype=complex
    )
    assert (grad.imag == 0).all() and out.imag.all()


def test_complex_padding():
    x, weight = np.array([[1 + 2j]]), np.array([[[1, 1j, -1]]])
    found = faltung.conv1d(x, weight, padding=1, padding_value=3 - 1j)
    assert found.item() == (3 - 1j) + 1j * (1 + 2j) - (3 - 1j)


def inner(a: np.ndarray, b: np.ndarray) -> Any:
    return np.vdot(b, a)


@pytest.mark.parametrize("name", [n for n in KINDS if KINDS[n].options.padding_value == 0])
def test_adjoints_of_complex_numbers(name):
    """``<conv(x, w), g> = <x, adjoint(g)>``, exactly, with the inner product of complex numbers."""
    problem = KINDS[name]
    options = {n: v for n, v in vars(problem.options).items() if n != "activation"}
    x, weight, _ = complex_integers(problem, np.complex128)
    y = faltung.conv(x, weight, **options)
    g = np.resize(complex_integers(problem, np.complex128, (3, 4)).x, y.shape)
    input_options = {n: v for n, v in options.items() if n != "padding_value"}
    dx = faltung.grad.conv_input(x.shape, weight, g, **input_options)
    assert inner(y, g) == inner(x, dx)
    dw = faltung.grad.conv_weight(x, weight.shape, g, **options)
    assert inner(y, g) == inner(weight, dw)
    rank, last = weight.ndim - 2, problem.options.channels_last
    db = faltung.grad.conv_bias(g, rank=rank, channels_last=last)
    axes = tuple(i for i in range(g.ndim) if i != (g.ndim - 1 if last else g.ndim - rank - 1))
    assert (db == g.sum(axes)).all()
    plan = faltung.Plan(weight, **options)
    assert (plan.T(g, x.shape) == dx).all()
    found = plan.vjp(x, g)
    assert (found["x"] == dx).all() and (found["weight"] == dw).all()


def test_transposed_convolution_does_not_conjugate():
    """It is the transposed matrix, as in deep learning."""
    x, weight = np.array([[1 + 1j, 2]]), np.array([[[1j, 1]]])
    assert (faltung.conv_transpose1d(x, weight) == [[-1 + 1j, 1 + 3j, 2]]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float16", "bool"])
@pytest.mark.parametrize("name", [n for n in KINDS if KINDS[n].options.padding_value == 0])
def test_gradients_of_integers(name, dtype):
    problem = KINDS[name]
    options = {n: v for n, v in vars(problem.options).items() if n != "activation"}
    plain = Options(**options)
    x, weight, _ = (None if a is None else abs(a).astype(dtype) for a in problem.integers(start=2))
    shape = faltung.conv(x, weight, **options).shape
    g = np.resize(abs(problem.integers(start=7).x), shape).astype(dtype)
    input_options = {n: v for n, v in options.items() if n != "padding_value"}

    def expected(sums: np.ndarray) -> np.ndarray:
        return sums.astype(dtype) if dtype == "float16" else wrapped(sums, dtype)

    dx = faltung.grad.conv_input(x.shape, weight, g, **input_options)
    assert dx.dtype == dtype and (dx == expected(input_numpy(x.shape, weight, g, plain))).all()
    sums = weight_numpy(x, weight.shape, g, plain).sum(0)
    dw = faltung.grad.conv_weight(x, weight.shape, g, **options)
    assert dw.dtype == dtype and (dw == expected(sums)).all()
    wide = faltung.grad.conv_weight(x, weight.shape, g, **options, dtype=np.float64)
    assert wide.dtype == np.float64 and (wide == sums).all()
    if dtype != "bool":
        out = dw.copy()
        faltung.grad.conv_weight(x, weight.shape, g, **options, out=out, accumulate=True)
        assert (out == expected(expected(sums).astype(float) + sums)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "complex64", "bool"])
def test_signals(dtype):
    rng = np.random.default_rng(3)
    x, kernel = (rng.integers(0, 2 if dtype == "bool" else 9, n).astype(dtype) for n in (30, 7))
    if dtype == "complex64":
        x, kernel = x + 1j * x[::-1], kernel - 2j * kernel[::-1]
    for mode in ("full", "same", "valid"):
        assert same_bits(faltung.convolve(x, kernel, mode), np.convolve(x, kernel, mode))
        if dtype != "bool":  # numpy.correlate of those is not its convolution turned around
            assert same_bits(faltung.correlate(x, kernel, mode), np.correlate(x, kernel, mode))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "complex64"])
def test_ladder(dtype):
    rng = np.random.default_rng(4)
    x, weight = (rng.integers(0, 5, shape).astype(dtype) for shape in ((6,), (4, 3)))
    if dtype == "complex64":
        weight = weight + 1j * weight[::-1]
        x = x - 2j * x[::-1]
    y = ladder.local(x, weight)
    assert y.dtype == dtype
    patches = np.lib.stride_tricks.sliding_window_view(x, 3)
    assert (y == (patches * weight).sum(1)).all()
    dense = ladder.dense(x[:3], weight)
    assert dense.dtype == dtype and (dense == (weight * x[:3]).sum(1)).all()
    g = y[::-1].copy()
    dx, dw = ladder.local_input(x.shape, weight, g), ladder.local_weight(x, weight.shape, g)
    if dtype == "complex64":
        assert inner(y, g) == inner(x, dx) == inner(weight, dw)
        assert (y * g).sum() == (x * ladder.local_transpose(g, weight)).sum()
    assert (dw == g[:, None] * patches.conj()).all()


def test_plan_keeps_numbers():
    rng = np.random.default_rng(5)
    weight = rng.integers(-128, 128, (16, 5, 3, 3)).astype(np.int8)
    x = rng.integers(0, 256, (2, 5, 9, 10)).astype(np.uint8)
    plan = faltung.Plan(weight, padding=1, dtype=np.int32)
    assert same_bits(plan(x), faltung.conv(x, weight, padding=1, dtype=np.int32))
    assert "dtype" in repr(plan)


def test_long_doubles_only_when_asked():
    x, weight = np.ones((1, 4), np.longdouble), np.ones((1, 1, 2))
    with pytest.raises(TypeError, match=r"float64 only where that is asked for; pass dtype"):
        faltung.conv1d(x, weight)
    for asked in ({"dtype": np.float64}, {"accumulate": np.float64}):
        found = faltung.conv1d(x, weight, **asked)
        assert found.dtype == np.float64 and (found == 2).all()
    found = faltung.conv1d(x.astype(np.clongdouble) * 1j, weight, dtype=np.complex128)
    assert (found == 2j).all()


@pytest.mark.parametrize(
    ("arrays", "options", "error", "text"),
    [
        (
            (np.int64, np.int8),
            {"accumulate": np.int32},
            TypeError,
            "sums of int64 are kept in int64 or wider; pass accumulate=numpy.int64",
        ),
        (
            (np.float64, np.int8),
            {"accumulate": np.float32},
            TypeError,
            "pass accumulate=numpy.float64",
        ),
        (
            (np.float32, np.int8),
            {"accumulate": np.int64},
            TypeError,
            "pass accumulate=numpy.float32",
        ),
        (
            (np.complex128, np.int8),
            {"accumulate": "f4"},
            TypeError,
            "pass accumulate=numpy.complex128",
        ),
        (
            (np.int8, np.int8),
            {"accumulate": np.int16},
            TypeError,
            "accumulate is int16, but sums of int8 are kept in int32 or wider; pass",
        ),
        (
            (np.int8, np.int8),
            {"dtype": object},
            TypeError,
            "dtype is object, but must be one of bool",
        ),
        ((np.int8, np.int8), {"dtype": "M8[s]"}, TypeError, "must be one of bool, int8 to int64"),
        ((np.int8, np.int8), {"method": "fft"}, ValueError, 'method is "fft", but integers'),
        ((np.int8, np.int8), {"padding_value": 0.5}, ValueError, "padding_value is 0.5, but all"),
        (
            (np.int8, np.int8),
            {"padding_value": np.nan},
            ValueError,
            "padding_value is NaN, but all",
        ),
        (
            (np.int8, np.int8),
            {"padding_value": 1j},
            TypeError,
            "padding_value is complex, but x is",
        ),
        ((np.int8, np.int8), {"activation": ("clip", 0.5, 3)}, ValueError, "pass a whole number"),
        ((np.uint64, np.uint8), {"activation": ("clip", 0, 3)}, TypeError, "does not clip uint64"),
        (
            (np.complex64, np.int8),
            {"dtype": np.float32},
            TypeError,
            "dtype is real, but the result",
        ),
        ((np.complex64, np.int8), {"activation": "relu"}, TypeError, "activation compares numbers"),
        (
            (np.uint8, np.uint8),
            {"out": np.zeros((1, 3), int)},
            TypeError,
            "out has dtype int64, but",
        ),
    ],
)
def test_what_cannot_be(arrays, options, error, text):
    x, weight = np.ones((1, 4), arrays[0]), np.ones((1, 1, 2), arrays[1])
    with pytest.raises(error) as caught:
        faltung.conv(x, weight, **options)
    assert text in str(caught.value)


@pytest.mark.parametrize("dtype", ["O", "U1", "M8[s]", "V4", [("a", "f4")]])
@pytest.mark.parametrize("position", ["x", "weight", "bias"])
def test_dtypes_that_are_no_numbers(position, dtype):
    operands = SMALL.integers()
    wrong = np.zeros(getattr(operands, position).shape, dtype)
    with pytest.raises(TypeError) as caught:
        SMALL.run(operands._replace(**{position: wrong}))
    text = str(caught.value)
    assert text.startswith(f"{position} has dtype "), text
    assert "bool, int8 to int64" in text and f"{position}.astype(numpy.float32)" in text


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "complex64", "bool"])
def test_explain(dtype):
    """Integers have the plain sum alone; the text is there for all."""
    weight = np.ones((8, 8, 21, 21), dtype)
    found = faltung.explain((1, 8, 96, 96), weight, padding="same")
    states = {rival["method"]: rival["state"] for rival in found.as_dict()["methods"]}
    integers = dtype in ("uint8", "int64", "bool")
    assert (states["direct"] == "chosen") == integers
    assert (states["separable"] == "impossible") or not integers
    assert found.as_dict()["dtype"] == dtype and dtype in str(found)


def test_explain_tells_what_integers_are_summed_in():
    """Weights alone decide, and ``explain`` says so."""
    light, heavy = np.ones((8, 2, 3, 3), np.int16), np.full((8, 2, 3, 3), 30_000, np.int16)
    for weight, sums in ((light, "float32"), (heavy, "float64")):
        found = faltung.explain((1, 2, 30, 30), weight)
        assert found.as_dict()["sums"] == sums and f"sums in {sums}" in str(found)
    # As many positions as weights: they are not worth a look.
    assert faltung.explain((1, 2, 5, 5), light).as_dict()["sums"] == "int32"
    found = faltung.explain((1, 8, 30, 30), np.ones((8, 8, 3, 3), np.uint8))
    if found.as_dict()["dots"]:
        assert "sums in int32 by 8-bit dot products" in str(found)
