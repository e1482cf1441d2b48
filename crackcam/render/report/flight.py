"""The photographs of a findings page without their pixels: what is counted, sorted and drawn on the map."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from crackcam.render.handover.geojson import length_of

Row = dict[str, Any]
WIDEST = 25  # regions of all photographs together that are listed


class WideRegion(NamedTuple):
    """A region among the widest of all photographs, without its outlines.

    Attributes:
        severity: what "widest first" sorts by: the width in mm, else in pixels, else the length.
        order: minus the number of regions before it, so that of two alike the earlier comes first.
        photograph: its name.
        mm_per_pixel: scale of the photograph; None: not known.
        region: the region.
    """

    severity: tuple[float, float, float]
    order: int
    photograph: str
    mm_per_pixel: float | None
    region: Row


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        name: of the photograph, outside this machine.
        file: as the run read it.
        overlay: file of its overlay.
        capture: time, latitude, longitude, altitude; None where EXIF does not know.
        regions: their number.
        width: 95th percentile of the widest region's width: in mm, and in pixels; None where it is not known.
        widest: number of that region; None without a width.
        length: of all regions together: in mm, None where not known; and in pixels.
        place: where its row lies in the file of rows, in bytes.
    """

    name: str
    file: str
    overlay: str
    capture: dict[str, Any]
    regions: int
    width: tuple[float | None, float | None]
    widest: int | None
    length: tuple[float | None, float]
    place: int

    @property
    def severity(self) -> tuple[float, float, float]:
        """What "worst first" sorts by: the widest crack in mm, else in pixels, else the length."""
        return self.width[0] or 0.0, self.width[1] or 0.0, self.length[1]

    @property
    def position(self) -> tuple[float, float] | None:
        """Latitude and longitude."""
        latitude, longitude = self.capture.get("latitude"), self.capture.get("longitude")
        return None if latitude is None or longitude is None else (latitude, longitude)


@dataclass
class Flight:
    """All photographs of a run, in memory without the outlines of their regions, which wait in a file.

    Attributes:
        findings: photographs with regions, worst first.
        others: photographs without.
        unreadable: name and reason.
        classes: regions by width class, and their total length in mm; None: not classified.
        regions: their number.
        unmeasured: regions whose width was not measured.
        narrow: regions that are narrower than what can be measured.
        heap: the widest regions so far, :data:`WIDEST` at most, the least wide one at the front.
        targets: the classes of regions.
        thresholds: the detection thresholds that were used.
        scales: the scales of the photographs, mm per pixel; None: not known.
        focal_lengths: in mm, those that EXIF knows: the real one, and its equivalent for a sensor 36 mm wide.
    """

    rows: IO[bytes]
    findings: list[Photograph] = field(default_factory=list)
    others: list[Photograph] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str | None, tuple[int, float]] = field(default_factory=dict)
    regions: int = 0
    unmeasured: int = 0
    narrow: int = 0
    heap: list[WideRegion] = field(default_factory=list)
    targets: set[str] = field(default_factory=set)
    thresholds: set[float] = field(default_factory=set)
    scales: set[float | None] = field(default_factory=set)
    focal_lengths: set[tuple[float | None, float | None]] = field(default_factory=set)

    @classmethod
    def read(cls, rows: Iterable[Row]) -> Flight:
        """Read all rows, once."""
        flight = cls(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the flight
        for row in rows:
            if "error" in row:
                flight.unreadable.append((row["image"], row["error"]))
            else:
                flight._add(row)
        flight.findings.sort(key=lambda photograph: photograph.severity, reverse=True)
        return flight

    def _add(self, row: Row) -> None:
        place = self.rows.tell()
        photograph = summarize(row, place)
        if photograph.regions:
            self.rows.write(json.dumps(row).encode() + b"\n")
            self.findings.append(photograph)
            self.targets.add(row["target"])
        else:
            self.others.append(photograph)
        if row.get("threshold") is not None:
            self.thresholds.add(row["threshold"])
        self.scales.add(row.get("mm_per_pixel"))
        self.focal_lengths.add((photograph.capture.get("focal_length_mm"), photograph.capture.get("focal_length_35mm")))
        for region in row["regions"]:
            measured, p95 = _measured(region), _width(region)[1]
            self.unmeasured += not measured
            self.narrow += measured and p95 is None
            count, length = self.classes.get(region.get("width_class"), (0, 0.0))
            mm = (region.get("mm") or {}).get("length") or 0.0
            self.classes[region.get("width_class")] = (count + 1, length + mm)
            self._rank(row, region)

    def _rank(self, row: Row, region: dict) -> None:
        mm, pixels = _width(region)
        severity = mm or 0.0, pixels or 0.0, length_of(region)
        kept = {name: value for name, value in region.items() if name != "polygons"}
        found = WideRegion(severity, -self.regions, row["image"], row.get("mm_per_pixel"), kept)
        self.regions += 1
        if len(self.heap) < WIDEST:
            heapq.heappush(self.heap, found)
        else:
            heapq.heappushpop(self.heap, found)

    @property
    def widest(self) -> list[WideRegion]:
        """The widest regions of all photographs, the widest first; none where one photograph has them all."""
        return sorted(self.heap, reverse=True) if len(self.findings) > 1 else []

    def details(self, photographs: Iterable[Photograph]) -> Iterator[Row]:
        """The whole rows of photographs with findings."""
        for photograph in photographs:
            self.rows.seek(photograph.place)
            yield json.loads(self.rows.readline())

    def close(self) -> None:
        """Give the file of rows back."""
        self.rows.close()

    @property
    def all(self) -> list[Photograph]:
        """Photographs with findings first."""
        return self.findings + self.others

    @property
    def metric(self) -> bool:
        """Whether the scale of every photograph with findings is known."""
        return bool(self.findings) and all(photograph.length[0] is not None for photograph in self.findings)


def summarize(row: Row, place: int) -> Photograph:
    """A photograph without its outlines; ``place`` is that of its row."""
    regions = row["regions"]
    widest = max(regions, key=lambda region: tuple(value or 0.0 for value in _width(region)), default=None)
    width = _width(widest) if widest else (None, None)
    scale, pixels = row.get("mm_per_pixel"), sum(map(length_of, regions))
    return Photograph(
        name=row["image"],
        file=row["file"],
        overlay=row["overlay"],
        capture=row.get("capture") or {},
        regions=len(regions),
        width=width,
        widest=widest["number"] if widest and width != (None, None) else None,
        length=(None if scale is None else scale * pixels, pixels),
        place=place,
    )


def _measured(region: dict) -> bool:
    crack = region.get("crack")
    return bool(crack and crack["measured"])


def _width(region: dict) -> tuple[float | None, float | None]:
    """The 95th percentile of a region's width, in mm and in pixels."""
    return (region.get("mm") or {}).get("p95"), (region.get("crack") or {}).get("p95")
