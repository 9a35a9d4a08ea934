"""What the functions above `faltung.conv` ask of their arguments."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["conjugate", "ints", "numbers", "per_axis", "sums"]


def numbers(**given: npt.ArrayLike | None) -> list[Any]:
    """The arguments as arrays of the one dtype that NumPy combines theirs to; None stays None.

    Plain Python numbers follow the dtype of the others, as NumPy has it.
    """
    arrays = {name: None if a is None else np.asarray(a) for name, a in given.items()}
    dtypes = []
    for name, array in arrays.items():
        if array is None or isinstance(given[name], (int, float, complex)):
            continue
        dtype = array.dtype
        if (dtype.kind not in "biufc" or dtype.char in "gG") and dtype.name != "bfloat16":
            raise TypeError(
                f"{name} has dtype {dtype}, but bool, integers, float16, bfloat16, float32, "
                "float64, complex64 and complex128 are supported; convert it, for example "
                f"{name}.astype(numpy.float32)"
            )
        dtypes.append(dtype)
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float64)
    return [None if a is None else np.asarray(a, dtype) for a in arrays.values()]


def sums(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What numbers of a dtype are summed in: modulo 2 to the 32 or 64, or at least a single."""
    if dtype.kind in "biu":
        return np.dtype(np.int64 if dtype.itemsize > 4 else np.int32)
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def conjugate(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The complex conjugate; of real numbers, the array itself."""
    return np.conj(array) if array.dtype.kind == "c" else array


def ints(values: Any) -> tuple[int, ...]:
    """Integers, from one or several."""
    return tuple(operator.index(number) for number in (values if np.iterable(values) else [values]))


def per_axis(name: str, value: Any, rank: int) -> tuple[Any, ...]:
    """One entry for each spatial axis, from one for all or one an axis."""
    entries = tuple(value) if np.iterable(value) else (value,) * rank
    if len(entries) != rank:
        raise ValueError(
            f"{name} is {value}, but there are {rank} spatial axes; pass one for all or one an axis"
        )
    return entries
