"""Boxes of a detector in COCO's format of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from crackcam.types import Detection, Prediction


def rows(predictions: Sequence[Prediction]) -> list[dict]:
    """Images and their boxes, as the JSON files of the scripts have them."""
    ids = image_ids([prediction.path for prediction in predictions])
    return [
        {
            "file": str(prediction.path),
            "image_id": image_id,
            "detections": [_as_row(box) for box in prediction.detections],
        }
        for prediction, image_id in zip(predictions, ids, strict=True)
    ]


def _as_row(box: Detection) -> dict:
    return {**asdict(box), "score": round(box.score, 6), "box": [round(edge, 2) for edge in box.box]}


def results(found: list[dict]) -> list[dict]:
    """:func:`rows` in COCO's format of results: one entry a box, of all images."""
    return [
        {
            "image_id": row["image_id"],
            "category_id": box["label"],
            "bbox": [round(float(value), 2) for value in left_top_width_height(box["box"])],
            "score": box["score"],
        }
        for row in found
        for box in row["detections"]
    ]


def image_ids(paths: Sequence[Path | None]) -> list[int]:
    """The numbers that the files are named by, as COCO's are, if all are and they differ; else places in the list."""
    numbers = [int(path.stem) for path in paths if path is not None and path.stem.isdecimal()]
    return numbers if len(set(numbers)) == len(paths) else list(range(len(paths)))


def left_top_width_height(box: Sequence[float]) -> tuple[float, float, float, float]:
    """COCO's form of (left, top, right, bottom)."""
    left, top, right, bottom = box
    return left, top, right - left, bottom - top
