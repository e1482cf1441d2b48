"""A table of heatmaps: images as rows, methods as columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from crackcam.render.figures.layout import (
    DPI,
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
from crackcam.render.figures.tiles import PlacedImage, Tile
from crackcam.render.overlays import Style
from crackcam.text import confidence_text, shorten

GAP, HEAD = 0.06, 0.75  # inches


class ComparisonRow(NamedTuple):
    """One image of a comparison.

    Attributes:
        tile: the image and its prediction.
        drawings: (H, W, 3) uint8, one for each method.
        captions: written on the drawings, one each; none where it is empty.
    """

    tile: Tile
    drawings: Sequence[np.ndarray]
    captions: Sequence[str] = ()


def comparison(
    path: Path, title: str, columns: Sequence[str], rows: Sequence[ComparisonRow], style: Style, model: str = ""
) -> None:
    """Draw a table of images: one row for each, the image itself first, then its heatmap by each method.

    Args:
        path: of the PNG file.
        title: at the top.
        columns: headings: of the images, then the names of the methods.
        rows: at least one.
        style: of the heatmaps; without a unit, no color bar is drawn.
        model: the model that is explained, see :func:`model_label`.
    """
    side = 2.6 if rows[0].tile.boxes else 1.45
    width = 2 * MARGIN + len(columns) * (side + GAP) - GAP
    head = HEAD + extra_head(title, width)
    height = head + len(rows) * (side + GAP) + max(foot_height(style, model, width), MARGIN)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    add_heading(figure, title, model)
    for r, row in enumerate(rows):
        for c, image in enumerate([row.tile.image, *row.drawings]):
            x, y = MARGIN + c * (side + GAP), height - head - r * (side + GAP) - side
            shown = PlacedImage(figure, image, Bbox.from_bounds(x, y, side, side))
            shown.draw_boxes(row.tile.boxes, small=c > 0)
            if row.tile.incorrect and c == 0:
                shown.frame(2.5)
            if c == 0 and not row.tile.boxes:
                confidence = confidence_text(row.tile.probabilities[row.tile.predicted])
                _caption(shown, f"{shorten(row.tile.predicted, 12)} {confidence}", row.tile.incorrect)
            elif c and row.captions:
                _caption(shown, row.captions[c - 1])
            if r == 0:
                size = min(8.5, 115 / max(len(columns[c]), 1))  # long names fit their column
                shown.write_above(columns[c], 4, fontsize=size, color=INK if c else PALE)
    add_legend(figure, style, model)
    save(figure, path)


def _caption(shown: PlacedImage, text: str, incorrect: bool = False) -> None:
    box = {"facecolor": INCORRECT if incorrect else "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.5}
    shown.write(0.04, 0.05, text, fontsize=6.5, color="white", bbox=box)
