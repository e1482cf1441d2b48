"""Heat maps, refined by the picture that they were made from, or by what is looked for.

A map comes from a coarse grid; what it shows ends where the picture's own edges are (``guided``). What is thin and long
has heat along a line, not in specks (``lines``). Refining is a step of its own, after explaining: it does not ask the
network. It keeps the unit of the map, so that thresholds hold.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

RADIUS = 1 / 28  # of a window, as a share of the picture's longer side: half a cell of a grid of 14
DIRECTIONS = 16  # of lines
EDGE = 0.03  # differences of brightness, in 0..1, that are smoothed away rather than followed


def refine(name: str, heat: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """A map that follows the picture, or lines.

    Each pixel stays between the least and the greatest heat around it: what was cold all around stays cold.

    Args:
        name: one of :data:`crackcam.methods.REFINEMENTS`.
        heat: (H, W) float32, >= 0, in whatever unit.
        picture: (H, W, 3) uint8.

    Returns:
        (H, W) float32 in the same unit.
    """
    radius = max(1, round(RADIUS * max(heat.shape)))
    refined = REFINERS[name](heat, picture, radius)
    window = np.ones((4 * radius + 1, 1), np.uint8)  # rows, then columns
    low, high = (extreme(extreme(heat, window), window.T) for extreme in (cv2.erode, cv2.dilate))
    return np.clip(refined, low, high)


def guided(heat: np.ndarray, picture: np.ndarray, radius: int) -> np.ndarray:
    """The guided filter: in every window the map becomes a linear function of the picture's brightness.

    He, Sun and Tang, Guided Image Filtering, ECCV 2010.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    mean_grey, mean_heat = mean(grey), mean(heat)
    slope = (mean(grey * heat) - mean_grey * mean_heat) / (mean(grey * grey) - mean_grey**2 + EDGE**2)
    offset = mean_heat - slope * mean_grey
    return mean(slope) * grey + mean(offset)


def lines(heat: np.ndarray, picture: np.ndarray, radius: int) -> np.ndarray:
    """The largest of the averages along short lines through a pixel: gaps in a line close, specks fade.

    Lines are soft: Gaussians, half the radius long and a tenth of it wide.
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    best = np.zeros_like(heat)
    for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        line = np.exp(-((along / (radius / 2)) ** 2 + (across / max(radius / 10, 0.7)) ** 2) / 2)
        best = np.maximum(best, cv2.filter2D(heat, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT))
    return best


REFINERS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {"guided": guided, "lines": lines}
