"""The error of each method beside that of others: docs/accuracy.md's table and plot.

    python benches/accuracy.py [--plot docs/gallery/accuracy.png]

3x3 kernels, float32, against the same convolution in float64. What is printed is the root mean
square of the error, and the greatest, in units of 10^-7 of the root mean square of the results.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import faltung
import numpy as np

Convolve = Callable[[np.ndarray, np.ndarray], np.ndarray]

CHANNELS = (1, 4, 16, 64, 256, 1024)
SIZE = 32  # of an image
OUTPUTS = 32


def with_faltung(**options: str) -> Convolve:
    """One of our methods."""
    return lambda x, w: faltung.conv2d(x, w, padding=1, **options)


def with_torch(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """PyTorch on plain arrays."""
    import torch

    return torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1).numpy()


def with_onnxruntime(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """ONNX Runtime, with constant weights."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    x_info = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    y_info = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x_info], [y_info], [numpy_helper.from_array(w, "w")])
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


METHODS: dict[str, tuple[str, Convolve]] = {
    "direct": ("", with_faltung(method="direct")),
    "Winograd F(2,3)": ("", with_faltung(method="winograd")),
    "Winograd F(4,3)": ("", with_faltung(method="winograd", precision="fast")),
    "FFT": ("", with_faltung(method="fft")),
    "PyTorch": ("torch", with_torch),
    "ONNX Runtime": ("onnxruntime", with_onnxruntime),
}
# What makes an input hard: numbers that are alike, a level, and very different sizes.
INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "random": lambda rng, shape: rng.standard_normal(shape),
    "smooth": lambda rng, shape: np.sin(
        rng.uniform(0, 6, shape[:2])[..., None, None]
        + np.add.outer(*(np.arange(n) / 9 for n in shape[2:]))
    ),
    "level of 1000": lambda rng, shape: 1000 + rng.standard_normal(shape),
    "wide range": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, shape),
}


def errors(convolve: Convolve, kind: str, channels: int) -> tuple[float, float]:
    """Root mean square and greatest error, by the root mean square of the results."""
    rng = np.random.default_rng(channels)
    x = INPUTS[kind](rng, (1, channels, SIZE, SIZE)).astype(np.float32)
    w = rng.standard_normal((OUTPUTS, channels, 3, 3)).astype(np.float32)
    exact = faltung.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1, method="direct")
    error, size = convolve(x, w) - exact, np.sqrt(np.mean(exact**2))
    return float(np.sqrt(np.mean(error**2)) / size), float(np.abs(error).max() / size)


def table(head: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [[head, *columns], ["---"] * (len(columns) + 1), *([k, *v] for k, v in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the tables, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="where the plot goes, as PNG")
    plot = parser.parse_args().plot
    methods = {
        name: convolve
        for name, (module, convolve) in METHODS.items()
        if not module or importlib.util.find_spec(module)
    }
    found = {
        name: [errors(convolve, "random", channels) for channels in CHANNELS]
        for name, convolve in methods.items()
    }
    columns = [f"{channels} channels" for channels in CHANNELS]
    shown = {n: [f"{1e7 * a:.2g} / {1e7 * b:.2g}" for a, b in row] for n, row in found.items()}
    print(table("rms / greatest, 10^-7", columns, shown), end="\n\n")
    by_input = {
        name: [f"{1e7 * errors(convolve, kind, 64)[0]:.2g}" for kind in INPUTS]
        for name, convolve in methods.items()
    }
    print(table("rms, 10^-7, 64 channels", list(INPUTS), by_input))
    if plot is not None:
        draw(found, plot)


def draw(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw the errors over the number of channels."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, row in found.items():
        rms, greatest = zip(*row, strict=True)
        (line,) = axes.loglog(CHANNELS, rms, marker="o", label=name)
        axes.loglog(CHANNELS, greatest, linestyle=":", color=line.get_color())
    axes.set_xlabel("channels of a 3x3 kernel")
    axes.set_ylabel("error / rms of the results")
    axes.set_title("rms (solid) and greatest (dotted) error, float32", loc="left", fontsize=11)
    axes.set_xticks(CHANNELS, [str(channels) for channels in CHANNELS])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
