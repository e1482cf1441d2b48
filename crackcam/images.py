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
GREY = (124, 116, 104)  # the mean of ImageNet
LONG = 16  # a picture so many times as long as wide is not scaled as a whole to cut out its middle

# For good, not around each picture: what catch_warnings puts back is that of any other thread.
warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on odd metadata


class PictureError(Exception):
    """A file that is no readable picture; the message says why in a few words."""


class Picture(NamedTuple):
    """A file that was read: (H, W, 3) uint8 RGB pixels."""

    path: Path
    pixels: np.ndarray


class Unreadable(NamedTuple):
    """A file that could not be read, and why, in a few words."""

    path: Path
    reason: str


def load(path: Path) -> np.ndarray:
    """Decode a picture.

    Transparent pixels come out over white; 16-bit and float pictures are scaled to 8 bits (float: from 0..1).

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        PictureError: empty, truncated, not a picture, too large, not to be read.
    """
    with opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture, upright, from its head alone; raises PictureError as :func:`load`."""
    with opened(path) as image:
        # Of a TIFF Pillow says the upright size itself.
        turned = image.format != "TIFF" and Image.Image.getexif(image)  # that of a PNG would decode it
        lies = turned and turned.get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if lies else image.size


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose head was read; what goes wrong with it, then or later, is raised as PictureError."""
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe would let us wait for ever
            raise PictureError("not a file but a pipe, socket or device")
        with path.open("rb") as file:
            if not file.peek(1):
                raise PictureError("empty file")
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if max(image.size) > MAX_SIDE:
                    raise PictureError(f"a side of more than {MAX_SIDE:,} pixels")
                yield image
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("not enough memory for it") from None
    except Exception as error:  # decoders raise whatever a broken file makes them raise
        raise PictureError(_reason(error)) from None


def _rgb(image: Image.Image) -> np.ndarray:
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


class Geometry(NamedTuple):
    """How a picture becomes the network's square input, and where in the picture that square lies.

    Attributes:
        size: side of the square.
        resize: length that the shorter side is brought to before the centre is cropped, as ImageNet networks expect;
            None: the whole picture is squashed.
        interpolation: a filter of Pillow, by name.
        max_scale: the picture keeps its proportions and is enlarged at most so much; a grey frame fills the square.
            None: as ``resize`` says.
    """

    size: int
    resize: int | None = None
    interpolation: str = "bilinear"
    max_scale: float | None = None

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (size, size, 3) uint8."""
        if self.max_scale is not None:
            rows, columns = self.inside(*picture.shape[:2])
            height, width = rows.stop - rows.start, columns.stop - columns.start
            if picture.shape[:2] != (height, width):
                picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
            return framed(picture, self.size, self.size)
        if self.resize is None:
            return fit(picture, self.size)
        height, width = self._resized(*picture.shape[:2])
        image, filter_ = Image.fromarray(picture), Image.Resampling[self.interpolation.upper()]
        top, left = self._corner(height, width)
        if max(height, width) > LONG * self.resize:  # a strip of one row would become millions of columns
            down, across = picture.shape[0] / height, picture.shape[1] / width
            right, bottom = min(width, left + self.size), min(height, top + self.size)
            box = (max(0, left) * across, max(0, top) * down, right * across, bottom * down)
            return np.asarray(image.resize((self.size, self.size), filter_, box))
        image = image.resize((width, height), filter_)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def times(self, scale: float) -> Geometry:
        """The same view of a picture in so many times the size."""
        return Geometry(
            round(scale * self.size),
            self.resize and round(scale * self.resize),
            self.interpolation,
            self.max_scale and scale * self.max_scale,
        )

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the square that show a picture of that size, or what is seen of it."""
        if self.max_scale is None:
            return slice(0, self.size), slice(0, self.size)
        scale = min(self.max_scale, self.size / max(height, width))
        sides = [min(self.size, max(1, round(scale * side))) for side in (height, width)]
        rows, columns = (slice(start, start + side) for side in sides for start in [(self.size - side) // 2])
        return rows, columns

    def seen(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a picture of that size that reach the network."""
        if self.resize is None:
            return slice(0, height), slice(0, width)
        resized = self._resized(height, width)
        return tuple(  # type: ignore[return-value]
            slice(max(0, round(start * side / large)), min(side, round((start + self.size) * side / large)))
            for side, large, start in zip((height, width), resized, self._corner(*resized), strict=True)
        )

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """As torchvision resizes: the longer side is rounded down."""
        short = self.resize or self.size
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        return round((height - self.size) / 2), round((width - self.size) / 2)


def framed(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture (H, W, 3), no larger than that, in the middle of a grey frame: (height, width, 3).

    Grey is the mean of ImageNet, 0 to a network: as if there were nothing, where mirror images would make new lines.
    """
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    filled = np.full((height, width, 3), GREY, np.uint8)
    filled[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return filled


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """The whole picture, squashed to (size, size, 3) uint8: the network's view of it."""
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0))


def read_all(
    paths: Iterable[Path], prepare: Callable[[np.ndarray], Any] = lambda picture: picture, threads: int = 4,
    ahead: int | None = None,
) -> Iterator[Picture | Unreadable]:  # fmt: skip
    """Decode many pictures, in order, ``ahead`` of their use; ``prepare`` runs in the decoding threads."""
    most = ahead or 8 * threads

    def read(path: Path) -> Picture | Unreadable:
        try:
            return Picture(path, prepare(load(path)))
        except PictureError as error:
            return Unreadable(path, str(error))

    begun: deque[Future[Picture | Unreadable]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in paths:
            begun.append(pool.submit(read, path))
            if len(begun) > most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def files_below(folder: Path) -> list[Path]:
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


def sample(paths: list[Path], count: int, seed: int) -> tuple[list[Picture], list[Unreadable]]:
    """Up to ``count`` readable pictures, chosen without replacement; the same for the same seed.

    Returns:
        The pictures, and the unreadable files that were met on the way.
    """
    pictures: list[Picture] = []
    unreadable: list[Unreadable] = []
    order = iter(random.Random(seed).sample(paths, len(paths)))
    while some := list(islice(order, count - len(pictures))):
        sort(read_all(some), pictures, unreadable)
    return pictures, unreadable


def sort(read: Iterable[Picture | Unreadable], pictures: list[Picture], unreadable: list[Unreadable]) -> None:
    """Append what could be read to the one list, the rest to the other."""
    for item in read:
        if isinstance(item, Picture):
            pictures.append(item)
        else:
            unreadable.append(item)
