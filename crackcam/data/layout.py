"""Find the folders of splits and classes in a data folder, by their names.

    root/{train,val,test}/<class>/...    any of the three, also under other usual names: Training, valid, dev, test_set
    root/<class>/...                     no splits

Names of splits are never classes, and neither are folders that hold splits. Hidden folders and those of the system are
ignored. Names are compared in one Unicode form.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from crackcam.data.images import ImageError, read_image
from crackcam.data.listing import existing, is_visible
from crackcam.errors import UserError
from crackcam.text import normalized

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
ALIASES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
SAMPLE_HINT = "or generate synthetic images with python train.py --sample"
# Folders beside images that describe them; compared without regard to case, plural s and separators.
COMPANIONS = {
    "mask",
    "label",
    "annotation",
    "annot",
    "groundtruth",
    "gt",
    "segmentation",
    "segmentationclass",
    "segmentationmask",
    "bbox",
    "xml",
    "json",
    "csv",
    "txt",
    "metadata",
}
CHECKED = 3  # images of a folder that tell masks from photographs
CONTRAST = 32  # grey levels from black or white within which a mask lies


def split_of(name: str) -> str | None:
    """The split that a folder name stands for, in whatever case; None: it is no name of a split.

    Examples:
        >>> split_of("Validation"), split_of("test_set"), split_of("train2017"), split_of("crash test")
        ('val', 'test', 'train', None)
    """
    words = [word for word in re.split(r"[\W_]+|(?<=[a-z])(?=(?:19|20)\d\d)", normalized(name).casefold()) if word]
    words = [re.sub(r"(?<=.)(dataset|set|data|split)$", "", word) for word in words]
    words = [word for word in words if word not in ("set", "data", "dataset", "split", "images", "imgs")]
    words = [word for word in words if not re.fullmatch(r"(19|20)\d\d", word)]
    return next((split for split, names in ALIASES.items() if len(words) == 1 and words[0] in names), None)


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are neither hidden nor left by the system, by name."""
    return [each for each in sorted(folder.iterdir()) if is_visible(each.name) and each.is_dir()]


def class_folders(root: Path) -> dict[str, dict[str, Path]]:
    """Folders by split and class; the split is "" where the layout has none.

    Raises:
        UserError: no such folder, no class folders in it, two folders for one split or class, or splits below classes.
    """
    root = existing(root)
    if not root.is_dir():
        raise UserError(f"no data folder {root}: name one with --data, {SAMPLE_HINT}")
    inside = visible_folders(root)
    splits = _split_folders(root, inside)
    if splits:
        folders = {split: _by_name(visible_folders(folder)) for split, folder in splits.items()}
    else:
        _check_no_splits_below(root, inside)
        folders = {"": _by_name(inside)}
    if not any(folders.values()):
        where = ", ".join(map(str, splits.values())) or root
        raise UserError(f"no class folders in {where}: see data/README.md, {SAMPLE_HINT}")
    return folders


def _split_folders(root: Path, inside: list[Path]) -> dict[str, Path]:
    """The folder of each split, in the order of :data:`SPLITS`; empty where the layout has none."""
    known = {folder: split for folder in inside if (split := split_of(folder.name))}
    exact = [folder for folder in known if folder.name in SPLITS]
    others = [folder for folder in inside if folder not in known and not is_companion(folder.name)]
    trained = any(split == "train" and visible_folders(folder) for folder, split in known.items())
    if not (exact or trained) and others:  # "valid" beside "invalid" is a class, and so is "Train" beside "Bus"
        return {}
    found: dict[str, Path] = {}
    for name in SPLITS:
        folders = [folder for folder, split in known.items() if split == name]
        filled = [folder for folder in folders if any(folder.iterdir())] or folders[:1]
        if len({folder.resolve() for folder in filled}) > 1:
            names = " and ".join(folder.name for folder in filled)
            raise UserError(f"{root} has {names}, which are both the {name} split: merge them, or rename one")
        if filled:
            found[name] = filled[0]
    return found


def _by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by their names in one Unicode form."""
    found: dict[str, Path] = {}
    for folder in folders:
        name = normalized(folder.name)
        if name in found:
            raise UserError(f"two folders in {folder.parent} are named {name}, in two Unicode forms: merge them")
        found[name] = folder
    return found


def _check_no_splits_below(root: Path, inside: list[Path]) -> None:
    for folder in inside:
        below = {split_of(each.name): each.name for each in visible_folders(folder)}
        below.pop(None, None)
        if "train" not in below and len(below) < 2:
            continue
        names = ", ".join(below.values())
        if len(inside) == 1:
            raise UserError(f"{folder} holds the splits {names}: name it with --data {folder}")
        example = root / next(iter(below.values())) / folder.name
        raise UserError(f"{folder} holds {names}: splits lie above classes, as in {example}")


def nested_hint(root: Path) -> str:
    """The end of a message, where the only folder in ``root`` may be what was meant; else empty."""
    inside = visible_folders(root)
    nested = len(inside) == 1 and len(visible_folders(inside[0])) > 1
    return f"; did you mean --data {inside[0]}?" if nested else ""


# -- folders that are no classes --------------------------------------------------------------------------------------


def is_companion(name: str) -> bool:
    """Whether a folder of that name usually describes images."""
    plain = re.sub(r"[\W_]+", "", name.casefold())
    return {plain, plain.removesuffix("s"), plain.removesuffix("es")} & COMPANIONS != set()


def warn_of_ignored(root: Path, folders: dict[str, dict[str, Path]]) -> None:
    """Name the folders beside those of splits that are not used."""
    if "" in folders:
        return
    root = existing(root)
    used = {folder.parent.name for classes in folders.values() for folder in classes.values()}
    ignored = [
        folder.name
        for folder in visible_folders(root)
        if folder.name not in used and not split_of(folder.name) and not is_companion(folder.name)
        if any(folder.iterdir())
    ]
    if ignored:
        logger.warning(f"{root} has folders of splits: ignored beside them: {', '.join(ignored)}")


def companions(files: dict[str, list[Path]]) -> list[str]:
    """Names of class folders that hold masks or nothing readable under a name that says so, each with a warning.

    A folder of another name whose images all look like masks of another folder's is warned of.

    Args:
        files: the files of each class folder.
    """
    named = [name for name, paths in files.items() if is_companion(name) and _like_masks(paths)]
    for name in named:
        logger.warning(f"{name} holds masks or annotations, it is not a class: ignored")
    rest = {name: paths for name, paths in files.items() if name not in named}
    if len(rest) == 2:
        for (name, paths), (other, images) in zip(rest.items(), reversed(rest.items()), strict=True):
            same = {path.stem for path in paths} <= {path.stem for path in images}
            if paths and same and _like_masks(paths) and not _like_masks(images):
                logger.warning(f"{name} looks like masks of {other}: if it is not a class, move it elsewhere")
    return named


def _like_masks(paths: list[Path]) -> bool:
    """Whether the first readable images are black and white, or label ids, or there are none."""
    found = 0
    for path in paths[: 10 * CHECKED]:
        try:
            grey = read_image(path).mean(axis=2)
        except ImageError:
            continue
        middle = (grey > grey.min() + CONTRAST) & (grey < grey.max() - CONTRAST)
        if middle.mean() > 0.05 or len(np.unique(grey)) > 64:
            return False
        found += 1
        if found == CHECKED:
            break
    return True
