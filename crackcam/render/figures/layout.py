"""What all figures share: colors, heading and footer, the color bar, atomic writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from crackcam.files import write_atomically
from crackcam.models.checkpoint import BUNDLED
from crackcam.render.figures.fonts import fonts_for
from crackcam.render.overlays import Style
from crackcam.text import wrap

INK, PALE, GRID, GREY = "#222222", "#777777", "#e8e8e8", "#b9b9b9"
CORRECT, INCORRECT = "#2b6ca3", "#c22f2f"  # also: evidence against a class, and for it
DPI = 120
MARGIN = 0.15  # inches around a grid
CHARACTERS = 10.5  # of a heading, to the inch
SMALL_CHARACTERS = 14.2  # of a line at the foot, to the inch
LINE, SMALL_LINE = 0.19, 0.13  # inches from one line of a heading, and of the foot, to the next
LONGEST = 1000  # characters of a heading
LARGEST, LONGEST_SIDE = 64e6, 30_000  # pixels of a figure, and of its sides; larger ones get a lower resolution


def model_label(arch: str, checkpoint: Path | str | None = None) -> str:
    """The model that a figure or a page was made by.

    Args:
        arch: name of its architecture.
        checkpoint: its file, or where its weights come from.

    Examples:
        >>> model_label("resnet18", "weights/model.safetensors")
        'resnet18, weights/model.safetensors'
        >>> model_label("timm/tf_efficientnet_lite2", BUNDLED)
        'timm/tf_efficientnet_lite2, bundled network (crack_efficientnet_lite2.safetensors)'
    """
    if checkpoint is not None and Path(checkpoint) == BUNDLED:
        return f"{arch}, bundled network ({BUNDLED.name})"
    return f"{arch}, {checkpoint}" if checkpoint else arch


def heading(title: str, width: float) -> list[str]:
    """The lines of a heading as wide as a figure, in inches."""
    return wrap(title[:LONGEST], width * CHARACTERS)


def model_lines(model: str, width: float) -> list[str]:
    """The lines at the foot of a figure that name the model; none without one."""
    return wrap(f"Model: {model[:LONGEST]}", width * SMALL_CHARACTERS) if model else []


def extra_head(title: str, width: float) -> float:
    """Inches that a heading needs beyond those of a single line."""
    return (len(heading(title, width)) - 1) * LINE


def add_heading(figure: Figure, title: str, model: str) -> None:
    """Write the title at the top of a figure, and at its foot the model that made it."""
    width, height = figure.get_size_inches()
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    lines, below = heading(title, width), model_lines(model, width)
    for i, line in enumerate(lines):
        figure.text(0.5, 1 - (0.28 + i * LINE) / height, line, fontsize=10.5, color=INK, **middle)
    for i, line in enumerate(reversed(below)):
        figure.text(0.5, (0.14 + i * SMALL_LINE) / height, line, fontsize=7.5, color=PALE, **middle)


def _model_height(model: str, width: float) -> float:
    lines = len(model_lines(model, width))
    return 0.17 + (lines - 1) * SMALL_LINE if lines else 0.0


def foot_height(style: Style | None, model: str, width: float) -> float:
    """Inches below the images of a figure: for the legend of a style, and for the name of the model."""
    legend = wrap(style.unit, width * SMALL_CHARACTERS) if style and style.unit else []
    bar = 0.37 if style and style.bar else 0.08
    return (bar + len(legend) * SMALL_LINE if legend else 0.0) + _model_height(model, width)


def add_legend(figure: Figure, style: Style, model: str) -> None:
    """Show what the colors of a heatmap stand for, at the foot of a figure; nothing for a style without a unit."""
    if not style.unit:
        return
    width, height = figure.get_size_inches()
    legend = wrap(style.unit, width * SMALL_CHARACTERS)
    base = _model_height(model, width)
    for i, line in enumerate(reversed(legend)):
        y = (base + 0.12 + i * SMALL_LINE) / height
        figure.text(0.5, y, line, fontsize=7.5, color=PALE, ha="center", va="center")
    if not style.bar:
        return
    bottom = base + 0.23 + len(legend) * SMALL_LINE
    axes = figure.add_axes(((width / 2 - 1.2) / width, bottom / height, 2.4 / width, 0.1 / height))
    scale = figure.colorbar(ScalarMappable(cmap=style.colormap), cax=axes, orientation="horizontal", ticks=[0, 0.5, 1])
    scale.ax.tick_params(labelsize=7, color=PALE, labelcolor=PALE, length=2, pad=1)
    scale.outline.set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    # Pillow's default takes three times as long for 4 % less.
    faster = {"compress_level": 4}
    dpi = resolution(*figure.get_size_inches())
    with fonts_for(figure):
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi, pil_kwargs=faster))


def resolution(width: float, height: float) -> float:
    """Dots per inch of a figure of some inches: fewer where it would be too large to open."""
    return min(DPI, (LARGEST / (width * height)) ** 0.5, LONGEST_SIDE / max(width, height))
