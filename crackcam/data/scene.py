"""Refuse files that decode without an error, but not to the scene: thumbnails, scrambled planes, unknown scales.

Grey values of more than 8 bits are shown by one rule, so that two images of a data set stay comparable: integers from 0
to 65,535, floats from 0 to 1. Values outside, integers that end below 4,096 (12 bits in 16), and integers that differ
by less (temperatures) have a scale that the file does not tell.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import numpy as np
from PIL import ImageFile, TiffImagePlugin

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262  # tags of TIFF
PLANES, PAGES_BELOW, SAMPLES, DNG = 284, 330, 339, 50706
MOST_PAGES = 32  # that are looked at
THUMBNAIL = 4  # times as many pixels that another page has; scanned pages differ by less
TOLERANCE = 0.1  # by which resampled floats may exceed 0..1
NARROW = 4096  # integers that end below have 12 bits or fewer


class ImageError(Exception):
    """A file that is not a readable image; the message is the reason in a few words."""


def check_tiff(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    """Raise ImageError where the first page of a TIFF is not the scene, or where Pillow decodes it wrongly.

    Args:
        image: an opened TIFF, whose pixels are not read yet.
        file: what it was opened from.
    """
    tags = image.tag_v2  # type: ignore[attr-defined] # of TiffImageFile
    if DNG in tags:
        raise ImageError("DNG, a camera raw file: develop it to JPEG or TIFF")
    bits = tags.get(BITS, (1,))
    if max(bits) > 8 and len(bits) > 1 and tags.get(PLANES) == 2 and tags.get(COMPRESSION, 1) == 1:
        raise ImageError("16-bit TIFF with a plane for each colour, which Pillow scrambles: save it interleaved")
    if max(bits) > 8 and tags.get(PHOTOMETRIC) == 0:
        raise ImageError("16-bit TIFF in which 0 is white, which Pillow shows inverted: save 0 as black")
    if max(bits) <= 8 and 2 in tags.get(SAMPLES, ()):
        raise ImageError("TIFF of signed 8-bit values, which Pillow shows as unsigned: save 0 to 255")
    own = image.width * image.height
    if tags.get(SUBFILE, 0) & 1 or any(area >= THUMBNAIL * own for area in _areas_of_others(tags, file)):
        size = f"{image.width} x {image.height}"
        raise ImageError(f"its first page is a thumbnail of {size}: save the whole image, raw files as JPEG or TIFF")


def _areas_of_others(tags: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> Iterator[int]:
    """Pixels of all other pages, read from their tags alone: Pillow need not be able to decode them."""
    file.seek(0)
    header = file.read(8)
    header += file.read(8) if header[2] == 43 else b""  # BigTIFF
    pending, read = [tags], 0
    while pending and read < MOST_PAGES:
        page = pending.pop(0)
        below = page.get(PAGES_BELOW, ())
        for offset in filter(None, (page.next, *(below if isinstance(below, tuple) else (below,)))):
            read += 1
            other = TiffImagePlugin.ImageFileDirectory_v2(header)
            # a damaged page behind the first does not spoil the first
            with suppress(OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error):
                file.seek(offset, io.SEEK_SET)
                other.load(file)
                yield int(other[WIDTH]) * int(other[HEIGHT])
                pending.append(other)


def scale_grey(values: np.ndarray, is_float: bool) -> np.ndarray:
    """(H, W) float32 -> uint8 by the rule of this module; NaN is black. The argument is overwritten.

    Raises:
        ImageError: the values have another scale.

    Examples:
        >>> import numpy as np
        >>> scale_grey(np.array([[0, 257, 65535]], np.float32), is_float=False).tolist()
        [[0, 1, 255]]
    """
    low, high = (float(extreme.reduce(values, axis=None)) for extreme in (np.fmin, np.fmax))  # these skip NaN
    if is_float and not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ImageError(f"float values from {low:.4g} to {high:.4g}, not from 0 to 1: scale it to 8 bits")
    if not is_float and not (low >= 0 and high <= 65535):
        raise ImageError(f"values from {low:,.0f} to {high:,.0f}, not from 0 to 65,535: scale it to 8 bits")
    if not is_float and 0 < high < NARROW:
        raise ImageError(_narrow(f"at {high:,.0f}"))
    if not is_float and 0 < high - low < NARROW:
        raise ImageError(f"values from {low:,.0f} to {high:,.0f} only, as of temperatures: scale it to 8 bits")
    values = np.nan_to_num(values, copy=False)
    values *= 255 if is_float else np.float32(1 / 257)
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def has_deep_colours(image: ImageFile.ImageFile) -> bool:
    """Whether colours of 16 bits will be decoded to their upper 8; to be asked before pixels are read."""
    return any(";16" in str(tile) for tile in image.tile) and len(image.getbands()) > 1


def check_deep_colours(pixels: np.ndarray) -> None:
    """Raise ImageError where the upper 8 of 16 bits, uint8, hold 12 bits or fewer."""
    if 0 < pixels.max() < NARROW // 256:
        raise ImageError(_narrow(f"below {256 * (int(pixels.max()) + 1):,}"))


def _narrow(end: str) -> str:
    return f"16-bit values that end {end}, as of a 12-bit camera: multiply them by 16, or save 8 bits"
