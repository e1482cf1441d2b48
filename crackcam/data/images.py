"""Picture files that nobody checked -> RGB arrays.

A picture is a file in one of :data:`FORMATS`, whatever its name ends in. It is decoded once, upright (EXIF orientation
applied), as uint8 RGB; networks get their input from that array through :func:`fit`, in training and afterwards alike.

Whatever lies under a name, reading it ends, in a picture or in :class:`PictureError`: docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 178_956_970  # more is an attack or a mistake; where Pillow refuses of itself
MAX_SIDE = 65_535  # as of JPEG and GIF; Pillow copies rows that are longer over and over, for minutes
# Not all that Pillow knows: an EPS file is a program, which it hands to Ghostscript; others nobody photographs in.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")

# For good, not around each picture: what catch_warnings puts back is that of any other thread.
warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on odd metadata


class ImageError(Exception):
    """A file that is no readable picture; the message says why in a few words."""


class DecodedImage(NamedTuple):
    """A file that was read: (H, W, 3) uint8 RGB pixels."""

    path: Path
    pixels: np.ndarray


class UnreadableImage(NamedTuple):
    """A file that could not be read, and why, in a few words."""

    path: Path
    reason: str


def read_image(path: Path) -> np.ndarray:
    """Decode a picture.

    Transparent pixels come out over white; 16-bit and float pictures are scaled to 8 bits (float: from 0..1).

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        PictureError: empty, truncated, not a picture, too large, not to be read.
    """
    with open_image(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, upright, from its head alone; raises PictureError as :func:`load`."""
    with open_image(path) as image:
        # Of a TIFF Pillow says the upright size itself.
        turned = image.format != "TIFF" and Image.Image.getexif(image)  # that of a PNG would decode it
        lies = turned and turned.get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if lies else image.size


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """A picture whose head was read; what goes wrong with it, then or later, is raised as PictureError."""
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe would let us wait for ever
            raise ImageError("not a file but a pipe, socket or device")
        with path.open("rb") as file:
            if not file.peek(1):
                raise ImageError("empty file")
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if max(image.size) > MAX_SIDE:
                    raise ImageError(f"a side of more than {MAX_SIDE:,} pixels")
                yield image
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("not enough memory for it") from None
    except Exception as error:  # decoders raise whatever a broken file makes them raise
        raise ImageError(_reason(error)) from None


def to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.nan_to_num(np.array(image, dtype=np.float32), copy=False, posinf=np.inf, neginf=-np.inf)
        with np.errstate(over="ignore"):
            grey *= 255 if image.mode == "F" else np.float32(1 / 257)
        return np.repeat(np.rint(grey.clip(0, 255)).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "truncated" if "truncated" in str(error).lower() else f"damaged ({' '.join(str(error).split())[:80]})"


def read_images(
    paths: Iterable[Path], prepare: Callable[[np.ndarray], Any] = lambda picture: picture, threads: int = 4,
    ahead: int | None = None,
) -> Iterator[DecodedImage | UnreadableImage]:  # fmt: skip
    """Decode many pictures, in order, ``ahead`` of their use; ``prepare`` runs in the decoding threads."""
    most = ahead or 8 * threads

    def read(path: Path) -> DecodedImage | UnreadableImage:
        try:
            return DecodedImage(path, prepare(read_image(path)))
        except ImageError as error:
            return UnreadableImage(path, str(error))

    begun: deque[Future[DecodedImage | UnreadableImage]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in paths:
            begun.append(pool.submit(read, path))
            if len(begun) > most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def list_files(folder: Path) -> list[Path]:
    """All files below a folder that are not hidden, in natural order (2 before 10).

    Links that lead nowhere and folders that may not be read are among them: reading them says what is wrong.
    """
    found: list[Path] = []
    unread: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    found = [path for path in found if path.is_file() or not path.exists()]
    found += [Path(error.filename) for error in unread]
    return sorted(found, key=lambda p: natural_key(p.relative_to(folder).as_posix()))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that reads digits as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def sample_images(paths: list[Path], count: int, seed: int) -> tuple[list[DecodedImage], list[UnreadableImage]]:
    """Up to ``count`` readable pictures, chosen without replacement; the same for the same seed.

    Returns:
        The pictures, and the unreadable files that were met on the way.
    """
    pictures: list[DecodedImage] = []
    unreadable: list[UnreadableImage] = []
    order = iter(random.Random(seed).sample(paths, len(paths)))
    while some := list(islice(order, count - len(pictures))):
        partition_images(read_images(some), pictures, unreadable)
    return pictures, unreadable


def partition_images(
    read: Iterable[DecodedImage | UnreadableImage], pictures: list[DecodedImage], unreadable: list[UnreadableImage]
) -> None:
    """Append what could be read to the one list, the rest to the other."""
    for item in read:
        if isinstance(item, DecodedImage):
            pictures.append(item)
        else:
            unreadable.append(item)
