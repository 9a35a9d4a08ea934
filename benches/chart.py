"""The bar chart of a comparison."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from libraries import LIBRARIES
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from results import Row

# One colour a library, whichever of them are drawn: Okabe and Ito's, which most eyes tell apart,
# and wine for a plan beside its function.
COLORS = dict(
    zip(
        LIBRARIES,
        (
            *("#d55e00", "#882255", "#999999", "#0072b2", "#009e73"),
            *("#56b4e9", "#cc79a7", "#e69f00", "#f0e442"),
        ),
        strict=True,
    )
)
# In inches.
BAR, GAP, WIDTH, MARGINS = 0.13, 0.13, 7.5, 1.3
# Cases in a panel; with more there are two, side by side.
MOST_ROWS = 12


def draw(rows: list[Row], title: str, path: Path) -> None:
    """Draw a group of bars a case, a bar a library, by share of the peak (or by GFLOP/s)."""
    halves = [rows] if len(rows) <= MOST_ROWS else halve(rows)
    height = max(sum(map(room, half)) for half in halves)
    figure, panels = plt.subplots(
        1,
        len(halves),
        figsize=(WIDTH * len(halves), height + MARGINS),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    shares = all(row.peak is not None for row in rows)
    for axes, half in zip(panels[0], halves, strict=True):
        draw_panel(axes, half, shares)
        axes.set_ylim(height, -GAP)
    names = [name for name in LIBRARIES if any(name in row.seconds for row in rows)]
    handles = [Patch(color=COLORS[name], label=LIBRARIES[name].title) for name in names]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(names), frameon=False)
    panels[0][0].set_title(f"{title}; at the bars: milliseconds of a call", loc="left", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def halve(rows: list[Row]) -> list[list[Row]]:
    """Cut rows in two where the taller part is least."""
    cuts = range(1, len(rows))
    cut = min(cuts, key=lambda i: max(sum(map(room, rows[:i])), sum(map(room, rows[i:]))))
    return [rows[:cut], rows[cut:]]


def room(row: Row) -> float:
    """Return the height of a case's group of bars."""
    return BAR * len(row.seconds) + GAP


def draw_panel(axes: Axes, rows: list[Row], shares: bool) -> None:
    """Draw some of the cases."""
    labels: list[float] = []
    y = 0.0
    for row in rows:
        names = [name for name in LIBRARIES if name in row.seconds]
        labels.append(y + BAR * len(names) / 2)
        for i, name in enumerate(names):
            share = row.share(name)
            speed = 100 * share if shares and share is not None else row.rate(name)
            middle = y + BAR * (i + 0.5)
            axes.barh(middle, speed, BAR, color=COLORS[name])
            weight = "bold" if name == "faltung" else "normal"
            text = f" {milliseconds(row.seconds[name])}"
            axes.text(speed, middle, text, va="center_baseline", fontsize=6, fontweight=weight)
        y += room(row)
    axes.set_yticks(labels, [row.case.name for row in rows])
    axes.set_xlabel("% of the fused multiply-add peak" if shares else "GFLOP/s")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.grid(True, color="#dddddd")
    axes.xaxis.set_tick_params(labelbottom=True)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def milliseconds(seconds: float) -> str:
    """Return three digits, or thousandths."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"
