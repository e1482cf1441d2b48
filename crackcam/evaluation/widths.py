"""Width of a crack, measured in the image across its centre line: not the width of a heatmap's marking.

A region of a heatmap only says where to look. Within it:

1. The skeleton of the region is the first line. The image is resampled along and across it, and the darkest ridge
   (the brightest, where that stands out more) becomes the centre line, by a minimum-cost path.
2. The grey profiles across the centre line are fitted, by least squares, with a box on a linear surface level, blurred
   by a Gaussian. Position, depth and width of the box are those of each place. The blur is common to the region: its
   likelihood, from all profiles, weights the fits. A crack 2 px wide under a blur of 2 px is 5 px wide at half depth;
   the fit corrects that.
3. Places that no box explains, near forks or cut by the image border are left out. A running median follows.

Below 2 px a width is not measurable: of a line narrower than the blur, only the product of depth and width is known.
Under a blur of more than 1 px (standard deviation) such a line may pass for one of 2 to 4 px.

Profiles are grey values, in which a lens does not mix them: a dark crack under a blur of more than 1 px is measured
about half a pixel too narrow. Linear light would cure that, and would count edges in half shade as crack.

:class:`crackcam.sizes.Scale` converts to millimetres.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import uniform_filter1d
from scipy.special import erf

from crackcam.errors import UserError
from crackcam.evaluation.centre_lines import (
    Line,
    Trace,
    in_image,
    sample_distances,
    surroundings,
    trace_crack,
    unit_normals,
    unit_tangents,
)
from crackcam.evaluation.skeletons import skeleton_length
from crackcam.sizes import NARROWEST, CrackWidth

# Standard deviations in pixels, of lens and pixel together
BLURS = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.4, 2.7)
CORRELATED = 40  # samples that count as one in the likelihood of a blur: profiles overlap, and texture is correlated
EXPLAINED = 0.7  # fraction of the variance of a clear profile that the box explains, at least
CLEAR = 0.5  # of the profiles in the region: where fewer are clear, they may be chance
MEDIAN = 9  # places in the running median
RUN = 5  # places: shorter runs of clear profiles are chance


def measure_width(image: np.ndarray, region: np.ndarray) -> CrackWidth:
    """Measure the width of the crack in a region, across its centre line.

    Of several parallel cracks in one region, the one that stands out most is measured.

    Args:
        image: (H, W, 3) uint8, RGB.
        region: (H, W) bool: the crack and some surface around it, such as one region of a heatmap.

    Raises:
        UserError: shapes or types are others, or the region is empty.

    Examples:
        >>> import numpy as np
        >>> from crackcam.evaluation.widths import measure_width
        >>> image = np.full((60, 100, 3), 180, np.uint8)
        >>> image[30:35, 10:90] = 60
        >>> region = np.zeros((60, 100), bool)
        >>> region[26:39, 6:94] = True
        >>> width = measure_width(image, region)
        >>> round(width.mean, 1), round(width.length), width.orientation
        (5.0, 80, 0.0)
    """
    _check_arrays(image, region)
    trace = trace_crack(image, region)
    boxes = _fit_boxes(trace, [trace.profiles(line) for line in trace.lines])
    parts = [_measure_line(trace, line, box, region) for line, box in zip(trace.lines, boxes, strict=True)]
    widths, points, tangents = (np.concatenate([part[i] for part in parts]) for i in range(3))
    clear = sum(part.clear for part in parts) > CLEAR * sum(part.inside for part in parts)
    if not len(widths) or not clear:
        tangents = np.concatenate([unit_tangents(line.points) for line in trace.lines])
        return CrackWidth(None, None, None, None, _orientation(tangents), skeleton_length(region), 0)
    x, y = np.rint(points[widths.argmax()]).astype(int).tolist()
    values = (widths.mean(), np.percentile(widths, 95), widths.max())
    mean, p95, maximum = (float(value) if value >= NARROWEST else None for value in values)
    length = sum(part.length for part in parts)
    return CrackWidth(mean, p95, maximum, (x, y), _orientation(tangents), length, len(widths))


def measure_width_within(
    image: np.ndarray, labels: np.ndarray, label: int, box: tuple[int, int, int, int]
) -> CrackWidth:
    """As :func:`measure_width`, of the region with one label of many, without work on the rest of the image.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W), of connected regions.
        label: of the region.
        box: (x, y, width, height) of the region.
    """
    x, y, width, height = box
    margin = surroundings(labels[y : y + height, x : x + width] == label)
    left, top = max(0, x - margin), max(0, y - margin)
    part = np.s_[top : y + height + margin, left : x + width + margin]
    found = measure_width(image[part], labels[part] == label)
    return replace(found, place=found.place and (found.place[0] + left, found.place[1] + top))


def _check_arrays(image: np.ndarray, region: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"image: shape {image.shape}, {image.dtype}; widths are measured in (H, W, 3) uint8")
    if region.shape != image.shape[:2] or region.dtype != bool:
        raise UserError(f"region: shape {region.shape}, {region.dtype}; this image needs {image.shape[:2]} bool")
    if not region.any():
        raise UserError("region: no pixel is true, so there is nothing to measure")


def _orientation(tangents: np.ndarray) -> float:
    """Mean direction in degrees, in [0, 180); of doubled angles, because a line has no sense of direction."""
    double = 2 * np.arctan2(-tangents[:, 1], tangents[:, 0])  # -: the y axis of images points down
    degrees = np.degrees(np.arctan2(np.sin(double).sum(), np.cos(double).sum())) / 2
    return float(np.round(degrees, 1) % 180)


class _Boxes(NamedTuple):
    """Boxes fitted to profiles: widths in pixels, depths in grey levels, and what explains the profiles' variance.

    ``explained`` is the fraction that the box explains without the slope of the level; ``slope`` is what the slope
    explains, in the same unit.
    """

    widths: np.ndarray
    depths: np.ndarray
    explained: np.ndarray
    slope: np.ndarray


class _Measured(NamedTuple):
    """What one line contributes.

    Attributes:
        widths: (n,), of the measured places, in pixels.
        points: (n, 2), of these places, in the image.
        tangents: (m, 2), along the crack.
        length: of the crack in pixels.
        clear: number of clear profiles of the crack.
        inside: number of all profiles in the region.
    """

    widths: np.ndarray
    points: np.ndarray
    tangents: np.ndarray
    length: float
    clear: int
    inside: int


def _fit_boxes(trace: Trace, profiles: list[np.ndarray]) -> list[_Boxes]:
    """Fit a bright blurred box on a linear level to each profile, with the blur common to all lines."""
    rows = np.concatenate(profiles)
    limits = trace.brightest - np.quantile(rows, 0.25, axis=1)  # a crack is no darker than black
    level = _levels(trace.across)
    variation = rows.var(axis=1) * rows.shape[1]
    rows = rows - rows @ level @ level.T
    square = (rows**2).sum(axis=1) + 1e-3
    fits = [_fit_of_blur(trace, rows, limits.astype(np.float32), blur) for blur in BLURS]
    # The noise of each profile is unknown: its likelihood is a power of the sum of squares that remains.
    samples = rows.shape[1] / 2 / CORRELATED
    likelihood = np.array([-samples * np.log(square - explained + 1e-3).sum() for _, _, explained in fits])
    weights = np.exp(likelihood - likelihood.max())
    widths, depths, explained = np.tensordot(weights / weights.sum(), np.stack(fits), 1)
    boxes = np.stack([widths, depths, explained / square, (variation - square) / square])
    return [_Boxes(*part) for part in np.split(boxes, np.cumsum([len(part) for part in profiles])[:-1], axis=1)]


@lru_cache(maxsize=16 * len(BLURS))
def _templates(half: float, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Widths (w,), and boxes of these widths, each at several shifts, blurred, without their level: (samples, w s)."""
    widths = np.geomspace(0.5, 2 * half + 4, 48)
    shifts = np.linspace(-1, 1, 9) * max(2, half / 8)
    across = sample_distances(half)
    from_middle, to_edge = across[:, None, None] - shifts, widths[:, None] / 2
    boxes = erf((from_middle + to_edge) / (2**0.5 * blur)) - erf((from_middle - to_edge) / (2**0.5 * blur))
    boxes = (boxes / 2).reshape(len(across), -1).astype(np.float32)
    level = _levels(across)
    return widths, boxes - level @ (level.T @ boxes)


def _levels(across: np.ndarray) -> np.ndarray:
    """Orthonormal constant and slope at these distances, (samples, 2) float32."""
    return np.linalg.qr(np.stack([np.ones_like(across), across], axis=1))[0].astype(np.float32)


def _fit_of_blur(trace: Trace, rows: np.ndarray, limits: np.ndarray, blur: float) -> np.ndarray:
    """The best box of one blur for each profile without its level: widths, depths and explained squares, (3, n)."""
    widths, boxes = _templates(trace.half, blur)
    product, norms = rows @ boxes, (boxes**2).sum(axis=0)
    depths = (product / norms).clip(0, limits[:, None])
    explained = (depths * (2 * product - depths * norms)).reshape(len(rows), len(widths), -1)
    each = np.arange(len(rows))
    by_width = explained.max(axis=2)
    best = by_width.argmax(axis=1)
    shift = explained[each, best].argmax(axis=1)
    # Between the widths that were tried: the peak of a parabola through three of them
    middle = best.clip(1, len(widths) - 2)
    before, here, after = (by_width[each, middle + step] for step in (-1, 0, 1))
    offset = ((before - after) / (2 * (before - 2 * here + after) - 1e-9)).clip(-1, 1)
    fitted = widths[middle] * (widths[1] / widths[0]) ** offset
    return np.stack([fitted, depths.reshape(explained.shape)[each, best, shift], by_width[each, best]])


def _measure_line(trace: Trace, line: Line, boxes: _Boxes, region: np.ndarray) -> _Measured:
    """The measured places of one line, and its length between the ends of the crack."""
    points, tangents = line.points + trace.corner, unit_tangents(line.points)
    seen = in_image(points, region.shape)
    inside = int(region[tuple(np.rint(points[seen]).astype(int).T[::-1])].sum())
    clear = seen & (boxes.explained >= EXPLAINED)
    clear &= boxes.widths < 2 * trace.half + 3  # else it is what surrounds the region
    clear &= uniform_filter1d(clear.astype(np.float32), RUN, mode="constant") > 0.5
    if not clear.any():
        return _Measured(np.empty(0), np.empty((0, 2)), np.empty((0, 2)), 0.0, 0, inside)
    # The crack ends where half of its depth is gone; in between it may be fainter.
    number = np.arange(len(points))
    first, last = number[clear & (boxes.depths >= np.median(boxes.depths[clear]) / 2)][[0, -1]]
    crack = slice(0 if line.forks[0] else first, len(points) if line.forks[1] else last + 1)
    length = np.hypot(*np.diff(points[crack], axis=0).T).sum() + 1 - sum(line.forks) / 2
    # Left out: a single edge, which is a slope and a box; where the image ends before the surface is reached; where
    # another branch is near
    reach = unit_normals(line.points) * (boxes.widths[:, None] / 2 + 3)
    measured = clear & (boxes.slope < boxes.explained)
    measured &= in_image(points + reach, region.shape) & in_image(points - reach, region.shape)
    measured &= (number >= first) & (number <= last)
    measured &= (number >= line.forks[0] * trace.half) & (number[::-1] >= line.forks[1] * trace.half)
    widths = np.pad(np.where(measured, boxes.widths, np.nan), MEDIAN // 2, constant_values=np.nan)
    medians = np.nanmedian(sliding_window_view(widths, MEDIAN)[measured], axis=1)
    return _Measured(medians, points[measured], tangents[crack], float(length), int(clear.sum()), inside)
