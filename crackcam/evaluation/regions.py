"""Regions of a heatmap above a detection threshold: where they are, how large, how long and how wide.

These are measures of the marking, not of the thing that is marked: a region is wider than the crack in it, by an amount
that depends on the network.

A heatmap shows where; a :class:`Measurement` gives numbers for a report:

    fraction    of the image's area above the threshold
    length      of the regions along their skeleton, in pixels. The skeleton is that of Zhang and Suen, A Fast Parallel
                Algorithm for Thinning Digital Patterns, Communications of the ACM, 1984, without spurs; a diagonal step
                counts as the square root of 2
    width       the marking width: mean, in pixels: area over length
    boxes       around the connected regions, largest region first

A skeleton ends half a width before the region does, so half a width is added at each of its ends. The length of a
straight bar is then exact to about two pixels whatever its width, and its width is as exact as that; a spot, whose
skeleton is a point, gets the side of a square of its area. Twice the mean distance to the border would be one pixel too
much for every odd width.

The threshold has the raw unit of a method's heatmaps; :mod:`crackcam.explain.thresholds` calibrates it without masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from crackcam.text import percent
from crackcam.types import Box, Region

MIN_FRACTION = 2e-4  # of the image: smaller regions are specks; 40 pixels of 448 x 448

Pixel = tuple[int, int]  # row, column


@dataclass(frozen=True, eq=False)
class Measurement:
    """The regions of one heatmap above a threshold.

    Attributes:
        mask: (H, W) bool, true in all regions.
        regions: each with its own box, area, length and width; largest first.
        fraction: of the image's area, in [0, 1].
        length: of all regions together, in pixels.
        width: of the marking, not of a crack: mean over all regions, in pixels; 0 without regions.
    """

    mask: np.ndarray
    regions: list[Region]
    fraction: float
    length: float
    width: float

    @property
    def boxes(self) -> list[Box]:
        """(x, y, width, height) of each region in pixels, largest region first."""
        return [region.box for region in self.regions]

    def as_row(self) -> dict:
        """The values of the JSON files: share, length, width, boxes."""
        return {
            "share": round(self.fraction, 6),
            "length": round(self.length, 2),
            "width": round(self.width, 2),
            "boxes": [list(box) for box in self.boxes],
        }

    def description(self, short: bool = False) -> str:
        """'1.8 %, 412 px long, marking width 6.1 px'; short: '1.8 %, 412 px long'; 'nothing detected'."""
        if not self.regions:
            return "nothing detected"
        if short:
            return f"{percent(self.fraction)}, {self.length:,.0f} px long"
        return f"{percent(self.fraction)}, {self.length:,.0f} px long, marking width {self.width:.1f} px"


def measure(heatmap: np.ndarray, threshold: float) -> Measurement:
    """Measure the regions of a heatmap above a threshold.

    Args:
        heatmap: (H, W) float32, >= 0, in its raw unit, at the size of the image that is measured.
        threshold: in that unit; values above it are detected.

    Examples:
        >>> import numpy as np
        >>> heatmap = np.zeros((100, 100), np.float32)
        >>> heatmap[40:44, 10:90] = 1
        >>> measurement = measure(heatmap, threshold=0.5)
        >>> measurement.boxes, measurement.regions[0].area
        ([(10, 40, 80, 4)], 320)
        >>> measurement.description()
        '3.2 %, 80 px long, marking width 4.0 px'
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((heatmap > threshold).astype(np.uint8), connectivity=8)
    kept = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= MIN_FRACTION * heatmap.size]
    kept.sort(key=lambda label: -stats[label, cv2.CC_STAT_AREA])
    regions = [_region(labels, label, stats[label]) for label in kept]
    mask = np.isin(labels, kept)
    length = sum((region.length for region in regions), 0.0)
    return Measurement(mask, regions, float(mask.mean()), length, float(mask.sum() / length) if length else 0.0)


def _region(labels: np.ndarray, label: int, stats: np.ndarray) -> Region:
    """The component of that label; stats: its row of ``connectedComponentsWithStats``."""
    x, y, width, height, area = (int(value) for value in stats)
    length = skeleton_length(labels[y : y + height, x : x + width] == label)
    return Region((x, y, width, height), area, length, area / length)


def skeleton_length(region: np.ndarray) -> float:
    """Length in pixels of one connected region, (H, W) bool, along its skeleton, corrected at its ends."""
    line = pruned_skeleton(region)
    right, below = line[:, 1:] & line[:, :-1], line[1:] & line[:-1]
    # A diagonal beside two straight steps round the same corner would count it twice.
    falling = line[1:, 1:] & line[:-1, :-1] & ~line[1:, :-1] & ~line[:-1, 1:]
    rising = line[1:, :-1] & line[:-1, 1:] & ~line[1:, 1:] & ~line[:-1, :-1]
    steps = right.sum() + below.sum() + 2**0.5 * (falling.sum() + rising.sum())
    branches = _branch_counts(line)[line]
    ends = (branches == 1).sum() + 2 * (branches == 0).sum()
    if (branches > 2).all():  # only the middle of a fork is left: a spot
        steps, ends = 0, 2
    # length = steps + ends / 2 * width, and width = area / length: a quadratic equation.
    return float(steps + (steps**2 + 2 * ends * region.sum()) ** 0.5) / 2


def pruned_skeleton(region: np.ndarray) -> np.ndarray:
    """Skeleton of one connected region, without spurs: branches no longer than the region is wide at their fork.

    Args:
        region: (H, W) bool.

    Returns:
        (H + 2, W + 2) bool: with a margin of one pixel.
    """
    from skimage.morphology import skeletonize

    padded = np.pad(region, 1)
    line = skeletonize(padded)
    width = 2 * cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    while True:
        counts, spurs = _branch_counts(line), []
        for y, x in np.argwhere(counts == 1).tolist():
            branch, fork = _trace_branch(counts, (y, x), width.max())
            if fork and len(branch) <= width[fork]:
                spurs += branch
        if not spurs:
            return line
        line[tuple(np.transpose(spurs))] = False


NEIGHBORS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise, from above


def _branch_counts(line: np.ndarray) -> np.ndarray:
    """Crossing number of each pixel: the branches that meet there, 1 at an end, 3 or more at a fork; -1 off the line.

    Blocks of 2 x 2 pixels, in the middle of forks, count as 3.
    """
    around = [np.roll(line, step, (0, 1)) for step in NEIGHBORS]
    changes = [after & ~before for before, after in zip(around, around[1:] + around[:1], strict=True)]
    blocks = cv2.morphologyEx(line.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    return np.select([blocks, line], [3, np.sum(changes, axis=0)], -1)


def _trace_branch(counts: np.ndarray, tip: Pixel, longest: float) -> tuple[list[Pixel], Pixel | None]:
    """The pixels from a tip up to a fork, and the fork; None where there is none within ``longest`` pixels."""
    y, x = tip
    branch = {tip: None}
    while len(branch) <= longest:
        neighbors = [(y + dy, x + dx) for dy, dx in (*NEIGHBORS[::2], *NEIGHBORS[1::2])]  # straight steps first
        following = next((pixel for pixel in neighbors if counts[pixel] >= 0 and pixel not in branch), None)
        if following is None:
            break
        if counts[following] > 2:
            return list(branch), following
        branch[following] = None
        y, x = following
    return list(branch), None


def regions_table(rows: list[dict]) -> list[dict]:
    """Rows of a CSV, from the image rows of a JSON document whose heatmaps were measured.

    Args:
        rows: each with file, true, predicted, and maps: by method, threshold and :meth:`Measurement.as_row`.
    """
    return [
        {
            "file": row["file"],
            "true": row.get("true"),
            "predicted": row.get("predicted"),
            "method": method,
            **{name: entry[name] for name in ("threshold", "share", "length", "width")},
            "boxes": len(entry["boxes"]),
        }
        for row in rows
        for method, entry in row["maps"].items()
    ]
