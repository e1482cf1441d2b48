"""Regions as COCO annotations with polygons, as other programs import them: supervision, CVAT, FiftyOne."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from crackcam.files import write_json_stream

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]


def write(path: Path, rows: Rows, categories: Sequence[str], description: str) -> None:
    """Write all readable images, those without regions too, and an annotation for each region.

    Args:
        path: the file.
        rows: gives those of the images from the first on, see :mod:`crackcam.batch.handover`.
        categories: names of the classes; their ids count from 1.
        description: for a person.
    """
    ids = {name: number for number, name in enumerate(categories, 1)}
    head = {
        "info": {"description": description},
        "licenses": [],
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()],
    }
    write_json_stream(path, head, {"images": _images(rows), "annotations": _annotations(rows, ids)})


def _images(rows: Rows) -> Iterator[dict]:
    for number, row in _numbered(rows):
        width, height = row["size"]
        yield {"id": number, "file_name": row["image"], "width": width, "height": height}


def _annotations(rows: Rows, ids: dict[str, int]) -> Iterator[dict]:
    annotation = 0
    for image, row in _numbered(rows):
        for region in row["regions"]:
            annotation += 1
            yield {
                "id": annotation,
                "image_id": image,
                "category_id": ids[row["target"]],
                "segmentation": region["polygons"],
                "bbox": region["box"],
                "area": region["area"],
                "iscrowd": 0,
                "score": region["peak"],
                "region": region["number"],
            }


def _numbered(rows: Rows) -> Iterator[tuple[int, Row]]:
    """The readable images, counted from 1."""
    return enumerate((row for row in rows() if "error" not in row), 1)
