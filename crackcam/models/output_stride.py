"""Dilate models: the same weights at a smaller output stride."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models.checks import accepts_size
from crackcam.models.inference import copy_sharing_tensors
from crackcam.models.target_layers import grid_layers, grid_of

GROWTH = 64  # pixels by which an input grows to see which grids grow, and how much: a multiple of every stride


class _CannotDilateError(Exception):
    """The message is the reason."""


def can_dilate(model: nn.Module, stride: int, image_size: int) -> bool:
    """Whether :func:`dilate` succeeds."""
    try:
        dilate(model, stride, image_size)
    except UserError:
        return False
    return True


def dilate(model: nn.Module, stride: int, image_size: int) -> nn.Module:
    """A model with the same weights and a smaller output stride: strides are removed and later layers dilated.

    Every k-th place of the new grid has the value of the original model. Only layers that pool the grid, such as
    squeeze-and-excitation, change it a little, because they see more places. Chen et al., DeepLab (arXiv:1606.00915);
    Yu et al., Dilated Residual Networks (arXiv:1705.09914).

    Args:
        model: left unchanged.
        stride: input pixels for one cell of the last grid; a power of two.
        image_size: side of the inputs in pixels; the model has to accept slightly larger ones too.

    Returns:
        A copy that shares the tensors.

    Raises:
        UserError: the model cannot have that output stride; those that it can have are listed.
    """
    grids, target = grid_layers(model, image_size)
    if target is None:
        raise UserError("no layer of this model has a grid to refine")
    grown = _side(model, target, image_size + GROWTH)
    if grown is None or grown == grids[target].height:
        raise UserError(f"this model accepts {image_size} px inputs only, so that its output stride is fixed")
    own = GROWTH // (grown - grids[target].height)

    def attempt(stride: int) -> nn.Module:
        if stride > own:
            raise _CannotDilateError("dilation only makes it smaller")
        dilated = _dilated_copy(model, stride, image_size)
        side = _side(dilated, target, image_size)
        if side is None or math.ceil(side * stride / own) != grids[target].height:
            raise _CannotDilateError("its grid or its head depends on more than convolutions and pooling")
        return dilated

    try:
        return attempt(stride)
    except _CannotDilateError as reason:
        possible = [own]
        for other in (16, 8, 4):
            if other < own and other != stride:
                with suppress(_CannotDilateError):
                    attempt(other)
                    possible.append(other)
        known = ", ".join(map(str, possible))
        raise UserError(f"this model cannot have output stride {stride}: {reason}; possible: {known}") from None


def _side(model: nn.Module, layer: str, image_size: int) -> int | None:
    """Height of a layer's grid at another input size, or of a copy; None where the model does not accept that size."""
    outputs: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        grid = grid_of(outputs[-1]) if accepts_size(model, image_size) else None
    finally:
        handle.remove()
    return grid.height if grid else None


def _dilated_copy(model: nn.Module, stride: int, image_size: int) -> nn.Module:
    dilated = copy_sharing_tensors(model)
    seen: dict[str, list[torch.Size]] = {}  # shapes of each layer's inputs

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs: seen.setdefault(name, []).append(inputs[0].shape)

    layers = {n: m for n, m in dilated.named_modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    for size in (image_size, image_size + GROWTH):
        accepts_size(dilated, size)
    for handle in handles:
        handle.remove()
    for name, shapes in seen.items():
        runs = len(shapes) // 2
        grown = {large[-1] - small[-1] for small, large in zip(shapes[:runs], shapes[runs:], strict=True)} - {0}
        at = GROWTH // min(grown, default=GROWTH)  # behind global pooling nothing grows, and nothing changes
        layer = _dilated_layer(layers[name], shapes[0][1], at, stride)
        if layer is None:
            continue
        if len(grown) > 1 or not _agree(layers[name], layer, shapes[0][1], max(1, at // stride)):
            raise _CannotDilateError(f"its layer {name}, {type(layers[name]).__name__}, cannot be dilated")
        parent, _, child = name.rpartition(".")
        dilated.get_submodule(parent).register_module(child, layer.to(next(model.parameters())))
    return dilated


def _dilated_layer(old: Any, channels: int, at: int, limit: int) -> nn.Module | None:
    """A convolution or pooling with input stride ``at``, for grids of stride ``limit`` at most; None: unchanged."""
    reach = max(1, at // limit)
    kernel, steps = _pair(old.kernel_size), _pair(old.stride)
    new_steps = _pair([min(step, max(1, limit // at)) for step in steps])
    if new_steps == steps and (reach == 1 or kernel == (1, 1)):
        return None
    dilation = _pair([reach * gap for gap in _pair(getattr(old, "dilation", 1))])
    if isinstance(old, nn.Conv2d):
        new: Any = copy.copy(old)
        new.stride, new.dilation = new_steps, dilation
        new.padding = old.padding if isinstance(old.padding, str) else _pair([reach * pad for pad in old.padding])
        new._reversed_padding_repeated_twice = [reach * pad for pad in old._reversed_padding_repeated_twice]
        return new
    top, left = (reach * pad for pad in _pair(old.padding))
    if isinstance(old, nn.AvgPool2d):  # has no dilation: the same as a convolution
        new = nn.Conv2d(channels, channels, kernel, new_steps, (top, left), dilation, groups=channels, bias=False)
        new.weight = nn.Parameter(torch.full_like(new.weight, 1 / math.prod(kernel)), requires_grad=False)
        return new
    below, right = (  # ceil_mode lets the last window exceed the grid
        reach * min(step - 1, size - 1 - pad) if old.ceil_mode else 0
        for step, size, pad in zip(steps, kernel, _pair(old.padding), strict=True)
    )
    return nn.Sequential(
        nn.ConstantPad2d((left, left + right, top, top + below), -math.inf),
        nn.MaxPool2d(kernel, new_steps, dilation=dilation),
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _agree(old: Any, new: Any, channels: int, reach: int) -> bool:
    """Whether a dilated layer gives at every ``reach``-th place of a finer grid what the original layer gives."""
    if type(old) is nn.Conv2d:  # true by arithmetic, and slow to try
        return True
    side = reach * 2 * (max(_pair(old.kernel_size)) + 1)
    fine = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    fine = fine.to(next(old.parameters(), fine))
    steps = zip(_pair(old.stride), _pair((new[-1] if isinstance(new, nn.Sequential) else new).stride), strict=True)
    down, across = (reach * before // now for before, now in steps)
    with torch.inference_mode():
        expected, found = old(fine[..., ::reach, ::reach]), new(fine)[..., ::down, ::across]
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=1e-2, atol=1e-2)
