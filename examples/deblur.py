"""A blurred photograph restored: ``python examples/deblur.py``.

A camera that moved during the exposure has convolved the picture with the path it took, and its
sensor has added noise. The blur is linear, ``observed = A picture + noise``, where A is
a `faltung.Plan` with that path as its kernel. SciPy's `lsqr` finds the picture that minimises

    |A picture - observed|^2 + damp^2 |picture - observed|^2

and asks for nothing but products with A and with its transpose, which is `Plan.T`: the exact
adjoint, borders included. No matrix is ever built; it would have 94 thousand million elements. What
lies beyond the photograph's border is unknown, and both are told that it is a mirror image
(``padding_mode="symmetric"``).

``deblur.png`` shows the photograph, what the camera recorded, and what is found.

It needs SciPy, matplotlib, pillow and tqdm, and takes matplotlib's own photograph of Grace Hopper.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import faltung
import matplotlib
import numpy as np
from PIL import Image
from scipy.sparse.linalg import LinearOperator, lsqr
from tqdm import tqdm

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import cbook

SEED = 0
NOISE = 0.004  # standard deviation, of a brightness from 0 to 1: one step of 8 bits
STEPS, DAMP = 60, 0.05  # of lsqr
GROUND, INK, FAINT = "#14161a", "#e8e8e8", "#9aa0a8"

Array = np.ndarray


def photograph() -> Array:
    """The face in matplotlib's photograph, (3, 320, 320) from 0 to 1."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255
    return np.ascontiguousarray(np.moveaxis(pixels[20:340, 90:410], -1, 0))


def path_of_the_camera(size: int = 15) -> Array:
    """How long the camera looked where, (size, size), of sum 1: a hook, as a hand shakes."""
    time = np.linspace(0, 1, 400)
    y = 0.5 + 0.42 * np.sin(1.6 * np.pi * time) * (1 - 0.4 * time)
    x = 0.06 + 0.88 * time**1.3
    kernel = np.histogram2d(y, x, bins=size, range=[(0, 1), (0, 1)])[0]
    return (kernel / kernel.sum()).astype(np.float32)


def blur_by(kernel: Array, colours: int) -> faltung.Plan:
    """The blur: every colour by itself, and a mirror at the border."""
    weight = np.broadcast_to(kernel, (colours, 1, *kernel.shape))
    return faltung.Plan(weight, groups=colours, padding="same", padding_mode="symmetric")


def restore(blur: faltung.Plan, observed: Array, steps: int) -> Array:
    """The picture that `blur` makes `observed` of, as far as can be told."""
    operator = blur.as_linear_operator(observed.shape)
    start = observed.ravel().astype(np.float64)
    with tqdm(total=steps, desc="lsqr") as progress:

        def counted(vector: Array) -> Array:
            progress.update()
            return operator.rmatvec(vector)

        watched = LinearOperator(
            operator.shape, matvec=operator.matvec, rmatvec=counted, dtype=operator.dtype
        )
        found = lsqr(watched, start, damp=DAMP, iter_lim=steps - 1, atol=0, btol=0, x0=start)[0]
    return found.reshape(observed.shape).clip(0, 1)


def quality(picture: Array, original: Array) -> float:
    """The peak signal-to-noise ratio, in decibels."""
    return float(-10 * np.log10(np.mean((picture - original) ** 2)))


def draw(pictures: dict[str, Array], kernel: Array, path: Path) -> None:
    """Draw the pictures side by side, and the kernel in a corner of the second."""
    figure, row = plt.subplots(
        1, len(pictures), figsize=(4.1 * len(pictures), 4.6), facecolor=GROUND, layout="constrained"
    )
    for axes, (name, picture) in zip(row, pictures.items(), strict=True):
        axes.imshow(np.moveaxis(picture, 0, -1).clip(0, 1))
        axes.set_title(name, color=INK, fontsize=13)
        axes.axis("off")
    corner = row[1].inset_axes((0.76, 0.76, 0.22, 0.22))
    corner.imshow(kernel, cmap="magma")
    corner.set(xticks=[], yticks=[])
    for spine in corner.spines.values():
        spine.set_color(FAINT)
    figure.savefig(path, dpi=80, facecolor=GROUND)
    plt.close(figure)


def main() -> None:
    """Blur, restore, print how well it went, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    original = photograph()
    kernel = path_of_the_camera()
    blur = blur_by(kernel, len(original))
    noise = np.random.default_rng(SEED).standard_normal(original.shape, np.float32)
    observed = blur(original) + np.float32(NOISE) * noise
    found = restore(blur, observed, arguments.steps)
    before, after = quality(observed, original), quality(found, original)
    print(f"recorded: {before:.1f} dB, restored: {after:.1f} dB")
    pictures = {
        "the photograph": original,
        f"as it was recorded, {before:.1f} dB": observed,
        f"restored by lsqr, {after:.1f} dB": found,
    }
    draw(pictures, kernel, arguments.output / "deblur.png")
    print(f"wrote {arguments.output}/deblur.png")


if __name__ == "__main__":
    main()
