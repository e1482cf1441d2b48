"""Orthomosaics: georeferenced or very large TIFFs, read by windows with rasterio, so that they need not fit in memory.

rasterio is optional (``pip install crackcam[geo]``) and imported where a file needs it. Only the GeoTIFF driver of its
library GDAL is used: others would read what an untrusted file names, from the network too.

Areas without data (transparent, or of the value that the file declares as nodata) are filled with what is around them:
an edge of the image inside the picture would look like a crack. Where a window shows nothing, it is grey.
"""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import TiffImagePlugin

from crackcam.data.images import MAX_PIXELS, MAX_SIDE, OPAQUE, read_image
from crackcam.data.scene import HEIGHT, WIDTH, ImageError, scale_grey
from crackcam.errors import UserError
from crackcam.preprocessing import GREY
from crackcam.sizes import Scale
from crackcam.text import first_line

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

logger = logging.getLogger(__name__)

INSTALL = "an orthomosaic, which rasterio reads: pip install rasterio (in crackcam's extra, geo)"
GEOREFERENCES = {33550, 33922, 34264, 34735}  # tags: pixel scale, tie points, transformation, coordinate system
WORLD_FILES = (".tfw", ".tifw", ".wld")  # suffixes of files beside a TIFF that georeference it
CLASSIC, BIG = 42, 43  # versions of TIFF
CACHE_MEGABYTES = 256  # of decoded blocks, that GDAL keeps
SAMPLE_SIDE = 1024  # pixels: of the reduced image that shows the range of 16-bit values
STRETCHED = 0.01  # by which a map projection may stretch lengths until the ground's are taken
SQUARE = 0.05  # by which the sides of a pixel on the ground may differ
LONGITUDE_LATITUDE = "EPSG:4326"
EQUATOR, FLATTENING = 6_378_137.0, 1 / 298.257223563  # of the WGS84 ellipsoid, in metres


def is_orthomosaic(path: Path) -> bool:
    """Whether a file is a TIFF that is georeferenced, or too large to be read in one piece."""
    tags = _first_page(path)
    if tags is None:
        return False
    beside = any(path.with_suffix(suffix).exists() for suffix in WORLD_FILES)
    return beside or not GEOREFERENCES.isdisjoint(tags) or _is_too_large(tags)


def _is_too_large(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    width, height = int(tags[WIDTH]), int(tags[HEIGHT])
    return width * height > MAX_PIXELS or max(width, height) > MAX_SIDE


def _first_page(path: Path) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """The tags of the first page of a TIFF; None of other files, also damaged ones: reading those gives the reason."""
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            return None
        with path.open("rb") as file:
            header = file.read(8)
            if header[:2] not in (b"II", b"MM") or not {CLASSIC, BIG} & set(header[2:4]):
                return None
            header += file.read(8) if BIG in header[2:4] else b""
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            return tags if {WIDTH, HEIGHT} <= set(tags) else None
    except (OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error):
        return None


class Windowed(NamedTuple):
    """An image that is not read in one piece."""

    path: Path


def read_or_leave(path: Path, needed: bool = False) -> np.ndarray | Windowed:
    """The pixels of an image, (H, W, 3) uint8; of an orthomosaic none, it is read by windows.

    Args:
        path: the file.
        needed: what is asked for needs windows. Else an orthomosaic that fits in memory is read as a plain image where
            rasterio is not installed, which is logged.

    Raises:
        ImageError: see :func:`crackcam.data.images.read_image`.
    """
    if not is_orthomosaic(path):
        return read_image(path)
    tags = _first_page(path)
    if needed or find_spec("rasterio") or (tags and _is_too_large(tags)):
        return Windowed(path)
    _log_plain()
    return read_image(path)


@lru_cache
def _log_plain() -> None:
    """Once in a process."""
    logger.info(
        "georeferenced images are read as plain ones, also where they have no data: rasterio is not installed (pip "
        "install rasterio)"
    )


@contextlib.contextmanager
def open_orthomosaic(path: Path) -> Iterator[Orthomosaic]:
    """Open an orthomosaic; every error of reading it, also within the context, is raised as ImageError."""
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError:
        raise ImageError(INSTALL) from None
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES),
            rasterio.open(path, driver="GTiff", sharing=False) as dataset,
        ):
            yield Orthomosaic(path, dataset)
    except RasterioError as error:
        raise ImageError(f"damaged ({' '.join(first_line(error).split())[:80]})") from None


@dataclass(frozen=True, eq=False)
class Orthomosaic:
    """An open orthomosaic.

    Attributes:
        path: the file.
        dataset: of rasterio; one thread at a time may use it.

    Raises:
        ImageError: its values cannot be shown as an image.
    """

    path: Path
    dataset: DatasetReader

    def __post_init__(self) -> None:
        kinds = {self.dataset.dtypes[band - 1] for band in self.bands}
        if not kinds <= {"uint8", "uint16"}:
            kind = ", ".join(sorted(kinds))
            raise ImageError(f"{kind} values, of a height model say, not of an image: save it as 8-bit RGB")
        if kinds == {"uint16"}:
            sample = self._read(out_shape=(len(self.bands), *self.fitted(SAMPLE_SIDE)))
            scale_grey(sample.astype(np.float32), is_float=False)  # raises where the scale is not known

    # -- pixels ------------------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """In pixels."""
        return self.dataset.height

    @property
    def width(self) -> int:
        """In pixels."""
        return self.dataset.width

    @cached_property
    def bands(self) -> list[int]:
        """Numbers of the bands of red, green and blue, or of the only one: grey, or indices of a palette.

        Of several bands that the file does not name as colours, the first three.
        """
        from rasterio.enums import ColorInterp

        kinds = list(self.dataset.colorinterp)
        colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        if all(colour in kinds for colour in colours):
            return [kinds.index(colour) + 1 for colour in colours]
        shown = [number for number, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
        return shown[:3] if len(shown) >= 3 else shown[:1]

    @property
    def unused(self) -> int:
        """Number of bands with data, near infrared say, that are not looked at."""
        from rasterio.enums import ColorInterp

        return sum(kind != ColorInterp.alpha for kind in self.dataset.colorinterp) - len(self.bands)

    def fitted(self, side: int) -> tuple[int, int]:
        """Height and width of the image reduced such that its longer side is at most that."""
        scale = min(1.0, side / max(self.height, self.width))
        return max(1, round(scale * self.height)), max(1, round(scale * self.width))

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The pixels of a window, (height, width, 3) uint8 RGB; areas without data are filled."""
        window = ((top, top + height), (left, left + width))
        return self._filled(self._read(window=window), self.valid(top, left, height, width))

    def reduced(self, side: int) -> np.ndarray:
        """All of it, averaged to at most ``side`` pixels: (H, W, 3) uint8 RGB; areas without data are white."""
        from rasterio.enums import Resampling

        height, width = self.fitted(side)
        how = Resampling.nearest if self._palette is not None else Resampling.average
        pixels = self._rgb(self._read(out_shape=(len(self.bands), height, width), resampling=how))
        if self._complete:
            return pixels
        valid = self.dataset.dataset_mask(out_shape=(height, width)) >= OPAQUE
        return np.where(valid[..., None], pixels, np.uint8(255))

    def valid(self, top: int, left: int, height: int, width: int, step: int = 1) -> np.ndarray:
        """Where there is data in a window, (height, width) bool; of one pixel in each square of that step."""
        shape = (math.ceil(height / step), math.ceil(width / step))
        if self._complete:
            return np.ones(shape, bool)
        window = ((top, top + height), (left, left + width))
        return self.dataset.dataset_mask(window=window, out_shape=shape) >= OPAQUE

    @cached_property
    def _complete(self) -> bool:
        """Whether there is data everywhere."""
        from rasterio.enums import MaskFlags

        return all(MaskFlags.all_valid in flags for flags in self.dataset.mask_flag_enums)

    @cached_property
    def _palette(self) -> np.ndarray | None:
        """(256, 3) uint8; None where there is none."""
        from rasterio.enums import ColorInterp

        if self.dataset.colorinterp[0] != ColorInterp.palette:
            return None
        colours = self.dataset.colormap(1)
        return np.array([colours.get(value, (0, 0, 0, 0))[:3] for value in range(256)], np.uint8)

    def _read(self, **how: Any) -> np.ndarray:
        """(bands, H, W), as stored."""
        return self.dataset.read(self.bands, **how)

    def _rgb(self, stored: np.ndarray) -> np.ndarray:
        """(bands, H, W) as stored -> (H, W, 3) uint8."""
        if stored.dtype == np.uint16:
            stored = np.rint(stored / np.float32(257)).astype(np.uint8)
        if self._palette is not None:
            return self._palette[stored[0]]
        return np.ascontiguousarray(np.broadcast_to(stored, (3, *stored.shape[1:])).transpose(1, 2, 0))

    def _filled(self, stored: np.ndarray, valid: np.ndarray) -> np.ndarray:
        pixels = self._rgb(stored)
        if valid.all():
            return pixels
        if not valid.any():
            return np.full_like(pixels, GREY)
        return np.rint(fill(pixels.astype(np.float32), valid)).astype(np.uint8)

    # -- place -------------------------------------------------------------------------------------------------------

    @property
    def georeferenced(self) -> bool:
        """Whether it is known where its pixels are."""
        return not self.dataset.transform.is_identity

    @property
    def coordinate_system(self) -> str | None:
        """'EPSG:32632', or its description as WKT; None where it is not known."""
        crs = self.dataset.crs
        return None if crs is None else (crs.to_string() or None)

    @property
    def in_degrees(self) -> bool:
        """Whether its coordinates are angles."""
        return self.dataset.crs is not None and self.dataset.crs.is_geographic

    def coordinates(self, polygon: Sequence[float]) -> list[tuple[float, float]]:
        """Points x, y, x, y, ... in pixels, in the coordinates of the file."""
        a, b, c, d, e, f = self.dataset.transform[:6]
        pixels = zip(polygon[::2], polygon[1::2], strict=True)
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in pixels]

    def longitudes_latitudes(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]] | None:
        """Points in the coordinates of the file, as longitude and latitude in degrees (WGS84).

        None where that is not known: of a local coordinate system, that of a facade say.
        """
        from rasterio.warp import transform

        crs = self.dataset.crs
        if not self.georeferenced or crs is None or not (crs.is_projected or crs.is_geographic):
            return None
        found = transform(crs, LONGITUDE_LATITUDE, *zip(*points, strict=True))
        east_north = list(zip(*found[:2], strict=True))
        return east_north if np.isfinite(east_north).all() else None

    def pixel_size(self) -> tuple[float, float] | None:
        """Width and height of the pixel in the middle in metres; None where it is not known.

        Those of the transform, where the file is projected in metres, feet and the like; on the ground, where its
        projection stretches lengths by more than 1 %, as that of web maps does, and in degrees.
        """
        if self.dataset.crs is None or not self.georeferenced:
            return None
        transform = self.dataset.transform
        sides = math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)
        ground = self._ground()
        if self.in_degrees:
            return ground
        factor = float(self.dataset.crs.units_factor[1])
        projected = sides[0] * factor, sides[1] * factor
        near = ground is None or np.allclose(ground, projected, rtol=STRETCHED)
        return projected if near else ground

    def _ground(self) -> tuple[float, float] | None:
        """Sides of the pixel in the middle, measured on the ellipsoid."""
        x, y, step = self.width / 2, self.height / 2, 0.5
        ends = [x - step, y, x + step, y, x, y - step, x, y + step]
        points = self.longitudes_latitudes(self.coordinates(ends))
        if points is None:
            return None
        eccentricity = FLATTENING * (2 - FLATTENING)
        latitude = math.radians(points[0][1])
        root = math.sqrt(1 - eccentricity * math.sin(latitude) ** 2)
        metres = np.array([EQUATOR / root * math.cos(latitude), EQUATOR * (1 - eccentricity) / root**3])
        first, second, third, fourth = (metres * np.radians(point) for point in points)
        return float(np.hypot(*(second - first))), float(np.hypot(*(fourth - third)))

    def scale(self) -> Scale | None:
        """Millimetres of a pixel; None where it is not known, not square, or out of all measure."""
        size = self.pixel_size()
        if size is None or abs(size[0] / size[1] - 1) > SQUARE:
            return None
        with contextlib.suppress(UserError):
            return Scale(1000 * math.sqrt(size[0] * size[1]))
        return None


def fill(colours: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Fill the gaps of an image smoothly: each with the mean of what is nearest, from coarse to fine.

    Args:
        colours: (H, W, 3) float32.
        valid: (H, W) bool, true somewhere; the other pixels are filled.

    Examples:
        >>> import numpy as np
        >>> from crackcam.data.windows import fill
        >>> fill(np.full((2, 4, 3), 7, np.float32), np.arange(8).reshape(2, 4) < 1).min()
        np.float32(7.0)
    """
    if valid.all():
        return colours
    height, width = ((side + 1) // 2 for side in valid.shape)
    weights = cv2.resize(valid.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    sums = cv2.resize(colours * valid[..., None], (width, height), interpolation=cv2.INTER_AREA)
    means = sums / np.maximum(weights, 1e-6)[..., None]
    coarse = cv2.resize(fill(means, weights > 0), valid.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(valid[..., None], colours, coarse)
