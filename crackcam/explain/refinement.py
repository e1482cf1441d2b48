"""Refinement of heatmaps after the explanation, without running the model again. The unit is kept: thresholds hold."""

from __future__ import annotations

import cv2
import numpy as np

RADIUS = 16  # pixels; of a line, whatever the image's size: cracks of a larger image are not wider
DIRECTIONS = 16


def refine_lines(heatmap: np.ndarray) -> np.ndarray:
    """Make a heatmap follow thin lines: gaps in a line close, specks fade.

    Each pixel becomes the largest of the averages along short, soft lines through it: Gaussians, half the radius long
    and a tenth of it wide. It stays between the minimum and the maximum of its neighbourhood, so that what is zero all
    around stays zero.

    Args:
        heatmap: (H, W) float32, >= 0, in any unit, at the size of the image.

    Returns:
        (H, W) float32 in the same unit.

    Examples:
        >>> import numpy as np
        >>> heatmap = np.zeros((224, 224), np.float32)
        >>> heatmap[112, 28:196] = 1
        >>> heatmap[112, 112:116] = 0  # a gap
        >>> bool(refine_lines(heatmap)[112, 114] > 0.25)
        True
    """
    refined = _largest_line_average(heatmap, RADIUS)
    window = np.ones((4 * RADIUS + 1, 1), np.uint8)  # rows, then columns
    low, high = (extreme(extreme(heatmap, window), window.T) for extreme in (cv2.erode, cv2.dilate))
    return np.clip(refined, low, high)


def _largest_line_average(heatmap: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    largest = np.zeros_like(heatmap)
    for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        line = np.exp(-((along / (radius / 2)) ** 2 + (across / max(radius / 10, 0.7)) ** 2) / 2)
        average = cv2.filter2D(heatmap, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT)
        largest = np.maximum(largest, average)
    return largest
