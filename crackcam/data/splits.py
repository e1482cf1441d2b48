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

ClassFiles = dict[str, list[Path]]  # class name -> files


@dataclass
class DataSplits:
    """What to train, choose and test on.

    Attributes:
        classes: names in index order.
        files: for each split, the files of each class. ``train`` and ``val`` always, ``test`` where there is one.
        held_out: for each split that we held out, its files relative to the data folder.
    """

    classes: list[str]
    files: dict[str, ClassFiles]
    held_out: dict[str, list[str]]

    def says(self) -> list[str]:
        """How many pictures of each class there are in each split, and which splits were held out."""
        return [
            f"{split}: {describe_counts(files)}" + " (held out of the training folder)" * (split in self.held_out)
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


def plan_splits(root: Path, val_fraction: float, seed: int, group_by: str | None = None) -> DataSplits:
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
    files = {split: {name: list_files(f) for name, f in classes.items()} for split, classes in folders.items()}
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
    groups = group_files(train, group_by) if group_by else {}
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
            logger.warning(f"{split}/{name} is no class of the training split and is left out")
        for name in sorted(n for n in classes if not found.get(n)):
            logger.warning(f"no pictures of {name} in the {split} split")
        files[split] = {name: found.get(name, []) for name in classes}
    return DataSplits(classes, {"train": train, **files}, held_out)


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


def group_files(files: ClassFiles, pattern: str) -> dict[Path, str]:
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
    logger.info(f"groups: {len(set(groups.values())):,} of {counted(len(groups), 'file')}{said}")
    return groups


def hold_out_groups(
    files: ClassFiles, share: float, seed: str, groups: dict[Path, str]
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


class ChosenSplit(NamedTuple):
    """What inference and explanation look at: the split's name and the files of each class in it."""

    split: str
    files: ClassFiles


def choose_split(root: Path, split: str | None, held_out: dict[str, list[str]]) -> ChosenSplit:
    """The split that was asked for; without a wish test, else val, else what training held out.

    Raises:
        UserError: there is no such split.
    """
    folders = class_folders(root)
    available = {*folders, *held_out} - {""}
    order = [split] if split else ["test", "val"]
    found = next((name for name in order if name in available), None)
    if found is None and not split and "" in folders:
        logger.info(f"{root} has no splits and this checkpoint held nothing out of it: looking at all pictures")
        found = ""
    if found is None:
        raise UserError(
            f"no {split or 'test or val'} split in {root}; there are: {', '.join(sorted(available)) or 'none'}"
        )
    if found in folders:
        return ChosenSplit(found, {name: list_files(folder) for name, folder in folders[found].items()})
    return ChosenSplit(found, _held_out_files(root, folders, held_out[found]))


def _held_out_files(root: Path, folders: dict[str, dict[str, Path]], members: list[str]) -> ClassFiles:
    base = folders.get("", folders.get("train", {}))
    files = {name: [root / m for m in members if (root / m).is_relative_to(folder)] for name, folder in base.items()}
    return {name: [f for f in found if f.is_file()] for name, found in files.items()}


def describe_counts(files: ClassFiles) -> str:
    """'Negative 300, Positive 300'."""
    return ", ".join(f"{name} {len(found):,}" for name, found in files.items())
