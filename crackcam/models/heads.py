"""Find, replace, fill and calibrate the classification head of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from crackcam.models.multiscale import Multiscale
from crackcam.models.registry import IMAGENET_CLASSES


def replace_head(model: nn.Module, classes: int) -> None:
    """Replace the head of an ImageNet model, in place, by a fresh linear one with that many outputs."""
    if hasattr(model, "reset_classifier"):  # timm
        cast(Any, model).reset_classifier(classes)
        return
    name = _last_layer(model, IMAGENET_CLASSES)
    old = cast("nn.Linear | nn.Conv2d", model.get_submodule(name))
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes)
    else:
        new = nn.Conv2d(old.in_channels, classes, kernel_size=1)
        # SqueezeNet rectifies its class maps before pooling; logits need their sign.
        parent, _, index = name.rpartition(".")
        siblings = list(model.get_submodule(parent).named_children())
        following = siblings[[child for child, _ in siblings].index(index) + 1]
        if isinstance(following[1], nn.ReLU):
            model.get_submodule(parent).register_module(following[0], nn.Identity())
    nn.init.normal_(new.weight, std=0.01)
    nn.init.zeros_(new.bias)  # type: ignore[arg-type]
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, new)


def _last_layer(model: nn.Module, outputs: int | None = None) -> str:
    named = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    sizes = {n: m.out_features if isinstance(m, nn.Linear) else m.out_channels for n, m in named}
    return [n for n, _ in named if outputs is None or sizes[n] == outputs][-1]


def head_name(model: nn.Module) -> str:
    """Name of the last layer, which computes the logits; of a multiscale head, of its first layer."""
    if isinstance(model, Multiscale):
        return "maps.0"
    classifier = cast(Any, model).get_classifier() if hasattr(model, "get_classifier") else None  # timm
    return next((name for name, module in model.named_modules() if module is classifier), "") or _last_layer(model)


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the inputs of the head in each forward pass, averaged over the grid: (N, features)."""
    seen: list[torch.Tensor] = []

    def collect(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (features,) = inputs
        # A copy: that of the class token alone would keep all tokens of the batch in memory.
        seen.append(features.flatten(2).mean(dim=2) if features.ndim == 4 else features.clone())

    handle = model.get_submodule(head_name(model)).register_forward_pre_hook(collect)
    try:
        yield seen
    finally:
        handle.remove()


def set_linear_head(model: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Set the weights (classes, features) and biases (classes,) of the head, a linear layer or a 1x1 convolution."""
    head = dict(model.get_submodule(head_name(model)).named_parameters())
    with torch.no_grad():
        head["weight"].copy_(weight.reshape(head["weight"].shape))
        head["bias"].copy_(bias)


def apply_temperature(model: nn.Module, temperature: float) -> None:
    """Divide the logits by a temperature, in the parameters of the head. Evidence of a multiscale head is unchanged."""
    multiscale_head = [model.scale, model.bias] if isinstance(model, Multiscale) else None
    with torch.no_grad():
        for parameter in multiscale_head or model.get_submodule(head_name(model)).parameters():
            parameter.div_(temperature)
