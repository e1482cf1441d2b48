"""Grids of images: with probabilities, under heatmaps, with the boxes of a detector."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crackcam.render.figures.layout import (
    CORRECT,
    DPI,
    GREY,
    INCORRECT,
    INK,
    MARGIN,
    PALE,
    add_heading,
    add_legend,
    extra_head,
    foot_height,
    mark_spines,
    save,
)
from crackcam.render.overlays import Style
from crackcam.text import confidence_text, percent, shorten
from crackcam.types import Prediction

SIDE = 2.7  # inches of an image
GAP, NAME_HEIGHT, HEAD = 0.12, 0.24, 0.5  # inches
BARS, MOST = 3, 10  # classes whose probability is shown: by default, and however many are asked for
NAMED_BOXES = 12  # more names than that hide an image


class Box(NamedTuple):
    """A box on an image.

    Attributes:
        edges: (left, top, right, bottom) in pixels of the image.
        text: written on it.
        class_index: boxes of one class have one color, the same in all figures.
    """

    edges: tuple[float, float, float, float]
    text: str
    class_index: int


class Tile(NamedTuple):
    """One image of a grid.

    Attributes:
        image: (H, W, 3) uint8.
        name: file name.
        probabilities: by class name, highest first.
        true: class, where it is known.
        note: lines below the image.
        boxes: drawn on the image.
    """

    image: np.ndarray
    name: str
    probabilities: dict[str, float]
    true: str | None
    note: str = ""
    boxes: Sequence[Box] = ()

    @property
    def predicted(self) -> str:
        return next(iter(self.probabilities))

    @property
    def incorrect(self) -> bool:
        return self.true is not None and self.predicted != self.true


def prediction_grid(path: Path, title: str, tiles: list[Tile], bars: int | None = None, model: str = "") -> None:
    """Draw images with the probabilities of their most probable classes as bars; incorrect ones framed in red.

    Args:
        path: of the PNG file.
        title: at the top.
        tiles: at least one.
        bars: how many classes; None: 3, or 5 where the tiles hold only the most probable of many.
        model: the model that made the predictions, see :func:`model_label`.
    """
    known = len(tiles[0].probabilities)
    complete = abs(sum(tiles[0].probabilities.values()) - 1) < 1e-3
    bars = min(bars or (BARS if complete else known), known, MOST)
    figure, cells = _grid(len(tiles), title, 0.26 * bars + 0.1, model)
    for tile, (axes, below) in zip(tiles, cells, strict=True):
        _show(axes, tile)
        below.set(xlim=(0, 1), ylim=(bars - 0.4, -0.6))
        for row, (name, probability) in enumerate(list(tile.probabilities.items())[:bars]):
            color = (INCORRECT if tile.incorrect else CORRECT) if row == 0 else GREY
            below.barh(row, 1, color="#f0f0f0", height=0.82)
            below.barh(row, probability, color=color, alpha=0.55, height=0.82)
            below.text(0.02, row, shorten(name, 24), va="center", fontsize=8, color=INK)
            below.text(0.98, row, confidence_text(probability), va="center", ha="right", fontsize=8, color=INK)
    save(figure, path)


def heatmap_grid(path: Path, title: str, tiles: list[Tile], style: Style, lines: int = 1, model: str = "") -> None:
    """Draw heatmaps with the prediction and the explained class; incorrect predictions framed in red.

    Args:
        path: of the PNG file.
        title: at the top.
        tiles: at least one; their images are drawn heatmaps.
        style: of the heatmaps; without a unit, no color bar is drawn.
        lines: how many of the most probable classes are named.
        model: the model that is explained, see :func:`model_label`.
    """
    lines = min(lines, len(tiles[0].probabilities), MOST)
    rows = lines + max(len(tile.note.splitlines()) or 1 for tile in tiles)
    figure, cells = _grid(len(tiles), title, 0.21 * rows, model, style)
    for tile, (axes, below) in zip(tiles, cells, strict=True):
        _show(axes, tile)
        below.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
        for line, (name, probability) in enumerate(list(tile.probabilities.items())[:lines]):
            text = f"{'' if lines > 1 else 'predicted: '}{shorten(name, 22)} {confidence_text(probability)}"
            color = PALE if line else INCORRECT if tile.incorrect else INK
            below.text(0.5, line, text, ha="center", va="center", fontsize=8 if line else 8.5, color=color)
        for line, text in enumerate(tile.note.splitlines(), lines):
            below.text(0.5, line, text, ha="center", va="center", fontsize=8, color=PALE)
    save(figure, path)


def detection_grid(path: Path, title: str, tiles: list[Tile], style: Style | None = None, model: str = "") -> None:
    """Draw images with the boxes of a detector; the fewer images, the larger.

    Args:
        path: of the PNG file.
        title: at the top.
        tiles: at least one.
        style: of the heatmaps over the images, if there are any.
        model: the detector, see :func:`model_label`.
    """
    side = detection_side(len(tiles))
    figure, cells = _grid(len(tiles), title, 0.3, model, style, side)
    for tile, (axes, below) in zip(tiles, cells, strict=True):
        _show(axes, tile)
        below.set(xlim=(0, 1), ylim=(0, 1))
        below.text(0.5, 0.5, shorten(tile.note, int(16 * side)), ha="center", va="center", fontsize=8, color=INK)
    save(figure, path)


def detection_tile(image: np.ndarray, prediction: Prediction, shown: np.ndarray, caption: str = "") -> Tile:
    """A tile of an image with the boxes of a detector.

    Args:
        image: (H, W, 3) uint8, what the boxes were detected in.
        prediction: the boxes.
        shown: the image as it is drawn, in whatever size.
        caption: written below it, before the names of what was detected.
    """
    scale = shown.shape[0] / image.shape[0]
    boxes = [
        Box(tuple(scale * edge for edge in box.box), f"{box.name} {percent(box.score)}", box.label)
        for box in prediction.detections
    ]
    count = Counter(box.name for box in prediction.detections)
    note = ", ".join(f"{number} x {name}" if number > 1 else name for name, number in count.items())
    below = f"{caption}: {note}" if caption else note or prediction.label
    name = prediction.path.name if prediction.path else ""
    return Tile(shown, name, prediction.probabilities, None, below, boxes)


def detection_side(count: int) -> float:
    """Inches of an image in a :func:`detection_grid` of ``count`` images."""
    return 6.4 if count == 1 else 4.2 if count <= 4 else SIDE


def _grid(
    count: int, title: str, note_height: float, model: str = "", style: Style | None = None, side: float = SIDE
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure of ``count`` cells, as square as can be; each has axes for an image and for a note below it."""
    tile = 1.9 * side if style and style.side_by_side else side
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell = NAME_HEIGHT + side + note_height + GAP
    width = max(columns * tile + (columns - 1) * GAP + 2 * MARGIN, 3.4)
    head = HEAD + extra_head(title, width)
    height = head + rows * cell + foot_height(style, model, width) + MARGIN
    left = (width - columns * tile - (columns - 1) * GAP) / 2
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    add_heading(figure, title, model)
    cells = []
    for i in range(count):
        row, column = divmod(i, columns)
        x, top = left + column * (tile + GAP), height - head - row * cell - NAME_HEIGHT
        axes = figure.add_axes((x / width, (top - side) / height, tile / width, side / height))
        below = figure.add_axes((x / width, (top - side - note_height) / height, tile / width, note_height / height))
        below.axis("off")
        cells.append((axes, below))
    if style:
        add_legend(figure, style, model)
    return figure, cells


def _show(axes: Axes, tile: Tile) -> None:
    axes.imshow(tile.image, interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    axes.set_title(shorten(tile.name, 34), fontsize=8, color=PALE, pad=3)
    draw_boxes(axes, tile.boxes)
    mark_spines(axes, tile.incorrect)
    if tile.incorrect:
        mark = {"facecolor": INCORRECT, "edgecolor": "none", "pad": 2.5}
        text = f"✗ true: {shorten(tile.true or '', 20)}"
        axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8.5, color="white", bbox=mark)


def draw_boxes(axes: Axes, boxes: Sequence[Box], small: bool = False) -> None:
    """Draw boxes, best first: the best are drawn last, on top, and only they are named.

    Args:
        axes: that show the image.
        boxes: at most 12 of them are named.
        small: name none of them.
    """
    for rank, box in reversed(list(enumerate(boxes))):
        left, top, right, bottom = box.edges
        color = hsv_to_rgb((0.61803 * box.class_index % 1, 0.75, 0.95))  # neighbors in the list of classes differ most
        line = 0.8 if small else 1.6
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=color, linewidth=line))
        if not small and rank < NAMED_BOXES:
            mark = {"facecolor": color, "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
            above = "bottom" if top > 12 else "top"
            axes.text(left, top, shorten(box.text, 24), fontsize=7, va=above, clip_on=True, bbox=mark)
