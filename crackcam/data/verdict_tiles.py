"""Training images from a person's verdicts: tiles of photographs around the regions that were accepted or rejected.

A tile has the size of the network's input, in pixels of the photograph: the network sees it as it sees a photograph in
tiles. A region that is longer than a tile gives several along its longer side. Each of them spans its shorter side, so
that a part of the region is in each, because a region is connected; a region that is also wide is reduced for that.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from crackcam.data.images import UnreadableImage, log_unreadable, read_images
from crackcam.data.pixels import PixelSplit
from crackcam.data.sources import find_files
from crackcam.data.verdicts import ACCEPT, Verdict, VerdictFile
from crackcam.errors import UserError
from crackcam.preprocessing import Preprocessing, Window
from crackcam.text import counted
from crackcam.types import Box, absent_classes

logger = logging.getLogger(__name__)

MOST_TILES = 8  # of one region: a long crack is one crack
LARGEST_REDUCTION = 3  # of a region that is wider than a tile: thin cracks vanish in smaller images
AHEAD = 4  # photographs that are decoded before they are used: they may be large


@dataclass(frozen=True)
class VerdictTiles:
    """The tiles of a training run.

    Attributes:
        file: the verdicts.
        images: the verdicts of each photograph that has some.
        present: class of accepted regions.
        absent: class of rejected ones.
        counts: number of tiles by class, once they are read.
    """

    file: VerdictFile
    images: dict[Path, list[Verdict]] = field(repr=False)
    present: str
    absent: str
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def plan(
        cls, file: VerdictFile, folder: Path, classes: Sequence[str], held_out: Collection[Path] = ()
    ) -> VerdictTiles:
        """Find the photographs, and the class of each kind of verdict.

        Args:
            file: the verdicts.
            folder: the photographs, in folders of any depth.
            classes: names of the classes.
            held_out: images of other splits than the training split; verdicts about them are left out.

        Raises:
            UserError: the folder has no image of the verdicts; or the classes are not one that has regions and one that
                is its absence.
        """
        absent = absent_classes(classes)
        present = [name for name in classes if name not in absent]
        if len(present) != 1 or len(absent) != 1:
            raise UserError(
                "--verdicts needs two classes, one that has regions and one that is its absence, as Positive and "
                f"Negative; these are {', '.join(classes)}"
            )
        resolved = {path.resolve() for path in held_out}
        found = file.of_files(find_files(folder)).by_file
        kept = {path: verdicts for path, verdicts in found.items() if path.resolve() not in resolved}
        _report_lost(file, folder, found, sum(map(len, kept.values())))
        return cls(file, kept, present[0], absent[0])

    def read(self, preprocessing: Preprocessing, classes: list[str]) -> PixelSplit:
        """Cut all tiles; :attr:`counts` has their number afterwards.

        Args:
            preprocessing: of the training images.
            classes: names of the classes in index order.
        """
        pixels: list[torch.Tensor] = []
        labels: list[int] = []
        paths: list[Path] = []
        left_out: Counter[str] = Counter()
        self.counts.clear()
        unreadable: list[UnreadableImage] = []
        for image in read_images(self.images, ahead=AHEAD):
            if isinstance(image, UnreadableImage):
                unreadable.append(image)
                continue
            for tile, verdict in _tiles(image.pixels, self.images[image.path], preprocessing.size, left_out):
                name = self.present if verdict == ACCEPT else self.absent
                pixels.append(torch.from_numpy(preprocessing.apply(tile).transpose(2, 0, 1).copy()))
                labels.append(classes.index(name))
                paths.append(image.path)
                self.counts[name] += 1
        log_unreadable(unreadable, "of the verdicts")
        for reason, number in left_out.items():
            logger.warning("%s left out: %s", counted(number, "verdict"), reason)
        numbers = " and ".join(
            f"{counted(self.counts[name], 'tile')} of {name}" for name in (self.present, self.absent)
        )
        logger.info("verdicts: %s from %s, in the training split", numbers, counted(len(set(paths)), "image"))
        size = preprocessing.size
        stacked = torch.stack(pixels) if pixels else torch.empty((0, 3, size, size), dtype=torch.uint8)
        return PixelSplit(stacked, torch.tensor(labels, dtype=torch.int64), paths)


def _report_lost(file: VerdictFile, folder: Path, found: dict[Path, list[Verdict]], kept: int) -> None:
    """Log how many verdicts are not used; raises UserError where there are some and none has an image."""
    matched, total = sum(map(len, found.values())), len(file.verdicts)
    if total and not matched:
        raise UserError(f"{folder} has none of the images of {file.path}: {file.verdicts[0].image} say")
    if matched < total:
        logger.warning("%s in %s have no image in %s", counted(total - matched, "verdict"), file.path, folder)
    if kept < matched:
        logger.warning("%s left out: about images of the validation or test split", counted(matched - kept, "verdict"))


def _tiles(
    image: np.ndarray, verdicts: Sequence[Verdict], size: int, left_out: Counter[str]
) -> Iterator[tuple[np.ndarray, str]]:
    """The tiles of one photograph (H, W, 3) and their verdicts; counts why verdicts have none."""
    height, width = image.shape[:2]
    accepted = [each.box for each in verdicts if each.verdict == ACCEPT]
    for each in verdicts:
        x, y, wide, high = each.box
        if x + wide > width or y + high > height:
            left_out["their boxes are not inside the images of that name"] += 1
            continue
        windows = cut_windows(each.box, (height, width), size)
        if not windows:
            left_out["their regions are too wide for tiles in which thin lines stay visible"] += 1
            continue
        if each.verdict != ACCEPT:
            windows = [window for window in windows if not any(_touches(window, box) for box in accepted)]
            left_out["rejected regions close to accepted ones"] += not windows
        for window in windows:
            yield image[window], each.verdict
    for reason in [reason for reason, number in left_out.items() if not number]:
        del left_out[reason]


def cut_windows(box: Box, image: tuple[int, int], size: int) -> list[Window]:
    """Where the tiles of a region lie: rows and columns; none where its shorter side is too long.

    Args:
        box: (x, y, width, height) of the region.
        image: its height and width.
        size: side of the network's input.

    Examples:
        >>> cut_windows((100, 50, 20, 4), (400, 600), 64)
        [(slice(20, 84, None), slice(78, 142, None))]
        >>> [columns.start for _, columns in cut_windows((0, 50, 200, 4), (400, 600), 64)]
        [0, 45, 90, 136]
    """
    x, y, width, height = box
    side = max(size, min(width, height))
    if side > LARGEST_REDUCTION * size:
        return []
    along = min(MOST_TILES, math.ceil(max(width, height) / side))
    columns = _places(x, width, along if width >= height else 1, side, image[1])
    rows = _places(y, height, along if height > width else 1, side, image[0])
    return [(row, column) for row in rows for column in columns]


def _places(start: int, length: int, count: int, side: int, end: int) -> list[slice]:
    """Evenly spread pieces of ``side`` over a length, inside 0..``end``; one lies in its middle."""
    first, last = (start + (length - side) / 2,) * 2 if count == 1 else (start, start + length - side)
    starts = [first + (last - first) * place / max(1, count - 1) for place in range(count)]
    inside = [max(0, min(int(begin), end - side)) for begin in starts]
    return [slice(begin, min(end, begin + side)) for begin in inside]


def _touches(window: Window, box: Box) -> bool:
    rows, columns = window
    x, y, width, height = box
    return rows.start < y + height and y < rows.stop and columns.start < x + width and x < columns.stop
