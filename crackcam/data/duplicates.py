"""Near-duplicates: one photograph in two splits, re-encoded, scaled or brightened. A score on such pictures flatters.

Two pictures are near-duplicates where their thumbnails, 32 x 32 and grey, correlate above 0.97, which no change of
light or contrast alters. On concrete, where plain surfaces look alike, photographs found twice correlate above 0.998,
any two others of 4.5 million pairs below 0.93; JPEG at quality 50 leaves 0.972 in the plainest picture, 0.999 in a
usual one. Mirrored, turned and cropped copies are not found.

Perceptual hashes would only sort out candidates for this check, and one matrix product checks all pairs: 6,000 pictures
against 34,000 take a quarter of a minute on one core.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from crackcam.data.pixels import PixelSplit
from crackcam.data.statistics import Groups, identical_images
from crackcam.text import counted

logger = logging.getLogger(__name__)

SIDE = 32  # of a thumbnail
ALIKE = 0.97  # correlation of near-duplicates
PLAIN = 1.0  # grey levels of standard deviation; below it a thumbnail shows nothing that could be told again
BLOCK = 128  # pictures at a time: 80 MB at 224 px, and their correlations with 40,000 others 20 MB


class Pair(NamedTuple):
    """A picture, and the one of the train split that it is most like."""

    path: Path
    other: Path
    correlation: float


def near_duplicates(splits: Mapping[str, PixelSplit], groups: Groups | None = None) -> dict[str, list[Pair]]:
    """Of each split but ``train``, the pictures that have a near-duplicate there, in the order of the split.

    Pictures with hardly any contrast are all alike: of them only those with equal pixels.

    Args:
        groups: of equal pictures, see :func:`crackcam.dataset.equal_pictures`, where they are known.
    """
    train = splits["train"]
    thumbnails = _thumbnails(train.pixels)
    equal: dict[tuple[str, Path], Path] = {}  # of any split, one of training
    for group in identical_images(splits) if groups is None else groups:
        first = next((path for split, _, path in group if split == "train"), None)
        equal |= {(split, path): first for split, _, path in group if first}
    found: dict[str, list[Pair]] = {}
    for name in (name for name in splits if name != "train"):
        best = [(block @ thumbnails.T).max(dim=1) for block in _thumbnails(splits[name].pixels).split(BLOCK)]
        values, indices = (torch.cat(parts).tolist() for parts in zip(*best, strict=True))
        likest = zip(splits[name].paths, values, indices, strict=True)
        found[name] = [
            Pair(path, equal.get((name, path), train.paths[i]), 1.0 if (name, path) in equal else value)
            for path, value, i in likest
            if value > ALIKE or (name, path) in equal
        ]
    return found


def _thumbnails(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) uint8 -> (N, 1024) float32 without mean, of unit length; 0 where there is hardly any contrast."""
    blocks = pixels.split(BLOCK)
    grey = torch.cat([F.adaptive_avg_pool2d(block.float(), SIDE).mean(dim=1).flatten(1) for block in blocks])
    grey -= grey.mean(dim=1, keepdim=True)
    grey[grey.square().mean(dim=1).sqrt() < PLAIN] = 0
    return F.normalize(grey)


def warn_of_duplicates(splits: Mapping[str, PixelSplit]) -> dict[str, int]:
    """Says what :func:`near_duplicates` finds, with the first pair of each split; returns their numbers.

    Also names equal pictures in different classes, for one of their labels is wrong.
    """
    groups = identical_images(splits)
    torn = [group for group in groups if len({label for _, label, _ in group}) > 1]
    if torn:
        (_, label, one), *others = torn[0]
        other = next(path for _, another, path in others if another != label)
        logger.warning(
            f"equal pictures in different classes, one label is wrong: {counted(len(torn), 'group')}, "
            f"the first {one} and {other}"
        )
    found = near_duplicates(splits, groups)
    for name, pairs in found.items():
        if pairs:
            logger.warning(
                f"near-duplicates of training pictures in the {name} split: {len(pairs):,}, the first "
                f"{pairs[0].path} of {pairs[0].other}; they flatter its scores"
            )
    return {name: len(pairs) for name, pairs in found.items()}
