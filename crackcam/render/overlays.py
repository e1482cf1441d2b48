"""Heatmaps and regions drawn over images."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image

from crackcam.errors import UserError

if TYPE_CHECKING:
    from crackcam.evaluation.regions import Measurement

SHOWN_SIDE = 480  # pixels of a picture in a tile
MASKED = (90, 220, 120)  # RGB of a mask's outline


class Style(NamedTuple):
    """How a map is shown.

    Attributes:
        name: one of :data:`crackcam.methods.STYLES`.
        colours: of the heat.
        unit: what 0..1 of the colours stands for.
    """

    name: str
    colours: Colormap
    unit: str = "heat, relative to each picture's own maximum"

    @property
    def side_by_side(self) -> bool:
        """Whether the picture stands beside the map, so that a tile is twice as wide."""
        return self.name in ("edges", "sidebyside")


def choose_style(name: str, colormap: str | None) -> Style:
    """The style, with its own colours unless others are asked for.

    Raises:
        UserError: matplotlib has no such colormap; those with similar names are listed.
    """
    colormap = colormap or {"edges": "coolwarm"}.get(name, "inferno")
    if colormap not in colormaps:
        close = difflib.get_close_matches(colormap, list(colormaps), n=5, cutoff=0.4)
        raise UserError(f"matplotlib has no colormap {colormap!r}; close to it: {', '.join(close) or 'none'}")
    return Style(name, colormaps[colormap])


def draw_heatmap(picture: np.ndarray, heat: np.ndarray, style: Style) -> np.ndarray:
    """A map as the style shows it; what ``mask`` shows is :func:`marked`.

    Args:
        picture: (H, W, 3) uint8.
        heat: (H, W) in [0, 1].

    Returns:
        (H, W, 3) uint8, without the picture beside it.
    """
    heat = np.clip(heat, 0, 1)
    colour = np.rint(style.colours(heat)[..., :3] * 255).astype(np.uint8)
    if style.name == "sidebyside":
        return colour
    if style.name == "edges":
        outline = 255 - cv2.Canny(cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (5, 5), 0), 60, 140)
        return np.rint(0.4 * outline[..., None] + 0.6 * colour).astype(np.uint8)
    if style.name == "contours":
        return _contours(picture, heat, style.colours)
    cover = (0.75 * heat**0.7)[..., None]  # cold places stay as they are
    return np.rint(picture * (1 - cover) + colour * cover).astype(np.uint8)


def draw_regions(picture: np.ndarray, finding: Measurement, colours: Colormap, side: int = SHOWN_SIDE) -> np.ndarray:
    """A picture with what was found in it: tinted and outlined, a box around each part.

    Args:
        picture: (H, W, 3) uint8, of the finding's size.
        finding: what was found.
        colours: whose bright part is the tint.
        side: longer side of the result; a small picture is enlarged, so that lines stay fine.

    Returns:
        (h, w, 3) uint8.
    """
    scale = side / max(picture.shape[:2])
    size = tuple(max(1, round(scale * length)) for length in picture.shape[1::-1])
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tint = np.array(colours(0.75)[:3]) * 255
    cover = 0.35 * cv2.resize(finding.mask.astype(np.float32), size, interpolation=shrinks)[..., None]
    shown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    drawn = np.rint(shown * (1 - cover) + tint * cover).astype(np.uint8)
    lines, _ = cv2.findContours(finding.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    fine = [np.rint(((line + 0.5) * scale - 0.5) * 16).astype(np.int32) for line in lines]
    width = max(1, round(side / 240))
    for colour, thickness in (((0, 0, 0), width + 2), (tint.tolist(), width)):
        cv2.polylines(drawn, fine, True, colour, thickness, cv2.LINE_AA, shift=4)
    for x, y, wide, high in finding.boxes:
        corners = [round(scale * edge) for edge in (x, y, x + wide, y + high)]
        left, top = (max(0, corner - 2 * width) for corner in corners[:2])
        right, bottom = (min(end - 1, corner + 2 * width) for end, corner in zip(size, corners[2:], strict=True))
        cv2.rectangle(drawn, (left, top), (right, bottom), (255, 255, 255), max(1, width // 2))
    return drawn


def _contours(picture: np.ndarray, heat: np.ndarray, colours: Colormap) -> np.ndarray:
    """Lines where the heat is a quarter, a half and three quarters, each with a dark rim to stand out on anything."""
    drawn = picture.copy()
    width = max(1, round(max(heat.shape) / 160))
    for level in (0.25, 0.5, 0.75):
        lines, _ = cv2.findContours((heat >= level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, (0, 0, 0), width + 2, cv2.LINE_AA)
        line = [round(255 * value) for value in colours(0.4 + 0.6 * level)[:3]]
        cv2.drawContours(drawn, lines, -1, line, width, cv2.LINE_AA)
    return drawn


def side_by_side(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two pictures of one size side by side, with a white gap: (H, 2 W + gap, 3)."""
    gap = np.full((len(picture), max(2, picture.shape[1] // 60), 3), 255, np.uint8)
    return np.concatenate([picture, gap, other], axis=1)


def thumbnail(picture: np.ndarray, side: int = SHOWN_SIDE) -> np.ndarray:
    """The picture, scaled down to what a tile shows."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def draw_mask_outline(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with the outline of a mask, (H, W) bool, on it."""
    drawn = picture.copy()
    small = cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    lines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(drawn, lines, -1, MASKED, max(1, round(max(picture.shape[:2]) / 300)), cv2.LINE_AA)
