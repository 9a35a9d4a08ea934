"""PyTorch as a second oracle, over the options that both have. Integers, so ``==``.

The arguments are passed by position in both calls: a call moves over by its prefix.
"""

from __future__ import annotations

import itertools

import faltung
import numpy as np
import pytest
from cases import Operands, case

torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
functional = torch.nn.functional

FUNCTIONS = {
    1: (faltung.conv1d, functional.conv1d),
    2: (faltung.conv2d, functional.conv2d),
    3: (faltung.conv3d, functional.conv3d),
}
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_rank = pytest.mark.parametrize("rank", [1, 2, 3])
SIZES = (13, 10, 11)
KERNELS = (3, 2, 4)


def tensors(operands: Operands) -> list:
    return [None if array is None else torch.from_numpy(array) for array in operands]


@both_dtypes
@every_rank
@pytest.mark.parametrize(
    ("stride", "padding"),
    # PyTorch has no "same" with a stride.
    [*itertools.product([1, 2, 3], [0, 1, 3, "valid"]), (1, "same")],
)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
# PyTorch warns that an even kernel with "same" makes it copy the input.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_positional_arguments(rank, dtype, stride, padding, dilation, groups):
    problem = case((2, 4, *SIZES[:rank]), (8, 4 // groups, *KERNELS[:rank]))
    ours, theirs = FUNCTIONS[rank]
    for number in range(2):
        x, weight, bias = problem.integers(dtype, number)
        operands = Operands(x[0] if number else x, weight, None if number else bias)
        arguments = (stride, padding, dilation, groups)
        wanted = theirs(*tensors(operands), *arguments).numpy()
        found = ours(*operands, *arguments)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert (found == wanted).all()


@both_dtypes
@every_rank
@pytest.mark.parametrize("mode", ["zeros", "constant", "reflect", "replicate", "circular"])
def test_padding_modes(rank, dtype, mode):
    """Against `torch.nn.functional.pad` and the named convolution without padding."""
    problem = case((2, 3, *SIZES[:rank]), (4, 3, *KERNELS[:rank]))
    operands = problem.integers(dtype, 3)
    x, weight, bias = tensors(operands)
    ours, theirs = FUNCTIONS[rank]
    for sides in (((1, 1), (2, 0), (3, 1))[:rank], ((4, 9), (9, 3), (0, 5))[:rank]):
        widths = [width for side in reversed(sides) for width in side]
        value = 2.0 if mode == "constant" else 0.0
        torch_mode = "constant" if mode == "zeros" else mode
        padded = functional.pad(x, widths, torch_mode, value)
        wanted = theirs(padded, weight, bias, 2).numpy()
        found = ours(*operands, 2, sides, padding_mode=mode, padding_value=value)
        assert (found == wanted).all()


@every_rank
def test_negative_padding(rank):
    problem = case((2, 3, *SIZES[:rank]), (4, 3, *KERNELS[:rank]))
    operands = problem.integers()
    x, weight, bias = tensors(operands)
    sides = ((-1, 2), (-3, -2), (4, -1))[:rank]
    padded = functional.pad(x, [width for side in reversed(sides) for width in side])
    ours, theirs = FUNCTIONS[rank]
    assert (ours(*operands, 1, sides) == theirs(padded, weight, bias).numpy()).all()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_layer(mode):
    """`torch.nn.Conv2d` with all of its arguments, per-axis ones among them."""
    layer = torch.nn.Conv2d(6, 9, (3, 2), (2, 1), (2, 3), (1, 2), 3, padding_mode=mode)
    problem = case((2, 6, 12, 14), (9, 2, 3, 2))
    operands = problem.integers()
    x, weight, bias = tensors(operands)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        wanted = layer(x).numpy()
    found = faltung.conv2d(*operands, (2, 1), (2, 3), (1, 2), 3, padding_mode=mode)
    assert (found == wanted).all()


def test_channels_last():
    problem = case((2, 8, 12, 14), (9, 8, 3, 3))
    operands = problem.integers()
    x, weight, bias = tensors(operands)
    wanted = functional.conv2d(x.to(memory_format=torch.channels_last), weight, bias, 2, 1)
    last = operands._replace(x=np.moveaxis(operands.x, 1, -1).copy())
    found = faltung.conv2d(*last, 2, 1, channels_last=True)
    assert (found == wanted.permute(0, 2, 3, 1).numpy()).all()


@pytest.mark.parametrize("channels", [64, 130])
def test_activations_on_a_layer(channels):
    problem = case((3, channels, 20, 23), (70, channels, 3, 3))
    operands = problem.integers()
    wanted = functional.conv2d(*tensors(operands), 1, 1)
    assert (faltung.conv2d(*operands, 1, 1) == wanted.numpy()).all()
    relu = faltung.conv2d(*operands, 1, 1, activation="relu")
    assert (relu == functional.relu(wanted).numpy()).all()
    clipped = faltung.conv2d(*operands, 1, 1, activation=("clip", 0, 6))
    assert (clipped == functional.relu6(wanted).numpy()).all()


def test_tensors_are_arrays():
    """A CPU tensor has `__array__`."""
    operands = case((1, 2, 9), (3, 2, 3)).integers()
    found = faltung.conv1d(*tensors(operands))
    assert isinstance(found, np.ndarray)
    assert (found == faltung.conv1d(*operands)).all()
