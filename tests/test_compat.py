"""`faltung.compat` beside SciPy itself, with small integers that make every sum exact."""

from __future__ import annotations

import itertools
import subprocess
import sys
import zlib
from typing import Any

import faltung
import numpy as np
import pytest
import scipy_tests
from faltung.compat import scipy_ndimage as ndimage
from faltung.compat import scipy_signal as signal

MODES = ["full", "same", "valid"]
# Kernels shorter and longer than the image, of odd and even length, and mixtures.
SHAPES = [
    ((7,), (3,)),
    ((7,), (4,)),
    ((3,), (6,)),
    ((60,), (150,)),
    ((5, 6), (2, 3)),
    ((3, 4), (4, 5)),
    ((4, 3), (2, 5)),
    ((1, 4), (3, 1)),
    ((3, 4, 5), (2, 3, 2)),
]
DTYPES = ["uint8", "int16", "int64", "float32", "float64", "complex64", "complex128"]
EDGES = ["reflect", "mirror", "nearest", "wrap", "constant", "grid-mirror", "grid-constant"]


def integers(*shape: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """Integers from -4 to 4, or from 0 to 8 without sign; of both parts if complex."""
    rng = np.random.default_rng([seed, *shape])
    array = rng.integers(-4, 5, shape)
    if np.dtype(dtype).kind == "c":
        return (array + 1j * rng.integers(-4, 5, shape)).astype(dtype)
    return (array + 4 if np.dtype(dtype).kind == "u" else array).astype(dtype)


def same(ours: Any, theirs: Any) -> None:
    """Equal in values, shape and dtype."""
    assert np.asarray(ours).dtype == np.asarray(theirs).dtype
    np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.fixture
def scipy() -> Any:
    pytest.importorskip("scipy.ndimage")
    pytest.importorskip("scipy.signal")
    return pytest.importorskip("scipy")


def refuses(function: Any, *arguments: Any, **options: Any) -> Any:
    """The result, or the class of the error."""
    try:
        return function(*arguments, **options)
    except (ValueError, RuntimeError) as error:
        return type(error)


def agree(ours: Any, theirs: Any, *arguments: Any, **options: Any) -> None:
    """Both give the same, or refuse with the same class."""
    expected = refuses(theirs, *arguments, **options)
    found = refuses(ours, *arguments, **options)
    if isinstance(expected, type):
        assert found is expected
    else:
        same(found, expected)


@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("x", "kernel"), SHAPES)
def test_signal(scipy, name, mode, x, kernel):
    for left, right in itertools.product(DTYPES, repeat=2):
        a, b = integers(*x, dtype=left), integers(*kernel, dtype=right, seed=1)
        ours, theirs = getattr(signal, name), getattr(scipy.signal, name)
        agree(ours, theirs, a, b, mode, "direct")


@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm", "circular", "symmetric"])
def test_signal_2d(scipy, name, mode, boundary):
    ours, theirs = getattr(signal, name), getattr(scipy.signal, name)
    for x, kernel in SHAPES:
        if len(x) != 2:
            continue
        for left, right in itertools.product(DTYPES, repeat=2):
            a, b = integers(*x, dtype=left), integers(*kernel, dtype=right, seed=1)
            agree(ours, theirs, a, b, mode, boundary, 2)


@pytest.mark.parametrize("name", ["fftconvolve", "oaconvolve"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("x", "kernel", "axes"),
    [
        ((3, 9), (3, 4), 1),
        ((3, 9), (1, 4), -1),
        ((1, 9), (3, 4), [1]),
        ((2, 3, 9, 1), (1, 3, 4, 5), 2),
        ((8, 2, 9), (3, 2, 4), (2, 0)),
        ((3, 2, 4), (8, 2, 9), (0, 2)),
        ((5, 6), (5, 1), None),
    ],
)
def test_signal_axes(scipy, name, mode, x, kernel, axes):
    ours, theirs = getattr(signal, name), getattr(scipy.signal, name)
    for left, right in itertools.product(["int32", "float32", "float64", "complex128"], repeat=2):
        a, b = integers(*x, dtype=left), integers(*kernel, dtype=right, seed=1)
        expected = refuses(theirs, a, b, mode, axes)
        found = refuses(ours, a, b, mode, axes)
        if isinstance(expected, type):
            assert found is expected
            continue
        # Theirs are not exact, but near.
        np.testing.assert_allclose(found, expected, atol=1e-3)
        same(found, np.round(expected).astype(expected.dtype))


def test_signal_long_integers_are_exact():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-1000, 1000, 20000), rng.integers(-1000, 1000, 3000)
    assert signal.choose_conv_method(a, b) == "fft"
    same(signal.convolve(a, b), signal.convolve(a, b, method="direct"))
    assert signal.choose_conv_method(a * 10**9, b * 10**6) == "direct"
    same(signal.convolve(a, b, "valid"), np.convolve(a, b, "valid"))


def test_signal_nan_stays():
    a = np.zeros(5000)
    a[1000] = np.nan
    result = signal.fftconvolve(a, np.ones(400))
    assert np.flatnonzero(np.isnan(result)).tolist() == list(range(1000, 1400))
    with pytest.warns(RuntimeWarning, match="fft convolution"):
        signal.convolve(a, np.ones(400), method="fft")


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble, object])
def test_signal_in_numpy_itself(dtype):
    a, b = integers(4, 5), integers(2, 3, seed=1)
    for mode in MODES:
        expected = signal.convolve(a, b, mode).astype(dtype)
        same(signal.convolve(a.astype(dtype), b.astype(dtype), mode), expected)
        same(signal.correlate(a.astype(dtype), b[::-1, ::-1].astype(dtype), mode), expected)


def test_correlation_lags(scipy):
    for n, k, mode in itertools.product(range(1, 8), range(1, 8), MODES):
        same(signal.correlation_lags(n, k, mode), scipy.signal.correlation_lags(n, k, mode))


@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("mode", EDGES)
def test_windows(scipy, name, mode):
    for x, kernel, origin in [
        ((7,), (3,), 1),
        ((4,), (9,), -4),
        ((1,), (4,), -2),
        ((5, 6), (2, 3), (-1, 1)),
        ((3, 4, 5), (2, 3, 2), 0),
    ]:
        for dtype, weights in itertools.product(DTYPES, ["int8", "float64", "complex64"]):
            a, w = integers(*x, dtype=dtype), integers(*kernel, dtype=weights, seed=1)
            ours, theirs = getattr(ndimage, name), getattr(scipy.ndimage, name)
            agree(ours, theirs, a, w, mode=mode, cval=3, origin=origin)
            if len(x) == 1:
                ours, theirs = getattr(ndimage, f"{name}1d"), getattr(scipy.ndimage, f"{name}1d")
                agree(ours, theirs, a, w, mode=mode, cval=3, origin=origin)


@pytest.mark.parametrize("name", ["convolve1d", "correlate1d"])
def test_window_along_an_axis(scipy, name):
    ours, theirs = getattr(ndimage, name), getattr(scipy.ndimage, name)
    x = integers(4, 5, 6)
    for axis, k, dtype in itertools.product([0, 1, -1], [1, 2, 5], ["float64", ">i2", "complex64"]):
        for view in (x, x.T, x[::-1, :, ::2]):
            agree(ours, theirs, view.astype(dtype), integers(k, seed=1), axis, mode="mirror")
            agree(ours, theirs, view, integers(k, seed=1), axis, "float32")
    agree(ours, theirs, x, np.ones(3), 1, mode="nowhere")
    agree(ours, theirs, x, np.ones(3), 1, origin=2)


@pytest.mark.parametrize("name", ["sobel", "prewitt", "laplace"])
@pytest.mark.parametrize("mode", EDGES)
def test_differences(scipy, name, mode):
    ours, theirs = getattr(ndimage, name), getattr(scipy.ndimage, name)
    for shape, dtype in itertools.product([(5,), (4, 6), (3, 4, 5)], DTYPES):
        agree(ours, theirs, integers(*shape, dtype=dtype), mode=mode, cval=2)
    agree(ours, theirs, integers(4, 6), mode=[mode, "wrap"])
    agree(ours, theirs, integers(4, 6), mode=[mode])


def test_means(scipy):
    for dtype, size in itertools.product(DTYPES, [1, 2, 4, (4, 1)]):
        x = integers(7, 9, dtype=dtype) * np.dtype(dtype).type(4)
        agree(ndimage.uniform_filter, scipy.ndimage.uniform_filter, x, size, mode="wrap")
        agree(ndimage.uniform_filter, scipy.ndimage.uniform_filter, x, size, origin=(1, 0))
    # A mean of equal integers is that integer, whatever its weight would round to.
    threes = np.full((40, 40), 3, np.uint8)
    for size in range(1, 40):
        assert (ndimage.uniform_filter(threes, size) == 3).all()


@pytest.mark.parametrize("order", [0, 1, 2, 3, (0, 2)])
def test_gaussian(scipy, order):
    for shape, sigma in [((40, 30), 1.5), ((40, 30), (2, 0)), ((9, 8), 4)]:
        x = integers(*shape)
        for options in ({}, {"truncate": 2.5, "mode": "wrap"}, {"radius": 3, "mode": "constant"}):
            found = ndimage.gaussian_filter(x, sigma, order, **options)
            expected = scipy.ndimage.gaussian_filter(x, sigma, order, **options)
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint64", "int64"])
def test_what_does_not_fit_wraps(scipy, dtype):
    x = np.array([0, 1, 2, 100, 120], dtype)
    for weights in ([-3, 1, 2], [2.5, 0, -1.25]):
        agree(ndimage.correlate1d, scipy.ndimage.correlate1d, x, weights)


def test_output():
    x = integers(6, 7)
    expected = ndimage.gaussian_filter(x, 1)
    canvas = np.zeros((12, 14))
    assert ndimage.gaussian_filter(x, 1, output=canvas[::2, ::2]).base is canvas
    assert (canvas[::2, ::2] == expected).all() and not canvas[1::2].any()
    same(ndimage.correlate1d(x, [1, 2], output="f4"), ndimage.correlate1d(x.astype("f4"), [1, 2]))
    for function in (
        lambda a, o: ndimage.gaussian_filter(a, 1, output=o),
        lambda a, o: ndimage.sobel(a, output=o),
        lambda a, o: ndimage.laplace(a, output=o),
        lambda a, o: ndimage.convolve(a, np.ones((3, 3)), output=o),
        lambda a, o: ndimage.uniform_filter(a, 3, output=o),
    ):
        aside, inside = np.zeros_like(x), x.copy()
        function(x, aside)
        assert function(inside, inside) is inside
        same(inside, aside)


def test_nan_stays_under_its_window():
    x = np.zeros((9, 9))
    x[4, 4] = np.nan
    found = np.argwhere(np.isnan(ndimage.laplace(x))).tolist()
    assert found == [[3, 4], [4, 3], [4, 4], [4, 5], [5, 4]]


@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_taps_of_weight_zero_do_not_count(scipy, name, dtype):
    x = integers(6, 7, dtype=dtype)
    x[2, 3], x[5, 0] = np.nan, np.inf
    weights = [[0, 2, 0], [3, 0, -1]]
    for mode in EDGES:
        found = getattr(ndimage, name)(x, weights, mode=mode, origin=(0, 1))
        expected = getattr(scipy.ndimage, name)(x, weights, mode=mode, origin=(0, 1))
        assert (np.isfinite(found) == np.isfinite(expected)).all()
        same(found[np.isfinite(found)], expected[np.isfinite(expected)])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: signal.convolve([1], [[1]]), ValueError, "same dimensionality"),
        (lambda: signal.convolve([1], [1], "half"), ValueError, "'half'"),
        (lambda: signal.convolve([1], [1], method="slow"), ValueError, "'slow'"),
        (lambda: signal.convolve([], [1]), ValueError, "cannot be empty"),
        (lambda: signal.convolve2d([[1]], [[1]], boundary="x"), ValueError, "'x'"),
        (lambda: signal.convolve2d([[1]], [[]]), ValueError, "cannot be empty"),
        (lambda: ndimage.correlate1d([1], [[1]]), RuntimeError, "no filter weights"),
        (lambda: ndimage.correlate([1], [1], mode="x"), RuntimeError, "'x'"),
        (lambda: ndimage.correlate([1], [1], output=np.ones(2)), RuntimeError, "shape"),
        (lambda: ndimage.correlate(np.ones(2, "f2"), [1]), RuntimeError, "float16"),
        (lambda: ndimage.correlate1d([1], [1], axis=1), np.exceptions.AxisError, "axis 1"),
        (lambda: ndimage.uniform_filter1d([1], 0), RuntimeError, "filter size"),
        (lambda: ndimage.gaussian_filter1d([1], 1, radius=-1), ValueError, "nonnegative"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_needs_no_scipy():
    code = "import sys; sys.modules['scipy'] = None; import faltung.compat.scipy_signal as s\n"
    code += "import faltung.compat.scipy_ndimage as n; print(s.convolve([1], [2]), n.sobel([1]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2] [0]\n"


def test_same_bits_for_any_number_of_threads():
    x = np.random.default_rng(0).standard_normal((200, 300))
    results = []
    try:
        for threads in (1, 2, 3):
            faltung.set_num_threads(threads)
            found = ndimage.gaussian_filter(x, 2), signal.convolve2d(x, x[:9, :5], "same", "symm")
            results.append([zlib.crc32(array.tobytes()) for array in found])
    finally:
        faltung.set_num_threads(None)
    assert results[0] == results[1] == results[2]


def test_scipys_own_tests():
    if reason := scipy_tests.missing():
        pytest.skip(reason)
    assert scipy_tests.run() == 0
