"""What must hold for any convolution, whatever its options: found by hypothesis, with ``==``.

Operands are small integers in float32 (exact), so the laws hold without rounding.
"""

from __future__ import annotations

from dataclasses import replace

import faltung
import numpy as np
from cases import ConvCase, Operands
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import NUMPY_MODES, Options, axes_of, conv_loops

MODES = sorted(NUMPY_MODES)


@st.composite
def problems(draw, **fixed):
    """A convolution that has an output, and its operands; `fixed` options are not drawn."""
    rank = draw(st.integers(1, 3))

    def per_axis(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * rank))

    groups = fixed.pop("groups", draw(st.sampled_from([1, 1, 2, 3])))
    channels, outputs = draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    sides = st.tuples(st.integers(-1, 4), st.integers(-1, 4))
    names = st.sampled_from(["valid", "same", "same_lower", "full", "causal"])
    drawn = {
        "stride": per_axis(1, 3),
        "dilation": per_axis(1, 3),
        "padding": draw(st.tuples(*[sides] * rank) | names),
        "padding_mode": draw(st.tuples(*[st.sampled_from(MODES)] * rank)),
        "padding_value": draw(st.integers(-2, 2)),
        "flip": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu", ("clip", -9, 11)])),
    }
    options = Options(**{**drawn, **fixed}, groups=groups)
    weight = (outputs, channels, *per_axis(1, 4))
    x = (draw(st.integers(1, 3)), channels * groups, *per_axis(1, 9))
    problem = ConvCase(x, weight, draw(st.booleans()), options)
    operands = problem.integers(np.float32, draw(st.integers(0, 10_000)))
    try:
        axes_of(operands.x, operands.weight, options)
    except ValueError:
        assume(False)
    return problem, operands


PURE = {"activation": None, "padding_value": 0}


@given(problems())
def test_reference(both):
    problem, operands = both
    assert (problem.run(operands) == problem.expected(operands)).all()


@given(problems())
@settings(max_examples=30)
def test_loops(both):
    problem, operands = both
    assume(problem.expected(operands).size * problem.taps < 5000)
    assert (problem.run(operands) == conv_loops(*operands, problem.options)).all()


@given(problems(**PURE), st.integers(-3, 3), st.integers(-3, 3))
def test_linear_in_x(both, first, second):
    problem, (x, weight, _) = both
    other = np.roll(x, 1).copy()
    mixed = problem.run(Operands(first * x + second * other, weight, None))
    parts = (problem.run(Operands(part, weight, None)) for part in (x, other))
    assert (mixed == first * next(parts) + second * next(parts)).all()


@given(problems(activation=None), st.integers(-3, 3), st.integers(-3, 3))
def test_linear_in_weight_and_bias(both, first, second):
    problem, (x, weight, bias) = both
    bias = np.arange(len(weight), dtype=np.float32) if bias is None else bias
    others = np.roll(weight, 1).copy(), np.roll(bias, 1).copy()
    mixed = problem.run(
        Operands(x, first * weight + second * others[0], first * bias + second * others[1])
    )
    parts = problem.run(Operands(x, weight, bias)), problem.run(Operands(x, *others))
    assert (mixed == first * parts[0] + second * parts[1]).all()


@given(problems(padding="same", padding_mode="circular", stride=1), st.data())
def test_translation(both, data):
    """On a circle, what is moved before is moved after."""
    problem, (x, weight, bias) = both
    axes = tuple(range(2, x.ndim))
    shifts = [data.draw(st.integers(0, x.shape[axis] - 1)) for axis in axes]
    moved = problem.run(Operands(np.roll(x, shifts, axes), weight, bias))
    assert (moved == np.roll(problem.run(Operands(x, weight, bias)), shifts, axes)).all()


@given(problems())
def test_groups_are_convolutions_of_their_own(both):
    problem, (x, weight, bias) = both
    groups = problem.options.groups
    whole = problem.run(Operands(x, weight, bias))
    alone = replace(problem, options=replace(problem.options, groups=1))
    biases = [None] * groups if bias is None else np.split(bias, groups)
    parts = zip(np.split(x, groups, 1), np.split(weight, groups), biases, strict=True)
    assert (whole == np.concatenate([alone.run(Operands(*part)) for part in parts], 1)).all()


@given(problems())
def test_flip_is_a_reversed_kernel(both):
    problem, operands = both
    other = replace(problem, options=replace(problem.options, flip=not problem.options.flip))
    backwards = (..., *(slice(None, None, -1),) * (operands.weight.ndim - 2))
    turned = operands._replace(weight=operands.weight[backwards])
    assert (problem.run(operands) == other.run(turned)).all()


@given(problems(padding_mode="circular", flip=True, stride=1, dilation=1, padding="full", **PURE))
@settings(max_examples=30)
def test_full_convolution_by_zeros_commutes(both):
    """Of one channel with one: true convolution does not care which of two is the kernel."""
    _, (x, weight, _) = both
    image, kernel = x[:1, :1], weight[:1, :1]
    options = {"flip": True, "padding": "full"}
    forward = faltung.conv(image, kernel, **options)
    assert (forward == faltung.conv(kernel, image, **options)).all()


@given(problems())
def test_padding_is_np_pad_and_valid(both):
    problem, operands = both
    options = problem.options
    padded = operands.x
    for number, axis in enumerate(axes_of(operands.x, operands.weight, options), start=2):
        padded = np.take(padded, axis.kept, axis=number)
        widths = [(0, 0)] * padded.ndim
        widths[number] = max(axis.before, 0), max(axis.after, 0)
        more = {"constant_values": options.padding_value} if axis.mode == "constant" else {}
        padded = np.pad(padded, widths, axis.mode, **more)
    valid = replace(problem, options=replace(options, padding="valid"))
    assert (problem.run(operands) == valid.run(operands._replace(x=padded))).all()


@given(problems(padding_value=0))
def test_channels_last_is_a_transpose(both):
    problem, (x, weight, bias) = both
    last = replace(problem, options=replace(problem.options, channels_last=True))
    found = last.run(Operands(np.moveaxis(x, 1, -1).copy(), weight, bias))
    wanted = problem.run(Operands(x, weight, bias))
    assert found.flags.c_contiguous
    assert (found == np.moveaxis(wanted, 1, -1)).all()


@given(problems())
def test_unbatched_is_a_batch_of_one(both):
    problem, operands = both
    assert (problem.run(operands._replace(x=operands.x[0])) == problem.run(operands)[0]).all()


@given(problems(activation=None))
def test_stride_picks_from_stride_one(both):
    """Given in sides, padding does not depend on the stride."""
    problem, operands = both
    options = problem.options
    assume(options.padding not in ("same", "same_lower"))
    dense = replace(problem, options=replace(options, stride=1)).run(operands)
    picked = dense[(..., *(slice(None, None, step) for step in options.stride))]
    assert (problem.run(operands) == picked).all()


@given(problems())
def test_dilation_is_a_kernel_with_holes(both):
    problem, operands = both
    options = problem.options
    assume(not isinstance(options.padding, str))
    kernel = operands.weight.shape[2:]
    spread = [d * (k - 1) + 1 for d, k in zip(options.dilation, kernel, strict=True)]
    holes = np.zeros((*operands.weight.shape[:2], *spread), np.float32)
    holes[(..., *(slice(None, None, step) for step in options.dilation))] = operands.weight
    solid = replace(problem, options=replace(options, dilation=1))
    assert (problem.run(operands) == solid.run(operands._replace(weight=holes))).all()


@given(problems())
def test_activation_is_applied_last(both):
    problem, operands = both
    plain = replace(problem, options=replace(problem.options, activation=None)).run(operands)
    activation = problem.options.activation
    if activation == "relu":
        plain = np.maximum(plain, 0)
    elif activation is not None:
        plain = np.clip(plain, *activation[1:])
    assert (problem.run(operands) == plain).all()
