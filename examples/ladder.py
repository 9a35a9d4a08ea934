"""From the fully connected layer to the convolution, on a picture: ``python examples/ladder.py``.

Every hidden unit of a fully connected layer has learnt, badly, the same thing: to see edges from
light to dark. Its weights are those of an edge kernel around the unit, and noise of their own. The
rungs of `faltung.ladder` make a convolution of this layer, each out of the one before, and

- ``ladder.png`` draws for each rung its number of weights, the weights of three units, the hidden
  image, the hidden image of the moved picture, and how far that is from the moved hidden image;
- ``ladder-channels.png`` draws the channels of a convolutional layer: edges and textures.

It needs matplotlib and pillow, and takes matplotlib's own photograph of Grace Hopper.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faltung
import matplotlib
import numpy as np
from faltung import ladder

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import cbook
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image

SIZE = 40  # rows and columns of the small picture: a fully connected layer has SIZE^4 weights
DELTA = 2
MOVE = (3, 5)  # rows down, columns to the right
NOISE = 0.006  # standard deviation of what is each unit's own
UNITS = [(12, 14), (20, 20), (30, 27)]  # whose weights are drawn
GROUND, INK, FAINT = "#14161a", "#e8e8e8", "#9aa0a8"
YES, NO = "#7bd88f", "#ef7a21"
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#b9ecff", "#2f9be8", "#0d3f7a", "#000000", "#7a2a06", "#ef7a21", "#ffe9b8"]
)


# --- pictures -------------------------------------------------------------------------------------


def photograph() -> np.ndarray:
    """The face in matplotlib's photograph, (3, 320, 320) from 0 to 1."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255
    return np.moveaxis(pixels[20:340, 90:410], -1, 0)


def small_picture() -> np.ndarray:
    """The same in grey, (SIZE, SIZE), fading out to a margin that it can be moved into."""
    picture = photograph()
    step = picture.shape[1] // (SIZE - 8)
    # Means over blocks, of the brightness: a convolution with a stride.
    block = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None] / step**2
    weight = np.broadcast_to(block, (1, 3, step, step))
    grey = faltung.conv2d(picture, weight, stride=step)[0]
    y, x = np.ogrid[-1 : 1 : 1j * len(grey), -1 : 1 : 1j * len(grey)]
    grey = grey * np.clip(4 * (1 - np.hypot(x, y)), 0, 1)
    return np.pad(grey, ((2, SIZE - 2 - len(grey)), (1, SIZE - 1 - len(grey)))).astype(np.float32)


def moved(image: np.ndarray) -> np.ndarray:
    """`image`, moved by MOVE; what comes in is 0."""
    down, right = MOVE
    result = np.zeros_like(image)
    result[down:, right:] = image[:-down, :-right]
    return result


# --- the five rungs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """One rung: what it is, what it computes, and what it computes with."""

    name: str
    formula: str
    note: str
    apply: Callable[[np.ndarray], np.ndarray]
    weights: Callable[[int, int], np.ndarray]
    count: str


def edge_kernel() -> np.ndarray:
    """The derivative of a Gaussian along a diagonal, with DELTA on each side."""
    y, x = np.mgrid[-DELTA : DELTA + 1, -DELTA : DELTA + 1]
    kernel = (x + y) * np.exp(-(x**2 + y**2) / 2)
    return (kernel / np.abs(kernel).sum()).astype(np.float32)


def rungs() -> list[Rung]:
    """All five, each made of the one before."""
    shape = (SIZE, SIZE)
    edge = ladder.extend(edge_kernel(), shape, shared=True)
    dense = ladder.from_offsets(ladder.untie(edge, shape))
    noise = np.random.default_rng(0).normal(0, NOISE, dense.shape)
    dense = (dense + noise).astype(np.float32)
    shifted = ladder.to_offsets(dense)
    local = ladder.truncate(shifted, DELTA)
    invariant = ladder.tie(shifted)
    kernel = ladder.truncate(invariant, DELTA, shared=True)
    counts = ladder.parameters(shape, DELTA)
    large = ladder.parameters((1000, 1000), DELTA)

    def count(rung: str) -> str:
        here, there = (f"{n[rung]:,}".replace(",", " ") for n in (counts, large))
        return f"{here} weights\n{there} at 1000 × 1000"

    def conv(x: np.ndarray) -> np.ndarray:
        return faltung.conv2d(x[None], kernel[None, None], padding=DELTA)[0]

    return [
        Rung(
            "1  dense",
            r"$H_{ij} = \sum_{k,l}\, W_{ijkl}\, X_{kl}$",
            "a weight for every pair of pixels",
            lambda x: ladder.dense(x, dense),
            lambda i, j: dense[i, j],
            count("dense"),
        ),
        Rung(
            "2  shifted",
            r"$H_{ij} = \sum_{a,b}\, V_{ijab}\, X_{i+a,\,j+b}$",
            "the same weights, told by offset",
            lambda x: ladder.shifted(x, shifted),
            lambda i, j: shifted[i, j],
            count("shifted"),
        ),
        Rung(
            "3  local",
            r"$H_{ij} = \sum_{|a|,|b|\leq\Delta}\, V_{ijab}\, X_{i+a,\,j+b}$",
            "nobody looks further than Δ = 2",
            lambda x: ladder.local(x, local, delta=DELTA),
            lambda i, j: local[i, j],
            count("local"),
        ),
        Rung(
            "4  invariant",
            r"$H_{ij} = \sum_{a,b}\, V_{ab}\, X_{i+a,\,j+b}$",
            "all units share the mean of rung 2",
            lambda x: ladder.invariant(x, invariant),
            lambda i, j: invariant,
            count("invariant"),
        ),
        Rung(
            "5  conv2d",
            r"$H_{ij} = \sum_{|a|,|b|\leq\Delta}\, V_{ab}\, X_{i+a,\,j+b}$",
            "both: the convolutional layer",
            conv,
            lambda i, j: kernel,
            count("conv"),
        ),
    ]


# --- drawing --------------------------------------------------------------------------------------


def show(axes: Any, image: np.ndarray, scale: float | None = None) -> None:
    """Draw an image in grey, or if there is a scale, in the colours of signs."""
    if scale is None:
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(image, cmap=SIGNED, vmin=-scale, vmax=scale, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#3a3f47")


def caption(axes: Any, text: str, color: str = FAINT) -> None:
    """Write below a picture."""
    axes.set_xlabel(text, color=color, fontsize=9, labelpad=4)


def draw_ladder(path: Path) -> None:
    """Draw all rungs, and print what is seen."""
    picture = small_picture()
    figure = plt.figure(figsize=(13, 14.2), facecolor=GROUND)
    outer = figure.add_gridspec(
        6, 5, width_ratios=[1.45, 1.9, 1, 1, 1], hspace=0.28, wspace=0.1,
        left=0.035, right=0.985, top=0.945, bottom=0.035,
    )  # fmt: skip
    figure.text(
        0.035, 0.975, "From the fully connected layer to the convolution",
        color=INK, fontsize=18, va="center", weight="bold",
    )  # fmt: skip
    story = figure.add_subplot(outer[0, :2])
    story.axis("off")
    story.text(
        0, 0.97,
        "Each of the 1600 hidden units sees edges, with an error of its own in every weight.\n"
        "Each rung is made of the one before. Looking near leaves most errors out, and\n"
        "sharing averages them: together they leave the edges.\n\n"
        "T moves a picture. What shares its weights moves along: H(TX) = T H(X).",
        color=INK, fontsize=11, va="top", linespacing=1.6,
    )  # fmt: skip
    for column, (image, text) in enumerate(
        [(picture, "picture X"), (moved(picture), "moved {} down, {} right: TX".format(*MOVE))],
        start=2,
    ):
        axes = figure.add_subplot(outer[0, column])
        show(axes, image)
        caption(axes, text, INK)

    for row, rung in enumerate(rungs(), start=1):
        hidden, of_moved = rung.apply(picture), rung.apply(moved(picture))
        difference = of_moved - moved(hidden)
        # What comes in at the border by moving has no counterpart.
        difference[: MOVE[0]], difference[:, : MOVE[1]] = 0, 0
        greatest = float(np.abs(difference).max())
        print(f"{rung.name:14} {rung.count.splitlines()[0]:>20}  |H(TX) - T H(X)| <= {greatest}")

        text = figure.add_subplot(outer[row, 0])
        text.axis("off")
        text.text(0, 1.0, rung.name, color=INK, fontsize=15, va="top", weight="bold")
        text.text(0, 0.78, rung.formula, color=INK, fontsize=12, va="top")
        text.text(0, 0.53, rung.note, color=FAINT, fontsize=10, va="top")
        text.text(0, 0.36, rung.count, color=INK, fontsize=10, va="top", linespacing=1.6)

        units = outer[row, 1].subgridspec(1, 3, wspace=0.06)
        for column, (i, j) in enumerate(UNITS):
            axes = figure.add_subplot(units[column])
            show(axes, rung.weights(i, j), 0.12)
            caption(axes, f"unit {i},{j}")
        scale = 0.14
        for column, (image, what) in enumerate(
            [(hidden, "H(X)"), (of_moved, "H(TX)"), (difference, "H(TX) − T H(X)")],
            start=2,
        ):
            axes = figure.add_subplot(outer[row, column])
            show(axes, image, scale)
            if column < 4:
                caption(axes, what)
            elif greatest == 0:
                caption(axes, f"{what} = 0: moves along", YES)
            else:
                caption(axes, f"{what} is not 0", NO)
    figure.savefig(path, dpi=75, facecolor=GROUND)
    plt.close(figure)


def gabor(wavelength: float, angle: float, size: int = 15) -> np.ndarray:
    """A wave under a Gaussian window, of sum 0: what a texture of that period answers to."""
    y, x = np.mgrid[:size, :size] - size // 2
    turn = np.deg2rad(angle)
    window = np.exp(-(x**2 + y**2) / (2 * (0.4 * wavelength) ** 2))
    wave = np.cos(2 * np.pi * (x * np.cos(turn) + y * np.sin(turn)) / wavelength)
    kernel = window * (wave - (window * wave).sum() / window.sum())
    return kernel / np.abs(kernel).sum()


def draw_channels(path: Path) -> None:
    """Draw the channels of one convolutional layer on the photograph."""
    sobel = np.zeros((15, 15))
    sobel[6:9, 6:9] = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    bank = {
        "edges, across": sobel,
        "edges, down": sobel.T,
        "texture, 4 px, 0°": gabor(4, 0),
        "texture, 4 px, 90°": gabor(4, 90),
        "texture, 8 px, 45°": gabor(8, 45),
        "texture, 8 px, 135°": gabor(8, 135),
    }
    picture = photograph()
    luma = np.array([0.299, 0.587, 0.114])[:, None, None]
    weight = np.stack([luma * kernel for kernel in bank.values()]).astype(
        np.float32
    )  # (O, C, a, b)
    maps = faltung.conv2d(picture, weight, padding=7, padding_mode="reflect")

    figure = plt.figure(figsize=(12.4, 6.9), facecolor=GROUND)
    grid = figure.add_gridspec(
        2, 4, hspace=0.14, wspace=0.06, left=0.015, right=0.985, top=0.9, bottom=0.05
    )
    figure.suptitle(
        r"Channels: $H_{ijd} = \sum_{a,b,c}\, V_{abcd}\, X_{i+a,\,j+b,\,c}$"
        "   one kernel for each feature, over all colours",
        color=INK, fontsize=15,
    )  # fmt: skip
    axes = figure.add_subplot(grid[:, 0])
    show(axes, np.moveaxis(picture, 0, -1))
    axes.set_anchor("C")
    caption(axes, "picture X, 3 channels", INK)
    for number, (name, image) in enumerate(zip(bank, maps, strict=True)):
        axes = figure.add_subplot(grid[number // 3, 1 + number % 3])
        show(axes, image, float(np.quantile(np.abs(image), 0.995)))
        caption(axes, f"channel d = {number}: {name}", INK)
        kernel = bank[name]
        inset = axes.inset_axes((0.76, 0.76, 0.22, 0.22))
        show(inset, kernel, float(np.abs(kernel).max()))
    figure.savefig(path, dpi=75, facecolor=GROUND)
    plt.close(figure)


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    print(ladder.parameters((SIZE, SIZE), DELTA), end="\n\n")
    for name, draw in [("ladder.png", draw_ladder), ("ladder-channels.png", draw_channels)]:
        draw(output / name)
        print(f"wrote {output / name}")


if __name__ == "__main__":
    main()
