"""What a data set is made of: counts, sizes, identical images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from crackcam.data.images import ImageError, read_size
from crackcam.data.pixels import PixelSplit

# -- what is in the data -------------------------------------------------------------------------------------------


def summarize(splits: dict[str, PixelSplit], classes: list[str], most: int = 20) -> dict:
    """What a data set is made of, for people.

    Args:
        most: how many groups of equal pictures are named; sizes likewise.

    Returns:
        ``pictures``: counts by split and class. ``sizes``: (width, height, pictures) of the most frequent sizes, and
        ``other_sizes``: the pictures of all others. ``duplicates``: groups of pictures that are equal at the network's
        size, worst first: ``files``, and ``why`` they matter; ``duplicated``: in how many groups.
    """
    groups = [
        {"files": [str(path) for *_, path in group], "why": _why_identical_images_matter(group)}
        for group in identical_images(splits)
    ]
    groups.sort(key=lambda group: REASONS.index(group["why"]))
    sizes: Counter[tuple[int, int]] = Counter()
    for path in (path for of_split in splits.values() for path in of_split.paths):
        with suppress(ImageError):  # gone since it was read
            sizes[read_size(path)] += 1
    counts = {split: Counter(of_split.labels.tolist()) for split, of_split in splits.items()}
    return {
        "pictures": {
            split: {name: of_split[index] for index, name in enumerate(classes)} for split, of_split in counts.items()
        },
        "sizes": [(*size, count) for size, count in sizes.most_common(most)],
        "other_sizes": sum(count for _, count in sizes.most_common()[most:]),
        "duplicates": groups[:most],
        "duplicated": len(groups),
    }


Groups = list[list[tuple[str, int, Path]]]  # of pictures: split, label and file of each

REASONS = (
    "of different classes: one label is wrong",
    "in different splits: what is scored was trained on",
    "counts double",
)


def identical_images(splits: Mapping[str, PixelSplit]) -> Groups:
    """Groups of two or more pictures whose pixels are equal at the network's size: split, label and file of each."""
    same: dict[bytes, list[tuple[str, int, Path]]] = defaultdict(list)
    for split, of_split in splits.items():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            keys = pool.map(_digest, of_split.pixels)
            for key, label, path in zip(keys, of_split.labels.tolist(), of_split.paths, strict=True):
                same[key].append((split, label, path))
    return [group for group in same.values() if len(group) > 1]


def _digest(pixels: torch.Tensor) -> bytes:
    return hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=16).digest()


def _why_identical_images_matter(group: list[tuple[str, int, Path]]) -> str:
    splits, labels = {split for split, _, _ in group}, {label for _, label, _ in group}
    return REASONS[0] if len(labels) > 1 else REASONS[1] if len(splits) > 1 else REASONS[2]
