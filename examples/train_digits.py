"""A convolutional network trained in plain NumPy and faltung: ``python examples/train_digits.py``.

The 1797 handwritten digits (8 x 8 pixels) that scikit-learn carries, a random fifth held out. Three
convolutions, the second with a stride, and a last one over all that is left of a picture, which is
a fully connected layer. Every gradient is one call of `faltung.grad`; nothing else knows how to
differentiate. All sums are faltung's or NumPy's, none depends on threads: the same numbers come out
of every run, bit for bit, whatever the number of threads.

- ``digits-loss.png`` draws the loss and the share of errors over the epochs;
- ``digits-kernels.png`` draws the learned kernels of the first layer, what they see in a digit, and
  the held-out digits that the network gets wrong.

It needs scikit-learn, matplotlib and tqdm.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import faltung
import matplotlib
import numpy as np
from faltung import grad
from sklearn.datasets import load_digits
from tqdm import tqdm

matplotlib.use("Agg")

import matplotlib.pyplot as plt

EPOCHS, BATCH = 40, 64
RATE, DECAY = 3e-3, 1e-4  # of Adam: the step at first, and how much weights shrink
HELD_OUT = 5  # one in so many
SEED = 0
GROUND, INK, FAINT, BLUE, ORANGE = "#14161a", "#e8e8e8", "#9aa0a8", "#2f9be8", "#ef7a21"

Array = np.ndarray


# --- the network ----------------------------------------------------------------------------------


@dataclass
class Layer:
    """A convolution and, but for the last layer, max(0, y)."""

    weight: Array
    bias: Array
    stride: int = 1
    padding: int = 0
    relu: bool = True
    seen: tuple[Array, Array] = field(default=(np.empty(0), np.empty(0)), repr=False)

    @classmethod
    def random(cls, rng: np.random.Generator, shape: tuple[int, ...], **options: int) -> Layer:
        """Weights that keep the variance of what passes through (He et al., 2015)."""
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        weight = (deviation * rng.standard_normal(shape)).astype(np.float32)
        return cls(weight, np.zeros(shape[0], np.float32), **options)

    def forward(self, x: Array) -> Array:
        activation = "relu" if self.relu else None
        options = {"stride": self.stride, "padding": self.padding, "activation": activation}
        y = faltung.conv2d(x, self.weight, self.bias, **options)
        self.seen = x, y
        return y

    def backward(self, dy: Array) -> tuple[Array, list[Array]]:
        """The gradients of the input, and of the weight and the bias, from that of the result."""
        x, y = self.seen
        if self.relu:
            dy = np.where(y > 0, dy, np.float32(0))
        options = {"stride": self.stride, "padding": self.padding}
        dx = grad.conv2d_input(x.shape, self.weight, dy, **options)
        dw = grad.conv2d_weight(x, self.weight.shape, dy, **options)
        return dx, [dw, grad.conv2d_bias(dy)]


class Network:
    """Layers one after the other, and Adam (Kingma and Ba, 2015) to train them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.layers = [
            Layer.random(rng, (24, 1, 3, 3), padding=1),
            Layer.random(rng, (48, 24, 3, 3), stride=2, padding=1),
            Layer.random(rng, (64, 48, 3, 3), padding=1),
            Layer.random(rng, (10, 64, 4, 4), relu=False),
        ]
        self.parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        self.means = [np.zeros_like(p) for p in self.parameters]
        self.squares = [np.zeros_like(p) for p in self.parameters]
        self.steps = 0

    def forward(self, x: Array) -> Array:
        """Ten numbers a picture, the greatest of which names its digit."""
        for layer in self.layers:
            x = layer.forward(x)
        return x[:, :, 0, 0]

    def gradients(self, scores: Array, labels: Array) -> tuple[float, list[Array]]:
        """The mean cross-entropy, and its gradient in every parameter."""
        shifted = scores - scores.max(axis=1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        rows = np.arange(len(labels))
        loss = -float(logarithms[rows, labels].mean())
        gradient = np.exp(logarithms)
        gradient[rows, labels] -= 1
        gradient = (gradient / np.float32(len(labels)))[:, :, None, None]
        found: list[Array] = []
        for layer in reversed(self.layers):
            gradient, own = layer.backward(gradient)
            found = own + found
        return loss, found

    def step(self, gradients: list[Array], rate: float) -> None:
        """One step of Adam, with weights that shrink (Loshchilov and Hutter, 2019)."""
        self.steps += 1
        first, second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        columns = zip(self.parameters, gradients, self.means, self.squares, strict=True)
        for parameter, gradient, mean, square in columns:
            mean += np.float32(0.1) * (gradient - mean)
            square += np.float32(0.001) * (gradient * gradient - square)
            step = (mean / np.float32(first)) / (np.sqrt(square / np.float32(second)) + 1e-8)
            parameter -= np.float32(rate) * (step + np.float32(DECAY) * parameter)


# --- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Pictures (N, 1, 8, 8) from 0 to 1, and which digit each shows."""

    x: Array
    labels: Array

    def __getitem__(self, chosen: Array) -> Digits:
        return Digits(self.x[chosen], self.labels[chosen])

    def moved(self, rng: np.random.Generator) -> Array:
        """The pictures, each moved by up to a pixel: handwriting is not exactly centred."""
        padded = np.pad(self.x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        down, right = rng.integers(0, 3, (2, len(self.x), 1, 1))
        rows, columns = np.arange(8)[:, None] + down, np.arange(8) + right
        return padded[np.arange(len(self.x))[:, None, None], 0, rows, columns][:, None]


def digits(rng: np.random.Generator) -> tuple[Digits, Digits]:
    """What is trained with, and the random fifth that is held out."""
    images, labels = load_digits(return_X_y=True)
    everything = Digits((images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels)
    order = rng.permutation(len(labels))
    held_out = len(order) // HELD_OUT
    return everything[order[held_out:]], everything[order[:held_out]]


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """What an epoch ended with."""

    loss: float
    errors: float
    held_out_errors: float


def train(
    network: Network, known: Digits, held_out: Digits, epochs: int, rng: np.random.Generator
) -> Iterator[Epoch]:
    """Train, and tell how it goes after each epoch."""
    batches = len(known.labels) // BATCH
    for epoch in range(epochs):
        order = rng.permutation(len(known.labels))
        losses, wrong = [], 0
        for number in range(batches):
            batch = known[order[number * BATCH : (number + 1) * BATCH]]
            scores = network.forward(batch.moved(rng))
            loss, gradients = network.gradients(scores, batch.labels)
            done = (epoch * batches + number) / (epochs * batches)
            network.step(gradients, RATE * (1 + np.cos(np.pi * done)) / 2)
            losses.append(loss)
            wrong += int((scores.argmax(axis=1) != batch.labels).sum())
        errors = float((network.forward(held_out.x).argmax(axis=1) != held_out.labels).mean())
        yield Epoch(float(np.mean(losses)), wrong / (batches * BATCH), errors)


# --- pictures -------------------------------------------------------------------------------------


def styled(axes: plt.Axes) -> plt.Axes:
    axes.set_facecolor(GROUND)
    axes.tick_params(colors=FAINT)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    return axes


def draw_loss(epochs: list[Epoch], path: Path) -> None:
    """Draw the loss, and the shares of errors."""
    figure = plt.figure(figsize=(9, 4.2), facecolor=GROUND, layout="constrained")
    left, right = (styled(axes) for axes in figure.subplots(1, 2))
    numbers = np.arange(1, len(epochs) + 1)
    left.semilogy(numbers, [e.loss for e in epochs], color=BLUE)
    left.set_title("cross-entropy in training", color=INK)
    right.plot(numbers, [100 * e.errors for e in epochs], color=BLUE, label="in training")
    held_out = [100 * e.held_out_errors for e in epochs]
    right.plot(numbers, held_out, color=ORANGE, label="held out")
    right.set_ylim(0, 12)
    right.set_title("wrong, %", color=INK)
    right.legend(facecolor=GROUND, edgecolor=FAINT, labelcolor=INK)
    for axes in (left, right):
        axes.set_xlabel("epoch", color=FAINT)
    figure.savefig(path, dpi=80, facecolor=GROUND)
    plt.close(figure)


def draw_kernels(network: Network, held_out: Digits, path: Path) -> None:
    """Draw the first layer's kernels, its feature maps of a digit, and the mistakes."""
    scores = network.forward(held_out.x).argmax(axis=1)
    wrong = np.flatnonzero(scores != held_out.labels)[:12]
    first, columns = network.layers[0], 12
    maps = first.forward(held_out.x[:1])[0]
    figure, grid = plt.subplots(
        5, columns, figsize=(columns, 6.2), facecolor=GROUND, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    scale = float(np.abs(first.weight).max())
    for number, kernel in enumerate(first.weight[:, 0]):
        row, column = divmod(number, columns)
        axes = grid[2 * row, column]
        axes.imshow(kernel, cmap="RdBu", vmin=-scale, vmax=scale)
        grid[2 * row + 1, column].imshow(maps[number], cmap="gray")
    for axes, index in zip(grid[4], wrong, strict=False):
        axes.imshow(held_out.x[index, 0], cmap="gray")
        axes.set_title(f"{held_out.labels[index]}, not {scores[index]}", color=INK, fontsize=9)
    figure.suptitle(
        f"The first layer's kernels, and what each sees in a {held_out.labels[0]}.\n"
        f"Last row: what it gets wrong of {len(scores)} held-out digits, "
        f"{np.count_nonzero(scores != held_out.labels)}",
        color=INK,
        fontsize=13,
    )
    figure.savefig(path, dpi=80, facecolor=GROUND)
    plt.close(figure)


def main() -> None:
    """Train, print how well it went, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, help="of faltung; the result is the same")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    faltung.set_num_threads(arguments.threads)

    rng = np.random.default_rng(SEED)
    known, held_out = digits(rng)
    network = Network(rng)
    print(f"{len(known.labels)} digits to learn from, {len(held_out.labels)} held out")
    epochs: list[Epoch] = []
    progress = tqdm(train(network, known, held_out, arguments.epochs, rng), total=arguments.epochs)
    for epoch in progress:
        epochs.append(epoch)
        progress.set_postfix(loss=f"{epoch.loss:.4f}", wrong=f"{epoch.held_out_errors:.2%}")
    last = epochs[-1]
    print(f"loss {last.loss!r}, held out {1 - last.held_out_errors:.2%} right")
    draw_loss(epochs, arguments.output / "digits-loss.png")
    draw_kernels(network, held_out, arguments.output / "digits-kernels.png")
    print(f"wrote {arguments.output}/digits-loss.png, {arguments.output}/digits-kernels.png")


if __name__ == "__main__":
    main()
