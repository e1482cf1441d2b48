"""Regions of a heatmap above a detection threshold: where they are, how large, how long and how wide.

A heatmap shows where; a :class:`Measurement` gives numbers for a report. Measures of the marking, not of the thing that
is marked, which is narrower by an amount that depends on the network:

    fraction    of the image's area above the threshold
    length      of the regions along their skeleton, in pixels, see :mod:`crackcam.evaluation.skeletons`
    width       the marking width: mean, in pixels: area over length
    boxes       around the connected regions, largest region first

With the image, the crack in each region is measured too: :mod:`crackcam.evaluation.widths`.

The threshold has the raw unit of a method's heatmaps; :mod:`crackcam.explain.thresholds` calibrates it without masks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from crackcam.evaluation.skeletons import skeleton_length
from crackcam.sizes import Scale
from crackcam.text import counted, percent
from crackcam.types import Box, Polygon, Region

logger = logging.getLogger(__name__)

MEASURED = 100  # regions of an image whose cracks are measured: each takes tens of milliseconds
MIN_AREA = 40  # pixels, whatever the image's size: smaller regions are specks
CRACK_COLUMNS = ("crack_width", "crack_width_mm", "width_class")  # of tables with a row for each image
DESCRIBED = 3  # regions below an image
OUTLINE = 0.5  # pixels that an outline may be off: corners of pixels closer to a straight line are left out


@dataclass(frozen=True, eq=False)
class Measurement:
    """The regions of one heatmap above a threshold.

    Attributes:
        mask: (H, W) bool, true in all regions.
        regions: each with its own box, area, lengths and widths; largest first.
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

    @property
    def widest(self) -> Region | None:
        """The region with the widest crack, by the 95th percentile; None where no crack is 2 px wide."""
        cracks = [(region.crack, region) for region in self.regions if region.crack]
        wide = [(crack.p95, -region.number, region) for crack, region in cracks if crack.p95 is not None]
        return max(wide)[2] if wide else None

    @property
    def width_class(self) -> str | None:
        """That of the widest crack of those with a class; None where none is known."""
        classified = [(region.crack.p95 or 0.0, region.width_class) for region in self.regions if region.crack]
        return max(((width, name) for width, name in classified if name), default=(0.0, None))[1]

    def without(self, numbers: Collection[int]) -> Measurement:
        """The same without the regions of these numbers; the others keep theirs."""
        if not numbers:
            return self
        _, labels, stats, _ = cv2.connectedComponentsWithStats(self.mask.astype(np.uint8), connectivity=8)
        order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1  # as the regions, largest first
        kept = [
            (label, region) for label, region in zip(order, self.regions, strict=True) if region.number not in numbers
        ]
        return _measurement(np.isin(labels, [label for label, _ in kept]), [region for _, region in kept])

    def as_row(self) -> dict:
        """The values of the JSON files; those of a crack are of the widest one."""
        widest = self.widest and self.widest.to_dict()
        return {
            "share": round(self.fraction, 6),
            "length": round(self.length, 2),
            "width": round(self.width, 2),
            "boxes": [list(box) for box in self.boxes],
            "crack_width": widest and widest["crack"]["p95"],
            "crack_width_mm": widest and widest["mm"] and widest["mm"]["p95"],
            "width_class": self.width_class,
            "regions": [region.to_dict() for region in self.regions],
        }

    def description(self, short: bool = False) -> str:
        """'1.8 %, 412 px long, marking width 6.1 px'; short: '1.8 %, 412 px long'; 'nothing detected'.

        With cracks that were measured, a line for each of the largest regions: '1: 412 px long, width 3.1 px'.
        """
        if not self.regions:
            return "nothing detected"
        if short:
            return f"{percent(self.fraction)}, {self.length:,.0f} px long"
        if self.regions[0].crack:
            lines = [f"{region.number}: {region.description()}" for region in self.regions[:DESCRIBED]]
            more = len(self.regions) - DESCRIBED
            return "\n".join([*lines, *([f"and {counted(more, 'smaller region')}"] if more > 0 else [])])
        return f"{percent(self.fraction)}, {self.length:,.0f} px long, marking width {self.width:.1f} px"


def measure(
    heatmap: np.ndarray,
    threshold: float,
    image: np.ndarray | None = None,
    scale: Scale | None = None,
    width_limits: Sequence[float] = (),
) -> Measurement:
    """Measure the regions of a heatmap above a threshold, and the cracks in them.

    Args:
        heatmap: (H, W) float32, >= 0, in its raw unit, at the size of the image that is measured.
        threshold: in that unit; values above it are detected.
        image: (H, W, 3) uint8, in which the cracks are measured, those in the 100 largest regions; None: in none.
        scale: of the image, where it is known.
        width_limits: of the classes of widths, in millimetres, ascending; they need a scale.

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
    kept = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= MIN_AREA]
    kept.sort(key=lambda label: -stats[label, cv2.CC_STAT_AREA])
    regions = []
    for number, label in enumerate(kept, 1):
        region = _region(heatmap, labels, label, stats[label], number)
        if image is not None and number <= MEASURED:
            from crackcam.evaluation.widths import measure_width_within  # needs scipy: slow to import

            crack = measure_width_within(image, labels, label, region.box)
            region = replace(region, crack=crack, scale=scale, width_class=crack.width_class(scale, width_limits))
        regions.append(region)
    if image is not None and len(kept) > MEASURED:
        logger.warning("cracks are measured in the %d largest of %d regions", MEASURED, len(kept))
    is_kept = np.zeros(count, bool)
    is_kept[kept] = True
    return _measurement(is_kept[labels], regions)


def _measurement(mask: np.ndarray, regions: list[Region]) -> Measurement:
    length = sum((region.length for region in regions), 0.0)
    return Measurement(mask, regions, float(mask.mean()), length, float(mask.sum() / length) if length else 0.0)


def _region(heatmap: np.ndarray, labels: np.ndarray, label: int, stats: np.ndarray, number: int) -> Region:
    """The component of that label; stats: its row of ``connectedComponentsWithStats``."""
    x, y, width, height, area = (int(value) for value in stats)
    part = np.s_[y : y + height, x : x + width]
    mask = labels[part] == label
    length, peak = skeleton_length(mask), float(heatmap[part][mask].max())
    return Region(
        (x, y, width, height), area, length, area / length, None, peak, (outline(mask, (x, y)),), number=number
    )


def outline(region: np.ndarray, corner: tuple[int, int] = (0, 0)) -> Polygon:
    """The outer outline of one connected region, (H, W) bool, along the edges of its pixels.

    The corners of steps are cut off, those that stand out as much as those that stand in, so that the area is kept.

    Args:
        region: the part of the image around it.
        corner: (x, y) of the part's first pixel in the image.

    Examples:
        >>> import numpy as np
        >>> outline(np.ones((3, 5), bool), (10, 20))
        (10, 20, 10, 23, 15, 23, 15, 20)
    """
    pixels = np.pad(region, 1).astype(np.uint8)
    # Points of a grid twice as fine: the centres of pixels (odd, odd), the middles of their edges, their corners.
    finer = np.zeros((2 * region.shape[0] + 1, 2 * region.shape[1] + 1), np.uint8)
    finer[1::2, 1::2] = region
    finer[1::2, ::2] = pixels[1:-1, 1:] | pixels[1:-1, :-1]
    finer[::2, 1::2] = pixels[1:, 1:-1] | pixels[:-1, 1:-1]
    finer[::2, ::2] = _kept_corners(pixels)
    (line,), _ = cv2.findContours(finer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    simple = cv2.approxPolyDP(line, 2 * OUTLINE, True)
    line = (simple if len(simple) > 2 else line)[:, 0] / 2 + corner  # a diagonal of single pixels has no width left
    return tuple(int(value) if value == int(value) else float(value) for value in line.ravel())


def _kept_corners(pixels: np.ndarray) -> np.ndarray:
    """Which corners of pixels an outline includes: all but those of steps, and of pixels that touch at a corner.

    Args:
        pixels: (H + 2, W + 2) uint8, 0 or 1, with a margin.

    Returns:
        (H + 1, W + 1) bool.
    """
    around = pixels[1:, 1:] + pixels[1:, :-1] + pixels[:-1, 1:] + pixels[:-1, :-1]
    touching = (around == 2) & (pixels[1:, 1:] == pixels[:-1, :-1])
    inner = ((around == 3) | touching).astype(np.uint8)
    beside = cv2.dilate(inner, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > 0
    return (around >= 2) | ((around == 1) & ~beside)


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
            **{name: entry[name] for name in CRACK_COLUMNS},
        }
        for row in rows
        for method, entry in row["maps"].items()
    ]
