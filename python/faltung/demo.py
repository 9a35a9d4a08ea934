"""A photograph through a bank of filters: ``python -m faltung demo``.

The picture is convolved as (1, 3, H, W) float32, in one call, with kernels for edges, textures,
colour contrast, blur and sharpening over its three channels. The photograph, the kernels and the
feature maps are written as PNG, and a table compares faltung with NumPy and with PyTorch where
that is installed.

The libraries share one process here, one after the other, which is good enough for a look.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from .functional import config, conv2d, get_num_threads, set_num_threads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["main"]

Array = npt.NDArray[np.float32]
Kernel = npt.NDArray[np.float64]  # (SIZE, SIZE), unless said otherwise

SIZE = 15  # rows and columns of every kernel; smaller filters have zeros around them
LONGEST_SIDE = 1024  # of the picture, in pixels: the feature maps of it take 160 MB
LUMA = np.array([0.299, 0.587, 0.114])  # how much red, green and blue add to what looks bright
GROUND, INK = "#14161a", "#e8e8e8"  # what the pictures are drawn on, and what texts are drawn with
SIGNED = ["#b9ecff", "#2f9be8", "#0d3f7a", "#000000", "#7a2a06", "#ef7a21", "#ffe9b8"]
CALLS = 7  # of each library; the median counts


class DemoError(Exception):
    """What the user can put right, in one line."""


@dataclass(frozen=True)
class Filter:
    """Kernels of one purpose, and how the picture of the kernels shows them.

    One output channel makes a signed feature map, three make a picture in colour.
    """

    label: str
    weight: Kernel  # (1 or 3, 3, SIZE, SIZE)
    drawing: Kernel  # (SIZE, any)


# --- the filters ----------------------------------------------------------------------------------


def grid() -> tuple[Kernel, Kernel]:
    """Return the coordinates y (downwards) and x of a kernel's elements, 0 in the middle."""
    axis = np.arange(SIZE, dtype=np.float64) - SIZE // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def embed(small: npt.ArrayLike) -> Kernel:
    """Put a small kernel of odd size into the middle of zeros."""
    array = np.asarray(small, dtype=np.float64)
    return np.pad(array, [((SIZE - n) // 2,) * 2 for n in array.shape])


def gaussian(sigma: float) -> Kernel:
    """Return the normal density with standard deviation `sigma`, in pixels; its sum is 1."""
    y, x = grid()
    density: Kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    density /= density.sum()
    return density


def laplacian_of_gaussian(sigma: float) -> Kernel:
    """Return the Laplacian of a Gaussian (Marr and Hildreth 1980); its sum is 0."""
    y, x = grid()
    kernel = gaussian(sigma) * (x**2 + y**2 - 2 * sigma**2) / sigma**4
    kernel -= kernel.mean()
    return kernel


def gabor(wavelength: float, angle: float) -> Kernel:
    """Return a Gabor kernel (Daugman 1985): a wave under a Gaussian window.

    `wavelength` in pixels, `angle` in degrees from the x axis to the direction in which the wave
    runs. Its sum is 0, so that flat areas give 0, and its absolute sum 1.
    """
    y, x = grid()
    turn = np.deg2rad(angle)
    along = x * np.cos(turn) + y * np.sin(turn)
    window = gaussian(0.4 * wavelength)
    wave = np.cos(2 * np.pi * along / wavelength)
    kernel: Kernel = window * (wave - (window * wave).sum())
    kernel /= np.abs(kernel).sum()
    return kernel


def on_brightness(label: str, kernel: Kernel) -> Filter:
    """Make one output channel that sees the three channels as the eye weighs them."""
    return Filter(label, (LUMA[:, None, None] * kernel)[None], kernel)


def on_colours(label: str, kernel: Kernel) -> Filter:
    """Make three output channels, each with `kernel` on the channel of its own colour."""
    return Filter(label, np.eye(3)[:, :, None, None] * kernel, kernel)


def opponent(label: str, plus: Sequence[float], minus: Sequence[float]) -> Filter:
    """Make one output channel: a colour in the centre against another one around it."""
    centre = np.asarray(plus)[:, None, None] * gaussian(1.5)
    kernel = centre - np.asarray(minus)[:, None, None] * gaussian(3)
    return Filter(label, kernel[None], np.hstack(list(kernel)))


def filter_bank() -> list[Filter]:
    """Return the filters in the order in which the pictures show them, six in a row."""
    sobel = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    scharr = np.outer([3, 10, 3], [-1, 0, 1]) / 32
    edges = {
        "Sobel x": embed(sobel),
        "Sobel y": embed(sobel.T),
        "Scharr x": embed(scharr),
        "Scharr y": embed(scharr.T),
        "Laplacian": embed([[0, 1, 0], [1, -4, 1], [0, 1, 0]]),
        "Laplacian of Gaussian, σ 2": laplacian_of_gaussian(2),
    }
    gabors = {
        f"Gabor {wavelength} px, {angle}°": gabor(wavelength, angle)
        for wavelength in (4, 6, 9)
        for angle in (0, 30, 60, 90, 120, 150)
    }
    identity = embed([[1]])
    pictures = {
        "Gaussian blur, σ 3": gaussian(3),
        "Box blur, 9 x 9": embed(np.full((9, 9), 1 / 81)),
        "Sharpen": embed([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
        "Unsharp mask, σ 3": identity + 1.5 * (identity - gaussian(3)),
    }
    return [
        *(on_brightness(label, kernel) for label, kernel in (edges | gabors).items()),
        opponent("Red against green", [1, 0, 0], [0, 1, 0]),
        opponent("Blue against yellow", [0, 0, 1], [0.5, 0.5, 0]),
        *(on_colours(label, kernel) for label, kernel in pictures.items()),
    ]


# --- the same convolution elsewhere ---------------------------------------------------------------


def numpy_conv2d(x: Array, weight: Array) -> Array:
    """Convolve with NumPy: windows as views, contracted by a matrix product.

    In bands of rows, for the product copies the windows, SIZE * SIZE times the size of the input.
    """
    half = SIZE // 2
    padded = np.pad(x, [(0, 0), (0, 0), (half, half), (half, half)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIZE, SIZE), axis=(2, 3))
    y = np.empty((x.shape[0], weight.shape[0], *x.shape[2:]), x.dtype)
    for top in range(0, x.shape[2], 8):
        rows = slice(top, top + 8)
        band = np.tensordot(windows[:, :, rows], weight, axes=([1, 4, 5], [1, 2, 3]))
        y[:, :, rows] = np.moveaxis(band, -1, 1)
    return y


def torch_conv2d(torch: Any, threads: int) -> Callable[[Array, Array], Array]:
    """Return the convolution of PyTorch, with as many threads as faltung has."""
    torch.set_num_threads(threads)

    def call(x: Array, weight: Array) -> Array:
        pad = torch.nn.functional.pad
        padded = pad(torch.from_numpy(x), (SIZE // 2,) * 4, mode="replicate")
        y: Array = torch.nn.functional.conv2d(padded, torch.from_numpy(weight)).numpy()
        return y

    return call


@dataclass(frozen=True)
class Library:
    """A library to time: `conv2d` takes (1, 3, H, W) and (O, 3, SIZE, SIZE)."""

    name: str
    conv2d: Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Result:
    """What a library gave, and the median time of its calls in seconds."""

    library: Library
    y: Array
    seconds: float


def libraries() -> list[Library]:
    """Return what is installed, faltung first."""

    def faltung_conv2d(x: Array, weight: Array) -> Array:
        return conv2d(x, weight, padding=SIZE // 2, padding_mode="replicate")

    found = [
        Library(f"faltung {config()['version']}", faltung_conv2d),
        Library(f"NumPy {np.__version__}", numpy_conv2d),
    ]
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return found
    return [*found, Library(f"PyTorch {torch.__version__}", torch_conv2d(torch, get_num_threads()))]


def measure(x: Array, weight: Array) -> list[Result]:
    """Time every library, after one call that warms it up."""
    tqdm = need("tqdm").tqdm
    results = []
    found = libraries()
    with tqdm(total=len(found) * (CALLS + 1), unit="call", leave=False, disable=None) as bar:
        for library in found:
            bar.set_description(library.name)
            y = library.conv2d(x, weight)
            bar.update()
            times = []
            for _ in range(CALLS):
                start = time.perf_counter()
                library.conv2d(x, weight)
                times.append(time.perf_counter() - start)
                bar.update()
            results.append(Result(library, y, statistics.median(times)))
    return results


# --- the pictures ---------------------------------------------------------------------------------


def need(module: str) -> Any:
    """Import a module of the extra "demo"."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DemoError(
            "the demo needs matplotlib, pillow and tqdm: pip install 'faltung[demo]' "
            f"({error.name or module} is missing)"
        ) from None


def load(path: Path | None) -> tuple[str, Array]:
    """Return a picture's name and its pixels, (3, H, W) from 0 to 1; by default a photograph."""
    image_module, operations = need("PIL.Image"), need("PIL.ImageOps")
    if path is None:
        # Matplotlib's sample data: Rear Admiral Grace Hopper, photographed by the U.S. Navy.
        path = Path(need("matplotlib").get_data_path(), "sample_data", "grace_hopper.jpg")
    try:
        with image_module.open(path) as file:
            image = operations.exif_transpose(file).convert("RGB")
    except (image_module.UnidentifiedImageError, SyntaxError):
        raise DemoError(f"--image {path}: not a picture that Pillow can read") from None
    except (OSError, ValueError, image_module.DecompressionBombError) as error:
        raise DemoError(f"--image {path}: {getattr(error, 'strerror', None) or error}") from None
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return path.name, np.ascontiguousarray(pixels.transpose(2, 0, 1))


def save_photograph(image: Array, path: Path) -> None:
    """Write the picture that is convolved, (3, H, W) from 0 to 1."""
    pixels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    need("PIL.Image").fromarray(pixels).save(path)


@dataclass(frozen=True)
class Sheet:
    """A picture of labelled panels, six in a row."""

    figure: Figure
    axes: list[Axes]

    @classmethod
    def new(cls, title: str, labels: Sequence[str], aspect: float) -> Sheet:
        """Lay out panels of height / width `aspect`."""
        columns, width, label, head, foot = 6, 2.5, 0.34, 0.65, 0.55  # lengths in inches
        rows, panel = -(-len(labels) // columns), (width - 0.1) * aspect
        size = (columns * width + 0.2, rows * (panel + label) + head + foot)
        figure = need("matplotlib.figure").Figure(figsize=size, facecolor=GROUND)
        figure.text(0.15 / size[0], 1 - 0.45 / size[1], title, color=INK, fontsize=18)
        axes = []
        for i, text in enumerate(labels):
            row, column = divmod(i, columns)
            left = 0.15 + column * width
            bottom = size[1] - head - (row + 1) * (panel + label)
            ax = figure.add_axes(
                (left / size[0], bottom / size[1], (width - 0.1) / size[0], panel / size[1])
            )
            ax.set_axis_off()
            ax.set_title(text, color=INK, fontsize=10.5, pad=4)
            axes.append(ax)
        bar = figure.add_axes((0.15 / size[0], 0.18 / size[1], 1.8 / size[0], 0.16 / size[1]))
        draw_signed(bar, np.linspace(-1, 1, 256)[None], 1)
        bar.set(aspect="auto", xticks=[], yticks=[])
        scale = "negative, zero, positive; every panel has a scale of its own"
        figure.text(2.1 / size[0], 0.2 / size[1], scale, color=INK, fontsize=11)
        return cls(figure, axes)

    def save(self, path: Path) -> None:
        """Write the picture."""
        self.figure.savefig(path, dpi=110)


def draw_signed(ax: Axes, values: npt.NDArray[Any], limit: float) -> None:
    """Draw values from -limit (blue) over 0 (black) to limit (orange)."""
    colours = need("matplotlib.colors").LinearSegmentedColormap.from_list("signed", SIGNED)
    ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit)


def save_kernels(bank: Sequence[Filter], path: Path) -> None:
    """Draw each filter's kernel; those of a colour contrast for red, green and blue."""
    title = f"Kernels: {SIZE} x {SIZE} on each of three channels"
    sheet = Sheet.new(title, [entry.label for entry in bank], 1)
    for ax, entry in zip(sheet.axes, bank, strict=True):
        draw_signed(ax, entry.drawing, float(np.abs(entry.drawing).max()))
        ax.set_anchor("N")
        if entry.drawing.shape[1] == 3 * SIZE:
            for i, channel in enumerate("RGB"):
                ax.text(i * SIZE, 1, channel, color=INK, fontsize=9, va="center")
                ax.axvline(i * SIZE - 0.5, color=INK, linewidth=0.5)
    sheet.save(path)


def save_features(bank: Sequence[Filter], y: Array, path: Path) -> None:
    """Draw every filter's output: y is (outputs, H, W)."""
    aspect = min(max(y.shape[1] / y.shape[2], 0.2), 3)  # a strip gets margins instead
    sheet = Sheet.new("Feature maps", [entry.label for entry in bank], aspect)
    first = 0
    for ax, entry in zip(sheet.axes, bank, strict=True):
        maps = y[first : first + len(entry.weight)]
        first += len(entry.weight)
        if len(maps) == 3:
            ax.imshow(np.clip(maps, 0, 1).transpose(1, 2, 0))
        else:
            # The strongest two percent would leave everything else dark.
            draw_signed(ax, maps[0], float(np.quantile(np.abs(maps[0]), 0.98)) or 1.0)
    sheet.save(path)


# --- the table and the command --------------------------------------------------------------------


def report(name: str, weight: Array, results: Sequence[Result]) -> str:
    """Return what the demo prints about its convolution."""
    y = results[0].y
    shape_x = (1, 3, *y.shape[2:])
    gflop = 2 * y.size * weight[0].size / 1e9
    settings = config()
    threads = "1 thread" if get_num_threads() == 1 else f"{get_num_threads()} threads"
    lines = [
        f"picture      {name}, {y.shape[3]} x {y.shape[2]} pixels",
        f"convolution  x {shape_x}, weight {weight.shape} -> {y.shape}, {y.dtype}",
        f"work         {gflop:.2f} GFLOP a call",
        f"faltung      {settings['isa']}, {threads} on {platform.machine()}",
        "",
        f"{f'median of {CALLS} calls':<24}{'time':>12}{'GFLOP/s':>10}   difference from faltung",
    ]
    for result in results:
        difference = float(np.abs(result.y - y).max())
        greatest = f"{difference:.1e} at most" if result is not results[0] else "-"
        lines.append(
            f"{result.library.name:<24}{result.seconds * 1e3:>9.1f} ms"
            f"{gflop / result.seconds:>10.1f}   {greatest}"
        )
    largest = float(np.abs(y).max())
    lines.append(f"(values go up to {largest:.2f}; NumPy's BLAS sets its own threads)")
    return "\n".join(lines)


def run(image: Path | None, output: Path, threads: int | None) -> None:
    """Convolve, draw, and print the table."""
    need("matplotlib.figure")
    name, pixels = load(image)
    if threads is not None:
        try:
            set_num_threads(threads)
        except (ValueError, OverflowError) as error:
            raise DemoError(f"--threads {threads}: {error}") from None
    bank = filter_bank()
    weight = np.concatenate([entry.weight for entry in bank]).astype(np.float32)
    photograph, kernels, features = (
        output / f"{stem}.png" for stem in ("photograph", "kernels", "features")
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        save_photograph(pixels, photograph)
        results = measure(pixels[None], weight)
        print(report(name, weight, results), flush=True)
        save_kernels(bank, kernels)
        save_features(bank, results[0].y[0], features)
    except OSError as error:
        raise DemoError(f"--output {output}: {error.strerror or error}") from None
    print(f"\nwrote {photograph}, {kernels}, {features}")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors of the demo are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def thread_count(text: str) -> int:
    """Parse --threads."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m faltung``; return the exit status."""
    parser = Parser(prog="python -m faltung", description="Convolution for NumPy arrays.")
    commands = parser.add_subparsers(required=True, metavar="demo", title="commands")
    summary = "convolve a photograph with a bank of filters, draw it, and time it"
    demo = commands.add_parser("demo", help=summary, description=summary)
    demo.add_argument("--image", type=Path, help="a picture (default: a photograph of matplotlib)")
    demo.add_argument("--output", type=Path, default=Path("demo-output"), help="where PNGs go")
    demo.add_argument("--threads", type=thread_count, help="of faltung and PyTorch")
    options = parser.parse_args(arguments)
    try:
        run(options.image, options.output, options.threads)
    except DemoError as error:
        print(f"{demo.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
