"""Class folders -> splits -> pixels in memory.

Two layouts, told apart by their folder names:

    root/{train,val,test}/<class>/...    any of the three; the names train, val and test are never classes
    root/<class>/...                     split by us

What is held out from training is taken in blocks of neighbouring file names, because neighbours are often cut from one
photograph; or, where a pattern says what belongs together, in whole groups of files. It is stratified by class, seeded,
copies nothing, and is written into the checkpoint. Hidden folders are no classes. Classes travel by name: a folder that
is missing or surplus in a split shifts nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from crackcam.console import UserError, counted, note
from crackcam.distributed import no_bar
from crackcam.images import GREY, Geometry, PictureError, Unreadable, files_below, read_all, size_of

SPLITS = ("train", "val", "test")
MOST_CLASSES = 100_000
BLOCKS = 20  # a class is cut into about this many blocks of neighbours
IN_MEMORY = 4 * 2**30  # bytes of pixels in memory; a larger split lies in a temporary file, 40,000 pictures are 6 GB

Files = dict[str, list[Path]]  # class name -> files


@dataclass
class Plan:
    """What to train, choose and test on.

    Attributes:
        classes: names in index order.
        files: for each split, the files of each class. ``train`` and ``val`` always, ``test`` where there is one.
        held_out: for each split that we held out, its files relative to the data folder.
    """

    classes: list[str]
    files: dict[str, Files]
    held_out: dict[str, list[str]]

    def says(self) -> list[str]:
        """How many pictures of each class there are in each split, and which splits were held out."""
        return [
            f"{split}: {describe(files)}" + " (held out of the training folder)" * (split in self.held_out)
            for split, files in self.files.items()
        ]


def check_classes(names: Sequence[str]) -> str | None:
    """What is wrong with names of classes, in a few words; None: nothing."""
    if not 0 < len(names) <= MOST_CLASSES:
        return f"1 to {MOST_CLASSES:,} classes are possible, not {len(names):,}"
    bad = next((name for name in names if not name.strip() or not name.isprintable()), None)
    if bad is not None:
        return f"{bad!r} can be no class: names are printable"
    return f"two classes are named {Counter(names).most_common(1)[0][0]}" if len(set(names)) < len(names) else None


def class_folders(root: Path) -> dict[str, dict[str, Path]]:
    """Folders by split and class; the split is "" where the layout has none.

    Raises:
        UserError: no folder, or nothing in it.
    """
    if not root.is_dir():
        raise UserError(
            f"no data folder {root}: name one with --data, or make sample pictures with python train.py --sample"
        )
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"": root}
    folders = {split: {f.name: f for f in sorted(folder.iterdir()) if _is_class(f)} for split, folder in splits.items()}
    if not any(folders.values()):
        raise UserError(
            f"no class folders in {root}: see data/README.md, or make sample pictures with python train.py --sample"
        )
    return folders


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def plan_training(root: Path, val_fraction: float, seed: int, group_by: str | None = None) -> Plan:
    """Decide what to train, choose and test on; see the module's docstring.

    Args:
        group_by: see :func:`group_names`; None: blocks of neighbours.

    Raises:
        UserError: no training pictures, fewer than two classes, a class too small to hold anything out, or nothing to
            group.
    """
    folders = class_folders(root)
    if "train" not in folders and "" not in folders:
        raise UserError(f"{root} has no train folder")
    files = {split: {name: files_below(f) for name, f in classes.items()} for split, classes in folders.items()}
    base = "train" if "train" in folders else ""
    train = files.pop(base)
    for name in sorted(train):
        if not train[name]:
            raise UserError(f"class folder {folders[base][name]} is empty: fill it or remove it")
    if len(train) < 2:
        raise UserError(f"only one class folder ({next(iter(train))}) in {root}: a classifier needs two or more")
    classes = sorted(train)
    wrong = check_classes(classes)
    if wrong:
        raise UserError(f"{root}: {wrong}: rename its folder")
    lacking = ("val",) if base else ("val", "test")
    wanted = [split for split in lacking if not any(files.get(split, {}).values())]
    if group_by and not wanted:
        raise UserError(f"--group-by says how to split, but {root} is split already: leave it out")
    groups = group_names(train, group_by) if group_by else {}
    held_out: dict[str, list[str]] = {}
    for split in wanted:
        if group_by:
            parts = hold_out_groups(train, val_fraction, f"{seed}/{split}", groups)
        else:
            parts = {name: hold_out(train[name], val_fraction, f"{seed}/{split}/{name}") for name in classes}
        train = {name: kept for name, (kept, _) in parts.items()}
        files[split] = {name: held for name, (_, held) in parts.items()}
        held_out[split] = [p.relative_to(root).as_posix() for name in classes for p in files[split][name]]
        small = [name for name in classes if not train[name] or not files[split][name]]
        if small:
            what, mend = ("groups of files", ": try another --val-fraction") if group_by else ("pictures", "")
            raise UserError(f"class {small[0]} has too few {what} to hold out a {split} split{mend}")
    for split, found in files.items():
        for name in sorted(set(found) - set(classes)):
            note(f"warning: {split}/{name} is no class of the training split and is left out")
        for name in sorted(n for n in classes if not found.get(n)):
            note(f"warning: no pictures of {name} in the {split} split")
        files[split] = {name: found.get(name, []) for name in classes}
    return Plan(classes, {"train": train, **files}, held_out)


def hold_out(files: list[Path], share: float, seed: str) -> tuple[list[Path], list[Path]]:
    """Cut files (in natural order) into blocks of neighbours and draw blocks until ``share`` is reached.

    Returns:
        Files kept and files held out, each in order; at least one held out where there are two.
    """
    count = min(round(len(files) * share) or 1, len(files) - 1)
    length = max(1, len(files) // BLOCKS)
    starts = list(range(0, len(files), length))
    random.Random(seed).shuffle(starts)
    order = [i for start in starts for i in range(start, min(start + length, len(files)))]
    held = set(order[:count])
    return [f for i, f in enumerate(files) if i not in held], [f for i, f in enumerate(files) if i in held]


def group_names(files: Files, pattern: str) -> dict[Path, str]:
    """What belongs together: the match of a regular expression in each file's name, or its first group if it has one.

    A file without a match is a group of its own; their number is said.
    """
    groups: dict[Path, str] = {}
    alone: list[Path] = []
    for path in (path for paths in files.values() for path in paths):
        match = re.search(pattern, path.name)
        name = match and match[min(1, match.re.groups)]
        groups[path] = name or str(path)
        if not name:
            alone.append(path)
    said = f"; {counted(len(alone), 'file')} without a match, the first {alone[0]}, each by itself" if alone else ""
    note(f"groups: {len(set(groups.values())):,} of {counted(len(groups), 'file')}{said}")
    return groups


def hold_out_groups(
    files: Files, share: float, seed: str, groups: dict[Path, str]
) -> dict[str, tuple[list[Path], list[Path]]]:
    """Draw whole groups, from all classes at once, as long as they bring what is held out nearer to ``share``.

    Args:
        groups: the group of each file.

    Returns:
        For each class files kept and files held out, each in order. Either may be empty where groups are few.
    """
    parts: dict[str, Counter[str]] = {}  # of each group, how many files in each class
    for name, paths in files.items():
        for path in paths:
            parts.setdefault(groups[path], Counter())[name] += 1
    order = list(parts)
    random.Random(seed).shuffle(order)
    lacking = dict.fromkeys(files, share)
    held = set()
    for group in order:
        then = {name: lack - parts[group][name] / len(files[name]) for name, lack in lacking.items()}
        if sum(map(abs, then.values())) < sum(map(abs, lacking.values())):
            lacking = then
            held.add(group)
    return {
        name: ([p for p in paths if groups[p] not in held], [p for p in paths if groups[p] in held])
        for name, paths in files.items()
    }


class Chosen(NamedTuple):
    """What inference and explanation look at: the split's name and the files of each class in it."""

    split: str
    files: Files


def choose_split(root: Path, split: str | None, held_out: dict[str, list[str]]) -> Chosen:
    """The split that was asked for; without a wish test, else val, else what training held out.

    Raises:
        UserError: there is no such split.
    """
    folders = class_folders(root)
    available = {*folders, *held_out} - {""}
    order = [split] if split else ["test", "val"]
    found = next((name for name in order if name in available), None)
    if found is None and not split and "" in folders:
        note(f"note: {root} has no splits and this checkpoint held nothing out of it: looking at all pictures")
        found = ""
    if found is None:
        raise UserError(
            f"no {split or 'test or val'} split in {root}; there are: {', '.join(sorted(available)) or 'none'}"
        )
    if found in folders:
        return Chosen(found, {name: files_below(folder) for name, folder in folders[found].items()})
    return Chosen(found, _held_out_files(root, folders, held_out[found]))


def _held_out_files(root: Path, folders: dict[str, dict[str, Path]], members: list[str]) -> Files:
    base = folders.get("", folders.get("train", {}))
    files = {name: [root / m for m in members if (root / m).is_relative_to(folder)] for name, folder in base.items()}
    return {name: [f for f in found if f.is_file()] for name, found in files.items()}


# -- pixels ------------------------------------------------------------------------------------------------------


class Pixels(NamedTuple):
    """A split in memory, at the network's size.

    Attributes:
        pixels: (N, 3, size, size) uint8.
        labels: (N,) int64.
        paths: N files.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    paths: list[Path]

    def __len__(self) -> int:
        return len(self.labels)


def joined(*splits: Pixels) -> Pixels:
    """One split of several."""
    pixels, labels, paths = zip(*splits, strict=True)
    return Pixels(torch.cat(pixels), torch.cat(labels), [path for of_one in paths for path in of_one])


def load_splits(plan: Plan, geometry: Geometry, workers: int, names: tuple[str, ...] = SPLITS) -> dict[str, Pixels]:
    """:func:`load_pixels` of each split of those names that there is, by name."""
    return {
        name: load_pixels(name, plan.classes, files, geometry, max(2, workers))
        for name, files in plan.files.items()
        if name in names
    }


def load_pixels(name: str, classes: list[str], files: Files, geometry: Geometry, threads: int) -> Pixels:
    """Decode a split once. Unreadable files are named and left out; large splits lie in a temporary file.

    Raises:
        UserError: no file of a training class can be read, or none of the validation split.
    """
    paths = [path for c in classes for path in files[c]]
    labels = [index for index, c in enumerate(classes) for _ in files[c]]
    array = _pixel_array(len(paths), geometry.size)
    good: list[int] = []
    reading = read_all(paths, geometry.apply, threads)
    for i, item in enumerate(
        tqdm(reading, f"reading {name}", len(paths), leave=False, disable=no_bar(), unit="picture")
    ):
        if isinstance(item, Unreadable):
            note(f"warning: skipped {item.path}: {item.reason}")
            continue
        array[len(good)] = item.pixels.transpose(2, 0, 1)
        good.append(i)
    if len(good) < len(paths):
        note(f"warning: {counted(len(paths) - len(good), 'file')} of the {name} split could not be read")
    kept = torch.tensor([labels[i] for i in good], dtype=torch.int64)
    for index, c in enumerate(classes):
        if name == "train" and not (kept == index).any():
            raise UserError(f"no picture of class {c} in the {name} split can be read")
    if name == "val" and not good:
        raise UserError("no picture in the val split can be read: training goes by them")
    return Pixels(torch.from_numpy(array[: len(good)]), kept, [paths[i] for i in good])


def own_geometry(files: Files, geometry: Geometry, smallest: int, multiple: int = 32) -> Geometry:
    """The network's view of pictures, in a smaller square where the largest of them leaves room: cheaper to train on.

    Args:
        geometry: of the network; where it enlarges pictures to its square there is no room.
        smallest: least side.
        multiple: of which the side is one, to the nearest.
    """
    if geometry.max_scale is None:
        return geometry
    sides = [smallest]
    for path in (path for paths in files.values() for path in paths):
        with suppress(PictureError):  # unreadable files are named where they are decoded
            sides.append(max(size_of(path)))
    return geometry._replace(size=min(geometry.size, max(smallest, round(max(sides) / multiple) * multiple)))


def _pixel_array(count: int, size: int) -> np.ndarray:
    shape = (count, 3, size, size)
    if count * 3 * size * size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the array
    if hasattr(os, "posix_fallocate"):  # a disk that fills up later on would end the process without a word
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
    return np.memmap(file, np.uint8, "r+", shape=shape)


def augmentation(size: int, strong: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """What training does to a picture, (3, H, W) uint8 -> (3, size, size) uint8.

    Args:
        strong: flips, rotation, scale, light and blur, for training from random weights; else mirror and light.
    """
    from torchvision.transforms import v2

    resize = v2.Resize((size, size), antialias=True)
    mirror = v2.RandomHorizontalFlip()
    if not strong:
        return v2.Compose([resize, mirror, v2.ColorJitter(brightness=0.1, contrast=0.1)])
    grey = list(GREY)  # corners that a rotation bares carry no signal
    turn = v2.RandomAffine(15, scale=(0.9, 1.2), interpolation=v2.InterpolationMode.BILINEAR, fill=grey)
    blur = v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], p=0.2)
    return v2.Compose([resize, mirror, v2.RandomVerticalFlip(), turn, v2.ColorJitter(0.3, 0.3, 0.2), blur])


class Augmented(torch.utils.data.Dataset):
    """Pixels seen through an augmentation, for a DataLoader.

    Each picture draws from a generator of its own, so that nobody who computes it, nor when, changes what is drawn.

    Args:
        split: what to look at.
        transform: see :func:`augmentation`; draws from torch's generator.
        seed: same seed, same pictures.
    """

    def __init__(self, split: Pixels, transform: Callable[[torch.Tensor], torch.Tensor], seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0]))
            return self.transform(self.split.pixels[index]), self.split.labels[index]


def describe(files: Files) -> str:
    """'Negative 300, Positive 300'."""
    return ", ".join(f"{name} {len(found):,}" for name, found in files.items())


# -- what is in the data -------------------------------------------------------------------------------------------


def summary(splits: dict[str, Pixels], classes: list[str], most: int = 20) -> dict:
    """What a data set is made of, for people.

    Args:
        most: how many groups of equal pictures are named; sizes likewise.

    Returns:
        ``pictures``: counts by split and class. ``sizes``: (width, height, pictures) of the most frequent sizes, and
        ``other_sizes``: the pictures of all others. ``duplicates``: groups of pictures that are equal at the network's
        size, worst first: ``files``, and ``why`` they matter; ``duplicated``: in how many groups.
    """
    groups = [
        {"files": [str(path) for *_, path in group], "why": _why_equal_pictures_matter(group)}
        for group in equal_pictures(splits)
    ]
    groups.sort(key=lambda group: REASONS.index(group["why"]))
    sizes: Counter[tuple[int, int]] = Counter()
    for path in (path for of_split in splits.values() for path in of_split.paths):
        with suppress(PictureError):  # gone since it was read
            sizes[size_of(path)] += 1
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


def equal_pictures(splits: Mapping[str, Pixels]) -> Groups:
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


def _why_equal_pictures_matter(group: list[tuple[str, int, Path]]) -> str:
    splits, labels = {split for split, _, _ in group}, {label for _, label, _ in group}
    return REASONS[0] if len(labels) > 1 else REASONS[1] if len(splits) > 1 else REASONS[2]
