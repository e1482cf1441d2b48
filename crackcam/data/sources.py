"""Images from whatever a caller has: files, globs, folders, Pillow images, arrays, and iterables of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from glob import escape, glob
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps

from crackcam.data.images import (
    NAMED_ERRORS,
    DecodedImage,
    ImageError,
    UnreadableImage,
    bytes_of,
    read_images,
    read_size,
    to_rgb,
)
from crackcam.data.listing import existing, list_files, without_outputs
from crackcam.errors import UserError
from crackcam.files import exists
from crackcam.text import counted, normalized

logger = logging.getLogger(__name__)

T = TypeVar("T")
ImageSource = Any  # str | Path | Image.Image | np.ndarray, or an iterable of them

GLOB = "*?["
MASKS = {"mask", "masks"}  # folders of these names, in any case, hold no images to look at
BATCH_BYTES = 2**28  # of the decoded images of a batch: 7 of 12 megapixels
SMALLEST = 4  # pixels of a side: there is nothing to see in less


class SourceImage(NamedTuple):
    """An image: (H, W, 3) uint8 RGB pixels, and its file; None for an image that was passed as pixels."""

    path: Path | None
    pixels: np.ndarray


def is_single(source: ImageSource) -> bool:
    """Whether the source is one image: a file, a Pillow image, or an array (H, W, 3)."""
    if _is_path(source):
        path = existing(Path(source))
        return path.is_file() or not (path.exists() or is_glob(path))
    return isinstance(source, Image.Image) or (isinstance(source, np.ndarray) and source.ndim < 4)


def find_files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, those below a folder, or those that match a glob.

    Of a folder without those in folders of masks in it, which is logged.

    Raises:
        UserError: there are none.
    """
    path = existing(path)
    matching = [path] if path.exists() else without_outputs(_matching(path))
    if not matching:
        raise UserError(f"no image {path}")
    files = [file for found in matching for file in (_without_masks(found) if found.is_dir() else [found])]
    if not files:
        raise UserError(f"no files in {path}")
    return files


def _matching(pattern: Path) -> list[Path]:
    """What matches a glob, in any Unicode form; brackets in folders that exist are part of their names."""
    folder = next((parent for parent in pattern.parents if parent.parts and exists(parent)), Path())
    escaped = Path(escape(str(folder))) / pattern.relative_to(folder)
    forms = {str(escaped), normalized(str(escaped)), normalized(str(escaped), "NFD")}
    return sorted({Path(name) for form in forms for name in glob(form, recursive=True)})  # noqa: PTH207 - Path.glob takes no absolute patterns


def _without_masks(folder: Path) -> list[Path]:
    """The files below a folder, but those in folders of masks; all of them where there are no others."""
    files = list_files(folder)
    masks = {file: parent for file in files for parent in file.relative_to(folder).parents if _is_masks(parent)}
    if not masks or len(masks) == len(files):
        return files
    names = sorted({str(folder / parent) for parent in masks.values()})
    logger.info("left out %s: masks, no images; name such a folder to use it", ", ".join(names))
    return [file for file in files if file not in masks]


def _is_masks(folder: Path) -> bool:
    return folder.name.casefold() in MASKS


def has_loose_images(folder: Path) -> bool:
    """Whether images lie in a folder itself, and no folders."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return not any(path.is_dir() for path in inside) and any(map(_is_image, inside))


def _is_image(path: Path) -> bool:
    try:
        read_size(path)
    except ImageError:
        return False
    return True


def warn_of_tiny(path: Path | None, pixels: np.ndarray) -> None:
    """Log a warning where an image is too small to show anything."""
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        name = path or "an image"
        logger.warning(
            "%s has %d x %d pixels: too few to see anything, so its result means nothing", name, width, height
        )


def read_source(source: ImageSource) -> Iterator[SourceImage | UnreadableImage]:
    """Decode images one after the other, in order; files of a folder, a glob or a list some ahead of their use.

    Raises:
        UserError: there is no such file; or something is not an image.
    """
    if _is_path(source):
        return _read_files([source])
    if isinstance(source, list | tuple) and all(map(_is_path, source)):
        return _read_files(source)
    if isinstance(source, Image.Image):
        return iter([SourceImage(None, _pixels_of(source))])
    if isinstance(source, np.ndarray):
        return (SourceImage(None, _checked(array)) for array in (source if source.ndim == 4 else [source]))
    if isinstance(source, Iterable) and not hasattr(source, "__array__"):  # a tensor is iterable too
        return (image for item in source for image in read_source(item))
    raise UserError(
        f"{type(source).__name__} is not an image: pass a path, a Pillow image or an array (H, W, 3) of uint8"
    )


def _read_files(paths: Iterable[str | os.PathLike]) -> Iterator[SourceImage | UnreadableImage]:
    files = [file for path in paths for file in find_files(Path(path))]  # now: what is missing is found at once
    return (SourceImage(*found) if isinstance(found, DecodedImage) else found for found in read_images(files))


def _pixels_of(image: Image.Image) -> np.ndarray:
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise UserError(f"the image that was passed cannot be used: {error}") from None


def _is_path(source: ImageSource) -> bool:
    return isinstance(source, str | os.PathLike)


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise UserError(f"an image is an array (H, W, 3) of uint8 in RGB order, not {array.shape} of {array.dtype}")
    return array


def is_glob(path: Path) -> bool:
    """Whether a path has wildcards."""
    return any(character in str(path) for character in GLOB)


def map_source(
    source: ImageSource, work: Callable[[list[SourceImage]], Iterator[T]], batch_size: int
) -> T | Iterator[T]:
    """The results of images: of a single image its one result; of several an iterator, which works batch by batch.

    Args:
        source: the images; files among several that cannot be read are skipped with a warning.
        work: gets at most ``batch_size`` images, and gives a result for each.
        batch_size: images at a time.

    Raises:
        UserError: there is no such file; or a single image cannot be read; or a batch of none.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is a whole number above 0, not {batch_size}")
    if not is_single(source):
        return _map_batches(read_source(source), work, batch_size)
    (image,) = read_source(source)
    if isinstance(image, UnreadableImage):
        raise UserError(f"{image.path} cannot be read as an image: {image.reason}")
    warn_of_tiny(*image)
    return next(work([image]))


def _batch_of(read: Iterator[SourceImage | UnreadableImage], size: int) -> list[SourceImage | UnreadableImage]:
    """The next images: as many as a batch has, fewer where they hold more than :data:`BATCH_BYTES`."""
    batch: list[SourceImage | UnreadableImage] = []
    held = 0
    while len(batch) < size and held <= BATCH_BYTES and (image := next(read, None)):
        batch.append(image)
        held += bytes_of(image)
    return batch


def _map_batches(
    read: Iterator[SourceImage | UnreadableImage], work: Callable[[list[SourceImage]], Iterator[T]], batch_size: int
) -> Iterator[T]:
    skipped = 0
    while batch := _batch_of(read, batch_size):
        readable = []
        for image in batch:
            if isinstance(image, SourceImage):
                warn_of_tiny(*image)
                readable.append(image)
                continue
            skipped += 1
            if skipped <= NAMED_ERRORS:
                logger.warning("skipped %s: %s", image.path, image.reason)
        if readable:
            yield from work(readable)
    if skipped > NAMED_ERRORS:
        logger.warning("%s could not be read", counted(skipped, "file"))
