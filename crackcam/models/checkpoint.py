"""Checkpoints: one file with everything that inference and explanation need.

A ``.safetensors`` file: the tensors of the model, and under the metadata key ``crackcam`` a JSON object with a schema
version and the fields of :class:`crackcam.types.ModelCard`. Reading it runs no code. A plain state dict saved with
``torch.save`` is read too (``weights_only=True``); its architecture and classes have to be given.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from crackcam.data.splits import SPLITS, check_classes
from crackcam.errors import UserError
from crackcam.files import write_atomically
from crackcam.limits import LARGEST_SIZE
from crackcam.models.checks import check_finite, check_runs, to_device
from crackcam.models.initialisation import ZerosForDraws
from crackcam.models.pretrained import WeightsUnavailableError, build_classifier, load_imagenet_weights
from crackcam.models.registry import create_imagenet_model, pretrained_config
from crackcam.models.stages import with_maps
from crackcam.models.tensors import KEY, load_tensors, read_tensors
from crackcam.models.tensors import read_pickle as read_pickle
from crackcam.text import counted, normalized
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)

SCHEMA = 1


def _bundled() -> Path:
    """In the package where it was installed from a wheel, else in the checkout."""
    name = "crack_efficientnet_lite2.safetensors"
    places = [Path(__file__).parents[depth] / "weights" / name for depth in (1, 2)]
    return next((path for path in places if path.exists()), places[-1])


BUNDLED = _bundled()  # the model for cracks in concrete that comes with crackcam


# -- writing ---------------------------------------------------------------------------------------------------------


def save(path: Path, model: nn.Module, card: ModelCard, half: bool = False) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: ends in ``.safetensors``.
        model: what to write.
        card: what is known about it.
        half: weights in half precision.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={KEY: to_json(card)}))


def to_json(card: ModelCard) -> str:
    """The card as :func:`parse_card` reads it."""
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(card)})


def keep_previous(path: Path, card: ModelCard) -> Path | None:
    """Before a training overwrites a checkpoint that was made from other classes or data: copy it.

    To be called once, before the first :func:`save`. A file that is not a readable checkpoint counts as different.

    Args:
        path: the checkpoint that will be written.
        card: of the new model; ``training["data"]`` is its data folder.

    Returns:
        The copy, ``<name>.previous.safetensors``; None where nothing had to be kept.
    """
    if not path.is_file() or _same_origin(path, card.classes, card.training.get("data")):
        return None
    previous = path.with_name(f"{path.stem}.previous{path.suffix}")
    write_atomically(previous, lambda temporary: shutil.copyfile(path, temporary))
    logger.warning(f"{path} was trained on other classes or data: keeping it as {previous}")
    return previous


def is_finished(path: Path, classes: Sequence[str], data: Path) -> bool:
    """Whether a checkpoint is the final one of a training on these classes of this folder: it is calibrated."""
    before = _card_or_none(path)
    return before is not None and "temperature" in before.metrics and _same_origin(path, classes, data)


def _card_or_none(path: Path) -> ModelCard | None:
    try:
        return _read_card(path)
    except (UserError, SafetensorError, OSError):
        return None


def _same_origin(path: Path, classes: Sequence[str], data: object) -> bool:
    before = _card_or_none(path)
    if before is None:
        return False
    folders = [Path(str(folder)).absolute() for folder in (before.training.get("data"), data)]
    return list(map(normalized, before.classes)) == list(map(normalized, classes)) and folders[0] == folders[1]


# -- reading ---------------------------------------------------------------------------------------------------------


def load(
    path: Path, device: torch.device, arch: str | None = None, classes: Sequence[str] | None = None
) -> tuple[nn.Module, ModelCard]:
    """Read a checkpoint.

    Args:
        path: a checkpoint; or a plain state dict, for which ``arch`` and ``classes`` are needed.
        device: where the model goes, in eval mode and channels last.
        arch: architecture of a plain state dict.
        classes: its class names in index order.

    Raises:
        UserError: no such file, truncated, of another version, or not fitting the architecture.
    """
    if not path.exists():
        raise UserError(f"no checkpoint at {path}: run python train.py first, or name one with --weights")
    tensors = read_tensors(path)
    card = _read_card(path)
    if card is None:
        card = _given_card(path, arch, classes)
    elif arch or classes:
        raise UserError(f"{path} already stores its architecture and classes; drop --arch and --classes")
    expected = f"{card.arch} with {counted(len(card.classes), 'class', 'classes')}"
    # First with shapes alone, so that a small file cannot request a large model. RegNets do not support that.
    with suppress(NotImplementedError), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that copying to meta tensors does nothing
        _load_state(_model_of(card, path), tensors, str(path), expected)
    # Then with memory too: that includes buffers that no file contains, such as the masks of timm's Swin.
    model = _model_of(card, path)
    fill(model, tensors, str(path), expected)
    model = to_device(model.eval(), device)
    check_runs(model, len(card.classes), card.preprocessing.size, str(path))
    return model, card


def _given_card(path: Path, arch: str | None, classes: Sequence[str] | None) -> ModelCard:
    """The card of a plain state dict."""
    if not arch or not classes:
        raise UserError(f"{path} is a plain state dict: describe it with --arch and --classes")
    if complaint := check_classes(classes):
        raise UserError(f"--classes: {complaint}")
    size = pretrained_config(arch).preprocessing.size
    return ModelCard(arch, list(map(normalized, classes)), size, pretrained=f"plain state dict {path.name}")


def _model_of(card: ModelCard, path: Path) -> nn.Module:
    """The model that a card describes, to be filled: its weights are not those that a training starts with."""
    with ZerosForDraws():
        model = build_classifier(card.arch, len(card.classes))
        if card.head == "linear":
            return model
        try:
            return with_maps(model, card.stages, len(card.classes), card.decoder)
        except AttributeError as error:
            raise _damaged(path, str(error)) from None


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], source: str, expected: str) -> None:
    """Put tensors into a model.

    Args:
        model: changed in place.
        tensors: its state dict.
        source: subject of messages: the file that the tensors come from.
        expected: what they should fit: "resnet18 with 2 classes".

    Raises:
        UserError: tensors do not fit; the first such is named. Or one holds NaN or infinite values.
    """
    _load_state(model, tensors, source, expected)
    check_finite(model, source)


def _load_state(model: nn.Module, tensors: dict[str, torch.Tensor], source: str, expected: str) -> None:
    complaint = f"{source} does not fit {expected}"
    try:
        load_tensors(model, tensors)
    except RuntimeError as error:
        detail = str(error).split("\n")[1:2] or [str(error)]
        raise UserError(f"{complaint}: {detail[0].strip()[:200]}") from None
    for name, own in model.state_dict().items():
        if own.is_floating_point() != tensors[name].is_floating_point():
            raise UserError(f"{complaint}: {name} is {tensors[name].dtype}, not {own.dtype}")


def load_imagenet(arch: str, device: torch.device, random: bool, may_download: bool) -> tuple[nn.Module, ModelCard]:
    """An ImageNet model as it is, with the classes and the preprocessing of its weights.

    Args:
        arch: name in ``torchvision.models``, or ``timm/`` and a name in timm.
        device: where the model goes, in eval mode and channels last.
        random: random weights instead of those of ImageNet, to try things out.
        may_download: whether weights that are not cached may be downloaded.

    Raises:
        UserError: unknown architecture, or its weights are not available.
    """
    with nullcontext() if random else ZerosForDraws():
        model = create_imagenet_model(arch)
    try:
        if not random:
            load_imagenet_weights(model, arch, may_download)
    except WeightsUnavailableError as reason:
        raise UserError(f"no ImageNet weights for {arch}: {reason}") from None
    config = pretrained_config(arch)
    expected = config.preprocessing
    card = ModelCard(
        arch,
        config.classes,
        expected.size,
        list(expected.mean),
        list(expected.std),
        pretrained="random weights: requested" if random else config.source,
        resize=expected.resize,
        interpolation=expected.interpolation,
    )
    return to_device(model.eval(), device), card


# -- cards -----------------------------------------------------------------------------------------------------------


def _read_card(path: Path) -> ModelCard | None:
    """The card of a checkpoint; None for a plain state dict. Raises UserError as :func:`parse_card`."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY)
    return None if text is None else parse_card(text, path)


def parse_card(text: str, path: Path) -> ModelCard:
    """The card that JSON describes; raises UserError, with the file's name, where it is damaged or too new."""
    try:
        document = json.loads(text)
        schema = document.pop("schema")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(schema, int):
        raise _damaged(path, "invalid schema")
    if schema != SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}: train again, or update crackcam")
    try:
        card = ModelCard(**document)
    except TypeError as error:  # missing or unknown fields
        raise _damaged(path, str(error)) from None
    invalid = next((name for name, valid in VALID.items() if not valid(getattr(card, name))), None)
    if invalid:
        raise _damaged(path, f"invalid {invalid}")
    if card.head == "multiscale" and not card.stages:
        raise _damaged(path, "no stages")
    return card


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"the model card in {path} is damaged ({reason})")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: object, high: int) -> bool:
    return isinstance(value, int) and _is_number(value, 1, high)


def _is_list(value: object, valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(valid, value))


def _is_dict(value: object, valid: Callable[[Any], bool]) -> bool:  # keys in JSON are text
    return isinstance(value, dict) and all(map(valid, value.values()))


def _is_inside(name: object) -> bool:
    """Whether a file name stays below the folder that it is relative to."""
    return isinstance(name, str) and "\0" not in name and not {"..", "/"} & set(PurePosixPath(name).parts)


AREA = ("offset", "log_temperature")  # see crackcam.models.tiles.calibrated_for_area

# Valid values of each field of a card, because files may be untrusted.
VALID: dict[str, Callable[[Any], bool]] = {
    "arch": _is_text,
    "classes": lambda names: _is_list(names, _is_text) and not check_classes(names),
    "image_size": lambda size: _is_whole(size, LARGEST_SIZE),
    "mean": lambda values: _is_list(values, lambda v: _is_number(v, -1e3, 1e3)) and len(values) == 3,
    "std": lambda values: _is_list(values, lambda v: _is_number(v, 1e-3, 1e3)) and len(values) == 3,
    "head": lambda head: head in ("linear", "multiscale"),
    "output_stride": lambda stride: stride is None or _is_whole(stride, LARGEST_SIZE),
    "pretrained": _is_text,
    "training": lambda settings: isinstance(settings, dict),
    "split": lambda split: _is_dict(split, lambda names: _is_list(names, _is_inside)) and split.keys() <= set(SPLITS),
    "metrics": lambda metrics: isinstance(metrics, dict),
    "versions": lambda versions: _is_dict(versions, _is_text),
    "resize": lambda size: size is None or _is_whole(size, 2 * LARGEST_SIZE),
    "interpolation": lambda name: _is_text(name) and name.upper() in Image.Resampling.__members__,
    "max_scale": lambda scale: scale is None or _is_number(scale, 0.01, 100),
    "stages": lambda stages: _is_dict(stages, lambda channels: _is_whole(channels, 10**6)),
    "decoder": lambda channels: channels == 0 or _is_whole(channels, 4096),
    "area": lambda known: _is_dict(known, lambda v: _is_number(v, -1e3, 1e3)) and known.keys() <= {*AREA},
    "thresholds": lambda methods: _is_dict(methods, lambda known: _is_dict(known, lambda v: _is_number(v, 0, 3e38))),
}
