"""Centre lines of a crack in an image, near the skeleton of a region, and the grey profiles across them.

Points are (n, 2) float64 as (x, y) in pixels; those of a line are about 1 px apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, map_coordinates, spline_filter
from skimage.graph import route_through_array

from crackcam.evaluation.skeletons import branch_counts, pruned_skeleton, trace_branch

STEP = 0.5  # pixels between the samples of a profile
SAMPLES = 100  # on either side of a profile, at most: the step grows with very wide regions
SURFACE = 8.0  # pixels of surface that profiles include on either side of the region
SMOOTH = 2.0  # pixels, standard deviation of smoothing along the line
HALVES = 1.15  # half widths of regions are rounded to powers of it
SHORTEST = 5  # pixels: shorter branches of a skeleton have no direction


class Line(NamedTuple):
    """A line in a crop: its points, and whether it starts and ends at a fork of the skeleton."""

    points: np.ndarray
    forks: tuple[bool, bool]


@dataclass(frozen=True, eq=False)
class Trace:
    """The centre lines of the crack in one region.

    Attributes:
        lines: one for each branch, in pixels of the crop; free ends extend beyond the crack.
        bright: (h, w) float32, spline coefficients of the grey values around the region, negative for a dark crack: the
            crack is bright in it.
        corner: (2,), x and y of the crop's first pixel in the image; the crop continues beyond the image.
        half: half width of the region in pixels.
        brightest: the highest value there could be.
    """

    lines: list[Line]
    bright: np.ndarray
    corner: np.ndarray
    half: float
    brightest: float

    @property
    def across(self) -> np.ndarray:
        """Distances of a profile's samples from the centre line in pixels; they include surface on both sides."""
        return sample_distances(self.half)

    def profiles(self, line: Line) -> np.ndarray:
        """The profiles across a line, (points, samples) float32."""
        return _profiles(self.bright, line.points, self.half)


def trace_crack(image: np.ndarray, region: np.ndarray) -> Trace:
    """Find the centre lines of the darkest ridges, or the brightest where they stand out more, in a region.

    Args:
        image: (H, W, 3) uint8, RGB.
        region: (H, W) bool, not empty.
    """
    distance = _distances(region)
    margin = _margin(distance)
    x, y, width, height = cv2.boundingRect(region.astype(np.uint8))
    top, left = max(0, y - margin), max(0, x - margin)
    part = np.s_[top : y + height + margin, left : x + width + margin]
    # Not linear light, in which edges in half shade would count as crack: see the module on widths.
    grey = cv2.cvtColor(np.ascontiguousarray(image[part]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    # Lines and profiles continue beyond the image.
    grey, inside = spline_filter(np.pad(grey, margin, "edge"), output=np.float32), np.pad(region[part], margin)
    corner = np.array([left - margin, top - margin])
    skeleton = pruned_skeleton(inside)
    lines = _branches(skeleton) or [_principal_axis(inside)]
    pixels = np.argwhere(skeleton)[:, ::-1] - 1 + corner  # 1: the margin of the skeleton
    x, y = pixels[in_image(pixels, region.shape)].T
    half = float(np.percentile(distance[y, x], 95)) if len(x) else float(distance.max())
    half = HALVES ** round(math.log(max(1.0, half), HALVES))  # so that regions have templates in common
    sign = _sign_of_ridges(grey, lines, half)
    lines = [_follow_ridge(sign * grey, line, half) for line in lines]
    return Trace(lines, sign * grey, corner, half, 255.0 if sign > 0 else 0.0)


def surroundings(region: np.ndarray) -> int:
    """Pixels around a region, (H, W) bool, in which its lines and profiles lie."""
    return _margin(_distances(region))


def _distances(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a region from what is outside, in pixels; beyond the image too."""
    return cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _margin(distance: np.ndarray) -> int:
    return math.ceil(3 * distance.max() + 2 * SURFACE)


def in_image(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which points lie in an image of that shape (H, W): (n,) bool."""
    return np.all((points > -0.5) & (points < (shape[1] - 0.5, shape[0] - 0.5)), axis=1)


def unit_tangents(points: np.ndarray) -> np.ndarray:
    """Unit vectors along a line, (n, 2)."""
    steps = np.gradient(points, axis=0)
    return steps / (np.linalg.norm(steps, axis=1, keepdims=True) + 1e-9)


def unit_normals(points: np.ndarray) -> np.ndarray:
    """Unit vectors across a line, (n, 2)."""
    return unit_tangents(points) @ np.array([[0.0, 1.0], [-1.0, 0.0]])


def _branches(line: np.ndarray) -> list[Line]:
    """The branches of a skeleton with a margin of 1 px, without its forks; none if all are short."""
    forks = (branch_counts(line) > 2).astype(np.uint8)
    near, beside = (cv2.dilate(forks, np.ones((size, size), np.uint8)) > 0 for size in (3, 5))
    counts = branch_counts(line & ~near)
    traced = np.zeros(line.shape, bool)
    lines = []
    for pixel in map(tuple, np.concatenate([np.argwhere(counts == 1), np.argwhere(counts >= 0)]).tolist()):
        if traced[pixel]:
            continue
        places = np.array(trace_branch(counts, pixel, math.inf)[0])  # from a tip, or from anywhere in a closed loop
        traced[tuple(places.T)] = True
        if len(places) >= SHORTEST:
            closed = abs(places[0] - places[-1]).max() <= 1  # nothing to extend either
            first, last = (closed or bool(beside[tuple(places[end])]) for end in (0, -1))
            lines.append(Line(places[:, ::-1] - 1.0, (first, last)))
    return lines


def _principal_axis(inside: np.ndarray) -> Line:
    """The longer axis of a spot, whose skeleton is a point."""
    points = np.argwhere(inside)[:, ::-1].astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((2, 2)))
    half = max(1.0, np.sqrt(3 * variances[1]) - np.sqrt(3 * max(0.0, variances[0])))  # sqrt(3): that of a rectangle
    return Line(points.mean(axis=0) + np.linspace(-half, half, SHORTEST)[:, None] * axes[:, 1], (False, False))


def _resampled(points: np.ndarray) -> np.ndarray:
    """A line (n, 2) smoothed, at points 1 px apart."""
    lengths = np.concatenate([[0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
    places = np.linspace(0, lengths[-1], max(SHORTEST, round(lengths[-1]) + 1))
    even = np.stack([np.interp(places, lengths, axis) for axis in points.T], axis=1)
    # Reflected about its end points: smoothing must not shorten the line.
    more = min(len(even) - 1, math.ceil(4 * SMOOTH))
    padded = np.pad(even, ((more, more), (0, 0)), "reflect", reflect_type="odd")
    return gaussian_filter1d(padded, SMOOTH, axis=0)[more:-more]


def _extended(line: Line, half: float) -> np.ndarray:
    """The points of a line with its free ends carried on straight beyond the region, and the others into the fork."""
    points = line.points
    turn = min(round(half), len(points) // 4)  # skeletons turn into a corner of the region at their ends
    points = points[0 if line.forks[0] else turn : len(points) - (0 if line.forks[1] else turn)]
    back = min(len(points) - 1, max(8, round(half)))
    parts = [points]
    for tip, inner, fork in ((points[0], points[back], line.forks[0]), (points[-1], points[-1 - back], line.forks[1])):
        steps = np.arange(1, 3 if fork else turn + round(half) + 3)[:, None]
        parts.append(tip + steps * (tip - inner) / (np.linalg.norm(tip - inner) + 1e-9))
    return np.concatenate([parts[1][::-1], parts[0], parts[2]])


def sample_distances(half: float) -> np.ndarray:
    """Distances of a profile's samples from the line, for a region of that half width; all in pixels."""
    reach = half + SURFACE
    return np.linspace(-reach, reach, 2 * min(SAMPLES, math.ceil(reach / STEP)) + 1)


def _profiles(grey: np.ndarray, points: np.ndarray, half: float) -> np.ndarray:
    """Profiles across a line, averaged along it."""
    places = points[:, None] + sample_distances(half)[:, None] * unit_normals(points)[:, None]
    values = map_coordinates(grey, (places[..., 1], places[..., 0]), order=3, mode="nearest", prefilter=False)
    return gaussian_filter1d(values.astype(np.float32), SMOOTH, axis=0)


def _curvatures(grey: np.ndarray, points: np.ndarray, half: float) -> np.ndarray:
    """Curvature across the line at each sample inside the region, at several scales: (scales, points, samples)."""
    across = sample_distances(half)
    profiles, step = _profiles(grey, points, half), across[1] - across[0]
    sigmas = [sigma / step for sigma in (1, 2, 4, 8, 16, 32, 64) if sigma <= max(1, half)]
    # Scale-normalised second derivative (Lindeberg, 1998): a bar responds most where sigma is half its width, and then
    # twice as much as an edge. "nearest": the reflection of the surface would be another bar.
    found = [-(sigma**2) * gaussian_filter1d(profiles, sigma, axis=1, order=2, mode="nearest") for sigma in sigmas]
    return np.stack(found)[:, :, np.abs(across) <= half]


def _sign_of_ridges(grey: np.ndarray, lines: list[Line], half: float) -> int:
    """1 where bright ridges near the lines stand out more than dark ones, else -1."""
    found = [_curvatures(grey, _resampled(line.points), half) for line in lines]
    bright, dark = (sum(float((sign * each).max(axis=(0, 2)).clip(0).sum()) for each in found) for sign in (1, -1))
    return 1 if bright > dark else -1


def _follow_ridge(bright: np.ndarray, line: Line, half: float) -> Line:
    """The brightest ridge near a line, beyond its free ends too."""
    points = _resampled(_extended(line, half))
    ridge = _curvatures(bright, points, half).max(axis=0).clip(0)  # how much each sample is a bright ridge
    cost = 1 / (0.05 + ridge / (np.percentile(ridge.max(axis=1), 80) + 1e-6))
    middle = cost.shape[1] // 2
    cost = np.pad(cost, ((1, 1), (0, 0)), constant_values=1e-3)  # so that it may start and end anywhere
    path = np.array(route_through_array(cost, (0, middle), (len(cost) - 1, middle))[0])
    columns = np.bincount(path[:, 0], path[:, 1]) / np.bincount(path[:, 0])
    across = sample_distances(half)
    offset = gaussian_filter1d(columns[1:-1] - middle, SMOOTH) * (across[1] - across[0])
    return Line(_resampled(points + offset[:, None] * unit_normals(points)), line.forks)
