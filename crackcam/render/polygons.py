"""Regions of an orthomosaic as GeoJSON polygons, which GIS programs open.

Two files, because there are two expectations. ``.geojson`` is what the standard says, RFC 7946: longitude and latitude.
``_crs.geojson`` has the coordinates of the orthomosaic itself and names its coordinate system in the member ``crs`` of
the older GeoJSON of 2008, which QGIS and GDAL read. A GeoPackage would need a library for vector formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from crackcam.data.windows import LONGITUDE_LATITUDE, Orthomosaic
from crackcam.files import write_atomically
from crackcam.types import Region

OWN = "_crs.geojson"  # end of the name of the file in the orthomosaic's own coordinates
DEGREE_DIGITS = 10  # decimals: a hundredth of a millimetre
LENGTH_DIGITS = 5  # decimals of metres or feet

Points = list[tuple[float, float]]


def write_polygons(path: Path, mosaic: Orthomosaic, regions: Sequence[Region], target: str) -> list[str]:
    """Write the regions of an orthomosaic.

    Args:
        path: ends in ``.geojson``.
        mosaic: open.
        regions: of it.
        target: their class.

    Returns:
        The files: two; one where longitudes and latitudes are not known, or are the file's own coordinates; none where
        it is not georeferenced.
    """
    found: list[str] = []
    if not mosaic.georeferenced:
        return found

    def features(place: Callable[[Points], Points], digits: int) -> Iterator[dict]:
        return (_feature(region, target, mosaic, place, digits) for region in regions)

    known = mosaic.longitudes_latitudes(mosaic.coordinates([0, 0, mosaic.width, mosaic.height])) is not None
    if known:
        _write(path, {}, features(lambda points: mosaic.longitudes_latitudes(points) or points, DEGREE_DIGITS))
        found.append(str(path))
    if mosaic.coordinate_system != LONGITUDE_LATITUDE:
        own = path.with_name(f"{path.stem}{OWN}")
        digits = DEGREE_DIGITS if mosaic.in_degrees else LENGTH_DIGITS
        _write(own, _crs_member(mosaic.coordinate_system), features(lambda points: points, digits))
        found.append(str(own))
    return found


def _crs_member(name: str | None) -> dict[str, Any]:
    """The coordinate system as the GeoJSON of 2008 names it: by its number; others have no name there."""
    if name is None or not name.startswith("EPSG:"):
        return {}
    return {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{name.removeprefix('EPSG:')}"}}}


def _write(path: Path, members: dict[str, Any], features: Iterable[dict]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            head = json.dumps({"type": "FeatureCollection", **members})
            file.write(f'{head[:-1]}, "features": [')
            for number, feature in enumerate(features):
                file.write(("," if number else "") + "\n" + json.dumps(feature))
            file.write("\n]}\n")

    write_atomically(path, write)


def _feature(region: Region, target: str, mosaic: Orthomosaic, place: Callable[[Points], Points], digits: int) -> dict:
    rings = [_ring(place(mosaic.coordinates(polygon)), digits) for polygon in region.polygons]
    parts = [[ring] for ring in rings]
    geometry = (
        {"type": "Polygon", "coordinates": parts[0]}
        if len(parts) == 1
        else {"type": "MultiPolygon", "coordinates": parts}
    )
    return {
        "type": "Feature",
        "id": region.number,
        "geometry": geometry,
        "properties": properties(region, target),
    }


def _ring(points: Points, digits: int) -> list[list[float]]:
    """Closed, and counter-clockwise, as RFC 7946 has outer rings."""
    doubled = sum(x * v - u * y for (x, y), (u, v) in zip(points, [*points[1:], points[0]], strict=True))
    ordered = points if doubled > 0 else points[::-1]
    return [[round(x, digits), round(y, digits)] for x, y in [*ordered, ordered[0]]]


def properties(region: Region, target: str) -> dict[str, Any]:
    """The attributes of a region, one value each: what a GIS program shows as columns of its table."""
    row = region.to_dict()
    crack, mm = row["crack"] or {}, row["mm"] or {}
    scale = region.scale
    return {
        "number": region.number,
        "class": target,
        "peak": row["peak"],
        "area_px": region.area,
        "area_m2": scale and round(region.area * (scale.mm_per_pixel / 1000) ** 2, 6),
        "length_px": crack.get("length", row["length"]),
        "length_m": scale and round(scale.millimetres(crack.get("length", row["length"])) / 1000, 4),
        "mean_width_px": crack.get("mean"),
        "p95_width_px": crack.get("p95"),
        "max_width_px": crack.get("maximum"),
        "mean_width_mm": mm.get("mean"),
        "p95_width_mm": mm.get("p95"),
        "max_width_mm": mm.get("maximum"),
        "measured_places": crack.get("measured", 0),
        "orientation": crack.get("orientation"),
        "width_class": region.width_class,
        "box_px": row["box"],
    }
