"""The photographs of a findings page: their pixels, outlines and numbered regions."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from PIL import Image

from crackcam.data import images as image_files
from crackcam.data.scene import ImageError
from crackcam.data.windows import Windowed, open_orthomosaic, read_or_leave
from crackcam.errors import UserError
from crackcam.render.overlays import thumbnail
from crackcam.render.report.flight import Flight, Photograph, Row
from crackcam.render.report.quantities import Size, length_size, width_size
from crackcam.sizes import NARROWEST

PHOTO_SIDE, OTHER_SIDE, DETAIL_SIDE = 1200, 176, 160  # pixels of the longer side
PHOTO_QUALITY, DETAIL_QUALITY = 72, 78  # of WebP
DETAILS = 12  # regions of a photograph that are shown at full resolution, besides the widest
LISTED = 60  # regions in a table, besides the widest; all are outlined
DARK, LIT, MOST_LIT = 96, 160, 5.0  # grey values of the brightest places of a detail, and the largest factor
CLOSE = 3.0  # a detail is at least so many times as wide as its crack
FINENESS = 0.6  # pixels of the shown photograph that an outline may be off
LABEL = 0.04  # diameter of a number where photographs are shown small, as in print, in widths of the photograph


Place = tuple[float, float]


class Outline(NamedTuple):
    """A region over the photograph.

    Attributes:
        number: of the region.
        path: its outlines, as an SVG path.
        label: where its number stands, in fractions of width and height; None: it has none.
        leads_to: the corner of the region nearest to it, to which a line leads, likewise.
    """

    number: int
    path: str
    label: Place | None
    leads_to: Place | None


class RegionLine(NamedTuple):
    """A line in the table of regions.

    Attributes:
        region: of the row.
        length, mean, p95, maximum: as people read them.
        width: 95th percentile that filters compare; None: not measured.
        narrow: the width is only known to be below ``width``.
        detail: the photograph at its widest place, as a data URI; empty for the smaller ones of many.
    """

    region: dict[str, Any]
    length: Size
    mean: Size
    p95: Size
    maximum: Size
    width: float | None
    narrow: bool
    detail: str


class FindingCard(NamedTuple):
    """A photograph with findings: ``size`` is that of ``photo``, ``original`` that of its file; ``lines`` the table."""

    photograph: Photograph
    row: Row
    photo: str
    size: tuple[int, int]
    original: tuple[int, int]
    outlines: list[Outline]
    lines: list[RegionLine]

    @property
    def unlisted(self) -> int:
        """Regions without a line of their own."""
        return len(self.outlines) - len(self.lines)


class OtherCard(NamedTuple):
    """A photograph without findings, small."""

    photograph: Photograph
    photo: str
    size: tuple[int, int]


class Original(Protocol):
    """A photograph or an orthomosaic at full resolution."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def reduced(self, side: int) -> np.ndarray:
        """All of it, at most ``side`` pixels long: (H, W, 3) uint8 RGB."""

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The pixels of a window, (height, width, 3) uint8 RGB."""


class Decoded(NamedTuple):
    """An :class:`Original` in memory: ``pixels`` are (H, W, 3) uint8."""

    pixels: np.ndarray

    @property
    def height(self) -> int:
        return len(self.pixels)

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def reduced(self, side: int) -> np.ndarray:
        return thumbnail(self.pixels, side)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return np.ascontiguousarray(self.pixels[top : top + height, left : left + width])


def finding_cards(flight: Flight, photographs: list[Photograph]) -> Iterator[FindingCard]:
    """Cards of photographs with findings, one after the other: few are in memory at a time.

    Raises:
        UserError: a file cannot be read any more.
    """
    wide = {(found.photograph, found.region["number"]) for found in flight.widest}
    shown = _read([photograph.file for photograph in photographs], read_or_leave)
    for photograph, row, pixels in zip(photographs, flight.details(photographs), shown, strict=True):
        numbers = {number for name, number in wide if name == photograph.name} | {photograph.widest}
        if isinstance(pixels, Windowed):
            yield _card_of_orthomosaic(photograph, row, pixels.path, flight.metric, numbers)
        else:
            yield make_card(photograph, row, Decoded(pixels), flight.metric, numbers)


def _card_of_orthomosaic(
    photograph: Photograph, row: Row, path: Path, metric: bool, wide: Collection[int | None]
) -> FindingCard:
    try:
        with open_orthomosaic(path) as mosaic:
            return make_card(photograph, row, mosaic, metric, wide)
    except ImageError as error:
        raise _unreadable(path, str(error)) from None


def other_cards(photographs: list[Photograph]) -> Iterator[OtherCard]:
    """Small cards of photographs without findings, from their overlays, on which nothing is drawn.

    Raises:
        UserError: an overlay cannot be read.
    """
    for photograph, pixels in zip(photographs, _read([each.overlay for each in photographs]), strict=True):
        small = thumbnail(pixels, OTHER_SIDE)
        yield OtherCard(photograph, webp(small, DETAIL_QUALITY), small.shape[1::-1])


def _read(files: Iterable[str], read: Callable[[Path], Any] | None = None) -> Iterator[Any]:
    read = read or image_files.read_image
    for item in image_files.read_images(map(Path, files), threads=2, ahead=2, read=read):
        if isinstance(item, image_files.UnreadableImage):
            raise _unreadable(item.path, item.reason)
        yield item.pixels


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} was readable when the run started, and no longer is: {reason}")


def make_card(
    photograph: Photograph, row: Row, original: Original, metric: bool, wide: Collection[int | None] = ()
) -> FindingCard:
    """The card of a photograph.

    Args:
        photograph: its summary.
        row: its whole row.
        original: as large as the row's regions were measured on.
        metric: whether filters compare mm; else pixels.
        wide: numbers of regions that are shown and listed, however many are larger.
    """
    small = original.reduced(PHOTO_SIDE)
    size = small.shape[1::-1]
    regions = row["regions"]
    full = original.width, original.height
    listed = regions[:LISTED] + [region for region in regions[LISTED:] if region["number"] in wide]
    numbers = [region["number"] for region in listed]
    labels = dict(zip(numbers, place_labels(listed, full), strict=True))
    outlines = [
        Outline(
            region["number"],
            outline_path(region["polygons"], size[0] / full[0]),
            label := labels.get(region["number"]),
            label and nearest_corner(region, label, full),
        )
        for region in regions
    ]
    detailed = {*numbers[:DETAILS], *wide}
    lines = [
        _line(
            region, row.get("mm_per_pixel"), metric, _detail(original, region) if region["number"] in detailed else ""
        )
        for region in listed
    ]
    return FindingCard(photograph, row, webp(small, PHOTO_QUALITY), size, full, outlines, lines)


def _line(region: dict, mm_per_pixel: float | None, metric: bool, detail: str) -> RegionLine:
    crack, mm = region.get("crack"), region.get("mm") or {}
    width, narrow = None, False
    if crack and crack["measured"]:
        narrow = crack["p95"] is None
        pixels = NARROWEST if narrow else crack["p95"]
        width = pixels * mm_per_pixel if metric and mm_per_pixel else pixels
    length = length_size((crack or region)["length"], mm.get("length"))
    mean, p95, maximum = (width_size(region, name, mm_per_pixel) for name in ("mean", "p95", "maximum"))
    return RegionLine(region, length, mean, p95, maximum, width, narrow, detail)


def _detail(original: Original, region: dict) -> str:
    """The photograph around the widest place of a region, at full resolution where that fits."""
    crack, (left, top, wide, high) = region.get("crack") or {}, region["box"]
    x, y = crack.get("place") or (left + wide / 2, top + high / 2)
    side = max(DETAIL_SIDE, round(CLOSE * (crack.get("maximum") or 0)))
    top, height = _crop(y, side, original.height)
    left, width = _crop(x, side, original.width)
    return webp(_lit(thumbnail(original.read(top, left, height, width), DETAIL_SIDE)), DETAIL_QUALITY)


def _lit(pixels: np.ndarray) -> np.ndarray:
    """A detail that lies in shadow brightened: on the page nothing would be seen in it."""
    brightest = float(np.percentile(pixels, 99))
    if brightest >= DARK:
        return pixels
    return cv2.convertScaleAbs(pixels, alpha=min(MOST_LIT, LIT / max(brightest, 1.0)))


def _crop(middle: float, side: int, end: int) -> tuple[int, int]:
    """``side`` pixels around the middle, moved into an image that ends at ``end``: the first one, their number."""
    start = max(0, min(round(middle - side / 2), end - side))
    return start, min(end - start, side)


def outline_path(polygons: list[list[float]], scale: float) -> str:
    """Outlines as an SVG path, without corners that nobody could see.

    Args:
        polygons: lists of x, y, x, y, ... in pixels of the image.
        scale: from the image to the drawing.

    Examples:
        >>> from crackcam.render.report.finding_cards import outline_path
        >>> outline_path([[0, 0, 40, 0, 40, 10, 0, 10]], 0.5)
        'M0 0 20 0 20 5 0 5Z'
    """
    found = []
    for polygon in polygons:
        corners = np.array(polygon, np.float32).reshape(-1, 1, 2) * scale
        kept = cv2.approxPolyDP(corners, FINENESS, True).reshape(-1)
        found.append("M" + " ".join(f"{value:.1f}".removesuffix(".0") for value in kept) + "Z")
    return "".join(found)


def place_labels(regions: list[dict], size: tuple[int, int]) -> list[Place]:
    """Where the numbers of regions stand: beside each, inside the image, off outlines and earlier numbers.

    Args:
        regions: of a row.
        size: width and height of the image.

    Returns:
        Fractions of width and height.
    """
    step = LABEL * size[0]
    edge = step / 2
    lines = _along(regions, edge / 2)
    taken: list[tuple[float, float]] = []
    for region in regions:
        wanted = _around(region, 1.3 * edge)
        inside = [(min(max(x, edge), size[0] - edge), min(max(y, edge), size[1] - edge)) for x, y in wanted]
        moved = [abs(x - a) + abs(y - b) for (x, y), (a, b) in zip(inside, wanted, strict=True)]
        crowded = [sum(max(0.0, step - max(abs(x - a), abs(y - b))) for a, b in taken) for x, y in inside]
        covered = [edge / 2 * int((np.abs(lines - place) < edge).all(axis=1).sum()) for place in inside]
        costs = [2 * a + b + 0.5 * c for a, b, c in zip(crowded, covered, moved, strict=True)]
        taken.append(inside[costs.index(min(costs))])
    return [(round(x / size[0], 4), round(y / size[1], 4)) for x, y in taken]


def nearest_corner(region: dict, label: Place, size: tuple[int, int]) -> Place:
    """The corner of a region's outlines that is nearest to its label; both in fractions of width and height.

    Examples:
        >>> from crackcam.render.report.finding_cards import nearest_corner
        >>> nearest_corner({"polygons": [[10, 10, 10, 20, 60, 20, 60, 10]]}, (0.7, 0.3), (100, 100))
        (0.6, 0.2)
    """
    corners = _corners(region)
    x, y = corners[np.square(corners - np.multiply(label, size)).sum(axis=1).argmin()] / size
    return round(float(x), 4), round(float(y), 4)


def _corners(region: dict) -> np.ndarray:
    """Of all outlines of a region, (n, 2) in pixels."""
    return np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in region["polygons"]])


def _along(regions: list[dict], apart: float) -> np.ndarray:
    """Places on all outlines, (n, 2) in pixels, at most ``apart`` pixels from one to the next."""
    starts = [np.reshape(polygon, (-1, 2)) for region in regions for polygon in region["polygons"]]
    if not starts:
        return np.zeros((0, 2))
    start, end = np.concatenate(starts), np.concatenate([np.roll(each, -1, axis=0) for each in starts])
    counts = np.ceil(np.linalg.norm(end - start, axis=1) / apart).astype(int)
    of = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    return start[of] + (end - start)[of] * (step / counts[of])[:, None]


def _around(region: dict, off: float) -> list[tuple[float, float]]:
    """Places around a region, ``off`` pixels beyond its outermost corners: across it, then in the four directions."""
    corners = _corners(region)
    across = np.linalg.eigh(np.cov(corners.T))[1][:, 0]  # the crack may go on behind its ends
    around = np.array([across, -across, (-1, 0), (0, -1), (1, 0), (0, 1)])
    outermost = corners[(corners @ around.T).argmax(axis=0)]
    return [
        (float(x), float(y)) for by in (1, 3, 5) for x, y in outermost + by * off * around
    ]  # farther where those are taken


def webp(image: np.ndarray, quality: int) -> str:
    """An image (H, W, 3) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
