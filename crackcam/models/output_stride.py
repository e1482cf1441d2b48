"""Dilated models: the same weights at a smaller output stride."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models.checks import takes_size
from crackcam.models.target_layers import grid_layers

MORE = 64  # pixels that a picture grows by to see which grids grow, and how much: a multiple of every stride


# -- finer grids -------------------------------------------------------------------------------------------------


class _CannotDilateError(Exception):
    """The message says what stands in the way."""


def can_dilate(model: nn.Module, stride: int, image_size: int) -> bool:
    """Whether :func:`dilate` can."""
    try:
        dilate(model, stride, image_size)
    except UserError:
        return False
    return True


def dilate(model: nn.Module, stride: int, image_size: int) -> nn.Module:
    """The same weights on a finer grid: layers no longer stride, and those behind them reach as far by dilation.

    Every k-th place of the new grid holds what the network puts out there as it is. Squeeze-and-excitation and its
    like, which pool the grid on the way, see more places, which changes that a little. Chen et al., DeepLab
    (arXiv:1606.00915); Yu et al., Dilated Residual Networks (arXiv:1705.09914).

    Args:
        model: left as it is.
        stride: pixels of the input for a cell of the last grid; a power of two.
        image_size: side of the pictures to try it with; others, a little larger, must do as well.

    Returns:
        A copy that shares the tensors.

    Raises:
        UserError: the network cannot be dilated so; the strides that it can have are listed.
    """
    grids, target = grid_layers(model, image_size)
    if target is None:
        raise UserError("no layer of this network puts out a grid to refine")
    if not takes_size(model, image_size + MORE):
        raise UserError(f"this network takes pictures of {image_size} px only, so that its output stride is fixed")
    own = MORE // (grid_layers(model, image_size + MORE)[0][target].height - grids[target].height)

    def dilated(wanted: int) -> nn.Module:
        if wanted > own:
            raise _CannotDilateError("dilation only makes it smaller")
        finer = _dilated_copy(model, wanted, image_size)
        grid = grid_layers(finer, image_size)[0].get(target) if takes_size(finer, image_size) else None
        if grid is None or math.ceil(grid.height * wanted / own) != grids[target].height:
            raise _CannotDilateError("its grid or its head rests on more than convolutions and pooling")
        return finer

    try:
        return dilated(stride)
    except _CannotDilateError as reason:
        possible = [own]
        for other in (16, 8, 4):
            if other < own and other != stride:
                with suppress(_CannotDilateError):
                    dilated(other)
                    possible.append(other)
        known = ", ".join(map(str, possible))
        raise UserError(f"this network cannot have output stride {stride}: {reason}; it can have {known}") from None


def _dilated_copy(model: nn.Module, wanted: int, image_size: int) -> nn.Module:
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    finer = copy.deepcopy(model, shared)
    met: dict[str, list[torch.Size]] = {}  # what each layer gets

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs: met.setdefault(name, []).append(inputs[0].shape)

    layers = {n: m for n, m in finer.named_modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    for size in (image_size, image_size + MORE):
        takes_size(finer, size)
    for handle in handles:
        handle.remove()
    for name, shapes in met.items():
        runs = len(shapes) // 2
        grown = {large[-1] - small[-1] for small, large in zip(shapes[:runs], shapes[runs:], strict=True)} - {0}
        at = MORE // min(grown, default=MORE)  # behind global pooling nothing grows, and nothing changes
        layer = _finer(layers[name], shapes[0][1], at, wanted)
        if layer is None:
            continue
        if len(grown) > 1 or not _agree(layers[name], layer, shapes[0][1], max(1, at // wanted)):
            raise _CannotDilateError(f"its layer {name}, {type(layers[name]).__name__}, cannot be dilated")
        parent, _, child = name.rpartition(".")
        finer.get_submodule(parent).register_module(child, layer.to(next(model.parameters())))
    return finer


def _finer(old: Any, channels: int, at: int, wanted: int) -> nn.Module | None:
    """A convolution or pooling at stride ``at``, for a grid of stride ``wanted`` at most; None: as it is."""
    reach = max(1, at // wanted)
    kernel, steps = _pair(old.kernel_size), _pair(old.stride)
    finer = _pair([min(step, max(1, wanted // at)) for step in steps])
    if finer == steps and (reach == 1 or kernel == (1, 1)):
        return None
    dilation = _pair([reach * gap for gap in _pair(getattr(old, "dilation", 1))])
    if isinstance(old, nn.Conv2d):
        new: Any = copy.copy(old)
        new.stride, new.dilation = finer, dilation
        new.padding = old.padding if isinstance(old.padding, str) else _pair([reach * pad for pad in old.padding])
        new._reversed_padding_repeated_twice = [reach * pad for pad in old._reversed_padding_repeated_twice]
        return new
    top, left = (reach * pad for pad in _pair(old.padding))
    if isinstance(old, nn.AvgPool2d):  # which knows no dilation: the same as a convolution
        new = nn.Conv2d(channels, channels, kernel, finer, (top, left), dilation, groups=channels, bias=False)
        new.weight = nn.Parameter(torch.full_like(new.weight, 1 / math.prod(kernel)), requires_grad=False)
        return new
    below, right = (  # ceil_mode lets the last window hang over
        reach * min(step - 1, size - 1 - pad) if old.ceil_mode else 0
        for step, size, pad in zip(steps, kernel, _pair(old.padding), strict=True)
    )
    return nn.Sequential(
        nn.ConstantPad2d((left, left + right, top, top + below), -math.inf),
        nn.MaxPool2d(kernel, finer, dilation=dilation),
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _agree(old: Any, new: Any, channels: int, reach: int) -> bool:
    """Whether a layer on a grid finer by ``reach`` does at every ``reach``-th place what the old one does."""
    if type(old) is nn.Conv2d:  # true by arithmetic, and slow to try
        return True
    side = reach * 2 * (max(_pair(old.kernel_size)) + 1)
    finer = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    finer = finer.to(next(old.parameters(), finer))
    steps = zip(_pair(old.stride), _pair((new[-1] if isinstance(new, nn.Sequential) else new).stride), strict=True)
    down, across = (reach * before // now for before, now in steps)
    with torch.inference_mode():
        expected, found = old(finer[..., ::reach, ::reach]), new(finer)[..., ::down, ::across]
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=1e-2, atol=1e-2)
