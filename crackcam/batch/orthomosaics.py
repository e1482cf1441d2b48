"""Orthomosaics: the regions of an image that does not fit in memory, as polygons.

The evidence is computed strip by strip into a file, which outlives a kill:
:class:`crackcam.models.evidence_maps.EvidenceFile`. Its regions are found and measured one after the other:
:class:`crackcam.batch.mosaic_regions.RegionFinder`.
"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from crackcam.batch.mosaic_regions import RegionFinder
from crackcam.batch.streaming import check_identity, read_document
from crackcam.config import SizesConfig
from crackcam.data.capture import Capture
from crackcam.data.scene import ImageError
from crackcam.data.verdicts import REJECT, FileVerdicts
from crackcam.data.windows import Orthomosaic, open_orthomosaic
from crackcam.errors import UserError
from crackcam.evaluation.regions import Measurement
from crackcam.explain.explainer import Explainer
from crackcam.explain.heatmaps import explained_classes
from crackcam.explain.thresholds import known_threshold
from crackcam.files import write_atomically, write_json
from crackcam.methods import EVIDENCE
from crackcam.models.evidence_maps import EvidenceFile, masked_strips, pooled_probabilities
from crackcam.models.loaded import LoadedModel
from crackcam.models.tile_layout import Layout
from crackcam.models.tiles import reads_tiles
from crackcam.render.overlays import choose_style, draw_regions
from crackcam.render.polygons import write_polygons
from crackcam.sizes import Scale
from crackcam.types import Prediction, Region

logger = logging.getLogger(__name__)

Row = dict[str, Any]

OVERVIEW_SIDE = 2000  # pixels of the figure
NO_DATA = "no pixel has data: all of it is transparent, or nodata"


def predict_orthomosaic(network: LoadedModel, path: Path, batch_size: int = 32) -> Prediction:
    """The classes of an orthomosaic.

    Raises:
        ImageError: it cannot be read, or has no data.
    """
    with open_orthomosaic(path) as mosaic:
        probabilities = pooled_probabilities(network, masked_strips(network, mosaic, batch_size))
        if probabilities is None:
            raise ImageError(NO_DATA)
        tiles = Layout.of(mosaic.height, mosaic.width, network.preprocessing.size).tiles
        return Prediction.of(network.card.classes, probabilities.tolist(), path, tiles=tiles)


def check_windows(network: LoadedModel) -> None:
    """Raises UserError where a network cannot read orthomosaics."""
    if not reads_tiles(network):
        raise UserError(
            f"{network.source} cannot read an orthomosaic by windows: that takes a network with a multiscale head of "
            "which one class is the absence of the others, and no --resize"
        )


@dataclass(frozen=True)
class Survey:
    """How the regions of orthomosaics are found.

    Attributes:
        explainer: of the method ``evidence``.
        target: class whose regions are found; None: the one predicted.
        sizes: how the sizes of cracks become millimetres, where not by the file's own scale.
        batch_size: images of the network's size that may be computed at a time.
        made_by: what the evidence depends on besides the file: an interrupted run is continued with the same.
        verdicts: what a person decided about regions; rejected ones are neither drawn nor written as polygons.

    Raises:
        UserError: the network or the method cannot be used on orthomosaics; or no threshold is known.
    """

    explainer: Explainer
    target: int | None
    sizes: SizesConfig = field(default_factory=SizesConfig)
    batch_size: int = 32
    made_by: dict[str, Any] = field(default_factory=dict)
    verdicts: FileVerdicts | None = None

    def __post_init__(self) -> None:
        network, combination = self.explainer.network, self.explainer.combination
        check_windows(network)
        if self.explainer.method != EVIDENCE or not combination.plain or self._changed:
            raise UserError(
                f"orthomosaics are read with --method {EVIDENCE} as it is: leave other methods, --scales, --refine, "
                "--aug-smooth and --eigen-smooth out"
            )
        names = network.card.classes if self.target is None else [network.card.classes[self.target]]
        if any(math.isnan(self._threshold(name)) for name in names):
            raise UserError("no threshold is known for these heatmaps: orthomosaics need --threshold")

    @property
    def _changed(self) -> bool:
        """Whether heatmaps are changed after, or averaged while, they are made."""
        return bool(self.explainer.config.refine) or self.explainer.combination.technique.smoothed

    def _threshold(self, target: str) -> float:
        return known_threshold(self.explainer.config, self.explainer.network.card, EVIDENCE, target)

    def work(self, path: Path, picture: Path, state: Path, resume: bool) -> tuple[Prediction, Row]:
        """Find the regions of an orthomosaic, and write its files.

        Args:
            path: the orthomosaic.
            picture: the overview, .png or .jpg; the others are named like it.
            state: folder of what an interrupted run has done; it is removed at the end.
            resume: continue there, if there is something.

        Returns:
            Its classes, and what else a row tells of it; ``geojson`` names the files of polygons.

        Raises:
            ImageError: it cannot be read, or has no data.
            UserError: it was interrupted with other settings.
        """
        network = self.explainer.network
        self._prepare_state(path, state, resume)
        with open_orthomosaic(path) as mosaic:
            _log_what_is_read(mosaic)
            evidence = EvidenceFile(state / "evidence.f32", network, mosaic.height, mosaic.width)
            evidence.complete(mosaic, self.batch_size)
            probabilities = pooled_probabilities(network, evidence.chunks())
            if probabilities is None:
                shutil.rmtree(state)
                raise ImageError(NO_DATA)
            prediction = Prediction.of(
                network.card.classes, probabilities.tolist(), path, tiles=_tiles(network, mosaic)
            )
            (index,) = explained_classes(probabilities[None], self.target)
            row = self._found(mosaic, evidence, index, picture)
        shutil.rmtree(state)
        return prediction, row

    def _prepare_state(self, path: Path, state: Path, resume: bool) -> None:
        """Make the folder of the state; an earlier one is removed, unless it is continued."""
        file = path.stat()
        identity = {
            "file": str(path.resolve()),
            "bytes": file.st_size,
            "modified": file.st_mtime_ns,
            "batch-size": self.batch_size,
            **self.made_by,
        }
        record = state / "run.json"
        if resume and record.exists():
            check_identity(read_document(record), identity, state)
            logger.info("resuming %s", path)
            return
        if state.exists():
            shutil.rmtree(state)
        write_json(record, identity)

    def _found(self, mosaic: Orthomosaic, evidence: EvidenceFile, index: int, picture: Path) -> Row:
        """The regions of a class: what a row tells of them, and their files."""
        target = self.explainer.network.card.classes[index]
        threshold, scale = self._threshold(target), self.scale(mosaic)
        regions: list[Region] = []
        peak = 0.0
        if math.isfinite(threshold):
            finder = RegionFinder(mosaic, evidence, index, threshold, scale, self.sizes.limits)
            regions, peak = finder.regions(), finder.peak()
        measured = _measurement(regions, mosaic)
        row = measured.as_row()
        if self.verdicts:
            decided = self.verdicts.judge(mosaic.path, measured.boxes)
            row["regions"] = [{**of_one, "verdict": v} for of_one, v in zip(row["regions"], decided, strict=True)]
            regions = [region for region, verdict in zip(regions, decided, strict=True) if verdict != REJECT]
        style = choose_style("mask", self.explainer.config.colormap)
        drawn = draw_regions(
            *_overview(mosaic, _measurement(regions, mosaic)), style.colormap, max(mosaic.fitted(OVERVIEW_SIDE))
        )
        write_atomically(picture, lambda temporary: Image.fromarray(drawn).save(temporary))
        polygons = write_polygons(picture.with_suffix(".geojson"), mosaic, regions, target)
        return {
            "target": target,
            "overlay": str(picture),
            "max": peak,
            "threshold": threshold if math.isfinite(threshold) else None,
            **row,
            "size": [mosaic.width, mosaic.height],
            "capture": _middle(mosaic).to_dict(),
            "mm_per_pixel": scale and scale.mm_per_pixel,
            "coordinate_system": mosaic.coordinate_system,
            "geojson": polygons,
        }

    def scale(self, mosaic: Orthomosaic) -> Scale | None:
        """Millimetres of a pixel: those that are set, else those of the file."""
        if self.sizes.mm_per_pixel is not None:
            return Scale(self.sizes.mm_per_pixel)
        found = mosaic.scale()
        if found is None:
            logger.warning("%s: %s: sizes in pixels; --mm-per-pixel sets the scale", mosaic.path, _why(mosaic))
        return found


def _tiles(network: LoadedModel, mosaic: Orthomosaic) -> int:
    return Layout.of(mosaic.height, mosaic.width, network.preprocessing.size).tiles


def _log_what_is_read(mosaic: Orthomosaic) -> None:
    """What would not be expected of an image."""
    if mosaic.unused:
        named = ", ".join(map(str, mosaic.bands))
        logger.info("%s: bands %s of %d are looked at, as colours", mosaic.path, named, mosaic.dataset.count)
    if not mosaic.georeferenced:
        logger.warning("%s is not georeferenced: no polygons are written, regions are in pixels", mosaic.path)


def _why(mosaic: Orthomosaic) -> str:
    """Why no scale is known."""
    size = mosaic.pixel_size()
    if size is None:
        return "its coordinate system does not tell the size of a pixel"
    width, height = (f"{1000 * side:.3g}" for side in size)
    return f"a pixel is {width} x {height} mm on the ground; reproject it to square ones (gdalwarp -t_srs EPSG:...)"


def _middle(mosaic: Orthomosaic) -> Capture:
    """Where it lies, as the place of a photograph."""
    if not mosaic.georeferenced:
        return Capture()
    places = mosaic.longitudes_latitudes(mosaic.coordinates([mosaic.width / 2, mosaic.height / 2]))
    return Capture(longitude=places[0][0], latitude=places[0][1]) if places else Capture()


def _measurement(regions: list[Region], mosaic: Orthomosaic) -> Measurement:
    """Of all regions; its mask would not fit in memory."""
    area = sum(region.area for region in regions)
    length = sum((region.length for region in regions), 0.0)
    fraction = area / (mosaic.height * mosaic.width)
    return Measurement(np.zeros((0, 0), bool), regions, fraction, length, area / length if length else 0.0)


def _overview(mosaic: Orthomosaic, measured: Measurement) -> tuple[np.ndarray, Measurement]:
    """The reduced orthomosaic, and the regions in it; the thinnest are a pixel wide."""
    image = mosaic.reduced(OVERVIEW_SIDE)
    down, across = image.shape[0] / mosaic.height, image.shape[1] / mosaic.width
    mask = np.zeros(image.shape[:2], np.uint8)
    for region in measured.regions:
        for polygon in region.polygons:
            points = np.reshape(polygon, (-1, 2)) * (across, down) - 0.5
            fine = [np.rint(points * 16).astype(np.int32)]
            cv2.fillPoly(mask, fine, 1, cv2.LINE_8, shift=4)
            cv2.polylines(mask, fine, True, 1, 1, cv2.LINE_8, shift=4)
    factors = (across, down, across, down)
    boxes = [
        [round(side * factor) for side, factor in zip(each.box, factors, strict=True)] for each in measured.regions
    ]
    regions = [
        replace(region, box=(x, y, max(1, width), max(1, height)))
        for region, (x, y, width, height) in zip(measured.regions, boxes, strict=True)
    ]
    return image, replace(measured, mask=mask > 0, regions=regions)
