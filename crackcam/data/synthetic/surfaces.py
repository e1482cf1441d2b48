"""Surfaces without cracks: generated concrete, and photographed surfaces at other scales and roughness."""

from __future__ import annotations

import cv2
import numpy as np

from crackcam.data.synthetic.noise import Rng, blotch, fractal_noise, random_rotation

SCALES = (0.45, 2.2)  # range of the magnification of photographed surfaces


def concrete(rng: Rng, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Bare concrete.

    Returns:
        The relative brightness (tone), (side, side) float about 1, and the RGB colour, (3,) float32 in 0..255.
    """
    level = rng.uniform(95, 215)
    warmth, green = rng.normal(0.025, 0.03), rng.normal(0, 0.008)
    colour = level * np.array([1 + warmth, 1 + green, 1 - warmth], np.float32)
    tone: np.ndarray = np.ones((side, side), np.float32)
    tone += rng.uniform(0.005, 0.06) * fractal_noise(rng, side, rng.uniform(1, 5), rng.uniform(0.4, 0.8))
    grain = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), rng.uniform(0.6, 2.0))
    tone += rng.uniform(0.01, 0.07) * grain / grain.std()
    if rng.random() < 0.3:  # brushed, or cast against timber
        strength = rng.uniform(0.01, 0.06)
        streaks = fractal_noise(rng, side, rng.uniform(2, 8), 0.8, stretch=rng.uniform(3, 8))
        tone += strength * random_rotation(rng, streaks)
    if rng.random() < 0.6:
        tone = pores(rng, tone)
    if rng.random() < 0.5:  # coarse sand, light and dark
        specks = fractal_noise(rng, side, rng.uniform(20, 60), 0.6)
        tone += rng.uniform(0.02, 0.12) * ((specks > 1.8).astype(np.float32) - (specks < -1.9))
    for _ in range(rng.poisson(0.6)):
        tone *= 1 + rng.uniform(-0.25, 0.15) * blotch(rng, side, rng.uniform(0.02, 0.5))
    return tone, colour


def pores(rng: Rng, tone: np.ndarray) -> np.ndarray:
    """Add air voids, small dark ellipses, to a tone (H, H)."""
    side = len(tone)
    depth = np.zeros((side * 2, side * 2), np.float32)
    for _ in range(rng.integers(2, 50)):
        x, y = rng.integers(0, 2 * side, 2)
        radius = min(14.0, 1 + rng.exponential(2.5))
        axes = (max(1, round(radius)), max(1, round(radius * rng.uniform(0.5, 1))))
        cv2.ellipse(depth, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.1, 0.6), -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(depth, (0, 0), rng.uniform(0.6, 1.6))
    return tone * (1 - cv2.resize(soft, (side, side), interpolation=cv2.INTER_AREA))


def relief(rng: Rng, side: int) -> np.ndarray:
    """Shading of gravel, or of rough plaster in raking light: (side, side) float32 in 0.1..2, about 1."""
    field = fractal_noise(rng, side, np.exp(rng.uniform(np.log(8), np.log(60))), rng.uniform(0.4, 0.9))
    if rng.random() < 0.5:  # raking light: one side of each bump is bright, the other dark
        field = random_rotation(rng, field)
        field = field - np.roll(field, int(rng.integers(1, 4)), axis=0)
        field /= field.std()
    sharpness = rng.uniform(0.7, 1.6)
    return np.clip(1 + rng.uniform(0.02, 0.16) * np.sign(field) * np.abs(field) ** sharpness, 0.1, 2).astype(np.float32)


def random_orientation(rng: Rng, image: np.ndarray) -> np.ndarray:
    """One of the eight orientations of a square image (H, H, 3): quarter turns and their mirror images."""
    image = np.rot90(image, int(rng.integers(4)))
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)


def random_scale(rng: Rng, image: np.ndarray, side: int) -> np.ndarray:
    """Part of a surface (H, H, 3), magnified by a factor in :data:`SCALES`, as (side, side, 3).

    Reflections fill what the surface does not cover.
    """
    scale = float(np.exp(rng.uniform(*np.log(SCALES))))
    window = max(2, round(side / scale))
    if window > len(image):
        pad = -(-(window - len(image)) // 2)
        border = cv2.BORDER_REFLECT_101 if pad < len(image) else cv2.BORDER_WRAP
        image = cv2.copyMakeBorder(image, pad, pad, pad, pad, border)
    y, x = rng.integers(0, len(image) - window + 1, 2)
    part = np.ascontiguousarray(image[y : y + window, x : x + window])
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if window > side else cv2.INTER_LINEAR)
