"""Random fields: the material of which surfaces, stains and shadows are made."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 227  # pixels; the size of the images in the METU concrete data set, which the generated sample resembles

Rng = np.random.Generator


def smooth_noise(rng: Rng, cells: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise of a single scale.

    Args:
        rng: random number generator.
        cells: number of bumps from top to bottom.
        stretch: number of bumps from left to right, in units of ``cells``.

    Returns:
        (SIDE, SIDE) float32, mean 0, standard deviation 1.
    """
    rows, columns = max(2, round(cells)), max(2, round(cells * stretch))
    coarse = rng.standard_normal((rows + 2, columns + 2), np.float32)
    field = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / (field.std() + 1e-6)


def fractal_noise(rng: Rng, coarsest: float, roughness: float, stretch: float = 1.0) -> np.ndarray:
    """Noise of all scales, the sum of octaves of :func:`smooth_noise`.

    Args:
        rng: random number generator.
        coarsest: number of bumps from top to bottom in the coarsest octave.
        roughness: amplitude of each octave relative to the next coarser one, 0..1.
        stretch: see :func:`smooth_noise`.

    Returns:
        (SIDE, SIDE) float32, mean about 0, standard deviation 1.
    """
    field = np.zeros((SIDE, SIDE), np.float32)
    cells, amplitude = coarsest, 1.0
    while cells < SIDE / 2:
        field += amplitude * smooth_noise(rng, cells, stretch)
        cells, amplitude = cells * 2, amplitude * roughness
    return field / field.std()


def blotch(rng: Rng, fraction: float) -> np.ndarray:
    """An irregular region that covers about ``fraction`` of the image.

    Returns:
        Coverage, (SIDE, SIDE) float in 0..1, with an edge that is sharp or soft.
    """
    field = fractal_noise(rng, rng.uniform(1, 4), rng.uniform(0.3, 0.6))
    softness = rng.uniform(0.03, 0.6)
    return np.clip((field - np.quantile(field, 1 - fraction)) / softness + 0.5, 0, 1)


def random_rotation(rng: Rng, field: np.ndarray) -> np.ndarray:
    """Rotate a field (SIDE, SIDE) about its centre by any angle; corners are filled with reflections."""
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.uniform(0, 360), 1)
    return cv2.warpAffine(field, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
