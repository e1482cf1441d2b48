"""Lines in the image plane, as points (x, y) in pixels, and the bands along them: the geometry of cracks and joints."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from skimage.graph import route_through_array

from crackcam.data.synthetic.noise import Rng

SUPERSAMPLING = 4  # bands are rasterised so many times larger and averaged: anti-aliased edges, accurate coverage


def border_to_border(rng: Rng, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Two points (2,) just outside different borders of a square, at least 0.55 times its side apart."""
    while True:
        first, second = rng.permutation(4)[:2]
        t, u = rng.uniform(0.05, 0.95, 2) * side
        border = {0: (t, -4), 1: (u, side + 4), 2: (-4, t), 3: (side + 4, u)}
        start, end = np.array(border[first]), np.array(border[second])
        if np.linalg.norm(end - start) > 0.55 * side:  # shorter ones only cut off a corner
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


def masonry_steps(rng: Rng, side: int) -> np.ndarray:
    """Corners (n, 2) of a line that climbs in steps across a square: along joints, now and then through a brick."""
    course, run = np.exp(rng.uniform(np.log(10), np.log(70))), rng.uniform(0.6, 2.2)
    heading = rng.choice([-1, 1], 2)
    point = np.where(heading > 0, rng.uniform(-0.1, 0.4, 2), rng.uniform(0.6, 1.1, 2)) * side
    corners = [point]
    for horizontal in itertools.cycle((True, False)):
        step = course * (run if horizontal else 1) * (1 + (rng.random() < 0.15))
        straight = np.array([step, 0.0] if horizontal else [0.0, step]) * heading
        point = point + straight + rng.normal(0, 0.06 * course, 2)
        corners.append(point)
        if (point < -0.1 * side).any() or (point > 1.1 * side).any() or rng.random() < 0.03:
            break
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (np.stack(corners) - side / 2) @ turn.T + side / 2


def easiest_path(rng: Rng, brightness: np.ndarray) -> np.ndarray:
    """The cheapest way from border to border over a surface (H, H) where either dark or bright places are cheap."""
    side, cells = len(brightness), 64
    start, end = (np.clip(point / side * cells, 0, cells - 1).astype(int) for point in border_to_border(rng, side))
    small = cv2.resize(brightness.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)
    relative = (small - cv2.GaussianBlur(small, (0, 0), 6)) / (small.std() + 1e-6)
    cost = np.exp(rng.choice([1, 1, -1]) * rng.uniform(0.8, 2) * relative + rng.normal(0, 0.2, relative.shape))
    places, _ = route_through_array(cost, start[::-1], end[::-1], geometric=True)
    path = (np.array(places)[:, ::-1] + 0.5) * side / cells
    return gaussian_filter1d(path, 1.0, axis=0, mode="nearest") + rng.normal(0, 0.4, path.shape)


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


def band_coverage(side: int, path: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rasterise a band along a path.

    Args:
        side: of the raster in pixels.
        path: (n, 2), points.
        left: (n,), half widths to the left of the path in pixels.
        right: (n,), half widths to its right.

    Returns:
        Fraction of each pixel that the band covers, (side, side) float32 in 0..1.
    """
    direction = np.gradient(path, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    one, other = path + left[:, None] * normal, path - right[:, None] * normal
    coverage = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING), np.uint8)
    for i in range(len(path) - 1):  # one quadrilateral at a time: a band that crosses itself stays filled
        corners = np.stack([one[i], one[i + 1], other[i + 1], other[i]]) * SUPERSAMPLING
        cv2.fillConvexPoly(coverage, np.rint(corners).astype(np.int32), 255)
    return cv2.resize(coverage, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
