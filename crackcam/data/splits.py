"""Find class folders, and plan which files to train, validate and test on.

Two layouts, told apart by their folder names:

    root/{train,val,test}/<class>/...    any of the three; the names train, val and test are never classes
    root/<class>/...                     split by :func:`plan_splits`

Files are held out in blocks of neighbouring names, because neighbours are often cut from one photograph; or, where a
pattern says which files belong together, in groups. The split is stratified by class, depends on a seed, copies
nothing, and is stored in the checkpoint. Hidden folders are not classes. Classes are identified by name: a folder that
is missing or surplus in a split shifts no index.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crackcam.data.images import list_files
from crackcam.errors import UserError
from crackcam.text import counted

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
MOST_CLASSES = 100_000
BLOCKS = 20  # a class is cut into about this many blocks of neighbours
SAMPLE_HINT = "or generate synthetic images with python train.py --sample"

ClassFiles = dict[str, list[Path]]  # class name -> files


@dataclass
class DataSplits:
    """Which files to train, validate and test on.

    Attributes:
        classes: names in index order.
        files: for each split, the files of each class. ``train`` and ``val`` always, ``test`` where there is one.
        held_out: for each split that was held out of the training folder, its files relative to the data folder.
    """

    classes: list[str]
    files: dict[str, ClassFiles]
    held_out: dict[str, list[str]]

    def summary(self) -> list[str]:
        """For each split one line: number of images of each class, and whether the split was held out."""
        return [
            f"{split}: {', '.join(f'{name} {len(found):,}' for name, found in files.items())}"
            + " (held out of the training folder)" * (split in self.held_out)
            for split, files in self.files.items()
        ]


def check_classes(names: Sequence[str]) -> str | None:
    """What is wrong with class names, in a few words; None: nothing."""
    if not 0 < len(names) <= MOST_CLASSES:
        return f"{len(names):,} classes; 1 to {MOST_CLASSES:,} are possible"
    bad = next((name for name in names if not name.strip() or not name.isprintable()), None)
    if bad is not None:
        return f"{bad!r} is not a class name: names are printable"
    return f"two classes are named {Counter(names).most_common(1)[0][0]}" if len(set(names)) < len(names) else None


def class_folders(root: Path) -> dict[str, dict[str, Path]]:
    """Folders by split and class; the split is "" where the layout has none.

    Raises:
        UserError: no such folder, or no class folders in it.
    """
    if not root.is_dir():
        raise UserError(f"no data folder {root}: name one with --data, {SAMPLE_HINT}")
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"": root}
    folders = {split: {f.name: f for f in sorted(folder.iterdir()) if _is_class(f)} for split, folder in splits.items()}
    if not any(folders.values()):
        raise UserError(f"no class folders in {root}: see data/README.md, {SAMPLE_HINT}")
    return folders


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def plan_splits(root: Path, val_fraction: float, seed: int, group_by: str | None = None) -> DataSplits:
    """Plan which files to train, validate and test on; see the module's docstring.

    Args:
        root: data folder.
        val_fraction: fraction of each class to hold out for each split that is missing, 0..1.
        seed: of the random choice.
        group_by: see :func:`group_files`; None: blocks of neighbours.

    Raises:
        UserError: no training images, fewer than two classes, a class too small to hold anything out, or nothing to
            group.
    """
    folders = class_folders(root)
    base = next((split for split in ("train", "") if split in folders), None)
    if base is None:
        raise UserError(f"{root} has no train folder")
    files = {split: {name: list_files(f) for name, f in classes.items()} for split, classes in folders.items()}
    train = files.pop(base)
    _check_training_classes(root, folders[base], train)
    missing = [split for split in (("val",) if base else ("val", "test")) if not any(files.get(split, {}).values())]
    if group_by and not missing:
        raise UserError(f"--group-by is for data without splits, but {root} has them: drop it")
    groups = group_files(train, group_by) if group_by else None
    held_out: dict[str, list[str]] = {}
    for split in missing:
        train, files[split] = _hold_out_split(train, split, val_fraction, seed, groups)
        held_out[split] = [path.relative_to(root).as_posix() for name in sorted(train) for path in files[split][name]]
    classes = sorted(train)
    matched = {split: _matching_classes(split, classes, found) for split, found in files.items()}
    return DataSplits(classes, {"train": train, **matched}, held_out)


def _check_training_classes(root: Path, folders: dict[str, Path], train: ClassFiles) -> None:
    for name in sorted(train):
        if not train[name]:
            raise UserError(f"class folder {folders[name]} is empty: fill it or remove it")
    if len(train) < 2:
        raise UserError(f"only one class folder ({next(iter(train))}) in {root}: a classifier needs two or more")
    if complaint := check_classes(sorted(train)):
        raise UserError(f"{root}: {complaint}: rename its folder")


def _hold_out_split(
    train: ClassFiles, split: str, fraction: float, seed: int, groups: dict[Path, str] | None
) -> tuple[ClassFiles, ClassFiles]:
    """Files kept for training, and files held out for a split, by class; raises UserError where a class has too few."""
    if groups is None:
        parts = {name: hold_out(train[name], fraction, f"{seed}/{split}/{name}") for name in sorted(train)}
    else:
        parts = hold_out_groups(train, fraction, f"{seed}/{split}", groups)
    small = next((name for name in sorted(parts) if not all(parts[name])), None)
    if small is not None:
        what = "images" if groups is None else "groups of files"
        hint = "" if groups is None else ": try another --val-fraction"
        raise UserError(f"class {small} has too few {what} to hold out a {split} split{hint}")
    return {name: kept for name, (kept, _) in parts.items()}, {name: held for name, (_, held) in parts.items()}


def _matching_classes(split: str, classes: list[str], files: ClassFiles) -> ClassFiles:
    """The files of the training classes in another split; logs what is surplus or missing."""
    for name in sorted(files.keys() - set(classes)):
        logger.warning(f"{split}/{name} is not a class of the training split: ignored")
    for name in sorted(name for name in classes if not files.get(name)):
        logger.warning(f"no images of {name} in the {split} split")
    return {name: files.get(name, []) for name in classes}


def hold_out(files: list[Path], fraction: float, seed: str) -> tuple[list[Path], list[Path]]:
    """Cut files (in natural order) into blocks of neighbours and draw blocks until ``fraction`` is reached.

    Returns:
        Files kept and files held out, each in order; at least one held out where there are two.
    """
    count = min(round(len(files) * fraction) or 1, len(files) - 1)
    length = max(1, len(files) // BLOCKS)
    starts = list(range(0, len(files), length))
    random.Random(seed).shuffle(starts)
    order = [i for start in starts for i in range(start, min(start + length, len(files)))]
    held = set(order[:count])
    return [f for i, f in enumerate(files) if i not in held], [f for i, f in enumerate(files) if i in held]


def group_files(files: ClassFiles, pattern: str) -> dict[Path, str]:
    """Group of each file: the match of a regular expression in its name, or its first capture group if it has one.

    A file without a match is a group of its own; their number is logged.
    """
    groups: dict[Path, str] = {}
    alone: list[Path] = []
    for path in (path for paths in files.values() for path in paths):
        match = re.search(pattern, path.name)
        name = match and match[min(1, match.re.groups)]
        groups[path] = name or str(path)
        if not name:
            alone.append(path)
    unmatched = f"; {counted(len(alone), 'file')} without a match, the first {alone[0]}, each a group" if alone else ""
    logger.info(f"groups: {len(set(groups.values())):,} of {counted(len(groups), 'file')}{unmatched}")
    return groups


def hold_out_groups(
    files: ClassFiles, fraction: float, seed: str, groups: dict[Path, str]
) -> dict[str, tuple[list[Path], list[Path]]]:
    """Draw whole groups, from all classes at once, as long as they bring what is held out closer to ``fraction``.

    Args:
        files: by class.
        fraction: of each class, 0..1.
        seed: of the random order.
        groups: the group of each file.

    Returns:
        For each class files kept and files held out, each in order. Either may be empty where groups are few.
    """
    members: dict[str, Counter[str]] = {}  # of each group, how many files in each class
    for name, paths in files.items():
        for path in paths:
            members.setdefault(groups[path], Counter())[name] += 1
    order = list(members)
    random.Random(seed).shuffle(order)
    missing = dict.fromkeys(files, fraction)
    held = set()
    for group in order:
        after = {name: lack - members[group][name] / len(files[name]) for name, lack in missing.items()}
        if sum(map(abs, after.values())) < sum(map(abs, missing.values())):
            missing = after
            held.add(group)
    return {
        name: ([p for p in paths if groups[p] not in held], [p for p in paths if groups[p] in held])
        for name, paths in files.items()
    }


class ChosenSplit(NamedTuple):
    """What inference and explanation look at: the split's name, "" for all images, and the files of each class."""

    split: str
    files: ClassFiles


def choose_split(root: Path, split: str | None, held_out: dict[str, list[str]]) -> ChosenSplit:
    """The requested split; by default test, else val, else what training held out.

    Args:
        root: data folder.
        split: name; None: the default.
        held_out: the checkpoint's :attr:`DataSplits.held_out`.

    Raises:
        UserError: there is no such split.
    """
    folders = class_folders(root)
    available = {*folders, *held_out} - {""}
    order = [split] if split else ["test", "val"]
    found = next((name for name in order if name in available), None)
    if found is None and not split and "" in folders:
        logger.info(f"{root} has no splits, and this checkpoint held out none of its images: using all of them")
        found = ""
    if found is None:
        known = ", ".join(sorted(available)) or "none"
        raise UserError(f"no {split or 'test or val'} split in {root}; available: {known}")
    if found in folders:
        return ChosenSplit(found, {name: list_files(folder) for name, folder in folders[found].items()})
    return ChosenSplit(found, _held_out_files(root, folders, held_out[found]))


def _held_out_files(root: Path, folders: dict[str, dict[str, Path]], members: list[str]) -> ClassFiles:
    base = folders.get("", folders.get("train", {}))
    files = {name: [root / m for m in members if (root / m).is_relative_to(folder)] for name, folder in base.items()}
    return {name: [f for f in found if f.is_file()] for name, found in files.items()}
