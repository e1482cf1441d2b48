"""From a heat map to a finding: what lies above a threshold, where, how much, how long and how wide.

A map says where; a finding says what was found, in numbers that can be put into a report:

    share       of the picture's area that was found
    length      of what was found along its middle, in pixels: its skeleton, by Zhang and Suen (Communications of the
                ACM, 1984), without the branches of mere bumps, a diagonal step counted as the square root of 2
    width       mean, in pixels: area over length
    boxes       around the connected parts, largest first

A skeleton ends half a width before what it is the middle of, so half a width is added at each of its ends. That makes
the length of a straight bar true to some two pixels however wide it is, and its width as exact as that; a spot, whose
skeleton is a point, gets the sides of a square. Twice the mean distance to the border would be a pixel too much for
every odd width.

The threshold is in the raw unit of a method's maps. It is chosen without any mask (:func:`calibrate`): so high that
hardly a pixel exceeds it in the maps of a class over pictures of other classes, where there is nothing to find.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from crackcam.text import percent

SMALLEST = 2e-4  # share of the picture: parts with fewer pixels are specks; 40 pixels of 448 x 448

Pixel = tuple[int, int]  # row, column


class Measurement(NamedTuple):
    """What was found in a picture.

    Attributes:
        mask: (H, W) bool.
        boxes: (x, y, width, height) in pixels, of each connected part, largest part first.
        share: of the picture's area, in [0, 1].
        length: in pixels, of all parts together.
        width: mean, in pixels; 0 where nothing was found.
    """

    mask: np.ndarray
    boxes: list[tuple[int, int, int, int]]
    share: float
    length: float
    width: float

    def as_row(self) -> dict:
        """All but the mask, as JSON has it."""
        rounded = {"share": round(self.share, 6), "length": round(self.length, 2), "width": round(self.width, 2)}
        return {**rounded, "boxes": [list(box) for box in self.boxes]}

    def says(self, short: bool = False) -> str:
        """'1.8 % found, 412 px long, 6.1 px wide'; short: '1.8 %, 412 x 6.1 px'."""
        if not self.boxes:
            return "nothing found"
        if short:
            return f"{percent(self.share)}, {self.length:,.0f} x {self.width:.1f} px"
        return f"{percent(self.share)} found, {self.length:,.0f} px long, {self.width:.1f} px wide"


def measure(heat: np.ndarray, threshold: float) -> Measurement:
    """Cut a map.

    Args:
        heat: (H, W) float32, >= 0, in its raw unit, at the size of the picture that is measured.
        threshold: in that unit; what is hotter is found.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((heat > threshold).astype(np.uint8), connectivity=8)
    parts = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] >= SMALLEST * heat.size]
    parts.sort(key=lambda part: -stats[part, cv2.CC_STAT_AREA])
    mask = np.isin(labels, parts)
    boxes, length = [], 0.0
    for part in parts:
        x, y, width, height = (int(value) for value in stats[part, :4])
        boxes.append((x, y, width, height))
        length += length_of(labels[y : y + height, x : x + width] == part)
    return Measurement(mask, boxes, float(mask.mean()), length, float(mask.sum() / length) if length else 0.0)


def length_of(part: np.ndarray) -> float:
    """Length of one connected part, (H, W) bool, along its middle; see the module."""
    line = middle_line(part)
    right, below = line[:, 1:] & line[:, :-1], line[1:] & line[:-1]
    # A diagonal beside two straight steps round the same corner would count it twice.
    falling = line[1:, 1:] & line[:-1, :-1] & ~line[1:, :-1] & ~line[:-1, 1:]
    rising = line[1:, :-1] & line[:-1, 1:] & ~line[1:, 1:] & ~line[:-1, :-1]
    steps = right.sum() + below.sum() + 2**0.5 * (falling.sum() + rising.sum())
    ways = _ways(line)[line]
    ends = (ways == 1).sum() + 2 * (ways == 0).sum()
    if (ways > 2).all():  # nothing but the middle of a fork is left: a spot
        steps, ends = 0, 2
    # length = steps + ends / 2 * width, and width = area / length: a quadratic equation.
    return float(steps + (steps**2 + 2 * ends * part.sum()) ** 0.5) / 2


def middle_line(part: np.ndarray) -> np.ndarray:
    """Skeleton of one connected part, without branches that are no longer than the part is wide at their root.

    Args:
        part: (H, W) bool.

    Returns:
        (H + 2, W + 2) bool: with a margin of a pixel.
    """
    from skimage.morphology import skeletonize

    padded = np.pad(part, 1)
    line = skeletonize(padded)
    width = 2 * cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    while True:
        ways, bumps = _ways(line), []
        for y, x in np.argwhere(ways == 1).tolist():
            branch, root = _branch(ways, (y, x), width.max())
            if root and len(branch) <= width[root]:
                bumps += branch
        if not bumps:
            return line
        line[tuple(np.transpose(bumps))] = False


RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def _ways(line: np.ndarray) -> np.ndarray:
    """How many ways lead from each pixel of a line: 1 at an end, 3 or more at a fork, or in one's middle; -1 off it."""
    around = [np.roll(line, step, (0, 1)) for step in RING]
    changes = [after & ~before for before, after in zip(around, around[1:] + around[:1], strict=True)]
    blocks = cv2.morphologyEx(line.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    return np.select([blocks, line], [3, np.sum(changes, axis=0)], -1)


def _branch(ways: np.ndarray, tip: Pixel, longest: float) -> tuple[list[Pixel], Pixel | None]:
    """The pixels from the tip up to a fork, and the fork; None where there is none within ``longest``."""
    y, x = tip
    branch = {tip: None}
    while len(branch) <= longest:
        near = [(y + dy, x + dx) for dy, dx in (*RING[::2], *RING[1::2])]  # straight steps first
        ahead = next((pixel for pixel in near if ways[pixel] >= 0 and pixel not in branch), None)
        if ahead is None:
            break
        if ways[ahead] > 2:
            return list(branch), ahead
        branch[ahead] = None
        y, x = ahead
    return list(branch), None


def table(rows: list[dict]) -> list[dict]:
    """The lines of a CSV, from the rows of a JSON file with findings among their maps."""
    return [
        {
            "file": row["file"], "true": row.get("true"), "predicted": row.get("predicted"), "method": method,
            **{name: found[name] for name in ("threshold", "share", "length", "width")}, "boxes": len(found["boxes"]),
        }
        for row in rows
        for method, found in row["maps"].items()
    ]  # fmt: skip
