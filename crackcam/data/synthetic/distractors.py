"""Distractors: what is dark or long and no crack, so that neither darkness nor a line alone tells the classes apart.

Each takes the random number generator, the tone (relative brightness) of a surface, (SIDE, SIDE) float about 1, and the
direction of the light in the image plane in radians; each returns the tone with the distractor on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from crackcam.data.synthetic.noise import SIDE, Rng, blotch, fractal_noise, smooth_noise
from crackcam.data.synthetic.paths import arc, band_coverage, border_to_border

Distractor = Callable[[Rng, np.ndarray, float], np.ndarray]


def add_distractors(
    rng: Rng, tone: np.ndarray, light: float, kinds: Sequence[Distractor], probability: float
) -> np.ndarray:
    """Add each kind of distractor with a probability, in the order given."""
    for distractor in kinds:
        if rng.random() < probability:
            tone = distractor(rng, tone, light)
    return tone


def joint(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A formwork or expansion joint: straight, of constant width, dark or light, sometimes two parallel lines."""
    start, end = border_to_border(rng)
    if rng.random() < 0.5:  # vertical or horizontal
        from_left_or_right = abs(start[1] - SIDE / 2) > SIDE / 2
        end = np.array([start[0], SIDE + 4 - start[1]] if from_left_or_right else [SIDE + 4 - start[0], start[1]])
    width = np.exp(rng.uniform(np.log(1.5), np.log(16)))
    contrast = rng.uniform(0.15, 0.85) * (1 if rng.random() < 0.8 else -0.3)
    normal = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
    half = np.full(2, width / 2)
    for offset in (0.0,) if rng.random() < 0.75 else (0.0, rng.uniform(8, 60)):
        coverage = band_coverage(np.stack([start, end]) + offset * normal, half, half)
        tone = tone * (1 - contrast * cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.4, 1.5)))
    return tone


def scratch(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Scratches and marks: smooth thin arcs of constant width, lighter or darker than the surface."""
    for _ in range(rng.integers(1, 4)):
        start, end = rng.uniform(0, SIDE, 2), rng.uniform(0, SIDE, 2)
        path = arc(start, end, rng.normal(0, 0.08))
        half = np.full(len(path), rng.uniform(0.4, 2.0))
        coverage = band_coverage(path, half, half) * rng.uniform(0.08, 0.6)
        tone = tone * (1 - coverage) if rng.random() < 0.55 else tone * (1 + 0.5 * coverage)
    return tone


def stain(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A stain of damp, oil or soot: as dark as a crack but not a line."""
    return tone * (1 - rng.uniform(0.2, 0.75) * blotch(rng, rng.uniform(0.01, 0.25)))


def shadow(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """The shadow of an object outside the image: one smooth edge, dark on one side."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    distance = np.cos(angle) * (x - SIDE / 2) + np.sin(angle) * (y - SIDE / 2) + rng.uniform(-70, 70)
    distance += rng.uniform(0, 18) * smooth_noise(rng, rng.uniform(1, 3))
    return tone * (1 - rng.uniform(0.2, 0.65) / (1 + np.exp(-distance / rng.uniform(0.6, 8))))


def spots(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A few large voids or chips, dark and round."""
    coverage = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(rng.integers(1, 8)):
        x, y = (int(v) for v in rng.integers(0, SIDE, 2))
        axes = tuple(int(v) for v in rng.integers(2, 12, 2))
        cv2.ellipse(coverage, (x, y), axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 0.85), -1, cv2.LINE_AA)
    ragged = np.clip(coverage + 0.15 * smooth_noise(rng, 40) * (coverage > 0), 0, 0.9)
    return tone * (1 - cv2.GaussianBlur(ragged, (0, 0), rng.uniform(0.5, 1.5)))


def masonry(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Masonry, tiles or boards: parallel joints, and with or without joints across them in each course."""
    height, aspect = np.exp(rng.uniform(np.log(14), np.log(90))), rng.uniform(1, 4)
    width = max(1.0, rng.uniform(0.01, 0.12) * height)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.06) + (np.pi / 4 if rng.random() < 0.1 else 0)
    ragged = rng.uniform(0, 0.5) * width
    along = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(0, 500) + ragged * fractal_noise(rng, 20, 0.7)
    across = -np.sin(angle) * x + np.cos(angle) * y + rng.uniform(500, 999) + ragged * fractal_noise(rng, 20, 0.7)
    course = np.floor(across / height)
    from_middle = np.abs(across / height - course - 0.5) * height
    coverage = np.clip(from_middle - height / 2 + width / 2 + 0.5, 0, 1)
    if rng.random() < 0.7:
        along = along + course * rng.choice([0.0, 0.5, 0.37]) * height * aspect
        from_middle = np.abs(along / (height * aspect) % 1 - 0.5) * height * aspect
        coverage = np.maximum(coverage, np.clip(from_middle - height * aspect / 2 + width / 2 + 0.5, 0, 1))
    shades = 1 + rng.uniform(0, 0.15) * np.sin(course * 7.3 + rng.uniform(0, 9))  # courses differ in brightness
    coverage = cv2.GaussianBlur(coverage.astype(np.float32), (0, 0), rng.uniform(0.4, 1.5))
    return (tone * shades * (1 - rng.uniform(-0.25, 0.75) * coverage)).astype(np.float32)


def moulding(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """An edge, a ledge or an ornament: smooth parallel lines, straight or curved, some dark, some bright."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.35, 0.35, 0.3])
    radius = np.exp(rng.uniform(np.log(25), np.log(400))) if rng.random() < 0.5 else 1e5
    cx, cy = rng.uniform(0, SIDE, 2) - radius * np.array([np.cos(angle), np.sin(angle)])
    distance = np.hypot(x - cx, y - cy) - radius
    for _ in range(int(rng.integers(1, 5))):
        offset, softness = rng.uniform(-50, 50), rng.uniform(0.5, 4)
        profile = np.exp(-(((distance - offset) / softness) ** 2))
        tone = tone * (1 - rng.uniform(-0.4, 0.75) * profile)
    if rng.random() < 0.5:  # another brightness beyond the edge
        tone = tone * (1 + rng.uniform(-0.5, 0.4) / (1 + np.exp(-np.clip(distance, -30, 30) / rng.uniform(0.5, 2))))
    return tone.astype(np.float32)


def peeling_paint(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Peeling paint: ragged patches, lighter or darker, with a thin shadow along their edges."""
    patch = blotch(rng, rng.uniform(0.05, 0.5))
    edge = np.clip(4 * patch * (1 - patch), 0, 1)
    offset = int(np.rint(2 * np.sin(light))), int(np.rint(2 * np.cos(light)))
    rim = rng.uniform(0, 0.4) * np.roll(edge, offset, (0, 1))
    return (tone * (1 + rng.uniform(-0.35, 0.6) * patch) * (1 - rim)).astype(np.float32)


ON_CONCRETE: tuple[Distractor, ...] = (joint, scratch, stain, shadow, spots)
ON_WALLS: tuple[Distractor, ...] = (*ON_CONCRETE, masonry, moulding, peeling_paint)
