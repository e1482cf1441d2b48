"""Lines in the image plane, as points (x, y) in pixels, and the bands along them: the geometry of cracks and joints."""

from __future__ import annotations

import cv2
import numpy as np

from crackcam.data.synthetic.noise import SIDE, Rng

SUPERSAMPLING = 4  # bands are rasterised so many times larger and averaged: anti-aliased edges, accurate coverage


def border_to_border(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Two points (2,) just outside different sides of the image, at least 0.55 ``SIDE`` apart."""
    while True:
        first, second = rng.permutation(4)[:2]
        t, u = rng.uniform(0.05, 0.95, 2) * SIDE
        border = {0: (t, -4), 1: (u, SIDE + 4), 2: (-4, t), 3: (SIDE + 4, u)}
        start, end = np.array(border[first]), np.array(border[second])
        if np.linalg.norm(end - start) > 0.55 * SIDE:  # shorter ones only cut off a corner
            return start, end


def arc(start: np.ndarray, end: np.ndarray, bend: float) -> np.ndarray:
    """A smooth arc of 64 points, (64, 2); its rise is ``bend`` times the distance between its ends."""
    t = np.linspace(0, 1, 64)[:, None]
    normal = np.array([start[1] - end[1], end[0] - start[0]])
    return start + t * (end - start) + bend * np.sin(np.pi * t) * normal


def fractal_path(rng: Rng, start: np.ndarray, end: np.ndarray, roughness: float) -> np.ndarray:
    """A ragged line of 129 points, (129, 2), by midpoint displacement.

    Args:
        rng: random number generator.
        start: (2,), first point.
        end: (2,), last point.
        roughness: standard deviation of the first displacement, as a fraction of the distance between the ends.
    """
    path = np.stack([start, end])
    amplitude = roughness * np.linalg.norm(end - start)
    while len(path) < 129:
        middle = (path[1:] + path[:-1]) / 2 + rng.normal(0, amplitude, (len(path) - 1, 2))
        path = np.insert(path, np.arange(1, len(path)), middle, axis=0)
        amplitude *= 0.52
    return path


def random_walk(rng: Rng, start: np.ndarray, heading: float, steps: int, step: float, winding: float) -> np.ndarray:
    """A random walk whose direction swings about a heading that changes now and then.

    Args:
        rng: random number generator.
        start: (2,), first point.
        heading: initial direction in radians.
        steps: number of steps.
        step: length of a step in pixels.
        winding: standard deviation of the change of direction from step to step, in radians.

    Returns:
        (steps + 1, 2) float64.
    """
    turns = np.where(rng.random(steps) < 0.03, rng.normal(0, 0.8, steps), 0).cumsum()
    swings, swing = np.empty(steps), 0.0
    for i, push in enumerate(rng.normal(0, winding, steps)):
        swing = 0.7 * swing + push
        swings[i] = swing
    angle = heading + turns + swings
    moves = step * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([start[None], start + moves.cumsum(axis=0)])


def ragged_half_widths(rng: Rng, count: int, width: float, taper: bool) -> np.ndarray:
    """Half widths of a crack along one of its edges, (count,) in pixels: a slow variation times fine steps.

    Args:
        rng: random number generator.
        count: number of points of the path.
        width: mean width of the crack in pixels.
        taper: whether it narrows to 15 % towards its end.
    """
    knots = np.linspace(0, 1, rng.integers(3, 9))
    slow = np.interp(np.linspace(0, 1, count), knots, np.exp(rng.normal(0, 0.35, len(knots))))
    fast = 1 + 0.18 * rng.standard_normal(count)
    half = width / 2 * slow * np.clip(fast, 0.4, 1.8)
    return half * np.linspace(1, 0.15, count) if taper else half


def band_coverage(path: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rasterise a band along a path.

    Args:
        path: (n, 2), points.
        left: (n,), half widths to the left of the path in pixels.
        right: (n,), half widths to its right.

    Returns:
        Fraction of each pixel that the band covers, (SIDE, SIDE) float32 in 0..1.
    """
    direction = np.gradient(path, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    one, other = path + left[:, None] * normal, path - right[:, None] * normal
    coverage = np.zeros((SIDE * SUPERSAMPLING, SIDE * SUPERSAMPLING), np.uint8)
    for i in range(len(path) - 1):  # one quadrilateral at a time: a band that crosses itself stays filled
        corners = np.stack([one[i], one[i + 1], other[i + 1], other[i]]) * SUPERSAMPLING
        cv2.fillConvexPoly(coverage, np.rint(corners).astype(np.int32), 255)
    return cv2.resize(coverage, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
