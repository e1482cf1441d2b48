"""Decode splits into memory, and augment them for training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from crackcam.data import storage
from crackcam.data.images import ImageError, UnreadableImage, log_unreadable, read_images, read_size
from crackcam.data.splits import SPLITS, ClassFiles, DataSplits
from crackcam.data.storage import Rows, allocate, view_of
from crackcam.errors import UserError
from crackcam.preprocessing import GREY, Preprocessing, Window
from crackcam.progress import Progress

logger = logging.getLogger(__name__)

BLOCK = 256  # images that are copied at a time


class PixelSplit(NamedTuple):
    """A decoded split, at the model's size.

    Attributes:
        pixels: (N, 3, size, size) uint8, a tensor where it is small, else see :mod:`crackcam.data.storage`.
        labels: (N,) int64 class indices.
        paths: N files.
    """

    pixels: Rows
    labels: torch.Tensor
    paths: list[Path]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: slice) -> PixelSplit:
        """Some neighbouring images of the split; nothing is copied."""
        return PixelSplit(view_of(self.pixels, rows), self.labels[rows], self.paths[rows])


def concatenate(*splits: PixelSplit) -> PixelSplit:
    """One split of several, in their order; empty ones have no size and are left out."""
    size = splits[0].pixels.shape[1:]
    labels = torch.cat([split.labels for split in splits])
    pixels, start = allocate((len(labels), *size)), 0
    for split in splits:
        for part in split.pixels.split(BLOCK) if len(split) else ():
            pixels[start : start + len(part)] = part
            start += len(part)
    return PixelSplit(pixels, labels, [path for split in splits for path in split.paths])


def of_machine(make: Callable[[], PixelSplit]) -> PixelSplit:
    """A split that the first process of a machine makes, and the others read: one copy of its pixels on the machine."""

    def split() -> tuple[Rows, tuple[torch.Tensor, list[Path]]]:
        made = make()
        return made.pixels, (made.labels, made.paths)

    pixels, (labels, paths) = storage.of_machine(split)
    return PixelSplit(pixels, labels, paths)


def load_splits(
    data: DataSplits, preprocessing: Preprocessing, workers: int, names: tuple[str, ...] = SPLITS
) -> dict[str, PixelSplit]:
    """Decode the splits of those names that there are; see :func:`load_split`."""
    return {
        name: load_split(name, data.classes, files, preprocessing, max(2, workers))
        for name, files in data.files.items()
        if name in names
    }


def load_split(
    name: str, classes: list[str], files: ClassFiles, preprocessing: Preprocessing, threads: int
) -> PixelSplit:
    """Decode a split once on a machine. Unreadable files are logged and left out.

    Raises:
        UserError: no file of a training class can be read, or none of the validation split.
    """
    return of_machine(lambda: _decode_split(name, classes, files, preprocessing, threads))


def _decode_split(
    name: str, classes: list[str], files: ClassFiles, preprocessing: Preprocessing, threads: int
) -> PixelSplit:
    paths = [path for c in classes for path in files[c]]
    labels = [index for index, c in enumerate(classes) for _ in files[c]]
    pixels = allocate((len(paths), 3, preprocessing.size, preprocessing.size))
    good: list[int] = []
    unreadable: list[UnreadableImage] = []
    decoded = read_images(paths, preprocessing.apply, threads)
    for i, item in enumerate(Progress(f"reading {name}", len(paths)).over(decoded)):
        if isinstance(item, UnreadableImage):
            unreadable.append(item)
            continue
        pixels[len(good)] = torch.from_numpy(item.pixels.transpose(2, 0, 1).copy())
        good.append(i)
    log_unreadable(unreadable, f"of the {name} split")
    kept = torch.tensor([labels[i] for i in good], dtype=torch.int64)
    for index, c in enumerate(classes):
        if files[c] and not (kept == index).any():
            lost = f"no image of class {c} in the {name} split can be read"
            if name == "train":
                raise UserError(lost)
            logger.warning(lost)
    if name == "val" and not good:
        raise UserError("no image in the val split can be read: training selects its best epoch on them")
    return PixelSplit(view_of(pixels, slice(len(good))), kept, [paths[i] for i in good])


def training_preprocessing(
    files: ClassFiles, preprocessing: Preprocessing, smallest: int, multiple: int = 32
) -> Preprocessing:
    """The model's preprocessing with a smaller square, where no image fills the larger one: cheaper to train on.

    Args:
        files: the images of each class.
        preprocessing: of the model; unchanged where it enlarges images to its square.
        smallest: least side in pixels.
        multiple: the side is rounded to a multiple of this.
    """
    if preprocessing.max_scale is None:
        return preprocessing
    sides = [smallest]
    for path in (path for paths in files.values() for path in paths):
        with suppress(ImageError):  # unreadable files are logged where they are decoded
            sides.append(max(read_size(path)))
    side = max(smallest, round(max(sides) / multiple) * multiple)
    return replace(preprocessing, size=min(preprocessing.size, side))


def content_window(pixels: torch.Tensor) -> Window:
    """Rows and columns of a square image (3, S, S) uint8 that are no grey padding; of a grey image all."""
    whole = slice(0, pixels.shape[1]), slice(0, pixels.shape[2])
    grey = torch.tensor(GREY, dtype=torch.uint8)[:, None]
    if (pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] != grey).any():  # padding has all four corners
        return whole
    content = (pixels != grey[..., None]).any(dim=0)
    if not content.any():
        return whole
    rows, columns = (slice(int(at.min()), int(at.max()) + 1) for at in torch.where(content))
    return rows, columns


def reflect_into_padding(pixels: torch.Tensor) -> torch.Tensor:
    """A square image (3, S, S) uint8 whose grey padding is replaced by its reflection."""
    rows, columns = content_window(pixels)
    beyond = [(side.start, length - side.stop) for side, length in zip((rows, columns), pixels.shape[1:], strict=True)]
    return torch.from_numpy(np.pad(pixels[:, rows, columns].numpy(), [(0, 0), *beyond], mode="reflect"))


def without_padding(pixels: torch.Tensor) -> torch.Tensor:
    """The part of a square image (3, S, S) uint8 that is no grey padding, (3, H, W); of a grey image all."""
    return pixels[:, *content_window(pixels)]


def augmentation(size: int, strong: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """The augmentation of training: (3, H, W) uint8 -> (3, size, size) uint8.

    Args:
        size: side of the result in pixels.
        strong: flips, rotation, scale, light and blur, for training from random weights; else mirroring and light.
    """
    from torchvision.transforms import v2

    resize = v2.Resize((size, size), antialias=True)
    mirror = v2.RandomHorizontalFlip()
    if not strong:
        return v2.Compose([resize, mirror, v2.ColorJitter(brightness=0.1, contrast=0.1)])
    grey = list(GREY)  # corners that a rotation leaves empty carry no signal
    turn = v2.RandomAffine(15, scale=(0.9, 1.2), interpolation=v2.InterpolationMode.BILINEAR, fill=grey)
    blur = v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], p=0.2)
    return v2.Compose([resize, mirror, v2.RandomVerticalFlip(), turn, v2.ColorJitter(0.3, 0.3, 0.2), blur])


class AugmentedSplit(torch.utils.data.Dataset):
    """A split under an augmentation, for a DataLoader: (3, size, size) uint8 pixels and a class index.

    Each image has a random generator of its own, so that the result depends neither on the process nor on the order.

    Args:
        split: the images.
        transform: see :func:`augmentation`; uses torch's default generator.
        seed: the same images for the same seed.
    """

    def __init__(self, split: PixelSplit, transform: Callable[[torch.Tensor], torch.Tensor], seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0]))
            return self.transform(self.split.pixels[index]), self.split.labels[index]
