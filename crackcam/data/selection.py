"""The images that the command line names: of a class folder, of all class folders, or files."""

from __future__ import annotations

import difflib
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crackcam.config import ImagesConfig
from crackcam.data.images import (
    DecodedImage,
    UnreadableImage,
    log_unreadable,
    partition_images,
    read_image,
    read_images,
    sample_images,
)
from crackcam.data.layout import nested_hint
from crackcam.data.sources import find_files, has_loose_images, is_glob, warn_of_tiny
from crackcam.data.splits import ClassFiles, choose_split
from crackcam.data.windows import Windowed
from crackcam.errors import UserError
from crackcam.files import exists
from crackcam.text import counted, match_name, normalized
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)

DEFAULT_CLASS = "Positive"


@dataclass(frozen=True)
class Selection:
    """Files to look at.

    Attributes:
        name: for file names: the class folder, ``images`` or ``all``.
        split: where they come from; None for files that the user named.
        files: the files of each class; under "" where the class is not known.
    """

    name: str
    split: str | None
    files: ClassFiles

    @property
    def true(self) -> str | None:
        """The true class of all of them, where there is one."""
        return (next(iter(self.files)) or None) if len(self.files) == 1 else None

    @property
    def listed(self) -> list[tuple[str, Path]]:
        """Class, "" where it is not known, and file."""
        return [(name, path) for name, found in self.files.items() for path in found]

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [path for _, path in self.listed]


def select(config: ImagesConfig, card: ModelCard, every_class: bool = False) -> Selection:
    """The files that the settings name.

    Args:
        every_class: without ``type`` take all classes, not the default one.

    Raises:
        UserError: no such file, split or class; or nothing in it.
    """
    if config.image:
        for path in config.image:
            _check_spelling(path, config.image)
        return Selection("images", None, {"": [file for path in config.image for file in find_files(path)]})
    if not card.knows_class_folders:
        raise UserError(f"{card.arch} has classes of its own, not those of a folder: name images with --image")
    if config.data.is_file():
        raise UserError(f"{config.data} is a file, not a folder of classes: name it with --image {config.data}")
    if has_loose_images(config.data):
        raise UserError(f"{config.data} has images and no class folders: name it with --image {config.data}")
    split, files = choose_split(config.data, config.split, card.split, card.held_out_hashes)
    names = {normalized(name): name for name in card.classes}
    known = {names[name]: found for name, found in files.items() if name in names}
    asked = config.type and match_name(config.type, known)
    if config.type is not None and asked is None:
        available = ", ".join(sorted(known)) or "none"
        close = difflib.get_close_matches(config.type, known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        place = f"the {split} split of {config.data}" if split else config.data
        raise UserError(f"no class {config.type!r} in {place}; available: {available}{hint}")
    if not known:
        hint = nested_hint(config.data)
        raise UserError(f"{config.data} has none of the classes of the model: {', '.join(card.classes)}{hint}")
    where = f"the {split} split of {config.data}" if split else str(config.data)
    if config.type is None and every_class:
        return _all_classes(known, split, where)
    name = asked or (DEFAULT_CLASS if DEFAULT_CLASS in known else min(known))
    default = "" if config.type else " (the default; choose with --type)"
    logger.info("images: %s%s in %s, %s", name, default, where, counted(len(known[name]), "file"))
    if not known[name]:
        raise UserError(f"no images of {name} in {where}")
    return Selection(name, split, {name: known[name]})


def _check_spelling(path: Path, paths: Sequence[Path]) -> None:
    """Raises UserError where a name is no file, and what was meant is one."""
    if exists(path) or os.path.islink(path) or is_glob(path):  # noqa: PTH114 - as exists(); a broken link is reported when it is read
        return
    parts, words, place = str(path).split(","), list(map(str, paths)), paths.index(path)
    joined = (" ".join(words[place:last]) for last in range(len(words), place + 1, -1))
    if quoted := next(filter(exists, joined), None):
        raise UserError(f"no image {path}: quote a name with spaces: --image {shlex.quote(quoted)}")
    if len(parts) > 1 and all(map(exists, parts)):
        raise UserError(f"no image {path}: separate names by spaces: --image {shlex.join(parts)}")
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.8):
        raise UserError(f"no image {path}: did you mean --image {shlex.quote(str(path.parent / close[0]))}?")


def _all_classes(known: ClassFiles, split: str, where: str) -> Selection:
    if not any(known.values()):
        raise UserError(f"no images in {where}")
    logger.info("images: all classes in %s", where)
    return Selection("all", split, known)


def read_selection(
    config: ImagesConfig, selection: Selection, read: Callable[[Path], Any] = read_image
) -> list[DecodedImage]:
    """Decode what a figure shows: up to ``num`` of a folder by ``seed``, or all images that were named one by one.

    Args:
        config: the settings.
        selection: the files.
        read: see :func:`crackcam.data.images.read_images`.

    Raises:
        UserError: none can be read.
    """
    (files,) = selection.files.values()
    images: list[DecodedImage] = []
    unreadable: list[UnreadableImage] = []
    one_by_one = config.image and not any(path.is_dir() for path in config.image)
    if one_by_one:
        partition_images(read_images(files, read=read), images, unreadable)
    else:
        images, unreadable = sample_images(files, config.num, config.seed, read)
        if len(files) > config.num:
            text = "%d of %s, drawn by --seed %d: --num N draws more, --all takes every one"
            logger.info(text, config.num, counted(len(files), "file"), config.seed)
    for image in images:
        if not isinstance(image.pixels, Windowed):
            warn_of_tiny(*image)
    if len(files) == 1 and unreadable:
        raise UserError(f"{unreadable[0].path} cannot be read as an image: {unreadable[0].reason}")
    log_unreadable(unreadable)
    if not images:
        raise UserError(f"none of {counted(len(unreadable), 'file')} can be read as an image")
    if len(images) < config.num and not one_by_one:
        logger.info("only %s available, %d requested", counted(len(images), "image"), config.num)
    return images
