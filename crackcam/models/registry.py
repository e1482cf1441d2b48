"""Architectures of torchvision and timm by name, and what their ImageNet weights expect."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn

from crackcam.errors import UserError
from crackcam.preprocessing import Preprocessing

TIMM = "timm/"  # prefix of timm's architectures
IMAGENET_CLASSES = 1000
# Auxiliary classifiers have heads of their own and help only where ImageNet is trained from scratch.
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}
FROM_PYTHON = "the scripts classify images; docs/how-to/explain-your-own-network.md explains it from Python"
# What torchvision has besides classifiers of images: module -> what a network of it does, and the way out
OTHER_TASKS = {
    "detection": "is a detector: it can be used and explained, but not trained here",
    "segmentation": f"segments images: {FROM_PYTHON}",
    "video": f"classifies videos: {FROM_PYTHON}",
    "optical_flow": "estimates optical flow, so there is no class to explain",
    "quantization": "is quantised, so it has no gradients to explain it by: take the same name without quantized_",
}
EXTRA_ARGUMENTS = {"googlenet": NO_AUXILIARY, "inception_v3": NO_AUXILIARY}


@dataclass(frozen=True)
class PretrainedConfig:
    """What the ImageNet weights of an architecture expect and predict.

    Attributes:
        source: name of the weights and of their library.
        classes: names in index order.
        preprocessing: how an image becomes the input of the model.
    """

    source: str
    classes: list[str]
    preprocessing: Preprocessing


def is_detector(arch: str | None) -> bool:
    """Whether torchvision has a detector of that name."""
    return arch in torchvision.models.list_models(module=torchvision.models.detection)


def check_arch(arch: str) -> None:
    """Raise UserError, with similar names, where there is no classifier of that name."""
    if arch.startswith(TIMM):
        import timm

        name = arch.removeprefix(TIMM)
        if timm.is_model(name) and ("." not in name or name in timm.list_pretrained()):
            return
        known, library = timm.list_models(), "timm"  # sorting a thousand names takes a third of a second
    else:
        known, library = torchvision.models.list_models(module=torchvision.models), "torchvision"
        if arch in known:
            return
    for task, what in OTHER_TASKS.items():
        if arch in torchvision.models.list_models(module=getattr(torchvision.models, task)):
            raise UserError(f"{arch} {what}")
    close = difflib.get_close_matches(arch.removeprefix(TIMM), known, n=5, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else f"there are, among others: {', '.join(known[:20])}"
    raise UserError(f"no architecture {arch!r} in {library}; {hint}")


def create_imagenet_model(arch: str) -> nn.Module:
    """A classifier of the ImageNet classes with random weights; raises UserError for an unknown architecture."""
    check_arch(arch)
    if arch.startswith(TIMM):
        import timm

        return timm.create_model(arch.removeprefix(TIMM))
    return torchvision.models.get_model(arch, weights=None, **EXTRA_ARGUMENTS.get(arch, {}))


def weights_entry(arch: str) -> Any:
    """The default entry of torchvision's weights for an architecture: categories, transforms, URL."""
    return torchvision.models.get_model_weights(arch).DEFAULT


def pretrained_config(arch: str) -> PretrainedConfig:
    """What the ImageNet weights of an architecture expect; raises UserError for an unknown architecture."""
    check_arch(arch)
    return _timm_config(arch.removeprefix(TIMM)) if arch.startswith(TIMM) else _torchvision_config(arch)


def _torchvision_config(arch: str) -> PretrainedConfig:
    weights = weights_entry(arch)
    transforms = weights.transforms()
    preprocessing = Preprocessing(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    return PretrainedConfig(f"{weights} of torchvision", list(weights.meta["categories"]), preprocessing)


def _timm_config(name: str) -> PretrainedConfig:
    import timm

    config = timm.get_pretrained_cfg(name)
    assert config is not None  # check_arch knows the name
    classes = list(weights_entry("resnet18").meta["categories"])
    if config.num_classes != IMAGENET_CLASSES:
        classes = [f"class {index}" for index in range(config.num_classes)]
    size = config.input_size[-1]
    preprocessing = Preprocessing(
        size=size,
        resize=math.floor(size / config.crop_pct),
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
    tag = f".{config.tag}" if config.tag and "." not in name else ""
    return PretrainedConfig(f"{name}{tag} of timm", classes, preprocessing)
