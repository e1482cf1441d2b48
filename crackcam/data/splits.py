"""Plan which files to train, validate and test on, in the folders that :mod:`crackcam.data.layout` finds.

Files are held out in blocks of neighbouring names, because neighbours are often cut from one photograph; or, where a
pattern says which files belong together, in groups. The split is stratified by class, depends on a seed, copies
nothing, and is stored in the checkpoint. Only files that can be read as images are split. Classes are identified by
name: a folder that is missing or surplus in a split shifts no index.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crackcam.data.images import keep_images
from crackcam.data.layout import SPLITS as SPLITS
from crackcam.data.layout import class_folders, companions, nested_hint, warn_of_ignored
from crackcam.data.listing import existing, list_files
from crackcam.errors import UserError
from crackcam.files import file_hash
from crackcam.text import counted, normalized

logger = logging.getLogger(__name__)

MOST_CLASSES = 100_000
BLOCKS = 20  # a class is cut into about this many blocks of neighbours
HASHED = 32  # held-out files of each class by which a data set is recognised

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

    def restrict(self, readable: Mapping[str, Collection[Path]]) -> None:
        """Leave out the files that could not be decoded, given those of each split that could."""
        for split, files in self.files.items():
            good = set(readable.get(split, ()))
            self.files[split] = {name: [path for path in paths if path in good] for name, paths in files.items()}

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
    warn_of_ignored(root, folders)
    base = next((split for split in ("train", "") if split in folders), None)
    if base is None:
        raise UserError(f"{root} has no train folder")
    files = {split: {name: list_files(f) for name, f in classes.items()} for split, classes in folders.items()}
    missing = [split for split in (("val",) if base else ("val", "test")) if not any(files.get(split, {}).values())]
    if group_by and not missing:
        raise UserError(f"--group-by is for data without splits, but {root} has them: drop it")
    for name in companions(files[base]):
        for of_split in files.values():
            of_split.pop(name, None)
    _check_training_classes(root, folders[base], files[base])
    files = {split: _keep_images(split, found) for split, found in files.items()}
    train = files.pop(base)
    unreadable = next((name for name in sorted(train) if not train[name]), None)
    if unreadable is not None:
        raise UserError(f"no image of class {unreadable} in the train split can be read")
    groups = group_files(train, group_by) if group_by else None
    held_out: dict[str, list[str]] = {}
    for split in missing:
        train, files[split] = _hold_out_split(train, split, val_fraction, seed, groups)
        held_out[split] = [_relative(path, root) for name in sorted(train) for path in files[split][name]]
    classes = sorted(train)
    matched = {split: _matching_classes(split, classes, found) for split, found in files.items()}
    return DataSplits(classes, {"train": train, **matched}, held_out)


def _keep_images(split: str, files: ClassFiles) -> ClassFiles:
    good = set(keep_images([path for paths in files.values() for path in paths], f"of the {split or 'train'} split"))
    return {name: [path for path in paths if path in good] for name, paths in files.items()}


def _relative(path: Path, root: Path) -> str:
    """Name of a file in a list of what is held out."""
    return normalized(path.relative_to(existing(root)).as_posix())


def _check_training_classes(root: Path, folders: dict[str, Path], train: ClassFiles) -> None:
    for name in sorted(train):
        if not train[name]:
            raise UserError(f"class folder {folders[name]} is empty: fill it or remove it")
    if len(train) < 2:
        named = f"only one class folder ({next(iter(train))})" if train else "no class folder"
        raise UserError(f"{named} in {root}: a classifier needs two or more{nested_hint(root)}")
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
        match = re.search(normalized(pattern), normalized(path.name))
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


def choose_split(
    root: Path, split: str | None, held_out: Mapping[str, list[str]], hashes: Mapping[str, str] | None = None
) -> ChosenSplit:
    """The requested split; by default test, else val, else what training held out, where this is its data set.

    Args:
        root: data folder.
        split: name; None: the default.
        held_out: the checkpoint's :attr:`DataSplits.held_out`.
        hashes: the checkpoint's :func:`sample_hashes`; none: the data set is recognised by file names alone.

    Raises:
        UserError: there is no such split.
    """
    folders = class_folders(root)
    order = [split] if split else ["test", "val"]
    lists = _held_out_files(root, folders, held_out, hashes or {}) if not folders.keys() & set(order[:1]) else {}
    available = {*folders, *lists} - {""}
    found = next((name for name in order if name in available), None)
    if found is None and not split and "" in folders:
        logger.info(f"{root} has no splits, and this checkpoint held out none of its images: using all of them")
        found = ""
    if found is None:
        known = ", ".join(sorted(available)) or "none"
        raise UserError(f"no {split or 'test or val'} split in {root}; available: {known}")
    if found in folders:
        return ChosenSplit(found, {name: list_files(folder) for name, folder in folders[found].items()})
    return ChosenSplit(found, lists[found])


def sample_hashes(root: Path, plan: DataSplits) -> dict[str, str]:
    """Hashes of some held-out files of each class, by which a data set is recognised: names are not enough."""
    lists = [paths for split in plan.held_out for paths in plan.files[split].values()]
    paths = [path for found in lists for path in found[:: max(1, len(found) // HASHED)][:HASHED]]
    return {_relative(path, root): digest for path in paths if (digest := _hash(path))}


def _hash(path: Path) -> str | None:
    try:
        return file_hash(path)[:16]
    except OSError:
        return None


def _held_out_files(
    root: Path, folders: dict[str, dict[str, Path]], held_out: Mapping[str, list[str]], hashes: Mapping[str, str]
) -> dict[str, ClassFiles]:
    """The files of each split that training held out; none where ``root`` is another data set."""
    if not held_out:
        return {}
    base = folders.get("", folders.get("train", {}))
    files = {name: {_relative(path, root): path for path in list_files(folder)} for name, folder in base.items()}
    known = {name: path for of_class in files.values() for name, path in of_class.items()}
    checked = [name for name in map(normalized, hashes) if name in known]
    if hashes:
        wanted = {normalized(name): value for name, value in hashes.items()}
        same = sum(_hash(known[name]) == wanted[name] for name in checked) * 2 > len(checked)
    else:
        same = any(normalized(name) in known for names in held_out.values() for name in names)
    if not same:
        logger.info(f"{root} is not the data set that this checkpoint was trained on, or its files have changed")
        return {}
    members = {split: list(map(normalized, names)) for split, names in held_out.items()}
    return {
        split: {label: [found[name] for name in names if name in found] for label, found in files.items()}
        for split, names in members.items()
    }
