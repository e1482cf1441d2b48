"""Model-free baselines: heatmaps that are made from the image alone.

A method whose heatmaps do not score higher than these has not located anything.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Baseline = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 -> (H, W) float32, >= 0


def random_heatmap(image: np.ndarray) -> np.ndarray:
    """Uniform noise in [0, 1), the same for every image of a size."""
    return np.random.default_rng(0).random(image.shape[:2], np.float32)


def centre_heatmap(image: np.ndarray) -> np.ndarray:
    """A Gaussian at the centre, with a standard deviation of a quarter of each side."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in image.shape[:2])
    return np.exp(-2 * (y[:, None] ** 2 + x[None] ** 2))


def dark_heatmap(image: np.ndarray) -> np.ndarray:
    """How much darker a pixel is than Otsu's threshold."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return np.maximum(np.float32(level + 1) - grey, 0) / 255


def local_darkness_heatmap(image: np.ndarray) -> np.ndarray:
    """How much darker a pixel is than its surroundings: a wide Gaussian blur minus a narrow one."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    narrow, wide = (cv2.GaussianBlur(grey, (0, 0), fraction * max(grey.shape)) for fraction in (1 / 300, 1 / 30))
    return np.maximum(wide - narrow, 0)


BASELINES: dict[str, Baseline] = {
    "random": random_heatmap,
    "centre": centre_heatmap,
    "dark": dark_heatmap,
    "local darkness": local_darkness_heatmap,
}
