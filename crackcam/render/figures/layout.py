"""What all figures share: colors, heading and footer, the color bar, atomic writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from crackcam.files import write_atomically
from crackcam.models.checkpoint import BUNDLED
from crackcam.render.overlays import Style
from crackcam.text import shorten

INK, PALE, GRID, GREY = "#222222", "#777777", "#e8e8e8", "#b9b9b9"
CORRECT, INCORRECT = "#2b6ca3", "#c22f2f"  # also: evidence against a class, and for it
DPI = 120
MARGIN = 0.15  # inches around a grid
CHARACTERS = 10.5  # of a heading, to the inch


def model_label(arch: str, checkpoint: Path | str | None = None) -> str:
    """The model that a figure or a page was made by.

    Args:
        arch: name of its architecture.
        checkpoint: its file, or where its weights come from.

    Examples:
        >>> model_label("resnet18", "weights/model.safetensors")
        'resnet18, weights/model.safetensors'
        >>> model_label("resnet18", BUNDLED)
        'resnet18, bundled network (crack_resnet18.safetensors)'
    """
    if checkpoint is not None and Path(checkpoint) == BUNDLED:
        return f"{arch}, bundled network ({BUNDLED.name})"
    return f"{arch}, {checkpoint}" if checkpoint else arch


def add_heading(figure: Figure, title: str, model: str) -> None:
    """Write the title at the top of a figure, and at its foot the model that made it."""
    width, height = figure.get_size_inches()
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    figure.text(0.5, 1 - 0.28 / height, shorten(title, int(width * CHARACTERS)), fontsize=10.5, color=INK, **middle)
    if model:
        text = shorten(f"Model: {model}", int(width * 1.35 * CHARACTERS))
        figure.text(0.5, 0.14 / height, text, fontsize=7.5, color=PALE, **middle)


def foot_height(style: Style | None, model: str) -> float:
    """Inches below the images of a figure: for the color bar of a style, and for the name of the model."""
    return (0.5 if style and style.unit else 0.0) + (0.17 if model else 0.0)


def add_color_bar(figure: Figure, style: Style, model: str) -> None:
    """Show what the colors of a heatmap stand for, at the foot of a figure; nothing for a style without a unit."""
    if not style.unit:
        return
    width, height = figure.get_size_inches()
    bottom = 0.36 + (0.17 if model else 0.0)
    axes = figure.add_axes(((width / 2 - 1.2) / width, bottom / height, 2.4 / width, 0.1 / height))
    scale = figure.colorbar(ScalarMappable(cmap=style.colormap), cax=axes, orientation="horizontal", ticks=[0, 0.5, 1])
    scale.set_label(style.unit, fontsize=7.5, color=PALE, labelpad=1)
    scale.ax.tick_params(labelsize=7, color=PALE, labelcolor=PALE, length=2, pad=1)
    scale.outline.set_visible(False)


def mark_spines(axes: Axes, incorrect: bool, width: float = 3) -> None:
    """Frame an image in red where its prediction is incorrect; no frame elsewhere."""
    for spine in axes.spines.values():
        spine.set(color=INCORRECT, linewidth=width) if incorrect else spine.set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    # Pillow's default takes three times as long for 4 % less.
    faster = {"compress_level": 4}
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", pil_kwargs=faster))
