"""Architectures of torchvision and timm by name."""

from __future__ import annotations

import difflib
import math
from typing import Any, NamedTuple

import torchvision
from torch import nn

from crackcam.errors import UserError

TIMM = "timm/"  # what the names of timm's architectures start with
IMAGENET_CLASSES = 1000
# Auxiliary classifiers have heads of their own and serve training from scratch on ImageNet only.
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}
EXTRA_ARGUMENTS = {"googlenet": NO_AUXILIARY, "inception_v3": NO_AUXILIARY}


class PretrainedConfig(NamedTuple):
    """What the ImageNet weights of an architecture expect of pictures, and what they know.

    Attributes:
        source: the weights' name.
        classes: names in index order.
        size: side of the square input.
        resize: what the shorter side of a picture is brought to before the square is cropped.
        interpolation: a filter of Pillow, by name.
        mean, std: of the normalisation, for values in 0..1.
    """

    source: str
    classes: list[str]
    size: int
    resize: int
    interpolation: str
    mean: list[float]
    std: list[float]


# -- building ----------------------------------------------------------------------------------------------


def check_arch(arch: str) -> None:
    """Raises UserError, with close names, where there is no such classifier."""
    if arch.startswith(TIMM):
        known, place = _timm().list_models(), "timm"
        name = arch.removeprefix(TIMM)
        there = _timm().is_model(name) and ("." not in name or name in _timm().list_pretrained())
    else:
        known, place = torchvision.models.list_models(module=torchvision.models), "torchvision"
        there = arch in known
    if not there:
        if arch in torchvision.models.list_models(module=torchvision.models.detection):
            raise UserError(f"{arch} is a detector, which can be used and explained as it is, but not trained here")
        close = difflib.get_close_matches(arch.removeprefix(TIMM), known, n=5, cutoff=0.4) or known[:20]
        raise UserError(f"no architecture {arch!r} in {place}; close to it: {', '.join(close)}")


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("architectures named timm/... need the package timm: pip install timm") from None
    return timm


def bare_network(arch: str) -> nn.Module:
    """A classifier of ImageNet's classes with random weights; raises UserError where there is none of that name."""
    check_arch(arch)
    if arch.startswith(TIMM):
        return _timm().create_model(arch.removeprefix(TIMM))
    return torchvision.models.get_model(arch, weights=None, **EXTRA_ARGUMENTS.get(arch, {}))


def weights_entry(arch: str) -> Any:
    """The entry of torchvision's weights that stands for the architecture: categories, transforms, address."""
    return torchvision.models.get_model_weights(arch).DEFAULT


def pretrained_config(arch: str) -> PretrainedConfig:
    """What the architecture's ImageNet weights expect and know; raises UserError where there is no such classifier."""
    check_arch(arch)
    if not arch.startswith(TIMM):
        weights = weights_entry(arch)
        does = weights.transforms()
        return PretrainedConfig(
            f"{weights} of torchvision", list(weights.meta["categories"]), does.crop_size[0], does.resize_size[0],
            does.interpolation.value, list(does.mean), list(does.std),
        )  # fmt: skip
    name = arch.removeprefix(TIMM)
    config = _timm().get_pretrained_cfg(name)
    classes = weights_entry("resnet18").meta["categories"]
    if config.num_classes != IMAGENET_CLASSES:
        classes = [f"class {index}" for index in range(config.num_classes)]
    size = config.input_size[-1]
    return PretrainedConfig(
        f"{name}{f'.{config.tag}' if config.tag and '.' not in name else ''} of timm", list(classes), size,
        math.floor(size / config.crop_pct), config.interpolation, list(config.mean), list(config.std),
    )  # fmt: skip
