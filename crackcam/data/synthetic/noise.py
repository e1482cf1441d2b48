"""Random fields: the material of which surfaces, stains and shadows are made."""

from __future__ import annotations

import cv2
import numpy as np

Rng = np.random.Generator


def smooth_noise(rng: Rng, side: int, cells: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise of a single scale.

    Args:
        rng: random number generator.
        side: of the field in pixels.
        cells: number of bumps from top to bottom.
        stretch: number of bumps from left to right, in units of ``cells``.

    Returns:
        (side, side) float32, mean 0, standard deviation 1.
    """
    rows, columns = max(2, round(cells)), max(2, round(cells * stretch))
    coarse = rng.standard_normal((rows + 2, columns + 2), np.float32)
    field = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / (field.std() + 1e-6)


def fractal_noise(rng: Rng, side: int, coarsest: float, roughness: float, stretch: float = 1.0) -> np.ndarray:
    """Noise of all scales, the sum of octaves of :func:`smooth_noise`.

    Args:
        rng: random number generator.
        side: of the field in pixels.
        coarsest: number of bumps from top to bottom in the coarsest octave.
        roughness: amplitude of each octave relative to the next coarser one, 0..1.
        stretch: see :func:`smooth_noise`.

    Returns:
        (side, side) float32, mean about 0, standard deviation 1.
    """
    field = np.zeros((side, side), np.float32)
    cells, amplitude = min(coarsest, side / 2 - 1), 1.0  # one octave at least
    while cells < side / 2:
        field += amplitude * smooth_noise(rng, side, cells, stretch)
        cells, amplitude = cells * 2, amplitude * roughness
    return field / field.std()


def blotch(rng: Rng, side: int, fraction: float) -> np.ndarray:
    """An irregular region that covers about ``fraction`` of the image.

    Returns:
        Coverage, (side, side) float in 0..1, with an edge that is sharp or soft.
    """
    field = fractal_noise(rng, side, rng.uniform(1, 4), rng.uniform(0.3, 0.6))
    softness = rng.uniform(0.03, 0.6)
    return np.clip((field - np.quantile(field, 1 - fraction)) / softness + 0.5, 0, 1)


def random_rotation(rng: Rng, field: np.ndarray) -> np.ndarray:
    """Rotate a square field (H, H) about its centre by any angle; corners are filled with reflections."""
    side = len(field)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 360), 1)
    return cv2.warpAffine(field, matrix, (side, side), borderMode=cv2.BORDER_REFLECT)
