"""What is handed over of a whole folder: findings as a table, GeoJSON, COCO and a report page.

All are made from the rows of the journals, image after image. Images have names relative to their common folder.
Regions that a person rejected are left out; the table of the run itself, ``<name>.csv`` or ``.jsonl``, has them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crackcam.batch.streaming import Row, Rows, Run
from crackcam.data.names import HandoverNames
from crackcam.data.verdicts import ACCEPT, REJECT, FileVerdicts, Verdict
from crackcam.render.handover import coco, geojson, table
from crackcam.text import counted

logger = logging.getLogger(__name__)


@dataclass
class Totals:
    """What all images together have.

    Attributes:
        images: that could be read.
        with_findings: of these, images with regions.
        regions: without rejected ones.
        accepted, rejected: regions that a person decided about.
        length_px: of all regions, in pixels.
        length_mm: in millimetres, of the images whose scale is known; None: of none.
        widest_px: largest 95th percentile of the widths of a region, in pixels; None: none could be measured.
        widest_mm: likewise in millimetres.
        widest_region: which region that is, in millimetres where any are known; None: none could be measured.
        places: images whose place is known.
    """

    images: int = 0
    with_findings: int = 0
    regions: int = 0
    accepted: int = 0
    rejected: int = 0
    length_px: float = 0.0
    length_mm: float | None = None
    widest_px: float | None = None
    widest_mm: float | None = None
    widest_region: str | None = None
    places: int = 0

    def add(self, row: Row) -> None:
        """Count an image."""
        regions = row["regions"]
        self.images += 1
        self.with_findings += bool(regions)
        self.regions += len(regions)
        self.accepted += sum(region["verdict"] == ACCEPT for region in regions)
        self.rejected += row["rejected"]
        self.length_px += sum(map(geojson.length_of, regions))
        for region in regions:
            if region.get("mm"):
                self.length_mm = (self.length_mm or 0.0) + region["mm"]["length"]
            self._add_width(row["image"], region)
        self.places += geojson.has_place(row)

    def _add_width(self, image: str, region: Row) -> None:
        mm, pixels = ((region.get(unit) or {}).get("p95") for unit in ("mm", "crack"))
        metric = mm is not None or self.widest_mm is not None
        value, widest = (mm, self.widest_mm) if metric else (pixels, self.widest_px)
        if value is not None and (widest is None or value > widest):
            self.widest_region = f"region {region['number']} of {image}"
        self.widest_px, self.widest_mm = _largest(self.widest_px, pixels), _largest(self.widest_mm, mm)

    def description(self) -> str:
        """'75 regions in 6 of 6 images, 2 more rejected; the widest: 2.63 mm, region 2 of a.jpg'."""
        found = f"{counted(self.regions, 'region')} in {self.with_findings:,} of {counted(self.images, 'image')}"
        rejected = f", {self.rejected:,} more rejected" if self.rejected else ""
        if self.widest_px is None:
            return found + rejected
        widest = f"{self.widest_px:.1f} px" if self.widest_mm is None else f"{self.widest_mm:.2f} mm"
        return f"{found}{rejected}; the widest: {widest}, {self.widest_region}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in vars(self).items()}


def _largest(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def findings_table(table: Path) -> Path:
    """The table of findings beside the table of a run."""
    return table.with_name(f"{table.stem}_findings.csv")


@dataclass(frozen=True)
class Handover:
    """The files of findings beside a table.

    Attributes:
        run: the images, and the table.
        classes: that have regions; others are the absence of these.
        title: of what was inspected.
        verdicts: what a person decided in an earlier run.
        report: writes the report page from the document and the rows.
    """

    run: Run
    classes: Sequence[str]
    title: str | None = None
    verdicts: FileVerdicts | None = None
    report: Callable[[dict, Iterator[Row]], str] | None = None
    names: HandoverNames = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", HandoverNames.of(path for _, path in self.run.files))

    def write(self, document: dict, rows: Rows) -> dict[str, Any]:
        """Write all files.

        Args:
            document: of the run.
            rows: gives the rows of the run, from the first on.

        Returns:
            What the document says of them.
        """

        def shown() -> Iterator[Row]:
            return (finding_row(row, self.names, self.classes) for row in rows())

        totals = self._count(shown())
        found: dict[str, Any] = {"title": self.title, "findings": totals.to_dict()}
        findings, coco_file = findings_table(self.run.table), self._beside("_coco.json")
        known = self._known_verdicts()
        table.write(findings, shown(), known)
        coco.write(coco_file, shown, self.classes, self.title or "regions found by crackcam")
        places = self._write_places(shown, totals, document.get("width-limits") or ())
        found |= {"findings_table": str(findings), "geojson": places, "coco": str(coco_file)}
        logger.info("findings: %s", totals.description())
        if self.report:
            found["report"] = self.report(
                {**document, **found, "verdicts": [each.to_dict() for each in known]}, shown()
            )
        return found

    def _known_verdicts(self) -> list[Verdict]:
        """All verdicts as their file has them, images named as in this run: a review goes on where it ended."""
        if not self.verdicts:
            return []
        by_file = self.verdicts.by_file.items()
        meant = {id(each): self.names.name(path) for path, found in by_file for each in found}
        return [replace(each, image=meant.get(id(each), each.image)) for each in self.verdicts.source.verdicts]

    def _beside(self, end: str) -> Path:
        return self.run.table.with_name(f"{self.run.table.stem}{end}")

    def _count(self, rows: Iterator[Row]) -> Totals:
        totals = Totals()
        for row in rows:
            if "error" not in row:
                totals.add(row)
        if self.verdicts:
            total = len(self.verdicts.source.verdicts)
            lost = total - totals.accepted - totals.rejected
            if not total:
                logger.warning("%s has no verdicts: its column verdict is empty", self.verdicts.source.path)
            if lost > 0:
                logger.warning(
                    "%s of %s in %s match no region of these images, by name and overlap of boxes",
                    f"{lost:,}",
                    counted(total, "verdict"),
                    self.verdicts.source.path,
                )
        return totals

    def _write_places(self, rows: Rows, totals: Totals, limits: Sequence[float]) -> str | None:
        """The GeoJSON file; None where no place is known: an earlier file is removed then, it is of other images."""
        path = self._beside(".geojson")
        if not totals.places:
            logger.info("no image has a place in its EXIF data: no %s", path.name)
            path.unlink(missing_ok=True)
            return None
        if totals.places < totals.images:
            missing = counted(totals.images - totals.places, "image")
            logger.info("%s without a place in the EXIF data: not in %s", missing, path.name)
        geojson.write(path, rows(), limits)
        return str(path)


def finding_row(row: Row, names: HandoverNames, classes: Collection[str]) -> Row:
    """A row as it is handed over.

    Args:
        row: of a journal; its regions may have a ``verdict``.
        names: of the images.
        classes: that have regions.

    Returns:
        The row with ``image``, its name; with the ``regions`` that were not rejected, each with a ``verdict`` or None;
        and with ``rejected``, the number of the others.
    """
    found = [{"verdict": None, **region} for region in row.get("regions", ()) if row.get("target") in classes]
    kept = [region for region in found if region["verdict"] != REJECT]
    return {**row, "image": names.name(Path(row["file"])), "regions": kept, "rejected": len(found) - len(kept)}
