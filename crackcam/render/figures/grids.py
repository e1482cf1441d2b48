"""Grids of images: with probabilities, under heatmaps, with the boxes of a detector."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

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
    save,
)
from crackcam.render.figures.tiles import Box, PlacedImage, Tile, rectangle, write
from crackcam.render.overlays import Style
from crackcam.text import confidence_text, percent, shorten
from crackcam.types import Prediction

SIDE = 2.7  # inches of an image
GAP, NAME_HEIGHT, HEAD = 0.12, 0.24, 0.5  # inches
BARS, MOST = 3, 10  # classes whose probability is shown: by default, and however many are asked for


class Cell(NamedTuple):
    """Where a tile of a grid is: its image and the lines below it, in inches from the lower left corner."""

    image: Bbox
    note: Bbox


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
    for tile, cell in zip(tiles, cells, strict=True):
        _show(figure, tile, cell.image)
        lines = zip(_lines(cell.note, bars), tile.probabilities.items(), strict=False)
        for i, (line, (name, probability)) in enumerate(lines):
            color = GREY if i else INCORRECT if tile.incorrect else CORRECT
            _bar(figure, line, 1, color="#f0f0f0")
            _bar(figure, line, probability, color=color, alpha=0.55)
            _write(figure, line, 0.02, shorten(name, 24), fontsize=8, color=INK)
            _write(figure, line, 0.98, confidence_text(probability), ha="right", fontsize=8, color=INK)
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
    for tile, cell in zip(tiles, cells, strict=True):
        _show(figure, tile, cell.image)
        below = _lines(cell.note, rows)
        for i, (name, probability) in enumerate(list(tile.probabilities.items())[:lines]):
            text = f"{'' if lines > 1 else 'predicted: '}{shorten(name, 22)} {confidence_text(probability)}"
            color = PALE if i else INCORRECT if tile.incorrect else INK
            _write(figure, below[i], 0.5, text, ha="center", fontsize=8 if i else 8.5, color=color)
        for line, text in zip(below[lines:], tile.note.splitlines(), strict=False):
            _write(figure, line, 0.5, text, ha="center", fontsize=8, color=PALE)
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
    for tile, cell in zip(tiles, cells, strict=True):
        _show(figure, tile, cell.image)
        _write(figure, cell.note, 0.5, shorten(tile.note, int(16 * side)), ha="center", fontsize=8, color=INK)
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
) -> tuple[Figure, list[Cell]]:
    """A figure of ``count`` cells, as square as can be."""
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
        note = Bbox.from_bounds(x, top - side - note_height, tile, note_height)
        cells.append(Cell(Bbox.from_bounds(x, top - side, tile, side), note))
    if style:
        add_legend(figure, style, model)
    return figure, cells


def _show(figure: Figure, tile: Tile, place: Bbox) -> None:
    shown = PlacedImage(figure, tile.image, place)
    shown.write_above(shorten(tile.name, 34), 3, fontsize=8, color=PALE)
    shown.draw_boxes(tile.boxes)
    if tile.incorrect:
        shown.frame()
        mark = {"facecolor": INCORRECT, "edgecolor": "none", "pad": 2.5}
        text = f"✗ true: {shorten(tile.true or '', 20)}"
        shown.write(0.03, 0.97, text, va="top", fontsize=8.5, color="white", bbox=mark)


def _lines(note: Bbox, count: int) -> list[Bbox]:
    """The lines of a note, from the top; a little of it stays empty below the image."""
    pitch = note.height / (count + 0.2)
    return [Bbox.from_bounds(note.x0, note.y1 - (i + 1.1) * pitch, note.width, pitch) for i in range(count)]


def _write(figure: Figure, line: Bbox, x: float, text: str, **style: Any) -> None:
    write(figure, line.x0 + x * line.width, (line.y0 + line.y1) / 2, text, va="center", **style)


def _bar(figure: Figure, line: Bbox, share: float, **style: Any) -> None:
    box = Bbox.from_bounds(line.x0, line.y0 + 0.09 * line.height, share * line.width, 0.82 * line.height)
    figure.add_artist(rectangle(figure, box, linewidth=0, **style))
