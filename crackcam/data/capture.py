"""When, where and with which lens an image was taken: its EXIF metadata."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from crackcam.config import SizesConfig
from crackcam.data.images import ImageError, open_image
from crackcam.sizes import Scale

FULL_FRAME = 36.0  # mm: width of the sensor that equivalent focal lengths are given for
LONGEST_EXIF = 65_000  # bytes: what a JPEG file can hold in one segment, and some for its header
TIMES = (  # the first that is there; that of the last change comes last
    (Base.DateTimeOriginal, Base.OffsetTimeOriginal),
    (Base.DateTimeDigitized, Base.OffsetTimeDigitized),
    (Base.DateTime, Base.OffsetTime),
)
# Of the other tags some describe the file: orientation, and in TIFF files where its pixels are.
KEPT = (Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.Copyright)
OF_THE_FILE = (Base.ExifImageWidth, Base.ExifImageHeight, Base.ExifInteroperabilityOffset)

Tags = Mapping[int, Any]


@dataclass(frozen=True)
class Capture:
    """What a camera wrote about an image; None where it is missing or damaged.

    Attributes:
        time: local, with its offset where it is given.
        latitude: in degrees, negative in the south.
        longitude: in degrees, negative in the west.
        altitude: in metres, negative below sea level.
        focal_length_mm: the real one; times the digital zoom, where there was one.
        focal_length_35mm: the equivalent for a sensor 36 mm wide.
        size: of the image in pixels, its sides in any order.
        exif: EXIF metadata for an upright image of the scene: without orientation; empty where there are none.
    """

    time: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None
    altitude: float | None = None
    focal_length_mm: float | None = None
    focal_length_35mm: float | None = None
    size: tuple[int, int] | None = None
    exif: bytes = b""

    def to_dict(self) -> dict[str, str | float | None]:
        """As JSON has it."""
        return {
            "time": self.time.isoformat() if self.time else None,
            "latitude": self.latitude,
            "longitude": self.longitude,
            "altitude": self.altitude,
            "focal_length_mm": self.focal_length_mm,
            "focal_length_35mm": self.focal_length_35mm,
        }

    def focal_length(self, sensor_width: float) -> float | None:
        """In mm, for a sensor of that width: the equivalent where it is 36 mm, which equivalents are given for."""
        equivalent = self.focal_length_35mm if sensor_width == FULL_FRAME else None
        return equivalent or self.focal_length_mm

    def sensor_width(self) -> float | None:
        """In mm, from both focal lengths; equivalents are rounded, and some are for diagonals: within a fifth."""
        if not self.focal_length_mm or not self.focal_length_35mm:
            return None
        return FULL_FRAME * self.focal_length_mm / self.focal_length_35mm

    def scale(self, sizes: SizesConfig) -> Scale | None:
        """Millimetres of a pixel, from the settings and the focal length.

        The width of the sensor is taken along the longer side of the image, however the image was rotated.

        Raises:
            UserError: no camera sees the surface at that scale.
        """
        if sizes.mm_per_pixel is not None:
            return Scale(sizes.mm_per_pixel)
        if sizes.distance is None or sizes.sensor_width is None or self.size is None:
            return None
        focal_length = self.focal_length(sizes.sensor_width)
        if focal_length is None:
            return None
        return Scale.from_distance(sizes.distance, focal_length, sizes.sensor_width, max(self.size))


def read_capture(path: Path) -> Capture:
    """Read when, where and with which lens an image was taken; damaged metadata are left out.

    Examples:
        >>> from pathlib import Path
        >>> from crackcam.data.capture import read_capture
        >>> read_capture(Path("no_such_image.jpg")).latitude is None
        True
    """
    try:
        with open_image(path) as image:
            exif = Image.Image.getexif(image)  # that of PNG images would decode them
            camera, gps = _directory(exif, IFD.Exif), _directory(exif, IFD.GPSInfo)
            latitude, longitude = _position(gps)
            return Capture(
                _time({**exif, **camera}),
                latitude,
                longitude,
                _altitude(gps),
                _focal_length(camera),
                _number(camera.get(Base.FocalLengthIn35mmFilm), 1, 10_000),
                image.size,
                _upright(exif, camera, gps),
            )
    except ImageError:
        return Capture()


def _directory(exif: Image.Exif, name: int) -> Tags:
    """One of the directories of EXIF; empty where it is missing or damaged."""
    with contextlib.suppress(Exception):  # Pillow raises exceptions of many types for damaged metadata
        return dict(exif.get_ifd(name))
    return {}


def _number(value: Any, low: float, high: float) -> float | None:
    """A number between two others; None for anything else: text, 0/0, infinity."""
    try:
        found = float(value)
    except Exception:  # rationals are of Pillow's own type, which divides by 0
        return None
    return found if math.isfinite(found) and low <= found <= high else None


def _text(value: Any) -> str:
    """Text of a tag that may be bytes, up to its first NUL."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.split("\0")[0].strip()


def _time(tags: Tags) -> datetime | None:
    for tag, offset in TIMES:
        for text in (_text(tags.get(tag)) + _text(tags.get(offset, "")), _text(tags.get(tag))):
            for form in ("%Y:%m:%d %H:%M:%S%z", "%Y:%m:%d %H:%M:%S"):
                with contextlib.suppress(ValueError):
                    return datetime.strptime(text, form)
    return None


def _position(gps: Tags) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees."""
    latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "NS", 90)
    longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "EW", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:  # receivers without a position write 0, 0
        return None, None
    return latitude, longitude


def _degrees(parts: Any, reference: Any, letters: str, most: float) -> float | None:
    """Degrees, minutes and seconds as degrees; without a hemisphere there is no sign, and no position."""
    letter = _text(reference).upper()[:1]
    if not letter or letter not in letters:
        return None
    try:
        values = [_number(part, 0, most if place == 0 else 60) for place, part in enumerate(parts)]
    except TypeError:
        return None
    if not 1 <= len(values) <= 3 or None in values:
        return None
    degrees = sum(value / 60**place for place, value in enumerate(values) if value is not None)
    return None if degrees > most else round(-degrees if letter == letters[1] else degrees, 8)


def _altitude(gps: Tags) -> float | None:
    height = _number(gps.get(GPS.GPSAltitude), 0, 100_000)
    reference = gps.get(GPS.GPSAltitudeRef, 0)
    below = reference in (1, 3, b"\1", b"\3", "1", "3")  # 2 and 3: of the ellipsoid, since EXIF 3.0
    return -height if below and height else height


def _focal_length(camera: Tags) -> float | None:
    length = _number(camera.get(Base.FocalLength), 0.1, 10_000)
    zoom = _number(camera.get(Base.DigitalZoomRatio), 1, 1000)
    return length * zoom if length and zoom else length


def _upright(exif: Image.Exif, camera: Tags, gps: Tags) -> bytes:
    """The metadata for another image of the scene; without the maker's notes where a JPEG file cannot hold them."""
    found = Image.Exif()
    found.update({tag: exif[tag] for tag in KEPT if tag in exif})
    if camera:
        found.get_ifd(IFD.Exif).update({tag: value for tag, value in camera.items() if tag not in OF_THE_FILE})
    if gps:
        found.get_ifd(IFD.GPSInfo).update(gps)
    if not found and not camera and not gps:
        return b""
    with contextlib.suppress(Exception):  # as above
        whole = found.tobytes()
        if len(whole) > LONGEST_EXIF:
            found.get_ifd(IFD.Exif).pop(Base.MakerNote, None)
            whole = found.tobytes()
        return whole if len(whole) <= LONGEST_EXIF else b""
    return b""
