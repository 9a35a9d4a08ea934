"""What a convolution would cost, by which method, and why."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from .functional import Activation, IntPerAxis, Method, Padding, PaddingMode, Precision, conv

__all__ = ["Explanation", "explain"]


class Explanation:
    """What `explain` found: ``str()`` is text, `as_dict` the numbers.

    Not made by itself, but by `explain` and `Plan.explain`.
    """

    __slots__ = ("_facts",)

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, as plain numbers, strings, lists and dicts.

        Returns
        -------
        dict
            ``"method"`` is the chosen one and ``"why"`` the reason, ``"asked"`` the one asked for
            by name, or None; ``"precision"`` the one asked for. ``"x_shape"``,
            ``"weight_shape"``, ``"output_shape"``, ``"dtype"``, ``"isa"`` and ``"threads"`` are
            those of the call; ``"sums"`` is the number that sums are kept in (integers in floats,
            where no sum of them is ever rounded), and ``"dots"`` whether instructions multiply and
            add four 8-bit numbers at once; ``"products"`` the real convolutions that it is, 2 to 4
            of complex numbers; ``"flops"`` the floating-point operations of the plain sum,
            ``"bytes"`` those of all arrays, and ``"share"`` the predicted share of the roofline: of
            the time in which the nominal machine could do the plain sum, limited by its peak (240
            GFLOP/s in float32) or its memory (30 GB/s).

            ``"methods"`` has a dict for each method, with its name, its ``"state"`` (``"chosen"``,
            ``"slower"``, ``"declined"`` or ``"impossible"``, where it cannot even be asked for) and
            the reason, ``"why"``. ``"predicted"`` is its time in nanoseconds on one thread of a
            nominal machine (3 GHz with AVX-512), of which ``"weights"`` is spent on the weights
            alone, ``"measured"`` what it took here, or None. Where it could compute the problem,
            ``"flops"`` that it does (about, for transforms), ``"workspace"`` in bytes at most,
            ``"block"`` outputs on each axis of a block (the batch first), and ``"error"``, its
            bound. Winograd's has ``"forms"``, the transform of each spatial axis or None.
            The direct sum has ``"tile"`` (rows and elements of columns), ``"roles"`` (what
            rows and vectors are) and ``"in_place"`` (whether the input is read where it lies).
        """
        return copy.deepcopy(self._facts)

    def __str__(self) -> str:
        return "\n".join(_text(self._facts))

    __repr__ = __str__


def explain(
    x: npt.ArrayLike | Sequence[SupportsIndex],
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntPerAxis = 1,
    padding: Padding = 0,
    dilation: IntPerAxis = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    padding_value: float = 0,
    flip: bool = False,
    activation: Activation | None = None,
    channels_last: bool = False,
    dtype: npt.DTypeLike | None = None,
    accumulate: npt.DTypeLike | None = None,
    method: Method = "auto",
    precision: Precision = "high",
    threads: SupportsIndex | None = None,
    measure: bool = False,
) -> Explanation:
    """Tell which method `conv` would take for the same arguments, and why.

    Parameters
    ----------
    x : array_like or tuple of int
        The input, or its shape: then an array of that shape in C order is meant, with the dtype of
        `weight`.
    weight, bias, stride, padding, dilation, groups, padding_mode, padding_value, flip, \
activation, channels_last, dtype, accumulate, method, precision, threads
        As in `conv`.
    measure : bool
        Time every method that can compute the problem, with random numbers if `x` is a shape.

    Returns
    -------
    Explanation
        It prints as text; `Explanation.as_dict` gives its numbers.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As in `conv`; but a `method` that cannot compute the problem is explained.

    See Also
    --------
    conv : what every parameter means.

    Examples
    --------
    >>> import numpy as np, faltung
    >>> weight = np.ones((1, 1, 31, 31), np.float32)
    >>> found = faltung.explain((1, 1080, 1920), weight, padding="same").as_dict()
    >>> [m["method"] for m in found["methods"] if m["state"] == "impossible"]
    ['winograd']
    >>> impossible = faltung.explain((3, 64, 64), np.ones((8, 3, 5, 5)), method="separable")
    >>> print(impossible.as_dict()["why"])
    an output sums over 3 channels, which have kernels of their own
    """
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "padding_mode": padding_mode,
        "padding_value": padding_value,
        "flip": flip,
        "activation": activation,
        "channels_last": channels_last,
        "dtype": dtype,
        "accumulate": accumulate,
        "method": method,
        "precision": precision,
        "threads": threads,
    }
    return explained(x, weight, bias, options, measure)


def explained(
    x: Any, weight: npt.ArrayLike, bias: Any, options: dict[str, Any], measure: bool
) -> Explanation:
    """Explain a convolution with all its options."""
    weight = np.asarray(weight)
    shaped = isinstance(x, tuple) and all(isinstance(n, SupportsIndex) for n in x)
    # Memory that nothing touches, unless it is measured.
    array = np.empty(x, weight.dtype) if shaped else np.asarray(x)
    o = options
    facts = _core.explain(
        0, array, weight, bias, o["stride"], o["padding"], o["dilation"], o["groups"],
        o["padding_mode"], o["padding_value"], o["flip"], o["activation"], o["channels_last"],
        o["dtype"], o["accumulate"], o["method"], o["precision"], o["threads"], None,
    )  # fmt: skip
    facts["x_shape"], facts["weight_shape"] = array.shape, weight.shape
    facts["output_shape"] = tuple(facts["output_shape"])
    for rival in facts["methods"]:
        rival["predicted"] = None if rival["work"] is None else rival["weights"] + rival["work"]
        rival["measured"] = None
    _judge(facts)
    if measure:
        if shaped:
            array[...] = np.random.default_rng(0).standard_normal(array.shape)
        _measure(facts, array, weight, bias, options)
    return Explanation(facts)


# Calls of a method that is timed: so long, in seconds, or so many.
TIME, CALLS = 0.1, 3


def _measure(facts: dict[str, Any], x: Any, weight: Any, bias: Any, options: Any) -> None:
    for rival in facts["methods"]:
        if rival["state"] == "impossible":
            continue
        asked = {**options, "method": rival["method"]}
        conv(x, weight, bias, **asked)
        found, end = list[int](), time.perf_counter() + TIME
        while len(found) < CALLS or time.perf_counter() < end:
            start = time.perf_counter_ns()
            conv(x, weight, bias, **asked)
            found.append(time.perf_counter_ns() - start)
        rival["measured"] = float(np.median(found))


def _judge(facts: dict[str, Any]) -> None:
    """Say of each method what became of it, and why."""
    rivals = {rival["method"]: rival for rival in facts["methods"]}
    chosen, direct = rivals[facts["method"]], rivals["direct"]
    least = chosen["predicted"]
    for rival in facts["methods"]:
        declines, refuses = rival.pop("declines"), rival.pop("refuses")
        rival["error"] = _error(rival, facts["dtype"], facts["products"])
        if refuses is not None:
            rival["state"], rival["why"] = "impossible", refuses
        elif rival is chosen:
            rival["state"] = "chosen"
            if facts["asked"]:
                rival["why"] = "it was asked for"
            elif facts["precision"] == "exact":
                rival["why"] = 'precision is "exact"'
            elif facts["small"]:
                rival["why"] = "the plain sum is so short that no other is asked"
            elif rival is direct:
                rival["why"] = "no other saves a tenth of its predicted time"
            else:
                times = direct["predicted"] / least
                rival["why"] = f"it is predicted to be {times:.3g} times as fast as the plain sum"
        elif declines is not None:
            rival["state"], rival["why"] = "declined", declines
        elif least is not None and rival["predicted"] >= least:
            times = rival["predicted"] / least
            rival["state"], rival["why"] = "slower", f"{times:.3g} times as long"
        else:
            rival["state"] = "slower"
            if facts["asked"]:
                rival["why"] = "another was asked for"
            elif facts["small"]:
                rival["why"] = "not asked"
            else:
                rival["why"] = "less than a tenth is saved"
    facts["why"] = chosen["why"]
    facts["share"] = facts.pop("bound") / least if least else None


def _error(rival: dict[str, Any], dtype: str, products: int) -> str | None:
    """Return the bound of a method's error: of sums, which a narrower result is rounded from."""
    # Three products are two sums of them, of what has been added before.
    more, scale = (3, 1 + math.sqrt(2)) if products == 3 else (int(products == 4), 1.0)
    # The greatest |x| may be that of the one part here, of the other there.
    apart = math.sqrt(2) if products > 2 else 1.0
    if dtype.startswith(("int", "uint", "bool")):
        return "0, modulo 2 to the bits of the result"
    unit = np.finfo("float64" if dtype in ("float64", "complex128") else "float32").eps / 2
    if rival.get("roundings") is not None:
        k = rival["roundings"] + more
        gamma = k * unit / (1 - k * unit)
        if rival.get("growth") is not None:
            return f"{gamma * rival['growth'] * scale * apart:.2g} * sum |w|_1 max |x| over a tile"
        bound = f"{gamma * scale:.2g} * (|bias| + sum |w x|)"
        return bound + (" (exact factors)" if rival["method"] == "separable" else "")
    if rival.get("levels") is not None:
        return (
            f"{7 * rival['levels'] * unit * scale:.2g} * sum |x|_2 (2 |w|_2 + |w|_1) over a block"
        )
    return None


def _text(facts: dict[str, Any]) -> list[str]:
    """Return the lines of the text."""
    threads = facts["threads"]
    sums = "" if facts["sums"] == facts["dtype"] else f", sums in {facts['sums']}"
    if facts["dots"]:
        sums = f", sums in {facts['sums']} by 8-bit dot products"
    if facts["products"] > 1:
        sums += f", as {facts['products']} real products"
    lines = [
        f"{facts['x_shape']} with weight {facts['weight_shape']} -> {facts['output_shape']}, "
        f"{facts['dtype']}",
        f"{_si(facts['flops'])}FLOP by the plain sum, {_si(facts['bytes'])}B of arrays{sums}; "
        f"{facts['isa']}, {threads} thread{'s' * (threads > 1)}",
        "",
        f"{facts['method']}: {facts['why']}",
    ]
    if facts["share"] is not None:
        lines[-1] += f"; {100 * facts['share']:.0f} % of the roofline of the plain sum"
    measured = any(rival["measured"] for rival in facts["methods"])
    titles = ["", "predicted", *(["measured"] if measured else []), "FLOP", "workspace", ""]
    rows = [titles]
    for rival in sorted(facts["methods"], key=lambda rival: rival["predicted"] or np.inf):
        mark = ">" if rival["state"] == "chosen" else " "
        row = [f"{mark} {rival['method']}", _time(rival["predicted"])]
        row += [_time(rival["measured"])] if measured else []
        row += [_si(rival.get("flops")), _si(rival.get("workspace"), "B")]
        state = {"declined": "declines: ", "impossible": "cannot: "}.get(rival["state"], "")
        rows.append([*row, "" if rival["state"] == "chosen" else state + rival["why"]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
    lines.append("")
    for name, *cells in rows:
        padded = [cell.rjust(n) for cell, n in zip(cells[:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded, cells[-1]]).rstrip())
    lines.append("")
    for rival in facts["methods"]:
        lines += _details(rival)
    lines.append("predicted on one thread of a nominal machine of 3 GHz with AVX-512")
    return lines


def _details(rival: dict[str, Any]) -> list[str]:
    """Return how a method would go about it."""
    if rival["state"] == "impossible" or not rival["block"]:
        return []
    lines = [f"{rival['method']}: blocks of {' x '.join(map(str, rival['block']))} outputs"]
    if rival["tile"] is not None:
        (rows, columns), roles = rival["tile"], rival["roles"]
        lines[0] += f", input {'read in place' if rival['in_place'] else 'staged in slabs'}"
        lines.append(f"  tiles of {rows} x {columns}: rows are {roles[0]}, vectors {roles[1]}")
    if any(rival["forms"]):
        lines.append(f"  transforms: {' x '.join(form or 'none' for form in rival['forms'])}")
    lines.append(f"  error at most {rival['error']}")
    return lines


def _time(nanoseconds: float | None) -> str:
    return "" if nanoseconds is None else _si(nanoseconds / 1e9, "s")


def _si(value: float | None, unit: str = "") -> str:
    """Write a number with three digits and a prefix of its unit."""
    if value is None:
        return ""
    for prefix, scale in {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3}.items():
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value * 1e6:.3g} u{unit}" if value else f"0 {unit}"
