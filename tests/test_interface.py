"""The interface that callers rely on: names and order of arguments, types, `config`."""

from __future__ import annotations

import inspect
from pathlib import Path

import faltung
import pytest
from cases import KINDS, same_bits
from isa import available

# torch.nn.functional's, so that a call moves over by its prefix; what follows is by name alone.
POSITIONAL = ["x", "weight", "bias", "stride", "padding", "dilation", "groups"]
BY_NAME = ["padding_mode", "padding_value", "flip", "activation", "channels_last"]
BY_NAME += ["dtype", "accumulate", "out", "method", "precision", "threads"]
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
DEFAULTS |= {
    "padding_value": 0,
    "flip": False,
    "channels_last": False,
    "method": "auto",
    "precision": "high",
}
DEFAULTS |= dict.fromkeys(["bias", "activation", "dtype", "accumulate", "out", "threads"])


@pytest.mark.parametrize("name", ["conv", "conv1d", "conv2d", "conv3d"])
def test_arguments(name):
    parameters = inspect.signature(getattr(faltung, name)).parameters
    kinds = {kind: [p.name for p in parameters.values() if p.kind == kind] for kind in (1, 3)}
    assert kinds[inspect.Parameter.POSITIONAL_OR_KEYWORD] == POSITIONAL
    assert kinds[inspect.Parameter.KEYWORD_ONLY] == BY_NAME
    given = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
    assert given == DEFAULTS


def test_output_shape_has_the_arguments_that_decide_it():
    parameters = list(inspect.signature(faltung.output_shape).parameters)
    assert parameters[:2] == ["x_shape", "weight_shape"]
    assert set(parameters[2:]) <= set(POSITIONAL + BY_NAME)
    assert faltung.output_shape((2, 3, 32, 33), (8, 3, 3, 5), 2, 1) == (2, 8, 16, 16)
    assert faltung.output_shape((3, 32), (8, 3, 5), padding="same") == (8, 32)
    last = faltung.output_shape((2, 32, 33, 3), (8, 3, 3, 5), channels_last=True)
    assert last == (2, 30, 29, 8)


def test_all_names_are_there():
    for name in faltung.__all__:
        assert hasattr(faltung, name), name


def test_methods():
    """Only one so far, which "auto" takes."""
    problem = KINDS["2d"]
    operands = problem.floats()
    automatic = problem.run(operands)
    assert same_bits(problem.run(operands, method="auto"), automatic)
    assert same_bits(problem.run(operands, method="direct"), automatic)


def test_config():
    config = faltung.config()
    assert config["version"] == faltung.__version__
    assert config["isa"] in config["available"]
    assert config["threads"] == faltung.get_num_threads()
    assert set(config["tiles"]) == {"float32", "float64", "int32", "int64"}
    for tiles in config["tiles"].values():
        assert tiles
        for tile in tiles:
            rows, columns = map(int, tile.split("x"))
            assert rows > 0 and columns > 0


def tiles() -> dict[str, list[str]]:
    return faltung.config()["tiles"]


def test_instruction_sets_have_kernels_of_their_own(isas):
    """Each process of these tests runs what it was told to, and no two run the same kernels."""
    found = [isas.submit(isa, tiles).result() for isa in available()]
    assert all(a != b for n, a in enumerate(found) for b in found[:n])


def test_types_are_shipped():
    package = Path(faltung.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()
