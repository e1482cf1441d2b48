"""A table of heatmaps: images as rows, methods as columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crackcam.render.figures.grids import Tile, draw_boxes
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
    mark_spines,
    save,
)
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
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            axes.imshow(image, interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            draw_boxes(axes, row.tile.boxes, small=c > 0)
            mark_spines(axes, row.tile.incorrect and c == 0, 2.5)
            if c == 0 and not row.tile.boxes:
                confidence = confidence_text(row.tile.probabilities[row.tile.predicted])
                _caption(axes, f"{shorten(row.tile.predicted, 12)} {confidence}", row.tile.incorrect)
            elif c and row.captions:
                _caption(axes, row.captions[c - 1])
            if r == 0:
                size = min(8.5, 115 / max(len(columns[c]), 1))  # long names fit their column
                axes.set_title(columns[c], fontsize=size, color=INK if c else PALE, pad=4)
    add_legend(figure, style, model)
    save(figure, path)


def _caption(axes: Axes, text: str, incorrect: bool = False) -> None:
    box = {"facecolor": INCORRECT if incorrect else "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.5}
    axes.text(0.04, 0.05, text, transform=axes.transAxes, fontsize=6.5, color="white", bbox=box)
