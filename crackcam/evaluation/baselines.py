"""Model-free baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    pass


# -- baselines -------------------------------------------------------------------------------------------------------


def random_map(picture: np.ndarray) -> np.ndarray:
    """Uniform noise, the same for the same size."""
    return np.random.default_rng(0).random(picture.shape[:2], np.float32)


def centre_map(picture: np.ndarray) -> np.ndarray:
    """A Gaussian in the middle, a quarter of the sides wide."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in picture.shape[:2])
    return np.exp(-2 * (y[:, None] ** 2 + x[None] ** 2))


def dark_map(picture: np.ndarray) -> np.ndarray:
    """How far a pixel lies on the dark side of Otsu's threshold."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return np.maximum(np.float32(level + 1) - grey, 0) / 255


def local_darkness_map(picture: np.ndarray) -> np.ndarray:
    """How much darker a pixel is than its surroundings: a wide blur less a narrow one."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    narrow, wide = (cv2.GaussianBlur(grey, (0, 0), share * max(grey.shape)) for share in (1 / 300, 1 / 30))
    return np.maximum(wide - narrow, 0)


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "random": random_map,
    "centre": centre_map,
    "dark": dark_map,
    "local darkness": local_darkness_map,
}
