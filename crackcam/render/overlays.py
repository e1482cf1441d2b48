"""Heatmaps and regions drawn over images."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image

from crackcam.errors import UserError
from crackcam.methods import STYLES

if TYPE_CHECKING:
    from crackcam.evaluation.regions import Measurement
    from crackcam.types import Box

SHOWN_SIDE = 480  # pixels of an image in a tile
NUMBERED = 60  # regions: more numbers would hide the image
MASKED = (90, 220, 120)  # RGB of a mask's outline
OPACITY = 0.75  # of a heatmap at its maximum
RELATIVE = "relative to the maximum of each image"  # what 0..1 of a heatmap's colors stands for
LINES = "lines at 25, 50 and 75 %"  # of contours
PROBABILITY = "probability of the class at each position"


class Style(NamedTuple):
    """How a heatmap is shown.

    Attributes:
        name: one of ``--style``: overlay, edges, sidebyside, contours, mask.
        colormap: from low to high values.
        unit: what 0..1 of the colors stands for; empty where they need no legend.
        bar: whether the legend shows the colors.
    """

    name: str
    colormap: Colormap
    unit: str = f"heatmap, {RELATIVE}"
    bar: bool = True

    @property
    def side_by_side(self) -> bool:
        """Whether the image stands beside the heatmap, so that a tile is twice as wide."""
        return self.name in ("edges", "sidebyside")


def choose_style(name: str, colormap: str | None) -> Style:
    """The style by its name, with its own colormap unless another one is asked for.

    Raises:
        UserError: there is no such style; or matplotlib has no such colormap, those with similar names are listed.
    """
    if name not in STYLES:
        raise UserError(f"no style {name!r}; available: {', '.join(STYLES)}")
    colormap = colormap or {"edges": "coolwarm"}.get(name, "inferno")
    if colormap not in colormaps:
        close = difflib.get_close_matches(colormap, list(colormaps), n=5, cutoff=0.4)
        raise UserError(f"matplotlib has no colormap {colormap!r}; close to it: {', '.join(close) or 'none'}")
    style = Style(name, colormaps[colormap])
    if name == "contours":
        return style._replace(unit=f"{LINES} of each image's maximum", bar=False)
    return style._replace(unit="") if name == "mask" else style  # which shows regions in the image's own colors


def draw_heatmap(image: np.ndarray, heatmap: np.ndarray, style: Style) -> np.ndarray:
    """Draw a heatmap as the style shows it; for ``mask``, see :func:`draw_regions`.

    Args:
        image: (H, W, 3) uint8.
        heatmap: (H, W) float in [0, 1].
        style: see :func:`choose_style`.

    Returns:
        (H, W, 3) uint8, without the image beside it.
    """
    heatmap = np.clip(heatmap, 0, 1)
    color = np.rint(style.colormap(heatmap)[..., :3] * 255).astype(np.uint8)
    if style.name == "sidebyside":
        return color
    if style.name == "edges":
        outline = 255 - cv2.Canny(cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (5, 5), 0), 60, 140)
        return np.rint(0.4 * outline[..., None] + 0.6 * color).astype(np.uint8)
    if style.name == "contours":
        return _contours(image, heatmap, style.colormap)
    cover = opacity(heatmap)[..., None]
    return np.rint(image * (1 - cover) + color * cover).astype(np.uint8)


def opacity(heatmap: np.ndarray) -> np.ndarray:
    """How much of the image a heatmap in [0, 1] covers: nothing where it is 0, at most 3/4."""
    return OPACITY * heatmap**0.7


def draw_regions(image: np.ndarray, measurement: Measurement, colormap: Colormap, side: int = SHOWN_SIDE) -> np.ndarray:
    """Draw the regions of an image: lightly tinted, outlined around, a box for each, with its number.

    Args:
        image: (H, W, 3) uint8, of the measurement's size.
        measurement: the regions.
        colormap: whose bright part is the tint.
        side: longer side of the result; a small image is enlarged, so that lines stay fine.

    Returns:
        (h, w, 3) uint8.
    """
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(scale * length)) for length in image.shape[1::-1])
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tint = np.array(colormap(0.75)[:3]) * 255
    cover = 0.35 * cv2.resize(measurement.mask.astype(np.float32), size, interpolation=shrinks)[..., None]
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    drawn = np.rint(shown * (1 - cover) + tint * cover).astype(np.uint8)
    width = max(2, round(side / 400))
    gap = width + 2
    outlines = _around(cover[..., 0] > 0, gap)
    for color, thickness in (((0, 0, 0), width + 2), (tint.tolist(), width)):
        cv2.drawContours(drawn, outlines, -1, color, thickness, cv2.LINE_AA)
    for box in measurement.boxes:
        corners = [round(scale * edge) for edge in _edges(box)]
        left, top = (max(0, corner - 2 * gap) for corner in corners[:2])
        right, bottom = (min(end - 1, corner + 2 * gap) for end, corner in zip(size, corners[2:], strict=True))
        cv2.rectangle(drawn, (left, top), (right, bottom), (255, 255, 255), max(1, width // 2))
    _draw_numbers(drawn, measurement, cover[..., 0] > 0)
    return drawn


def _around(covered: np.ndarray, gap: int) -> Sequence[np.ndarray]:
    """Outlines of regions, (h, w) bool, some pixels outside them: on a narrow crack they would hide it."""
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * gap + 1, 2 * gap + 1))
    grown = cv2.dilate(np.pad(covered, gap).astype(np.uint8), element)
    lines, _ = cv2.findContours(grown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(-gap, -gap))
    return lines


def _draw_numbers(drawn: np.ndarray, measurement: Measurement, covered: np.ndarray) -> None:
    """Write the numbers of the largest regions beside their boxes, where they cover the least of all regions.

    Args:
        drawn: (h, w, 3) uint8, changed in place.
        measurement: the regions, of an image of any size.
        covered: (h, w) bool, where the regions are drawn.
    """
    size, taken = drawn.shape[1::-1], covered.astype(np.uint8)
    scale = size[0] / measurement.mask.shape[1]
    font, height = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, max(size) / 1200)
    for region in measurement.regions[:NUMBERED]:
        text, thick = str(region.number), max(1, round(2 * height))
        (wide, high), _ = cv2.getTextSize(text, font, height, thick)
        wide, high = wide + 2 * thick + 2, high + 2 * thick + 4
        left, top, right, bottom = (round(scale * edge) for edge in _edges(region.box))
        corners = [
            (x, y)
            for y in (top - high - 4, bottom + 4, top, bottom - high)
            for x in (left - 2, right - wide + 2, right + 4, left - wide - 4)
        ]
        inside = [(min(max(x, 0), size[0] - wide), min(max(y, 0), size[1] - high)) for x, y in corners]
        x, y = min(inside, key=lambda at: int(taken[at[1] : at[1] + high, at[0] : at[0] + wide].sum()))
        if x < 0 or y < 0:  # the image is smaller than a number
            continue
        taken[y : y + high, x : x + wide] = 1
        cv2.rectangle(drawn, (x, y), (x + wide - 1, y + high - 1), (255, 255, 255), -1)
        at = (x + thick + 1, y + high - thick - 2)
        cv2.putText(drawn, text, at, font, height, (0, 0, 0), thick, cv2.LINE_AA)


def _edges(box: Box) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box."""
    x, y, width, height = box
    return x, y, x + width, y + height


def _contours(image: np.ndarray, heatmap: np.ndarray, colormap: Colormap) -> np.ndarray:
    """Lines at a quarter, a half and three quarters of the range, each with a dark rim to stand out on anything."""
    drawn = image.copy()
    width = max(1, round(max(heatmap.shape) / 160))
    for level in (0.25, 0.5, 0.75):
        lines, _ = cv2.findContours((heatmap >= level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, (0, 0, 0), width + 2, cv2.LINE_AA)
        line = [round(255 * value) for value in colormap(0.4 + 0.6 * level)[:3]]
        cv2.drawContours(drawn, lines, -1, line, width, cv2.LINE_AA)
    return drawn


def side_by_side(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two images of one size side by side, with a white gap: (H, 2 W + gap, 3)."""
    gap = np.full((len(image), max(2, image.shape[1] // 60), 3), 255, np.uint8)
    return np.concatenate([image, gap, other], axis=1)


def thumbnail(image: np.ndarray, side: int = SHOWN_SIDE) -> np.ndarray:
    """The image, scaled down so that its longer side is at most ``side``."""
    small = Image.fromarray(image)
    small.thumbnail((side, side))
    return np.asarray(small)


def draw_mask_outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image with the outline of a mask, (H, W) bool, on it."""
    drawn = image.copy()
    small = cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    lines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, lines, -1, MASKED, max(1, round(max(image.shape[:2]) / 300)), cv2.LINE_AA)
