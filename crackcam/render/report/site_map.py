"""A map of where photographs were taken: dots in metres around their middle, north up, without a background.

Latitude and longitude are projected as on a cylinder around the photographs (equirectangular): on a site of some
kilometres the error is far below that of a camera's position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from crackcam.render.report.flight import Photograph
from crackcam.sizes import class_names, length_text, metric_text

EARTH = 6_371_000.0  # metres
WIDTH = 1000.0  # of the drawing, in units of its view box
HEIGHTS = 300.0, 620.0  # at least and at most
MARGIN = 60.0
SMALLEST = 10.0  # metres that a map is wide at least: positions of cameras are seldom more exact
STEPS = 3  # colors of widths without limits of classes
COLORS = 5  # of widths; of more classes, the narrow ones share a color


class Dot(NamedTuple):
    """A photograph on the map.

    Attributes:
        photograph: its place in the list of photographs.
        x, y: in the drawing.
        level: of its color: -1 without findings, 0 for findings without a width, then 1 and on, the wider the higher.
    """

    photograph: int
    x: float
    y: float
    level: int


class SiteMap(NamedTuple):
    """The drawing.

    Attributes:
        size: width and height.
        dots: the widest cracks last, so that they lie on top.
        bar: length of the scale bar in the drawing.
        bar_text: what it stands for.
        legend: levels and their names.
        missing: photographs without a position.
    """

    size: tuple[float, float]
    dots: list[Dot]
    bar: float
    bar_text: str
    legend: list[tuple[int, str]]
    missing: int


def draw_map(photographs: Sequence[Photograph], limits: Sequence[float] = (), metric: bool = False) -> SiteMap | None:
    """Draw a map; None where no photograph has a position.

    Args:
        photographs: of which some have a position.
        limits: of width classes, in mm, for the colors; without them, thirds of the widths.
        metric: whether colors are by mm; else by pixels.
    """
    placed = [(i, photograph) for i, photograph in enumerate(photographs) if photograph.position]
    if not placed:
        return None
    metres = to_metres([photograph.position for _, photograph in placed if photograph.position])
    middle = (metres.min(axis=0) + metres.max(axis=0)) / 2
    wide, high = np.ptp(metres, axis=0)
    room = np.array((WIDTH, HEIGHTS[1])) - 2 * MARGIN
    scale = room[0] / max(wide, SMALLEST, high * room[0] / room[1])
    height = max(HEIGHTS[0], high * scale + 2 * MARGIN)
    drawn = (metres - middle) * scale * (1, -1) + (WIDTH / 2, height / 2)
    level, names = _levels([photograph for _, photograph in placed], limits, metric)
    dots = [
        Dot(i, round(float(x), 1), round(float(y), 1), level(photograph))
        for (i, photograph), (x, y) in zip(placed, drawn, strict=True)
    ]
    bar = round_length(0.25 * WIDTH / scale)
    bar_text = f"{bar:g} m" if bar < 1000 else f"{bar / 1000:g} km"
    used = {dot.level for dot in dots}
    legend = [(each, name) for each, name in names if each in used]
    dots.sort(key=lambda dot: dot.level)
    missing = len(photographs) - len(placed)
    return SiteMap((WIDTH, round(height)), dots, round(bar * scale, 1), bar_text, legend, missing)


def to_metres(positions: Sequence[tuple[float, float]]) -> np.ndarray:
    """(N, 2) metres east and north of the first of (latitude, longitude) in degrees; also across the date line.

    Examples:
        >>> from crackcam.render.report.site_map import to_metres
        >>> to_metres([(0, 179.9995), (0, -179.9995)]).round().tolist()
        [[0.0, 0.0], [111.0, 0.0]]
    """
    degrees = np.array(positions, float)
    latitude, longitude = degrees.T
    east = (longitude - longitude[0] + 180) % 360 - 180
    north = latitude - latitude[0]
    return np.radians(np.column_stack([east * np.cos(np.radians(latitude.mean())), north])) * EARTH


def round_length(metres: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that is no longer.

    Examples:
        >>> from crackcam.render.report.site_map import round_length
        >>> round_length(47), round_length(730), round_length(2.1)
        (20.0, 500.0, 2.0)
    """
    power = 10.0 ** math.floor(math.log10(metres))
    return max(step for step in (power, 2 * power, 5 * power) if step <= metres * (1 + 1e-9))


def _levels(
    photographs: Sequence[Photograph], limits: Sequence[float], metric: bool
) -> tuple[Callable[[Photograph], int], list[tuple[int, str]]]:
    """How a photograph gets its color, and what colors mean."""
    own = [width for photograph in photographs if (width := photograph.width[not metric])]
    edges = list(limits[1 - COLORS :]) if limits and metric else _thirds(own)
    text = metric_text if metric else length_text

    def level(photograph: Photograph) -> int:
        width = photograph.width[not metric]
        if not photograph.regions:
            return -1
        return 0 if width is None else 1 + int(np.searchsorted(edges, width, side="right"))

    names = [(-1, "no findings"), (0, "width not known")]
    if not edges:
        return level, [*names, (1, "findings")]
    if limits and metric and len(edges) == len(limits):
        return level, [*names, *enumerate(class_names(limits), 1)]
    names.append((1, f"below {text(edges[0])}"))
    names += [(i, f"{text(low)} to {text(high)}") for i, (low, high) in enumerate(pairwise(edges), 2)]
    return level, [*names, (len(edges) + 1, f"from {text(edges[-1])}")]


def _thirds(widths: Sequence[float]) -> list[float]:
    """Edges that divide widths in thirds, rounded; none where there are few."""
    if len(widths) < 2 * STEPS:
        return []
    edges = np.quantile(widths, [i / STEPS for i in range(1, STEPS)])
    return sorted({float(f"{edge:.2g}") for edge in edges})
