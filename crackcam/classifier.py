"""From command line to predictions: the network, the pictures, and what it says about them.

inference.py and xai.py share every step up to here, so both look at the same pictures in the same way.
"""

from __future__ import annotations

import argparse
import difflib
import logging
from glob import glob
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from crackcam import files
from crackcam.config import SHIPPED, WEIGHTS
from crackcam.data import images
from crackcam.data.images import DecodedImage, UnreadableImage, list_files
from crackcam.data.splits import ClassFiles, choose_split
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.models.checks import check_runs
from crackcam.runtime import Runtime, choose_device, choose_precision, describe_machine, library_versions
from crackcam.text import counted
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)

SCHEMA = 1
MANY = 100  # classes: more are counted, not listed
TOP_OF_MANY = 5

_fitting: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # pictures at a time, where a batch was too large


class LoadedModel(NamedTuple):
    """A trained network, ready to run; ``path`` is its checkpoint, None for an ImageNet network of torchvision."""

    model: nn.Module
    card: ModelCard
    machine: Runtime
    path: Path | None


class Selection(NamedTuple):
    """Files to look at.

    Attributes:
        name: for file names: the class folder, ``images`` or ``all``.
        split: where they come from; None for files that the user named.
        files: the files of each class; under "" where the class is not known.
    """

    name: str
    split: str | None
    files: ClassFiles


def open_model(args: argparse.Namespace, layers: bool = False) -> LoadedModel:
    """The checkpoint of ``--weights``, or the ImageNet network of ``--arch`` alone; says what was taken from it.

    Args:
        layers: whether its layers are looked into, which an ONNX file has not.
    """
    path = None if args.arch and not args.weights and not args.classes else args.weights or WEIGHTS
    if path == WEIGHTS and not (args.weights or args.classes or path.exists()):
        path = SHIPPED
        logger.info(f"no {WEIGHTS}, so the network for cracks in concrete that comes with crackcam")
    if path and path.suffix == ".onnx":
        if layers:
            raise UserError(f"{path} has no layers to look into: explain the checkpoint that it was exported from")
        return _open_onnx(args, path)
    device = choose_device(args.device)
    if path is None:
        model, card = checkpoint.load_imagenet(args.arch, device, random=args.pretrained == "none")
    elif args.pretrained == "none":
        raise UserError(f"{path} holds weights: leave --pretrained none out, or --weights")
    else:
        model, card = checkpoint.load(path, device, args.arch, args.classes)
    dtype, reason = choose_precision(args.precision, device)
    return _said(LoadedModel(model, card, Runtime(device, dtype, card.mean, card.std), path), reason)


def _open_onnx(args: argparse.Namespace, path: Path) -> LoadedModel:
    from crackcam.models import onnx

    if not path.exists():
        raise UserError(f"no ONNX file at {path}: make one with python train.py --export onnx")
    if args.arch or args.classes or args.pretrained == "none":
        raise UserError(f"{path} says itself what it is: leave --arch, --classes and --pretrained out")
    name, dtype, reason = onnx.device_and_dtype(args.device, args.precision)
    device = choose_device(name)
    model = onnx.OnnxModel(path, device)
    card = model.card(path)
    check_runs(model, len(card.classes), card.image_size, str(path))
    return _said(LoadedModel(model, card, Runtime(device, dtype, card.mean, card.std), path), reason)


def _said(network: LoadedModel, reason: str) -> LoadedModel:
    """The network; says what it is, and why it computes as it does."""
    _, card, machine, path = network
    classes = ", ".join(card.classes) if len(card.classes) <= MANY else counted(len(card.classes), "class", "classes")
    logger.info(f"network: {card.arch}, {classes}, {card.image_size} px, from {path or card.pretrained}")
    logger.info(f"machine: {describe_machine(machine.device, machine.dtype, reason)}")
    return network


def class_index(card: ModelCard, text: str) -> int:
    """A class by its name, in whatever case, or by its index.

    Raises:
        UserError: there is none; all are listed, or those with similar names where there are many.
    """
    folded = [name.casefold() for name in card.classes]
    if text in card.classes:
        return card.classes.index(text)
    if text.casefold() in folded:
        return folded.index(text.casefold())
    if text in map(str, range(len(card.classes))):
        return int(text)
    known = ", ".join(card.classes)
    if len(card.classes) > MANY:
        inside = [name for name, lower in zip(card.classes, folded, strict=True) if text.casefold() in lower]
        close = inside[:5] or difflib.get_close_matches(text, card.classes, n=5, cutoff=0.4)
        known = f"close to it: {', '.join(close)}; or an index below {len(card.classes)}"
    raise UserError(f"no class {text!r} to explain; there are: predicted, {known}")


def select(args: argparse.Namespace, card: ModelCard, every_class: bool = False) -> Selection:
    """The files that the flags name.

    Args:
        every_class: without ``--type`` take all classes, not the default one.

    Raises:
        UserError: no such file, split or class; or nothing in it.
    """
    if args.image:
        return _select_named(args)
    if not card.image_size or (len(card.classes) > MANY and not card.training):
        raise UserError(f"{card.arch} has classes of its own, not those of a folder: name pictures with --image")
    split, files = choose_split(args.data, args.split, card.split)
    known = {name: found for name, found in files.items() if name in card.classes}
    if args.type is not None and args.type not in known:
        raise UserError(
            f"no class {args.type!r} in the {split or args.data} split; there are: {', '.join(sorted(known)) or 'none'}"
        )
    if not known:
        raise UserError(f"{args.data} has none of the classes that the network knows: {', '.join(card.classes)}")
    where = f"the {split} split of {args.data}" if split else str(args.data)
    if args.type is None and every_class:
        if not any(known.values()):
            raise UserError(f"no pictures in {where}")
        logger.info(f"pictures: all classes in {where}")
        return Selection("all", split, known)
    name = args.type or ("Positive" if "Positive" in known else min(known))
    said = "" if args.type else " (the default; choose with --type)"
    logger.info(f"pictures: {name}{said} in {where}, {counted(len(known[name]), 'file')}")
    if not known[name]:
        raise UserError(f"no pictures of {name} in {where}")
    return Selection(name, split, {name: known[name]})


def _select_named(args: argparse.Namespace) -> Selection:
    if args.type is not None or args.split is not None:
        raise UserError("--image names pictures itself: leave --type and --split out")
    files: list[Path] = []
    for path in args.image:
        matching = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not matching:
            raise UserError(f"no picture {path}")
        for found in matching:
            files += list_files(found) if found.is_dir() else [found]
    if not files:
        raise UserError(f"no files in {args.image[0]}")
    return Selection("images", None, {"": files})


def read_selection(args: argparse.Namespace, selection: Selection) -> list[DecodedImage]:
    """Decode what a grid shows: up to ``--num`` of a folder by ``--seed``, or all pictures that were named.

    Raises:
        UserError: none can be read.
    """
    (files,) = selection.files.values()
    pictures: list[DecodedImage] = []
    unreadable: list[UnreadableImage] = []
    named_one_by_one = args.image and not any(path.is_dir() for path in args.image)
    if named_one_by_one:
        images.partition_images(images.read_images(files), pictures, unreadable)
    else:
        pictures, unreadable = images.sample_images(files, args.num, args.seed)
    for skipped in unreadable:
        logger.warning(f"skipped {skipped.path}: {skipped.reason}")
    if not pictures:
        raise UserError(f"none of {counted(len(unreadable), 'file')} can be read as a picture")
    if unreadable:
        logger.warning(f"{counted(len(unreadable), 'file')} could not be read")
    if len(pictures) < args.num and not named_one_by_one:
        logger.info(f"only {counted(len(pictures), 'picture')} there, {args.num} asked for")
    return pictures


def to_pixels(network: LoadedModel, pictures: list[np.ndarray]) -> torch.Tensor:
    """Pictures of any size -> (N, 3, size, size) uint8, as in training."""
    return stacked([network.card.preprocessing.apply(picture) for picture in pictures])


def stacked(fitted: list[np.ndarray]) -> torch.Tensor:
    """Pictures (size, size, 3) -> (N, 3, size, size) uint8."""
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)


def predict(network: LoadedModel, pixels: torch.Tensor, batch_size: int) -> np.ndarray:
    """Probabilities, (N, classes) float32."""
    return torch.cat([probabilities(network, part).cpu() for part in pixels.split(batch_size)]).numpy()


def probabilities(network: LoadedModel, pixels: torch.Tensor) -> torch.Tensor:
    """Of one batch, (N, 3, size, size) uint8: (N, classes) float32 on the device, which may still be computing them.

    Where a GPU has not the memory for it, half the batch is tried, and half of that; what fits is kept to.
    """
    most = _fitting.get(network.model, len(pixels))
    try:
        with torch.inference_mode(), network.runtime.autocast():
            parts = [network.model(network.to_inputs(part)).float().softmax(1) for part in pixels.split(most)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]
    except torch.OutOfMemoryError:
        if min(most, len(pixels)) == 1:
            raise
    half = _fitting[network.model] = min(most, len(pixels)) // 2
    logger.info(f"out of memory: going on with {counted(half, 'picture')} at a time")
    torch.cuda.empty_cache()
    return probabilities(network, pixels)


def by_class(network: LoadedModel, probabilities: np.ndarray, top_k: int | None = None) -> dict[str, float]:
    """Probabilities of one picture by class name, highest first: the ``top_k``; all, or 5 of many, by default."""
    pairs = zip(network.card.classes, probabilities.tolist(), strict=True)
    number = top_k or (TOP_OF_MANY if len(network.card.classes) > MANY else None)
    return dict(sorted(pairs, key=lambda pair: -pair[1])[:number])


def manifest(network: LoadedModel, args: argparse.Namespace, selection: Selection, rows: list[dict]) -> dict:
    """What the JSON file beside a picture says: how it was made, and of what."""
    return {
        "schema": SCHEMA,
        "command": args.command,
        "type": args.type if args.image else selection.name,
        "split": selection.split,
        "seed": args.seed,
        "device": str(network.runtime.device),
        "precision": network.runtime.precision,
        "checkpoint": {
            "file": str(network.path) if network.path else network.card.pretrained,
            "sha256": files.file_hash(network.path) if network.path else None,
            "arch": network.card.arch,
        },
        "classes": network.card.classes if len(network.card.classes) <= MANY else len(network.card.classes),
        "versions": library_versions(),
        "pictures": rows,
    }
