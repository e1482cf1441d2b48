"""GeoJSON of the images with findings (RFC 7946): one point an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from crackcam.files import write_json_stream
from crackcam.sizes import class_names

Row = dict[str, Any]


def has_place(row: Row) -> bool:
    """Whether it is known where an image was taken."""
    capture = row.get("capture") or {}
    return capture.get("latitude") is not None and capture.get("longitude") is not None


def write(path: Path, rows: Iterable[Row], limits: Sequence[float] = ()) -> None:
    """Write the images with regions whose place is known.

    Args:
        path: the file.
        rows: of the images, see :mod:`crackcam.batch.handover`.
        limits: of the width classes, in mm; none: regions are not classified.
    """
    classes = class_names(limits) if limits else []
    write_json_stream(path, {"type": "FeatureCollection"}, {"features": _features(rows, classes)})


def _features(rows: Iterable[Row], classes: Sequence[str]) -> Iterator[dict]:
    for row in rows:
        if row["regions"] and has_place(row):
            yield _feature(row, classes)


def _feature(row: Row, classes: Sequence[str]) -> dict:
    capture = row["capture"]
    place = [capture["longitude"], capture["latitude"], capture["altitude"]]
    length, scale = sum(length_of(region) for region in row["regions"]), row.get("mm_per_pixel")
    properties = {
        "image": row["image"],
        "time": capture["time"],
        "regions": len(row["regions"]),
        "p95_width_px": widest(row),
        "p95_width_mm": widest(row, "mm"),
        "length_px": round(length, 2),
        "length_mm": round(length * scale, 1) if scale else None,
        "width_class": width_class(row),
        **_counts(row, classes),
    }
    geometry = {"type": "Point", "coordinates": [value for value in place if value is not None]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _counts(row: Row, classes: Sequence[str]) -> dict[str, int]:
    """Regions by width class, flat: tables of GIS programs show no nested values."""
    found = Counter(region.get("width_class") for region in row["regions"])
    named = [*((name, name) for name in classes), (None, "not classified")] if classes else []
    return {f"regions {text}": found[name] for name, text in named}


def widest(row: Row, unit: str = "crack") -> float | None:
    """Largest 95th percentile of the widths of an image's regions; None where none could be measured.

    Args:
        row: of the image.
        unit: "crack" for pixels, "mm" for millimetres.
    """
    widths = [region[unit]["p95"] for region in row["regions"] if region.get(unit)]
    return max((width for width in widths if width is not None), default=None)


def width_class(row: Row) -> str | None:
    """That of an image's widest region; None where none has one."""
    classified = [region for region in row["regions"] if region.get("width_class") and region["crack"]["p95"]]
    widest = max(classified, key=lambda region: region["crack"]["p95"], default=None)
    return widest and widest["width_class"]


def length_of(region: Row) -> float:
    """Length in pixels of the crack in a region; of the marking where no crack was measured."""
    return (region.get("crack") or region)["length"]
