"""The regions of an orthomosaic whose evidence lies in a file: found in the map, measured in the image.

The components of the places above the threshold are found chunk by chunk. Around each of them the evidence is enlarged
to pixels and measured as of an image in one piece: a region that crosses the border of strips is one region.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from crackcam.data.windows import Orthomosaic
from crackcam.evaluation.components import Component, component_mask, find_components
from crackcam.evaluation.regions import measure
from crackcam.models.evidence_maps import CHUNK, EvidenceFile
from crackcam.progress import Progress
from crackcam.sizes import Scale
from crackcam.text import counted
from crackcam.types import Region

logger = logging.getLogger(__name__)

LARGEST = 2**24  # pixels around a region whose crack is measured: half a gigabyte
COARSE = 2**22  # places around a larger region that are looked at: of more, the largest of each square
SELDOM_NEEDED = 30.0  # seconds before regions are counted off a terminal


@dataclass(frozen=True)
class RegionFinder:
    """Finds the regions of an orthomosaic, one after the other.

    Attributes:
        mosaic: open.
        evidence: complete.
        target: class index.
        threshold: of its probability.
        scale, limits: see :func:`crackcam.evaluation.regions.measure`.
    """

    mosaic: Orthomosaic
    evidence: EvidenceFile
    target: int
    threshold: float
    scale: Scale | None = None
    limits: tuple[float, ...] = ()

    def peak(self) -> float:
        """The highest probability."""
        return max(float(self._rows(top, top + CHUNK).max()) for top in range(0, self.evidence.shape[0], CHUNK))

    def regions(self) -> list[Region]:
        """All of them, largest first."""
        components = find_components(self._exceeds, self.evidence.shape[0])
        found: list[Region] = []
        with Progress("measuring regions", len(components), "place", first=SELDOM_NEEDED) as progress:
            for component in progress.over(components):
                found += self._regions_in(component)
        found.sort(key=lambda region: -region.area)
        coarse = sum(region.crack is None for region in found)
        if coarse:
            what = counted(coarse, "region")
            logger.warning("%s: outlines without widths of %s, too large to be measured", self.mosaic.path, what)
        return [replace(region, number=number) for number, region in enumerate(found, 1)]

    def _rows(self, top: int, bottom: int) -> np.ndarray:
        rows, columns = self.evidence.shape
        return self.evidence.window(self.target, max(0, top), 0, min(rows, bottom), columns)

    def _exceeds(self, top: int, bottom: int) -> np.ndarray:
        """Where in these rows of the map a pixel may exceed the threshold: a place or its neighbour does."""
        above = min(1, top)
        grown = _grown(self._rows(top - above, bottom + 1) > self.threshold)
        return grown[above : above + bottom - top]

    def _regions_in(self, component: Component) -> list[Region]:
        places = (component.bottom - component.top) * (component.right - component.left)
        return self._coarse(component) if places * self.evidence.stride**2 > LARGEST else self._fine(component)

    def _fine(self, component: Component) -> list[Region]:
        """Measured in pixels."""
        stride = self.evidence.stride
        top, left = stride * component.top, stride * component.left
        bottom = min(self.mosaic.height, stride * component.bottom)
        right = min(self.mosaic.width, stride * component.right)
        heatmap = self._enlarged(component)[: bottom - top, : right - left]
        heatmap *= self.mosaic.valid(top, left, bottom - top, right - left)
        detected = heatmap > self.threshold
        if not detected.any():
            return []
        from crackcam.evaluation.centre_lines import surroundings  # needs scipy: slow to import

        margin = surroundings(detected)
        above, beside = min(margin, top), min(margin, left)
        below, behind = min(margin, self.mosaic.height - bottom), min(margin, self.mosaic.width - right)
        heatmap = np.pad(heatmap, ((above, below), (beside, behind)))
        image = self.mosaic.read(top - above, left - beside, *heatmap.shape)
        found = measure(heatmap, self.threshold, image, self.scale, self.limits).regions
        return [_moved(region, left - beside, top - above) for region in found]

    def _enlarged(self, component: Component) -> np.ndarray:
        """The probability around a component at the size of the image, 0 where others are."""
        (rows, columns), stride = self.evidence.shape, self.evidence.stride
        top, left = max(0, component.top - 1), max(0, component.left - 1)
        bottom, right = min(rows, component.bottom + 1), min(columns, component.right + 1)
        places = self.evidence.window(self.target, top, left, bottom, right)
        inner = np.s_[component.top - top : component.bottom - top, component.left - left : component.right - left]
        size = [stride * side for side in places.shape]
        large = F.interpolate(torch.from_numpy(places)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        own = component_mask(_grown(places > self.threshold)[inner], _within(component))
        fine = large.numpy()[tuple(slice(stride * part.start, stride * part.stop) for part in inner)]
        return fine * np.repeat(np.repeat(own, stride, axis=0), stride, axis=1)

    def _coarse(self, component: Component) -> list[Region]:
        """Measured on the map, or a reduced one; without the crack."""
        height, width = component.bottom - component.top, component.right - component.left
        step = math.ceil(math.sqrt(height * width / COARSE))
        places = np.zeros((math.ceil(height / step), math.ceil(width / step)), np.float32)
        for number in range(len(places)):
            start = component.top + number * step
            stop = min(component.bottom, start + step)
            row = self.evidence.window(self.target, start, component.left, stop, component.right).max(axis=0)
            places[number] = np.maximum.reduceat(row, np.arange(0, width, step))
        seed = tuple(at // step for at in _within(component))
        own = component_mask(_grown(places > self.threshold), (seed[0], seed[1]))
        found = measure(places * own, self.threshold).regions
        stride = self.evidence.stride
        enlarged = [_enlarge(region, stride * step) for region in found]
        return [_moved(region, stride * component.left, stride * component.top) for region in enlarged]


def _within(component: Component) -> tuple[int, int]:
    """The seed, in the box of the component."""
    return component.seed[0] - component.top, component.seed[1] - component.left


def _grown(mask: np.ndarray) -> np.ndarray:
    """With its eight neighbours."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _moved(region: Region, x: int, y: int) -> Region:
    """A region of a window, in the image."""
    left, top, width, height = region.box
    polygons = tuple(tuple(value + (y if odd % 2 else x) for odd, value in enumerate(each)) for each in region.polygons)
    crack = region.crack
    if crack and crack.place:
        crack = replace(crack, place=(crack.place[0] + x, crack.place[1] + y))
    return replace(region, box=(left + x, top + y, width, height), polygons=polygons, crack=crack)


def _enlarge(region: Region, factor: int) -> Region:
    """A region of a map that is so many times smaller, in pixels."""
    left, top, width, height = (factor * side for side in region.box)
    return replace(
        region,
        box=(left, top, width, height),
        area=factor**2 * region.area,
        length=factor * region.length,
        width=factor * region.width,
        polygons=tuple(tuple(factor * value for value in polygon) for polygon in region.polygons),
    )
