"""The compiled extension. Private: `functional` and `ladder` document what its functions do.

Arguments are `object` here because the extension itself parses and checks every one of them.
"""

from typing import Any, Self, final

import numpy.typing as npt

__all__ = [
    "Kept",
    "__version__",
    "config",
    "conv",
    "conv_bias",
    "conv_input",
    "conv_transpose",
    "conv_weight",
    "explain",
    "get_num_threads",
    "local",
    "local_input",
    "local_weight",
    "output_shape",
    "set_num_threads",
    "vjp",
]

__version__: str

def conv(
    rank: int,
    x: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    padding_value: object,
    flip: object,
    activation: object,
    channels_last: object,
    dtype: object,
    accumulate: object,
    out: object,
    method: object,
    precision: object,
    threads: object,
    kept: object,
) -> npt.NDArray[Any]: ...
def explain(
    rank: int,
    x: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    padding_value: object,
    flip: object,
    activation: object,
    channels_last: object,
    dtype: object,
    accumulate: object,
    method: object,
    precision: object,
    threads: object,
    kept: object,
) -> dict[str, Any]: ...
def conv_transpose(
    rank: int,
    x: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    output_padding: object,
    groups: object,
    dilation: object,
    output_size: object,
    padding_mode: object,
    flip: object,
    activation: object,
    channels_last: object,
    dtype: object,
    accumulate: object,
    out: object,
    method: object,
    precision: object,
    threads: object,
    kept: object,
) -> npt.NDArray[Any]: ...
def conv_input(
    rank: int,
    input_size: object,
    weight: object,
    grad_output: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    flip: object,
    channels_last: object,
    dtype: object,
    accumulate: object,
    out: object,
    method: object,
    precision: object,
    threads: object,
    kept: object,
) -> npt.NDArray[Any]: ...
def conv_weight(
    rank: int,
    x: object,
    weight_size: object,
    grad_output: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    padding_value: object,
    flip: object,
    channels_last: object,
    per_sample: object,
    dtype: object,
    accumulate: object,
    out: object,
    method: object,
    precision: object,
    threads: object,
) -> npt.NDArray[Any]: ...
def conv_bias(
    rank: object,
    grad_output: object,
    channels_last: object,
    per_sample: object,
    dtype: object,
    accumulate: object,
    out: object,
    threads: object,
) -> npt.NDArray[Any]: ...
def vjp(
    x: object,
    weight: object,
    bias: object,
    grad_output: object,
    wanted: list[bool],
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    padding_value: object,
    flip: object,
    activation: object,
    channels_last: object,
    dtype: object,
    accumulate: object,
    method: object,
    precision: object,
    threads: object,
    kept: object,
) -> list[npt.NDArray[Any] | None]: ...

@final
class Kept:
    def __new__(
        cls,
        weight: object,
        bias: object,
        stride: object,
        padding: object,
        dilation: object,
        groups: object,
        padding_mode: object,
        padding_value: object,
        flip: object,
        activation: object,
        channels_last: object,
        dtype: object,
        accumulate: object,
        method: object,
        precision: object,
        threads: object,
    ) -> Self: ...
    @property
    def nbytes(self) -> int: ...

def output_shape(
    x_shape: object,
    weight_shape: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    channels_last: object,
) -> tuple[int, ...]: ...
def local(
    x: object,
    weight: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    threads: object,
) -> npt.NDArray[Any]: ...
def local_input(
    x_shape: object,
    weight: object,
    gradient: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    threads: object,
) -> npt.NDArray[Any]: ...
def local_weight(
    x: object,
    weight_shape: object,
    gradient: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    threads: object,
) -> npt.NDArray[Any]: ...
def config() -> dict[str, Any]: ...
def get_num_threads() -> int: ...
def set_num_threads(threads: object) -> None: ...
