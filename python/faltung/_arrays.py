"""What the functions above `faltung.conv` ask of their arguments."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["floats", "ints", "per_axis"]


def floats(**given: npt.ArrayLike | None) -> list[Any]:
    """The arguments as arrays of one dtype, float32 or float64; None stays None.

    Plain Python numbers follow the dtype of the others, as NumPy has it.
    """
    arrays = {name: None if a is None else np.asarray(a) for name, a in given.items()}
    dtypes = []
    for name, array in arrays.items():
        if array is None or isinstance(given[name], (int, float)):
            continue
        if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
            raise TypeError(
                f"{name} has dtype {array.dtype}, but float32 and float64 are supported; "
                f"convert it, for example {name}.astype(numpy.float32)"
            )
        dtypes.append(array.dtype)
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float64)
    return [None if a is None else np.asarray(a, dtype) for a in arrays.values()]


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
