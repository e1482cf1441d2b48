"""Find near-duplicates across splits: one photograph re-encoded, scaled or brightened. They inflate test scores.

Two images are near-duplicates where their 32 x 32 grey thumbnails correlate above 0.97; correlation does not depend on
brightness and contrast. On images of concrete, where plain surfaces look alike, two copies of a photograph correlate
above 0.998, and any other two of 4.5 million pairs below 0.93; JPEG at quality 50 leaves 0.972 for the plainest image
and 0.999 for a usual one. Mirrored, rotated and cropped copies are not found.

One matrix product checks all pairs, so that no perceptual hash has to select candidates: 6,000 images against 34,000
take 15 seconds on one core.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from crackcam.data.pixels import PixelSplit, without_padding
from crackcam.data.statistics import Groups, identical_images
from crackcam.data.storage import Rows, allocate
from crackcam.text import counted

logger = logging.getLogger(__name__)

SIDE = 32  # of a thumbnail
MIN_CORRELATION = 0.97  # of near-duplicates
MIN_CONTRAST = 1.0  # standard deviation in grey levels; below it a thumbnail shows nothing to recognise
BLOCK = 128  # images at a time: 80 MB at 224 px
COMPARED = 1024  # training images that a block is compared with at a time: 4 MB of thumbnails


class Pair(NamedTuple):
    """An image, and the image of the training split that it is most similar to."""

    path: Path
    other: Path
    correlation: float


def near_duplicates(splits: Mapping[str, PixelSplit], groups: Groups | None = None) -> dict[str, list[Pair]]:
    """Images of each split but ``train`` that have a near-duplicate in ``train``, in the order of the split.

    All images with hardly any contrast look alike: of them only those with equal pixels count.

    Args:
        splits: pixels by split, ``train`` among them.
        groups: result of :func:`crackcam.data.statistics.identical_images`, where it is known.
    """
    train = splits["train"]
    thumbnails = _thumbnails(train.pixels)
    identical: dict[tuple[str, Path], Path] = {}  # split and file -> a training file with equal pixels
    for group in identical_images(splits) if groups is None else groups:
        first = next((path for split, _, path in group if split == "train"), None)
        identical |= {(split, path): first for split, _, path in group if first}
    found: dict[str, list[Pair]] = {}
    for name in (name for name in splits if name != "train"):
        values, indices = _nearest(_thumbnails(splits[name].pixels), thumbnails)
        nearest = zip(splits[name].paths, values.tolist(), indices.tolist(), strict=True)
        found[name] = [
            Pair(path, identical.get((name, path), train.paths[i]), 1.0 if (name, path) in identical else value)
            for path, value, i in nearest
            if value > MIN_CORRELATION or (name, path) in identical
        ]
    return found


def _nearest(thumbnails: Rows, others: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """For each thumbnail the highest correlation with others, and the index of one that has it."""
    highest, which = torch.full((len(thumbnails),), -2.0), torch.zeros(len(thumbnails), dtype=torch.int64)
    # The larger part is read in the outer loop: read again for every block, it fragments the memory of the process.
    for first in range(0, len(others), COMPARED):
        part = others[first : first + COMPARED]
        for start in range(0, len(thumbnails), BLOCK):
            rows = slice(start, start + BLOCK)
            values, indices = (thumbnails[rows] @ part.T).max(dim=1)
            better = values > highest[rows]
            highest[rows][better], which[rows][better] = values[better], indices[better] + first
    return highest, which


def _thumbnails(pixels: Rows) -> Rows:
    """(N, 3, S, S) uint8 -> (N, 1024) float32 of zero mean and unit length; 0 where there is hardly any contrast."""
    thumbnails, start = allocate((len(pixels), SIDE * SIDE), torch.float32), 0
    for block in pixels.split(BLOCK) if len(pixels) else ():
        grey = _grey_thumbnails(block).flatten(1)
        grey -= grey.mean(dim=1, keepdim=True)
        grey[grey.square().mean(dim=1).sqrt() < MIN_CONTRAST] = 0
        thumbnails[start : start + len(block)] = F.normalize(grey)
        start += len(block)
    return thumbnails


def _grey_thumbnails(block: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) uint8 -> (N, 32, 32) float32; of what lies within the padding, which makes all images alike."""
    thumbnails = F.adaptive_avg_pool2d(block.float(), SIDE).mean(dim=1)
    for index, image in enumerate(block):
        content = without_padding(image)
        if content.shape != image.shape:
            thumbnails[index] = F.adaptive_avg_pool2d(content.float(), SIDE).mean(dim=0)
    return thumbnails


def warn_of_duplicates(splits: Mapping[str, PixelSplit]) -> dict[str, int]:
    """Log a warning where a split has near-duplicates of training images, or where two classes have one image.

    Returns:
        Number of near-duplicates in each split but ``train``.
    """
    groups = identical_images(splits)
    conflicts = [group for group in groups if len({label for _, label, _ in group}) > 1]
    if conflicts:
        (_, label, one), *others = conflicts[0]
        other = next(path for _, another, path in others if another != label)
        count = counted(len(conflicts), "group")
        logger.warning(
            f"identical images in different classes, one label must be wrong: {count}, the first {one} and {other}"
        )
    found = near_duplicates(splits, groups)
    for name, pairs in found.items():
        if pairs:
            logger.warning(
                f"near-duplicates of training images in the {name} split: {len(pairs):,}, the first "
                f"{pairs[0].path} of {pairs[0].other}; they inflate its scores"
            )
    return {name: len(pairs) for name, pairs in found.items()}
