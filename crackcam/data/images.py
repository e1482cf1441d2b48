"""Decode untrusted image files to RGB arrays, and list and sample them.

An image is a file in one of :data:`FORMATS`, whatever the suffix of its name. It is decoded once, upright (EXIF
orientation applied), as uint8 RGB. Models get their input from that array through
:class:`crackcam.preprocessing.Preprocessing`, in training and in inference alike.

Whatever a file contains, reading it returns an image or raises :class:`ImageError`: docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
import stat
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from crackcam.data.foreign import HEAD, describe_foreign
from crackcam.data.scene import ImageError, check_deep_colours, check_tiff, has_deep_colours, scale_grey
from crackcam.text import counted

logger = logging.getLogger(__name__)

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: more is an attack or a mistake
MAX_SIDE = 65_535  # as of JPEG and GIF; Pillow copies longer rows over and over, for minutes
# Not all formats of Pillow: an EPS file is a program, which it passes to Ghostscript; others are not used for photos.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")
OPAQUE = 16  # alpha, of 255, below which nothing of a pixel can be seen
NAMED_ERRORS = 10  # more unreadable files are counted
SUBMITTED = 4096  # files that wait for a thread: each takes 2 kB meanwhile
AHEAD_BYTES = 2**28  # of images that are decoded before they are used: 7 of 12 megapixels

with contextlib.suppress(ImportError):  # the photos of iPhones, where that package is installed
    importlib.import_module("pillow_heif").register_heif_opener()
    FORMATS += ("HEIF",)

# Once and for all, not around each image: catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd metadata


class DecodedImage(NamedTuple):
    """A decoded file: (H, W, 3) uint8 RGB pixels."""

    path: Path
    pixels: np.ndarray


class UnreadableImage(NamedTuple):
    """A file that could not be decoded, and the reason in a few words."""

    path: Path
    reason: str


def read_image(path: Path) -> np.ndarray:
    """Decode an image.

    Transparent pixels are blended with white; of animations and several pages the first is read. 16-bit and float
    images are scaled to 8 bits as :mod:`crackcam.data.scene` describes.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: empty, truncated, not an image, not the scene, too large, or not accessible.
    """
    with open_image(path) as image:
        deep = has_deep_colours(image)
        ImageOps.exif_transpose(image, in_place=True)
        pixels = to_rgb(image)
        if deep:
            check_deep_colours(pixels)
        return pixels


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels, upright, from its header; raises ImageError as :func:`read_image`."""
    with open_image(path) as image:
        # Pillow reports the upright size of a TIFF, and would decode a PNG for its own getexif.
        exif = image.format != "TIFF" and Image.Image.getexif(image)
        swapped = exif and exif.get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if swapped else image.size


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image and read its header; every error, also within the context, is raised as ImageError."""
    head = b""
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # reading a pipe could wait for ever
            raise ImageError("not a file but a pipe, socket or device")
        with path.open("rb") as file:
            head = file.peek(HEAD)[:HEAD]
            if not head:
                raise ImageError("empty file")
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if max(image.size) > MAX_SIDE:
                    raise ImageError(f"a side of more than {MAX_SIDE:,} pixels")
                if image.format == "TIFF":
                    check_tiff(image, file)
                yield image
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("not enough memory") from None
    except Exception as error:  # decoders raise exceptions of any type for a damaged file
        raise ImageError(_reason(error, head)) from None


def to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an image in whatever mode: (H, W, 3) uint8 RGB, transparent ones over white.

    Raises:
        ImageError: no pixel of a scene is opaque; or grey values have a scale that is not known.
    """
    if image.mode.startswith("I") or image.mode == "F":
        grey = scale_grey(np.array(image, dtype=np.float32), is_float=image.mode == "F")
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        *colours, (_, opaque) = cast(tuple[tuple[int, int], ...], rgba.getextrema())
        if opaque < OPAQUE and any(low < high for low, high in colours):  # there is a scene below
            raise ImageError("every pixel is transparent: save it without its alpha channel")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _reason(error: Exception, head: bytes) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return describe_foreign(head) or "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    # Pillow has no exception of its own for truncated files.
    return "truncated" if "truncated" in str(error).lower() else f"damaged ({' '.join(str(error).split())[:80]})"


def read_images(
    paths: Iterable[Path],
    prepare: Callable[[np.ndarray], Any] = lambda pixels: pixels,
    threads: int = 4,
    ahead: int | None = None,
    ahead_bytes: int = AHEAD_BYTES,
    read: Callable[[Path], Any] = read_image,
) -> Iterator[DecodedImage | UnreadableImage]:
    """Decode many images in threads, in order.

    Args:
        paths: the files.
        prepare: applied to the (H, W, 3) uint8 pixels in the decoding threads.
        threads: number of decoding threads.
        ahead: images that are decoded before they are used; default 8 per thread.
        ahead_bytes: what these may hold in memory: while they hold more, threads wait. Those that are being decoded,
            one in each thread, come on top.
        read: gives the pixels of a file.
    """
    limit, held = ahead or 8 * threads, _HeldBytes(ahead_bytes)

    def prepare_one(place: int, path: Path) -> tuple[DecodedImage | UnreadableImage, int]:
        held.wait(place)
        try:
            prepared = prepare(read(path))
        except ImageError as error:
            return UnreadableImage(path, str(error)), 0
        return DecodedImage(path, prepared), held.add(bytes_of(prepared))

    pending: deque[Future[tuple[DecodedImage | UnreadableImage, int]]] = deque()

    def next_one() -> DecodedImage | UnreadableImage:
        found, size = pending.popleft().result()
        held.release(size)
        return found

    with ThreadPoolExecutor(threads) as pool:
        try:
            for place, path in enumerate(paths):
                pending.append(pool.submit(prepare_one, place, path))
                if len(pending) > limit:
                    yield next_one()
            while pending:
                yield next_one()
        finally:
            for future in pending:  # of an iterator that is not used up
                future.cancel()
            held.close()


class _HeldBytes:
    """Counts what decoded images hold until they are used; threads wait while it is more than a limit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.used, self.closed = limit, 0, 0, False
        self.changed = threading.Condition()

    def wait(self, place: int) -> None:
        """Until there is room, or the image of that place is the next one to be used: somebody waits for it."""
        with self.changed:
            self.changed.wait_for(lambda: self.held <= self.limit or place <= self.used or self.closed)

    def add(self, size: int) -> int:
        """Count an image that has been decoded; returns its size."""
        with self.changed:
            self.held += size
        return size

    def release(self, size: int) -> None:
        """Count an image as used: the next one's turn has come."""
        with self.changed:
            self.held -= size
            self.used += 1
            self.changed.notify_all()

    def close(self) -> None:
        """Nothing is used any more: nobody waits."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def bytes_of(prepared: Any) -> int:
    """What arrays hold in memory, alone or in tuples."""
    if isinstance(prepared, tuple):
        return sum(map(bytes_of, prepared))
    return getattr(prepared, "nbytes", 0)


def keep_images(paths: list[Path], where: str, threads: int = 8) -> list[Path]:
    """The files whose headers can be read as an image; the others are logged.

    Args:
        paths: the files.
        where: the end of a message: "of the train split".
        threads: number of reading threads.
    """

    def check(path: Path) -> UnreadableImage | None:
        try:
            with open_image(path):
                return None
        except ImageError as error:
            return UnreadableImage(path, str(error))

    with ThreadPoolExecutor(threads) as pool:
        parts = (paths[start : start + SUBMITTED] for start in range(0, len(paths), SUBMITTED))
        unreadable = [found for part in parts for found in pool.map(check, part) if found]
    log_unreadable(unreadable, where)
    lost = {item.path for item in unreadable}
    return [path for path in paths if path not in lost]


def log_unreadable(items: Sequence[UnreadableImage], where: str = "") -> None:
    """Warn of files that were skipped: of the first by name, and of their number."""
    for item in items[:NAMED_ERRORS]:
        logger.warning("skipped %s: %s", item.path, item.reason)
    if items:
        logger.warning("%s could not be read", " ".join(filter(None, [counted(len(items), "file"), where])))


def sample_images(
    paths: list[Path], count: int, seed: int, read: Callable[[Path], Any] = read_image
) -> tuple[list[DecodedImage], list[UnreadableImage]]:
    """Up to ``count`` readable images, drawn without replacement; the same for the same seed.

    Args:
        paths: the files.
        count: how many.
        seed: chooses them.
        read: see :func:`read_images`.

    Returns:
        The images, and the unreadable files among those that were drawn.
    """
    images: list[DecodedImage] = []
    unreadable: list[UnreadableImage] = []
    order = iter(random.Random(seed).sample(paths, len(paths)))
    while drawn := list(islice(order, count - len(images))):
        partition_images(read_images(drawn, read=read), images, unreadable)
    return images, unreadable


def partition_images(
    items: Iterable[DecodedImage | UnreadableImage], images: list[DecodedImage], unreadable: list[UnreadableImage]
) -> None:
    """Append decoded images to the one list, unreadable files to the other."""
    for item in items:
        if isinstance(item, DecodedImage):
            images.append(item)
        else:
            unreadable.append(item)
