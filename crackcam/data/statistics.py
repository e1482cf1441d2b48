"""Statistics of a data set: counts, image sizes, identical images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from crackcam.data.images import ImageError, read_size
from crackcam.data.pixels import PixelSplit

BLOCK = 256  # images that a thread reads at a time
DIGEST = 16  # bytes

Groups = list[list[tuple[str, int, Path]]]  # of images: split, label and file of each

# Why identical images matter, worst first.
REASONS = (
    "in different classes: one label must be wrong",
    "in different splits: the model is scored on an image that it was trained on",
    "counted twice",
)


def summarize(splits: dict[str, PixelSplit], classes: list[str], limit: int = 20) -> dict:
    """Describe a data set.

    Args:
        splits: pixels by split.
        classes: names in index order.
        limit: how many groups of identical images are listed; sizes likewise.

    Returns:
        ``pictures``: counts by split and class. ``sizes``: (width, height, count) of the most frequent sizes, and
        ``other_sizes``: the number of all other images. ``duplicates``: groups of images with equal pixels at the
        model's size, worst first: ``files``, and ``why`` they matter; ``duplicated``: the number of groups.
    """
    groups = sorted(identical_images(splits), key=_severity)
    sizes: Counter[tuple[int, int]] = Counter()
    for path in (path for of_split in splits.values() for path in of_split.paths):
        with suppress(ImageError):  # removed since it was read
            sizes[read_size(path)] += 1
    counts = {split: Counter(of_split.labels.tolist()) for split, of_split in splits.items()}
    return {
        "pictures": {
            split: {name: of_split[index] for index, name in enumerate(classes)} for split, of_split in counts.items()
        },
        "sizes": [(*size, count) for size, count in sizes.most_common(limit)],
        "other_sizes": sum(count for _, count in sizes.most_common()[limit:]),
        "duplicates": [
            {"files": [str(path) for *_, path in group], "why": REASONS[_severity(group)]} for group in groups[:limit]
        ],
        "duplicated": len(groups),
    }


def _severity(group: list[tuple[str, int, Path]]) -> int:
    """Index of why a group of identical images matters, in :data:`REASONS`."""
    splits, labels = {split for split, _, _ in group}, {label for _, label, _ in group}
    return 0 if len(labels) > 1 else 1 if len(splits) > 1 else 2


def identical_images(splits: Mapping[str, PixelSplit]) -> Groups:
    """Groups of two or more images with equal pixels at the model's size: split, label and file of each."""
    origins = [(name, row) for name, of_split in splits.items() for row in range(0, len(of_split), BLOCK)]

    def digests(origin: tuple[str, int]) -> bytes:
        name, start = origin
        return b"".join(map(_digest, splits[name].pixels[start : start + BLOCK]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        keys = np.frombuffer(b"".join(pool.map(digests, origins)), f"S{DIGEST}")
    # Sixteen bytes for each image: a dictionary of all would take twenty times as much.
    _, group_of, counts = np.unique(keys, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[group_of] > 1)
    same: dict[int, list[tuple[str, int, Path]]] = defaultdict(list)
    starts = np.cumsum([0, *map(len, splits.values())])
    for position in repeated.tolist():
        number = int(np.searchsorted(starts, position, side="right")) - 1
        name, of_split = list(splits.items())[number]
        row = position - int(starts[number])
        same[int(group_of[position])].append((name, int(of_split.labels[row]), of_split.paths[row]))
    return list(same.values())


def _digest(pixels: torch.Tensor) -> bytes:
    return hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=DIGEST).digest()
