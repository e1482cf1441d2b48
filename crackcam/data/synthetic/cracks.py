"""Synthetic cracks: they darken a surface and come with an exact mask."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import cv2
import numpy as np

from crackcam.data.synthetic.noise import Rng, fractal_noise
from crackcam.data.synthetic.paths import (
    band_coverage,
    border_to_border,
    easiest_path,
    fractal_path,
    masonry_steps,
    ragged_half_widths,
    random_walk,
)


class CrackLimits(NamedTuple):
    """Which cracks are generated.

    Attributes:
        narrowest: least mean width in pixels.
        widest: largest mean width in pixels.
        faintest: least fraction of the light that a narrow crack absorbs, 0..1.
    """

    narrowest: float
    widest: float
    faintest: float

    def width(self, rng: Rng) -> float:
        """A mean width in pixels, log-uniform between the limits."""
        return float(np.exp(rng.uniform(*np.log((self.narrowest, self.widest)))))


def fractal_crack(rng: Rng, tone: np.ndarray, light: float, limits: CrackLimits) -> tuple[np.ndarray, np.ndarray]:
    """Add a crack that runs from border to border by midpoint displacement, with branches and lit edges.

    Args:
        rng: random number generator.
        tone: (H, H), relative brightness of the surface.
        light: direction of the light in the image plane, in radians.
        limits: range of widths and depths.

    Returns:
        The tone with the crack, (H, H) float, and its mask, (H, H) uint8 of 0 and 255.
    """
    side, width = len(tone), limits.width(rng)
    coverage = _branching_coverage(rng, side, width)
    # Dark inside, darkest in the middle, with grit in it; hairlines are seldom black.
    depth = rng.uniform(0.45, 0.93) if width > 3 else rng.uniform(limits.faintest, 0.85)
    blurred = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.3, 0.5 + width / 10))
    inside = np.clip(blurred * rng.uniform(1.0, 1.5), 0, 1)
    grit = np.clip(1 + rng.uniform(0, 0.25) * fractal_noise(rng, side, 12, 0.8), 0.3, 1.15)
    # The edge that faces the light is bright and chipped; the other one lies in a slight shade.
    shift = rng.uniform(0.8, 1.2 + width / 4) * np.array([np.cos(light), np.sin(light)])
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    shifted = cv2.warpAffine(cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.5, 2)), matrix, (side, side))
    chips = np.clip(0.6 + 0.7 * fractal_noise(rng, side, 10, 0.8), 0, 1.5)
    rim = (rng.uniform(0, 0.35) if rng.random() < 0.7 else 0) * chips * np.clip(shifted - inside, 0, 1)
    halo = rng.uniform(0, 0.2) * cv2.GaussianBlur(coverage, (0, 0), rng.uniform(3, 9))
    mask = np.where(coverage > 0.4, 255, 0).astype(np.uint8)
    return tone * (1 + rim) * (1 - halo) * (1 - depth * grit * inside).clip(0.03), mask


def _branching_coverage(rng: Rng, side: int, width: float) -> np.ndarray:
    """Coverage (side, side) in 0..1 of a trunk across the image, which may end inside it, and of its branches."""
    roughness = rng.uniform(0.03, 0.11)
    trunk = fractal_path(rng, *border_to_border(rng, side), roughness)
    ends_inside = rng.random() < 0.15
    if ends_inside:
        trunk = trunk[: rng.integers(70, 110)]
    left, right = (ragged_half_widths(rng, len(trunk), width, ends_inside) for _ in range(2))
    coverage = band_coverage(side, trunk, left, right)
    for _ in range(rng.poisson(0.6)):
        fork = trunk[rng.integers(10, len(trunk) - 10)]
        length, angle = rng.uniform(40, 160), rng.uniform(0, 2 * np.pi)
        branch = fractal_path(rng, fork, fork + length * np.array([np.cos(angle), np.sin(angle)]), roughness)
        half = ragged_half_widths(rng, len(branch), max(1.2, width * rng.uniform(0.2, 0.6)), taper=True)
        coverage = np.maximum(coverage, band_coverage(side, branch, half, half))
    return coverage


def random_walk_crack(rng: Rng, tone: np.ndarray, light: float, limits: CrackLimits) -> tuple[np.ndarray, np.ndarray]:
    """Add a crack along a random walk of any length: it winds more than :func:`fractal_crack`, and its edges are plain.

    Arguments and result are those of :func:`fractal_crack`.
    """
    side, width = len(tone), limits.width(rng)
    start = rng.uniform(0, side, 2)
    inwards = np.arctan2(*(side / 2 - start)[::-1]) + rng.normal(0, 0.8)
    step, winding = rng.uniform(2, 5), rng.uniform(0.1, 0.5)
    trunk = random_walk(rng, start, inwards, int(rng.integers(25, 110)), step, winding)
    paths = [(trunk, width)]
    for _ in range(rng.poisson(0.7)):
        heading = inwards + rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
        branch = random_walk(rng, trunk[rng.integers(len(trunk))], heading, len(trunk) // 2 + 2, step, winding)
        paths.append((branch, max(0.8, 0.6 * width)))
    return _plain_crack(rng, tone, paths, limits)


def stepped_crack(rng: Rng, tone: np.ndarray, light: float, limits: CrackLimits) -> tuple[np.ndarray, np.ndarray]:
    """Add a crack that climbs in steps, as those along the joints of masonry do.

    Arguments and result are those of :func:`fractal_crack`.
    """
    side, width = len(tone), limits.width(rng)
    corners = masonry_steps(rng, side)
    pieces = [fractal_path(rng, a, b, rng.uniform(0.01, 0.08))[::4] for a, b in itertools.pairwise(corners)]
    return _plain_crack(rng, tone, [(np.concatenate(pieces), width)], limits)


def easiest_crack(
    rng: Rng, tone: np.ndarray, light: float, limits: CrackLimits, surface: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add a crack where the surface gives way: along joints, edges of stones, grain.

    Args:
        rng: random number generator.
        tone: (H, H), relative brightness of the surface.
        light: see :func:`fractal_crack`.
        limits: range of widths and depths.
        surface: (H, H, 3), what the crack follows: the dark, or the bright.

    Returns:
        See :func:`fractal_crack`.
    """
    width = limits.width(rng)
    path = easiest_path(rng, surface.mean(axis=2) * tone)
    return _plain_crack(rng, tone, [(path, width)], limits)


def _plain_crack(
    rng: Rng, tone: np.ndarray, paths: list[tuple[np.ndarray, float]], limits: CrackLimits
) -> tuple[np.ndarray, np.ndarray]:
    """Cracks with plain edges along paths, each with its mean width."""
    side, width = len(tone), paths[0][1]
    coverage: np.ndarray = np.zeros((side, side), np.float32)
    for path, path_width in paths:
        half = ragged_half_widths(rng, len(path), path_width, taper=rng.random() < 0.3)
        coverage = np.maximum(coverage, band_coverage(side, path, half, half))
    depth = rng.uniform(limits.faintest, 0.5 if width < 2 else 0.85)
    inside = np.clip(1.2 * cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.35, 0.9) + 0.08 * width), 0, 1)
    if rng.random() < 0.5:  # partly filled with dirt
        inside *= np.clip(0.8 + 0.35 * fractal_noise(rng, side, rng.uniform(5, 30), 0.6), 0.3, 1.2)
    return tone * (1 - depth * inside), np.where(coverage > 0.35, 255, 0).astype(np.uint8)
