"""The course and the result of a training: curves, confusion matrix, reliability diagram.

The functions that draw on axes serve both the PNG files and the report, which shows them as SVG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from crackcam.render.figures.layout import CORRECT, DPI, GREY, GRID, INCORRECT, INK, PALE, heading, model_lines, save
from crackcam.text import percent, shorten

TRAIN, VALIDATION = "#8a8a8a", CORRECT
CELL, ON_CELL = "#1f5f99", "#ffffff"  # of a confusion matrix: its darkest color, and text on it
OVER, UNDER = "#f6dcdc", "#dce8f3"  # confidence above and below accuracy
MANY = 10  # classes; above, empty cells of a confusion matrix have no numbers
LEGIBLE = 30  # classes, up to which a confusion matrix has numbers in its cells
LARGEST = 16.0  # inches of a confusion matrix

History = Sequence[Mapping[str, Any]]  # of epochs: epoch, best, train_loss, val_loss, train_accuracy, val_accuracy
Bins = Mapping[str, ArrayLike]  # of a reliability diagram: confidence, accuracy and count of each bin


def training_curves(path: Path, history: History, title: str, model: str = "") -> None:
    """Draw loss and accuracy over the epochs, for training and validation; the best epoch is marked.

    Args:
        path: of the PNG file.
        history: one entry for each epoch, at least one of them the ``best``.
        title: at the top.
        model: the model that was trained, see :func:`model_label`.
    """
    figure = _figure(9, 3.6, title, model)
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set_title(measure, fontsize=9.5, color=INK)
        draw_curve(axes, history, measure)
    save(figure, path)


def draw_curve(axes: Axes, history: History, measure: str) -> None:
    """Draw "loss" or "accuracy" over the epochs."""
    trained = [(row["epoch"], row[f"train_{measure}"]) for row in history if row[f"train_{measure}"] is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), color=TRAIN, marker="o", markersize=3.5, label="training (augmented)")
    epochs = [row["epoch"] for row in history]
    values = [row[f"val_{measure}"] for row in history]
    axes.plot(epochs, values, color=VALIDATION, marker="o", markersize=3.5, label="validation")
    best = max(row["epoch"] for row in history if row["best"])
    axes.axvline(best, color=PALE, linewidth=0.9, linestyle=":", label=f"best epoch: {best}")
    axes.set_xlabel("epoch")
    axes.set_xlim(min(epochs) - 0.4, max(epochs) + 0.4)
    axes.set_ylim(*((0, None) if measure == "loss" else (None, 1.005)))
    if measure == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    _clean(axes)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def confusion_matrix(path: Path, counts: np.ndarray, classes: Sequence[str], title: str, model: str = "") -> None:
    """Draw a confusion matrix, counts shaded by their fraction of the true class.

    Args:
        path: of the PNG file.
        counts: (classes, classes) int; rows are true classes, columns predicted ones.
        classes: names, in index order.
        title: at the top.
        model: the model that made the predictions, see :func:`model_label`.
    """
    side = min(max(3.4, 0.75 * len(classes) + 1.6), LARGEST)
    figure = _figure(side + 0.6, side + (0.2 if model else 0), title, model)
    draw_confusion(figure.subplots(), counts, classes)
    save(figure, path)


def draw_confusion(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Draw a confusion matrix; cells have numbers where there are at most :data:`LEGIBLE` classes."""
    count = len(classes)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = ListedColormap([CELL])
    axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
    if count > LEGIBLE:
        axes.imshow(
            np.zeros(counts.shape), cells, alpha=fractions, extent=(0, count, count, 0), interpolation="nearest"
        )
    else:
        axes.pcolormesh(np.zeros(counts.shape), cmap=cells, alpha=fractions, edgecolors="white", linewidth=1.5)
        for row, column in np.argwhere(counts >= (1 if count > MANY else 0)).tolist():
            _label_cell(axes, (row, column), int(counts[row, column]), float(fractions[row, column]))
    shown = range(0, count, math.ceil(count / (2 * LEGIBLE)))  # names that do not run into each other
    names, places = [shorten(classes[i], 16) for i in shown], [i + 0.5 for i in shown]
    few = count < 5
    turned = {"rotation": 0} if few else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, names, fontsize=8.5, **(turned if count <= LEGIBLE else {"rotation": 90}))
    axes.set_yticks(places, names, fontsize=8.5, rotation=90 if few else 0, va="center")
    axes.set_xlabel("predicted class", fontsize=9, color=INK)
    axes.set_ylabel("true class", fontsize=9, color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)


def _label_cell(axes: Axes, cell: tuple[int, int], number: int, fraction: float) -> None:
    for text, size, above in ((f"{number:,}", 11, 4), (percent(fraction), 7, -9)):
        label = axes.annotate(
            text,
            (cell[1] + 0.5, cell[0] + 0.5),
            xytext=(0, above),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=ON_CELL if fraction > 0.7 else INK,
        )
        label.set_in_layout(False)  # measuring hundreds of texts takes seconds, and they lie inside


def reliability(path: Path, bins: Bins, classes: int, title: str, model: str = "") -> None:
    """Draw the accuracy of predictions by their confidence, with 95 % intervals (Wilson); their number below.

    Args:
        path: of the PNG file.
        bins: of equal width: mean ``confidence``, ``accuracy`` and ``count`` of predictions, (bins,) each.
        classes: how many; bins below a confidence of 1 / ``classes`` stay empty and are left out.
        title: at the top.
        model: the model that made the predictions, see :func:`model_label`.
    """
    figure = _figure(5.6, 6.2 if model else 6, title, model)
    draw_reliability(figure.subplots(2, 1, sharex=True, height_ratios=(4, 1)), bins, classes)
    save(figure, path)


def draw_reliability(axes: Sequence[Axes], bins: Bins, classes: int, legend_columns: int = 5) -> None:
    """Draw a reliability diagram on the first, and below it a histogram of confidences on the second of two axes."""
    above, below = axes
    counts = np.asarray(bins["count"])
    filled = np.flatnonzero(counts)
    centers, width = (filled + 0.5) / len(counts), 0.88 / len(counts)
    accuracy, confidence = (np.asarray(bins[name], float)[filled] for name in ("accuracy", "confidence"))
    above.bar(centers, np.minimum(accuracy, confidence), width, color=CORRECT, alpha=0.75, label="accuracy")
    for gap, foot, pale, color, text in (
        (confidence - accuracy, accuracy, OVER, INCORRECT, "overconfident"),
        (accuracy - confidence, confidence, UNDER, CORRECT, "underconfident"),
    ):
        height = np.maximum(gap, 0)
        above.bar(centers, height, width, foot, color=pale, edgecolor=color, hatch="////", linewidth=0, label=text)
    low, high = zip(*_intervals(accuracy, counts[filled]), strict=True)
    above.vlines(centers, low, high, color=INK, linewidth=1, label="95 % interval")
    above.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="calibrated")
    first = (math.ceil(len(counts) / classes) - 1) / len(counts)
    above.set(ylim=(0, 1.02), ylabel="accuracy", xlim=(first, 1.003))
    above.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    above.legend(
        fontsize=7.5,
        ncols=legend_columns,
        frameon=False,
        labelcolor=INK,
        loc="lower center",
        bbox_to_anchor=(0.48, 1),
        handlelength=1.5,
        columnspacing=1,
        handletextpad=0.5,
    )
    below.bar(centers, counts[filled], width, color=GREY)
    for x, number in zip(centers, counts[filled], strict=True):
        below.text(x, number, f"{number:,}", fontsize=7, color=PALE, ha="center", va="bottom")
    below.set(xlabel="confidence: probability of the predicted class", ylabel="images", yticks=[])
    below.set_ylim(0, 1.35 * counts.max())
    below.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    for each in axes:
        _clean(each)


def _intervals(accuracy: np.ndarray, counts: np.ndarray) -> list[tuple[float, float]]:
    from scipy.stats import binomtest  # slow to import

    tests = [binomtest(round(k), n) for k, n in zip(accuracy * counts, counts.tolist(), strict=True)]
    return [test.proportion_ci(method="wilson") for test in tests]


def _figure(width: float, height: float, title: str, model: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.08))
    figure.suptitle("\n".join(heading(title, width)), fontsize=10.5, color=INK)
    if model:
        figure.supxlabel("\n".join(model_lines(model, width)), fontsize=7.5, color=PALE)
    return figure


def _clean(axes: Axes) -> None:
    axes.tick_params(labelsize=8, colors=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)
