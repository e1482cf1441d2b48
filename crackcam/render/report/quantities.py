"""Sizes, places and times of a findings page, written for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from crackcam.sizes import NARROWEST, length_text, metric_text
from crackcam.text import confidence_text


class Size(NamedTuple):
    """A length or a width: the text to read first, in mm where they are known, and the pixels behind it."""

    text: str
    pixels: str = ""


def length_size(pixels: float, mm: float | None) -> Size:
    """The length of a region."""
    return Size(length_text(pixels)) if mm is None else Size(metric_text(mm), length_text(pixels))


def width_size(region: dict, name: str, mm_per_pixel: float | None) -> Size:
    """A width of a region: "mean", "p95" or "maximum".

    Args:
        region: of a row, as :meth:`crackcam.Region.to_dict` has it.
        name: which width.
        mm_per_pixel: of its image, where known.
    """
    crack = region.get("crack")
    if not crack:
        return Size("not measured")
    if not crack["measured"]:
        return Size("not measurable")
    if crack[name] is None:
        limit = f"{NARROWEST:g} px"
        if mm_per_pixel is None:
            return Size(f"below {limit}")
        return Size(f"below {metric_text(NARROWEST * mm_per_pixel)}", limit)
    mm = (region.get("mm") or {}).get(name)
    return length_size(crack[name], mm)


def time_text(time: str | None) -> str:
    """'1 May 2026, 10:11' for '2026-05-01T10:11:12'; empty without a time."""
    if not time:
        return ""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return time
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def times_text(times: Sequence[str]) -> str:
    """'1 May 2026, 10:11 to 10:58' for the first and the last of some times; empty without any."""
    if not times:
        return ""
    first, last = time_text(min(times)), time_text(max(times))
    if first == last:
        return first
    day, _, hour = last.rpartition(", ")
    return f"{first} to {hour if first.startswith(day) else last}"


def place_text(capture: dict) -> str:
    """'51.507400° N, 0.127800° W, 85 m above sea level'; empty without a place."""
    latitude, longitude, altitude = (capture.get(name) for name in ("latitude", "longitude", "altitude"))
    if latitude is None or longitude is None:
        return ""
    parts = [
        f"{abs(latitude):.6f}° {'S' if latitude < 0 else 'N'}",
        f"{abs(longitude):.6f}° {'W' if longitude < 0 else 'E'}",
    ]
    if altitude is not None:
        parts.append(f"{abs(altitude):.0f} m {'below' if altitude < 0 else 'above'} sea level")
    return ", ".join(parts)


def decision_text(row: dict) -> str:
    """'probability of Positive: 93 %' of a photograph; where another class is predicted, that too.

    Empty where the probability is not among those that the run kept.

    Examples:
        >>> from crackcam.render.report.quantities import decision_text
        >>> row = {"target": "Positive", "predicted": "Negative", "probabilities": {"Positive": 0.12, "Negative": 0.88}}
        >>> decision_text(row)
        'probability of Positive: 12.0 %, predicted: Negative'
    """
    target, predicted = row.get("target"), row.get("predicted")
    probability = row.get("probabilities", {}).get(target)
    if probability is None:
        return ""
    other = f", predicted: {predicted}" if predicted != target else ""
    return f"probability of {target}: {confidence_text(probability)}{other}"
