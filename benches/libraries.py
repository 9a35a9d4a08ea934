"""How each library does a convolution: one function a library.

Each takes a :class:`Problem` and returns a call without arguments that does it once and returns a
NumPy array, or raises `Unsupported` where the library cannot do the convolution. Imports are
inside, so that a process loads one library alone.

ONNX Runtime, OpenVINO and ``faltung.Plan`` hold constant weights, packed beforehand; the others get
plain arrays with each call.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from shapes import Case

Call = Callable[[], np.ndarray]

# Bytes of all windows of a group that NumPy may copy: more may be more than there is.
MOST_WINDOWS = 2**30


class Unsupported(Exception):
    """A library cannot do this convolution, and why."""


@dataclass(frozen=True)
class Problem:
    """A case with its arrays, and how it is to be run."""

    case: Case
    x: np.ndarray
    weight: np.ndarray
    threads: int

    @staticmethod
    def of(case: Case, dtype: str, threads: int) -> Problem:
        """Make the arrays of a case."""
        return Problem(case, *case.arrays(dtype), threads)


@dataclass(frozen=True)
class Library:
    """A library that is compared."""

    title: str
    modules: tuple[str, ...]
    prepare: Callable[[Problem], Call]

    def missing(self) -> list[str]:
        """Name the modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def with_faltung(problem: Problem) -> Call:
    """``faltung.conv`` on plain arrays."""
    import faltung

    case, x, weight, threads = problem.case, problem.x, problem.weight, problem.threads
    options = (None, case.stride, case.padding, case.dilation, case.groups)
    return lambda: faltung.conv(x, weight, *options, threads=threads)


def with_plan(problem: Problem) -> Call:
    """``faltung.Plan``: weights packed beforehand."""
    import faltung

    case, x = problem.case, problem.x
    plan = faltung.Plan(
        problem.weight,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        groups=case.groups,
        threads=problem.threads,
    )
    return lambda: plan(x)


def with_numpy(problem: Problem) -> Call:
    """``sliding_window_view`` and ``tensordot``, the usual way where there is nothing but NumPy."""
    case, x, weight = problem.case, problem.x, problem.weight
    n = case.rank
    positions = math.prod(case.output) // case.weight[0]
    copy = positions * math.prod(case.weight[1:]) * x.itemsize
    if copy > MOST_WINDOWS:
        raise Unsupported(f"its copy of all windows would take {copy / 1e9:.0f} GB")
    spans = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], case.dilation, strict=True)]
    steps = [slice(None, None, step) for step in (*case.stride, *case.dilation)]
    weights = np.split(weight, case.groups)
    sides = [(0, 0), (0, 0), *((p, p) for p in case.padding)]

    def call() -> np.ndarray:
        padded = np.pad(x, sides)
        axes = tuple(range(2, n + 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
        windows = windows[(slice(None), slice(None), *steps)]
        # Over the channels and the taps: axes 1 and n + 2.. of windows, 1.. of weights.
        over = ([1, *range(n + 2, 2 * n + 2)], list(range(1, n + 2)))
        groups = zip(np.split(windows, case.groups, axis=1), weights, strict=True)
        parts = [np.tensordot(part, weight, axes=over) for part, weight in groups]
        # tensordot leaves the outputs last.
        return np.ascontiguousarray(np.moveaxis(np.concatenate(parts, axis=-1), -1, 1))

    return call


def with_torch(problem: Problem) -> Call:
    """``torch.nn.functional.conv*d``."""
    import torch

    case = problem.case
    torch.set_num_threads(problem.threads)
    function = getattr(torch.nn.functional, f"conv{case.rank}d")
    x, weight = torch.from_numpy(problem.x), torch.from_numpy(problem.weight)
    options = (None, case.stride, case.padding, case.dilation, case.groups)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return function(x, weight, *options).numpy()

    return call


def onnx_model(problem: Problem) -> bytes:
    """Build a model of one ``Conv`` node with constant weights."""
    from onnx import TensorProto, helper, numpy_helper

    case = problem.case
    node = helper.make_node(
        "Conv",
        ["x", "weight"],
        ["y"],
        strides=case.stride,
        pads=case.padding * 2,
        dilations=case.dilation,
        group=case.groups,
    )
    number = helper.np_dtype_to_tensor_dtype(problem.x.dtype)
    if number != TensorProto.FLOAT:
        raise Unsupported("timed in float32 alone")
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", number, case.x)],
        [helper.make_tensor_value_info("y", number, case.output)],
        [numpy_helper.from_array(problem.weight, "weight")],
    )
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def with_onnxruntime(problem: Problem) -> Call:
    """An ONNX Runtime session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = problem.threads
    model = onnx_model(problem)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": problem.x})[0]


def with_openvino(problem: Problem) -> Call:
    """An OpenVINO compiled model, held to float32 and tuned for latency."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": problem.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.compile_model(core.read_model(onnx_model(problem)), "CPU", options)
    return lambda: model(problem.x)[0]


def with_jax(problem: Problem) -> Call:
    """``jax.lax.conv_general_dilated``, compiled; threads by the process's affinity."""
    import jax

    case, x, weight = problem.case, problem.x, problem.weight
    jax.config.update("jax_enable_x64", x.dtype == np.float64)

    @jax.jit
    def convolve(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            weight,
            case.stride,
            [(p, p) for p in case.padding],
            rhs_dilation=case.dilation,
            feature_group_count=case.groups,
        )

    return lambda: np.asarray(convolve(x, weight))


def demand_plain_filters(case: Case) -> None:
    """Refuse what is not one filter a channel of one image, without stride or dilation."""
    one = (1,) * case.rank
    if case.stride != one or case.dilation != one:
        raise Unsupported("it has neither stride nor dilation")
    if case.x[0] != 1 or not case.weight[0] == case.groups == case.x[1]:
        raise Unsupported("it takes one filter a channel of one image")


def with_scipy(problem: Problem) -> Call:
    """``scipy.signal.correlate``, which takes the FFT or the direct way by itself."""
    import scipy.signal

    case, x, weight = problem.case, problem.x, problem.weight
    demand_plain_filters(case)
    sides = [(p, p) for p in case.padding]

    def call() -> np.ndarray:
        channels = zip(x[0], weight[:, 0], strict=True)
        results = [scipy.signal.correlate(np.pad(c, sides), w, "valid") for c, w in channels]
        return np.stack(results)[None]

    return call


def with_opencv(problem: Problem) -> Call:
    """``cv2.filter2D``, which takes the DFT for large kernels."""
    import cv2

    case, x, weight = problem.case, problem.x, problem.weight
    demand_plain_filters(case)
    if case.rank != 2 or case.padding != tuple(k // 2 for k in case.weight[2:]):
        raise Unsupported("it takes images, for results of their size")
    cv2.setNumThreads(problem.threads)

    def call() -> np.ndarray:
        channels = zip(x[0], weight[:, 0], strict=True)
        results = [cv2.filter2D(c, -1, w, borderType=cv2.BORDER_CONSTANT) for c, w in channels]
        return np.stack(results)[None]

    return call


# By the name that ``--impl`` takes.
LIBRARIES = {
    "faltung": Library("faltung", ("faltung",), with_faltung),
    "plan": Library("faltung.Plan", ("faltung",), with_plan),
    "numpy": Library("NumPy", ("numpy",), with_numpy),
    "torch": Library("PyTorch", ("torch",), with_torch),
    "onnxruntime": Library("ONNX Runtime", ("onnxruntime", "onnx"), with_onnxruntime),
    "openvino": Library("OpenVINO", ("openvino", "onnx"), with_openvino),
    "jax": Library("JAX", ("jax",), with_jax),
    "scipy": Library("SciPy", ("scipy",), with_scipy),
    "opencv": Library("OpenCV", ("cv2",), with_opencv),
}
