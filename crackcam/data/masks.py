"""Read masks of what heatmaps should locate, in the conventions that annotation tools write.

Each file has two levels, of which the lighter is taken first: 0 and 1, 0 and 255, 0 and any other value, two colours,
or opaque on transparent; edges may be smooth or compressed. Files with further areas of their own value, of several
labels say, are refused. Then one rule for all masks of a folder: they are white on what is to be located, or, where
each is white on more than half and most of them on more than :data:`MOSTLY` of their image, black on it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from crackcam.data.images import DecodedImage, ImageError, open_image
from crackcam.data.listing import list_files
from crackcam.errors import UserError
from crackcam.text import counted, normalized

logger = logging.getLogger(__name__)

MOSTLY = 0.8  # fraction of an image: what is to be located covers less
FEW = 32  # distinct values; smooth edges and compression have more, or none that fills an area
GREY = 0.25  # fraction of pixels neither dark nor light: a photograph
CONVENTION = "masks must be white (255) on what the heatmaps should locate, and black elsewhere"


def read_masks(folder: Path, images: Sequence[DecodedImage]) -> list[np.ndarray]:
    """The mask of each image, (H, W) bool: the file with its stem, whatever its suffix, anywhere below the folder.

    Raises:
        UserError: an image has none, several, that of another image, or one of another size; one has not two levels;
            some are black on white and some white on black; or all are empty or full.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in list_files(folder):
        files[normalized(path.stem)].append(path)
    stems = [normalized(image.path.stem) for image in images]
    missing = [image.path.name for image, stem in zip(images, stems, strict=True) if stem not in files]
    if missing:
        raise UserError(f"no mask in {folder} for {counted(len(missing), 'image')}, the first is {missing[0]}")
    alike = {stem: image.path for image, stem in zip(images, stems, strict=True)}
    for image, stem in zip(images, stems, strict=True):
        if alike[stem] != image.path:
            raise UserError(f"{image.path} and {alike[stem]} would have the same mask, {files[stem][0]}: rename one")
    paths, masks = [], []
    for image, stem in zip(images, stems, strict=True):
        path, *others = files[stem]
        if others:
            raise UserError(f"{path} and {others[0]} are both masks of {image.path.name}: keep one in {folder}")
        paths.append(path)
        masks.append(_read_mask(path, image))
    masks = _upright(folder, paths, masks)
    if not any(mask.any() and not mask.all() for mask in masks):
        raise UserError(
            f"the masks of {counted(len(masks), 'image')} are empty or full: nothing to locate; {CONVENTION}"
        )
    return masks


def _read_mask(path: Path, image: DecodedImage) -> np.ndarray:
    try:
        light = read_light(path)
    except ImageError as error:
        raise UserError(f"cannot read the mask {path}: {error}") from None
    if light.shape != image.pixels.shape[:2]:
        sizes = [f"{width} x {height}" for height, width in (light.shape, image.pixels.shape[:2])]
        raise UserError(f"the mask {path} is {sizes[0]}, its image {sizes[1]}")
    return light


def _upright(folder: Path, paths: Sequence[Path], masks: list[np.ndarray]) -> list[np.ndarray]:
    """The masks as they are, or all inverted, by the rule of this module."""
    fractions = {path: float(mask.mean()) for path, mask in zip(paths, masks, strict=True) if 0 < mask.mean() < 1}
    if not fractions:
        return masks
    lightest, darkest = max(fractions, key=fractions.__getitem__), min(fractions, key=fractions.__getitem__)
    if fractions[lightest] > 0.9 and fractions[darkest] < 0.1:
        raise UserError(
            f"{lightest} is white on {fractions[lightest]:.0%} of its image, {darkest} on {fractions[darkest]:.0%}: "
            f"some of these masks are inverted; {CONVENTION}"
        )
    if fractions[darkest] > 0.5 and np.median(list(fractions.values())) > MOSTLY:
        logger.warning("the masks in %s are white on most of their images: taken as black on white", folder)
        return [~mask for mask in masks]
    return masks


def read_light(path: Path) -> np.ndarray:
    """Where a mask has the lighter of its two levels: (H, W) bool.

    Raises:
        ImageError: it cannot be read, or has not two levels.
    """
    with open_image(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        lossy = image.format not in ("PNG", "TIFF", "BMP", "GIF", "PPM")
        shown = _without_alpha(image)
        if shown.mode not in ("P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"):
            return _light_of_grey(np.array(shown), lossy)
        colours = np.array(shown.convert("RGB"))
        if (colours[..., :1] == colours).all():
            return _light_of_grey(colours[..., 0], lossy)
        return _light_of_colours(colours, lossy)


def _without_alpha(image: Image.Image) -> Image.Image:
    """The image where alpha says nothing; alpha itself where all that is opaque has one colour; else over black."""
    if not image.has_transparency_data:
        return image
    rgba = np.array(image.convert("RGBA"))
    colours, alpha = rgba[..., :3], rgba[..., 3]
    if not alpha.any():
        raise ImageError("every pixel is transparent")
    opaque = colours[alpha > 127]
    if alpha.min() < 128 and len(opaque) and (opaque == opaque[0]).all():
        return Image.fromarray(alpha)
    return Image.fromarray((colours * (alpha[..., None] / 255)).round().astype(np.uint8))


def _light_of_grey(values: np.ndarray, lossy: bool) -> np.ndarray:
    """Of (H, W) bool, integers or floats."""
    if values.dtype == bool:
        return values
    levels = np.unique(values)
    low, high = levels[0], levels[-1]
    if not (np.isfinite(levels).all() and low >= 0):
        raise ImageError(f"it has values from {low} to {high}: {CONVENTION}")
    if low == 0 and len(levels) <= 2:  # 0 and 1, 0 and 255, or the label of one class
        return values > 0
    if len(levels) == 1:
        return np.full(values.shape, bool(high == 1 or high > 127))
    top = 1 if values.dtype.kind == "f" and high <= 1 else 255 if high <= 255 else 65535
    if high <= top / 2:
        raise ImageError(_labels(len(levels)))
    _check_two_areas(values.astype(np.float32), values, lossy)
    return values > top * 127 / 255


def _light_of_colours(colours: np.ndarray, lossy: bool) -> np.ndarray:
    """Of (H, W, 3) uint8."""
    grey = np.array(Image.fromarray(colours).convert("L"), np.float32)
    codes = colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    scaled = (grey - grey.min()) * (255 / max(float(np.ptp(grey)), 1))
    _check_two_areas(scaled, codes, lossy)
    return scaled > 127


def _check_two_areas(levels: np.ndarray, values: np.ndarray, lossy: bool) -> None:
    """Raise ImageError where more than two values fill areas, or most is neither dark nor light.

    Args:
        levels: (H, W) float32.
        values: (H, W), equal where pixels are.
        lossy: whether compression may have changed values.
    """
    distinct = len(np.unique(values))
    if not lossy and distinct <= FEW:
        kernel, exact = np.ones((3, 3), np.uint8), values.astype(np.float64)
        inside = cv2.dilate(exact, kernel) == cv2.erode(exact, kernel)
        if len(np.unique(values[inside])) > 2:
            raise ImageError(_labels(distinct))
    edges = levels.min() + np.ptp(levels) / 4, levels.max() - np.ptp(levels) / 4
    if ((levels > edges[0]) & (levels < edges[1])).mean() > GREY:
        raise ImageError(f"it has grey values throughout, as a photograph: {CONVENTION}")


def _labels(count: int) -> str:
    return f"it has {count} values, as of several labels: make one file of each label; {CONVENTION}"
