"""Grad-CAM on one image, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crackcam.render.figures.layout import CORRECT, DPI, GREY, INCORRECT, INK, PALE, save
from crackcam.render.figures.tiles import Tile
from crackcam.text import confidence_text, shorten, wrap


@dataclass(frozen=True)
class AnatomySteps:
    """What Grad-CAM (arXiv:1610.02391) computes on the way from an image to its overlay.

    Attributes:
        target: name of the explained class.
        activations: (C, h, w) float32, output of the target layer.
        gradients: (C, h, w) float32, of the class's logit with respect to the activations.
        weights: (C,) float32, mean gradient of each channel.
        weighted_sum: (h, w) float32, of the activations, before the ReLU.
        overlay: (H, W, 3) uint8, the heatmap over the image.
    """

    target: str
    activations: np.ndarray
    gradients: np.ndarray
    weights: np.ndarray
    weighted_sum: np.ndarray
    overlay: np.ndarray

    @property
    def contributions(self) -> np.ndarray:
        """(C,) float32: what each channel adds to the mean of the weighted sum."""
        return self.weights * self.activations.mean(axis=(1, 2))

    @property
    def extremes(self) -> list[int]:
        """The channels that support the class most, and the two that oppose it most; all where there are few."""
        order = np.argsort(-self.contributions, kind="stable").tolist()
        return [*order[:3], *order[-2:]] if len(order) > 5 else order

    @property
    def uniform(self) -> bool:
        """Whether the gradient of each channel is the same at all positions."""
        difference = np.abs(self.gradients - self.weights[:, None, None]).max()
        return bool(difference <= 1e-3 * np.abs(self.weights).max())


def anatomy(path: Path, title: str, tile: Tile, steps: AnatomySteps, model: str = "") -> None:
    """Draw Grad-CAM on one image, step by step.

    Args:
        path: of the PNG file.
        title: at the top.
        tile: the image and its prediction.
        steps: shown one below the other.
        model: the model that is explained, see :func:`model_label`.
    """
    figure = Figure(figsize=(11.5, 8.4), dpi=DPI, facecolor="white")
    lines = wrap(title, 120)
    size = 11.5 if len(lines) == 1 else 19 / len(lines)  # in the same place
    figure.text(0.5, 0.968, "\n".join(lines), ha="center", va="center", fontsize=size, color=INK)
    _draw_channels(figure, tile, steps)
    _draw_sum(figure, steps)
    if model:
        text = shorten(f"Model: {model}", 160)
        figure.text(0.5, 0.014, text, ha="center", va="center", fontsize=7.5, color=PALE)
    save(figure, path)


def _draw_channels(figure: Figure, tile: Tile, steps: AnatomySteps) -> None:
    """Steps 1 and 2: activations and gradients of a few channels."""
    count, height, width = steps.activations.shape
    text = f"Activations: {count:,} channels of {height} x {width}. Where does each channel respond to the image?"
    _step(figure, 1, 0.925, text)
    predicted = f"predicted: {shorten(tile.predicted, 18)} {confidence_text(tile.probabilities[tile.predicted])}"
    _image(_panel(figure, (0.03, 0.68, 0.19, 0.2), predicted), tile.image)
    target = shorten(steps.target, 24)
    text = f"Gradient of the logit of {target}: where would a higher activation raise it (red) or lower it (blue)?"
    _step(figure, 2, 0.635, text)
    if steps.uniform:
        text = "It is the same everywhere:\nthe layers above only average\nover the positions."
        figure.text(0.045, 0.5, text, fontsize=8, color=PALE, va="center")
    contributions = steps.contributions
    for column, channel in enumerate(steps.extremes):
        x, effect = 0.25 + 0.15 * column, "supports" if contributions[channel] > 0 else "opposes"
        activations = steps.activations[channel]
        panel = _panel(figure, (x, 0.7, 0.125, 0.17), f"channel {channel}: {effect}")
        _draw(panel, activations, signed=bool(activations.min() < 0))
        panel = _panel(figure, (x, 0.42, 0.125, 0.17), f"mean {float(steps.weights[channel]):+.2g}")
        _draw(panel, steps.gradients[channel], signed=True)


def _draw_sum(figure: Figure, steps: AnatomySteps) -> None:
    """Step 3: from the weights to the overlay."""
    count, (height, width) = len(steps.weights), steps.weighted_sum.shape
    text = (
        "Weighted sum: a channel's weight is its mean gradient. ReLU keeps the evidence for "
        f"{shorten(steps.target, 24)}."
    )
    _step(figure, 3, 0.36, text)
    histogram = _panel(figure, (0.05, 0.075, 0.24, 0.225), f"weights of {count:,} channels")
    _draw_weights(histogram, steps.weights, steps.extremes)
    panel = _panel(figure, (0.33, 0.075, 0.19, 0.225), f"weighted sum, {height} x {width}")
    _draw(panel, steps.weighted_sum, signed=True, bar=True)
    panel = _panel(figure, (0.565, 0.075, 0.19, 0.225), "after ReLU")
    _draw(panel, np.maximum(steps.weighted_sum, 0), bar=True)
    _image(_panel(figure, (0.79, 0.075, 0.19, 0.225), "upsampled, over the image"), steps.overlay)


def _step(figure: Figure, number: int, y: float, text: str) -> None:
    figure.text(0.02, y, f"{number}", fontsize=15, color=CORRECT, va="center", weight="bold")
    figure.text(0.045, y, text, fontsize=9, color=INK, va="center")


def _panel(figure: Figure, box: tuple[float, float, float, float], heading: str) -> Axes:
    axes = figure.add_axes(box)
    axes.set_title(heading, fontsize=8, color=INK, pad=4)
    axes.tick_params(labelsize=6.5, colors=PALE)
    for spine in axes.spines.values():
        spine.set(color="#cccccc", linewidth=0.6)
    return axes


def _image(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])


def _draw(axes: Axes, values: np.ndarray, signed: bool = False, bar: bool = False) -> None:
    """A grid of values: from blue to red where they are signed, else from dark to bright."""
    limit = float(np.abs(values).max()) or 1.0
    low, colormap = (-limit, "RdBu_r") if signed else (0.0, "inferno")
    drawn = axes.imshow(values, cmap=colormap, vmin=low, vmax=limit)
    axes.set(xticks=[], yticks=[])
    if bar and axes.figure:
        scale = axes.figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03)
        scale.ax.tick_params(labelsize=6, color=PALE, labelcolor=PALE)
        scale.outline.set_visible(False)


def _draw_weights(axes: Axes, weights: np.ndarray, named: list[int]) -> None:
    """A histogram of channel weights, some of them named."""
    axes.hist(weights, bins=min(41, max(5, len(weights) // 8)), color=GREY)
    axes.axvline(0, color=INK, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    axes.xaxis.get_offset_text().set(size=6.5, color=PALE)
    top = axes.get_ylim()[1]
    for rank, channel in enumerate(sorted(named, key=lambda channel: weights[channel])):
        color, height = INCORRECT if weights[channel] > 0 else CORRECT, top * (0.9 - 0.13 * (rank % 5))
        axes.plot([weights[channel]] * 2, [0, height], color=color, linewidth=0.8)
        side = "right" if weights[channel] > 0 else "left"
        legible = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}  # over the line of its neighbor
        axes.text(weights[channel], height, f" {channel} ", fontsize=6.5, color=color, ha=side, bbox=legible)
