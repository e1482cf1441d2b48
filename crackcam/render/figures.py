"""Every picture that is written to disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crackcam.files import write_atomically

if TYPE_CHECKING:
    from crackcam.explain.heatmaps import Anatomy
    from crackcam.training.calibration import Reliability
from crackcam.render.overlays import Style
from crackcam.text import confidence_text, percent, shorten

INK, PALE, RIGHT, WRONG = "#222222", "#777777", "#2b6ca3", "#c22f2f"
TRAIN, VALIDATION = "#8a8a8a", "#2b6ca3"
TILE = 2.7  # inches
DPI = 120
BARS = 3  # classes whose probability is shown
NAMED_BOXES = 12  # more names than that hide a picture


class Box(NamedTuple):
    """A box on a picture: (left, top, right, bottom) in its pixels, what is written on it, and what it is of.

    Boxes of one ``label``, a class index, have one colour, the same in all figures.
    """

    edges: tuple[float, float, float, float]
    says: str
    label: int


class Tile(NamedTuple):
    """One picture of a grid.

    Attributes:
        picture: (H, W, 3) uint8.
        name: file name.
        probabilities: by class name, highest first.
        true: class, where it is known.
        note: a line below the picture.
        boxes: drawn on the picture.
    """

    picture: np.ndarray
    name: str
    probabilities: dict[str, float]
    true: str | None
    note: str = ""
    boxes: Sequence[Box] = ()

    @property
    def predicted(self) -> str:
        return next(iter(self.probabilities))

    @property
    def wrong(self) -> bool:
        return self.true is not None and self.predicted != self.true


def prediction_grid(path: Path, title: str, tiles: list[Tile], bars: int | None = None) -> None:
    """Pictures with the probabilities of their likeliest classes as bars; wrong ones framed in red.

    Args:
        bars: how many classes; None: 3, or 5 where the tiles were cut to the likeliest of many.
    """
    known = len(tiles[0].probabilities)
    complete = abs(sum(tiles[0].probabilities.values()) - 1) < 1e-3
    bars = min(bars or (BARS if complete else known), known)
    figure, cells = _grid(len(tiles), title, note_height=0.26 * bars + 0.1)
    for tile, (image, below) in zip(tiles, cells, strict=True):
        _show(image, tile)
        below.set(xlim=(0, 1), ylim=(bars - 0.4, -0.6))
        for row, (name, share) in enumerate(list(tile.probabilities.items())[:bars]):
            colour = (WRONG if tile.wrong else RIGHT) if row == 0 else "#b9b9b9"
            below.barh(row, 1, color="#f0f0f0", height=0.82)
            below.barh(row, share, color=colour, alpha=0.55, height=0.82)
            below.text(0.02, row, shorten(name, 24), va="center", fontsize=8, color=INK)
            below.text(0.98, row, confidence_text(share), va="center", ha="right", fontsize=8, color=INK)
    _save(figure, path)


def heat_grid(path: Path, title: str, tiles: list[Tile], style: Style, bar: bool = True, lines: int = 1) -> None:
    """Maps with prediction and explained class; wrong predictions framed in red.

    Args:
        style: of the maps.
        bar: show what its colours mean.
        lines: how many of the likeliest classes are named.
    """
    lines = min(lines, len(tiles[0].probabilities))
    figure, cells = _grid(len(tiles), title, note_height=0.21 * (lines + 1), style=style, bar=bar)
    for tile, (image, below) in zip(tiles, cells, strict=True):
        _show(image, tile)
        below.set(xlim=(0, 1), ylim=(lines + 0.6, -0.6))
        for line, (name, share) in enumerate(list(tile.probabilities.items())[:lines]):
            says = f"{'' if lines > 1 else 'predicts '}{shorten(name, 22)} {confidence_text(share)}"
            colour = PALE if line else WRONG if tile.wrong else INK
            below.text(0.5, line, says, ha="center", va="center", fontsize=8 if line else 8.5, color=colour)
        below.text(0.5, lines, tile.note, ha="center", va="center", fontsize=8, color=PALE)
    _save(figure, path)


def detection_grid(path: Path, title: str, tiles: list[Tile], style: Style | None = None) -> None:
    """Pictures with the boxes of a detector; the fewer, the larger.

    Args:
        style: of the maps that the pictures lie under, if they do.
    """
    side = detection_side(len(tiles))
    figure, cells = _grid(len(tiles), title, note_height=0.3, style=style, bar=style is not None, side=side)
    for tile, (image, below) in zip(tiles, cells, strict=True):
        _show(image, tile)
        below.set(xlim=(0, 1), ylim=(0, 1))
        below.text(0.5, 0.5, shorten(tile.note, int(16 * side)), ha="center", va="center", fontsize=8, color=INK)
    _save(figure, path)


def detection_side(count: int) -> float:
    """Inches of a picture in a :func:`detection_grid` of so many."""
    return 6.4 if count == 1 else 4.2 if count <= 4 else TILE


def comparison(
    path: Path, title: str, columns: list[str], rows: list[tuple[Tile, list[np.ndarray]]], style: Style,
    captions: list[list[str]] | None = None, masked: bool = False,
) -> None:  # fmt: skip
    """A table of pictures: one row for each, the picture itself first, then what each method makes of it.

    Args:
        columns: names of the methods.
        rows: of each picture, its tile and one (H, W, 3) uint8 for each method.
        captions: of each picture, what is written on the map of each method.
        masked: the outlines of masks are on the pictures.
    """
    side, gap, margin, head = 2.6 if rows[0][0].boxes else 1.45, 0.06, 0.15, 0.75
    foot = margin if style.name == "mask" else 0.5
    width = 2 * margin + (len(columns) + 1) * (side + gap) - gap
    height = head + len(rows) * (side + gap) + foot
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    heading = shorten(title, int(width * 11))
    figure.text(0.5, 1 - 0.22 / height, heading, ha="center", va="center", fontsize=10.5, color=INK)
    for r, (tile, pictures) in enumerate(rows):
        for c, picture in enumerate([tile.picture, *pictures]):
            x, y = margin + c * (side + gap), height - head - r * (side + gap) - side
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            axes.imshow(picture, interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            _draw_boxes(axes, tile.boxes, bool(c))
            wrong = tile.wrong and c == 0
            for spine in axes.spines.values():
                spine.set(color=WRONG, linewidth=2.5) if wrong else spine.set_visible(False)
            if c == 0 and not tile.boxes:
                says = f"{shorten(tile.predicted, 12)} {confidence_text(tile.probabilities[tile.predicted])}"
                box = {"facecolor": WRONG if wrong else "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.5}
                axes.text(0.04, 0.05, says, transform=axes.transAxes, fontsize=6.5, color="white", bbox=box)
            if captions and c:
                box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.5}
                axes.text(
                    0.04, 0.05, captions[r][c - 1], transform=axes.transAxes, fontsize=6.5, color="white", bbox=box
                )
            if r == 0:
                first = "predicted, mask" if masked else "detected" if tile.boxes else "predicted"
                name = columns[c - 1] if c else first
                size = min(8.5, 115 / max(len(name), 1))  # long names fit their column
                axes.set_title(name, fontsize=size, color=INK if c else PALE, pad=4)
    if style.name != "mask":
        _heat_bar(figure, width, height, style)
    _save(figure, path)


def anatomy(path: Path, title: str, tile: Tile, overlay: np.ndarray, steps: Anatomy, explained: str) -> None:
    """Grad-CAM on one picture, step by step, from the picture to the overlay.

    Args:
        tile: the picture and what is predicted.
        overlay: (H, W, 3) uint8, the last panel.
        steps: what is shown between them.
        explained: name of the class.
    """
    count, (height, width) = len(steps.weights), steps.signed.shape
    share = steps.weights * steps.activations.mean(dim=(1, 2))
    order = share.argsort(descending=True).tolist()
    shown = [*order[:3], *order[-2:]] if count > 5 else order
    figure = Figure(figsize=(11.5, 8.4), dpi=DPI, facecolor="white")
    figure.text(0.5, 0.975, shorten(title, 120), ha="center", va="center", fontsize=11.5, color=INK)

    def panel(left: float, bottom: float, wide: float, high: float, heading: str) -> Axes:
        axes = figure.add_axes((left, bottom, wide, high))
        axes.set_title(heading, fontsize=8, color=INK, pad=4)
        axes.tick_params(labelsize=6.5, colors=PALE)
        for spine in axes.spines.values():
            spine.set(color="#cccccc", linewidth=0.6)
        return axes

    def draw(axes: Axes, values: np.ndarray, signed: bool = False, bar: bool = False) -> None:
        limit = float(np.abs(values).max()) or 1.0
        low, colours = (-limit, "RdBu_r") if signed else (0.0, "inferno")
        drawn = axes.imshow(values, cmap=colours, vmin=low, vmax=limit)
        axes.set(xticks=[], yticks=[])
        if bar:
            scale = figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03)
            scale.ax.tick_params(labelsize=6, color=PALE, labelcolor=PALE)
            scale.outline.set_visible(False)

    def step(number: int, y: float, text: str) -> None:
        figure.text(0.02, y, f"{number}", fontsize=15, color=RIGHT, va="center", weight="bold")
        figure.text(0.045, y, text, fontsize=9, color=INK, va="center")

    step(1, 0.925, f"The picture, and {count:,} channels of {height} x {width} that the layer makes of it: where are "
                   "they active?")  # fmt: skip
    predicted = f"predicts {shorten(tile.predicted, 18)} {confidence_text(tile.probabilities[tile.predicted])}"
    first = panel(0.03, 0.68, 0.19, 0.2, predicted)
    first.imshow(tile.picture)
    first.set(xticks=[], yticks=[])
    step(2, 0.635, f"The gradient of the logit of {shorten(explained, 24)}: where would more activity raise it (red) "
                   "or lower it (blue)?")  # fmt: skip
    if float((steps.gradients - steps.weights[:, None, None]).abs().max()) <= 1e-3 * float(steps.weights.abs().max()):
        says = "It is the same everywhere: the\nlayers above only average over\nthe places."
        figure.text(0.045, 0.5, says, fontsize=8, color=PALE, va="center")
    for column, channel in enumerate(shown):
        x, kind = 0.25 + 0.15 * column, "for" if share[channel] > 0 else "against"
        activations = steps.activations[channel].numpy()
        draw(panel(x, 0.7, 0.125, 0.17, f"channel {channel}: {kind}"), activations, signed=bool(activations.min() < 0))
        mean = f"mean {float(steps.weights[channel]):+.2g}"
        draw(panel(x, 0.42, 0.125, 0.17, mean), steps.gradients[channel].numpy(), signed=True)
    step(3, 0.36, "A channel's weight is its mean gradient. The channels, weighted and summed, give a map; ReLU keeps "
                  "what speaks for the class.")  # fmt: skip
    _weights(panel(0.05, 0.07, 0.24, 0.23, f"weights of {count:,} channels"), steps.weights.numpy(), shown)
    draw(panel(0.33, 0.07, 0.19, 0.23, f"weighted sum, {height} x {width}"), steps.signed.numpy(), True, bar=True)
    draw(panel(0.565, 0.07, 0.19, 0.23, "after ReLU"), steps.signed.clamp(min=0).numpy(), bar=True)
    last = panel(0.79, 0.07, 0.19, 0.23, "enlarged to the picture, over it")
    last.imshow(overlay)
    last.set(xticks=[], yticks=[])
    _save(figure, path)


def _weights(axes: Axes, weights: np.ndarray, named: list[int]) -> None:
    """A histogram of channel weights, some of them named."""
    axes.hist(weights, bins=min(41, max(5, len(weights) // 8)), color="#b9b9b9")
    axes.axvline(0, color=INK, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    axes.xaxis.get_offset_text().set(size=6.5, color=PALE)
    top = axes.get_ylim()[1]
    for rank, channel in enumerate(sorted(named, key=lambda channel: weights[channel])):
        colour, height = WRONG if weights[channel] > 0 else RIGHT, top * (0.9 - 0.13 * (rank % 5))
        axes.plot([weights[channel]] * 2, [0, height], color=colour, linewidth=0.8)
        side = "right" if weights[channel] > 0 else "left"
        axes.text(weights[channel], height, f" {channel} ", fontsize=6.5, color=colour, ha=side)


def _grid(
    count: int, title: str, note_height: float, style: Style | None = None, bar: bool = False, side: float = TILE
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure of ``count`` cells, as square as can be; each has axes for a picture and for a note below it."""
    tile = 1.9 * side if style and style.side_by_side else side
    bar = bar and style is not None and style.name != "mask"  # which shows the picture's own colours
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    name_height, gap, margin, head, foot = 0.24, 0.12, 0.15, 0.5, 0.5 if bar else 0.0
    cell = name_height + side + note_height + gap
    width = max(columns * tile + (columns - 1) * gap + 2 * margin, 3.4)
    height = head + rows * cell + foot + margin
    left = (width - columns * tile - (columns - 1) * gap) / 2
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    fitting = int(width * 11)  # characters in one line
    figure.text(0.5, 1 - 0.28 / height, shorten(title, fitting), ha="center", va="center", fontsize=10.5, color=INK)
    cells = []
    for i in range(count):
        row, column = divmod(i, columns)
        x, top = left + column * (tile + gap), height - head - row * cell - name_height
        image = figure.add_axes((x / width, (top - side) / height, tile / width, side / height))
        below = figure.add_axes((x / width, (top - side - note_height) / height, tile / width, note_height / height))
        below.axis("off")
        cells.append((image, below))
    if style and bar:
        _heat_bar(figure, width, height, style)
    return figure, cells


def _heat_bar(figure: Figure, width: float, height: float, style: Style) -> None:
    """The colours of the heat, at the foot of a figure of that size in inches."""
    axes = figure.add_axes(((width / 2 - 1.2) / width, 0.36 / height, 2.4 / width, 0.1 / height))
    scale = figure.colorbar(ScalarMappable(cmap=style.colours), cax=axes, orientation="horizontal", ticks=[0, 0.5, 1])
    scale.set_label(style.unit, fontsize=7.5, color=PALE, labelpad=1)
    scale.ax.tick_params(labelsize=7, color=PALE, labelcolor=PALE, length=2, pad=1)
    scale.outline.set_visible(False)


def _show(axes: Axes, tile: Tile) -> None:
    axes.imshow(tile.picture, interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    axes.set_title(shorten(tile.name, 34), fontsize=8, color=PALE, pad=3)
    _draw_boxes(axes, tile.boxes)
    for spine in axes.spines.values():
        spine.set(color=WRONG, linewidth=3) if tile.wrong else spine.set_visible(False)
    if tile.wrong:
        axes.text(
            0.03, 0.97, f"✗ is {shorten(tile.true or '', 20)}", transform=axes.transAxes, va="top", fontsize=8.5,
            color="white", bbox={"facecolor": WRONG, "edgecolor": "none", "pad": 2.5},
        )  # fmt: skip


def _draw_boxes(axes: Axes, boxes: Sequence[Box], small: bool = False) -> None:
    """Best first: the best are drawn last, on top, and only they are named. ``small``: none are."""
    for rank, box in reversed(list(enumerate(boxes))):
        left, top, right, bottom = box.edges
        colour = hsv_to_rgb((0.61803 * box.label % 1, 0.75, 0.95))  # neighbours in the list of classes differ most
        line = 0.8 if small else 1.6
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=line))
        if not small and rank < NAMED_BOXES:
            axes.text(
                left, top, shorten(box.says, 24), fontsize=7, va="bottom" if top > 12 else "top", clip_on=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
            )  # fmt: skip


# -- training ------------------------------------------------------------------------------------------------------


def training_curves(path: Path, log: list[dict], title: str) -> None:
    """Loss and accuracy over the epochs, for training and validation; the kept epoch is marked."""
    figure = Figure(figsize=(9, 3.6), dpi=DPI, facecolor="white", layout="constrained")
    figure.suptitle(shorten(title, 100), fontsize=10.5, color=INK)
    epochs = [row["epoch"] for row in log]
    best = max(row["epoch"] for row in log if row["best"])
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        trained = [(row["epoch"], row[f"train_{measure}"]) for row in log if row[f"train_{measure}"] is not None]
        if trained:
            axes.plot(*zip(*trained, strict=True), color=TRAIN, marker="o", markersize=3.5, label="training, augmented")
        values = [row[f"val_{measure}"] for row in log]
        axes.plot(epochs, values, color=VALIDATION, marker="o", markersize=3.5, label="validation")
        axes.axvline(best, color=PALE, linewidth=0.8, linestyle=":", label=f"kept: epoch {best}")
        axes.set_title(measure, fontsize=9.5, color=INK)
        axes.set_xlabel("epoch", fontsize=8.5, color=INK)
        axes.set_xlim(min(epochs) - 0.4, max(epochs) + 0.4)
        axes.set_ylim(*((0, None) if measure == "loss" else (None, 1.005)))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=8, colors=PALE)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axes.legend(fontsize=8, frameon=False)
    _save(figure, path)


def confusion_matrix(path: Path, counts: np.ndarray, classes: list[str], title: str) -> None:
    """Rows: true class; columns: predicted; counts, shaded by their share of the row."""
    side = max(3.2, 0.75 * len(classes) + 1.6)
    figure = Figure(figsize=(side + 0.6, side), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=11, color=colour)
        axes.text(column, row + 0.24, percent(shares[row, column]), ha="center", va="center", fontsize=7, color=colour)
    names = [shorten(name, 16) for name in classes]
    axes.set_xticks(range(len(names)), names, fontsize=8.5, rotation=0 if len(names) < 5 else 45)
    axes.set_yticks(range(len(names)), names, fontsize=8.5, rotation=90 if len(names) < 5 else 0, va="center")
    axes.set_xlabel("predicted", fontsize=9, color=INK)
    axes.set_ylabel("true", fontsize=9, color=INK)
    axes.set_title(shorten(title, 60), fontsize=10, color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _save(figure, path)


def reliability(path: Path, found: Reliability, classes: int, title: str) -> None:
    """How often predictions are right, by how sure they are, with 95 % intervals (Wilson); their numbers below.

    Args:
        found: predictions in bins; bins that lie below 1 / ``classes`` stay empty and are left out.
    """
    from scipy.stats import binomtest

    bins = len(found.count)
    filled = np.flatnonzero(found.count)
    centres, width = (filled + 0.5) / bins, 0.88 / bins
    right, sure, count = found.accuracy[filled], found.confidence[filled], found.count[filled]
    tests = [binomtest(round(k), n) for k, n in zip(right * count, count.tolist(), strict=True)]
    intervals = [test.proportion_ci(method="wilson") for test in tests]
    figure = Figure(figsize=(5.6, 6), dpi=DPI, facecolor="white", layout="constrained")
    figure.suptitle(shorten(title, 70), fontsize=10, color=INK)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.bar(centres, np.minimum(right, sure), width, color=RIGHT, alpha=0.75, label="right")
    for gap, foot, pale, colour, says in (
        (sure - right, right, "#f6dcdc", WRONG, "too sure"),
        (right - sure, sure, "#dce8f3", RIGHT, "not sure enough"),
    ):
        height = np.maximum(gap, 0)
        above.bar(centres, height, width, foot, color=pale, edgecolor=colour, hatch="////", linewidth=0, label=says)
    above.vlines(centres, *zip(*intervals, strict=True), color=INK, linewidth=1, label="95 % interval")
    above.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="calibrated")
    above.set(ylim=(0, 1.02), ylabel="share that is right", xlim=((math.ceil(bins / classes) - 1) / bins, 1.003))
    above.legend(
        fontsize=7.5, ncols=5, frameon=False, loc="lower center", bbox_to_anchor=(0.48, 1), handlelength=1.5,
        columnspacing=1, handletextpad=0.5,
    )  # fmt: skip
    below.bar(centres, count, width, color="#b9b9b9")
    for x, number in zip(centres, count, strict=True):
        below.text(x, number, f"{number:,}", fontsize=7, color=PALE, ha="center", va="bottom")
    below.set(xlabel="confidence: probability of the predicted class", ylabel="predictions", yticks=[])
    below.set_ylim(0, 1.2 * count.max())
    for axes in (above, below):
        axes.tick_params(labelsize=8, colors=PALE)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.7)
        axes.xaxis.label.set(size=9, color=INK)
        axes.yaxis.label.set(size=9, color=INK)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # Pillow's default takes three times as long for 4 % less.
    faster = {"compress_level": 4}
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", pil_kwargs=faster))
