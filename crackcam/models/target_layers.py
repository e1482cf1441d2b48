"""Layers that a CAM can explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models.heads import head_name
from crackcam.models.multiscale import Multiscale
from crackcam.text import first_line
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform


class Grid(NamedTuple):
    """What a layer puts out, once ``reshape`` has brought it to (N, C, H, W); None where it is so already."""

    channels: int
    height: int
    width: int
    reshape: Callable[[torch.Tensor], torch.Tensor] | None = None


class TargetLayer(NamedTuple):
    """A layer to explain: its name as in ``model.named_modules()``, the module, and the grid that it puts out."""

    name: str
    module: nn.Module
    grid: Grid

    @property
    def reshape(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Brings its output to (N, C, H, W) where it is not."""
        return self.grid.reshape


# -- target layer ----------------------------------------------------------------------------------------------


def grid_layers(model: nn.Module, image_size: int) -> tuple[dict[str, Grid], str | None]:
    """Layers that a CAM can explain: those that put out a grid.

    Returns:
        The grid of each layer by name, in the order of a run; and the name of the default target: the last grid before
        pooling and head, under the outermost name that it goes by. None where the network has none.
    """
    grids: dict[str, Grid] = {}
    pooled: list[torch.Tensor] = []
    before_head: dict[str, torch.Tensor] = {}
    features: list[torch.Tensor] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            grid = grid_of(output)
            if grid is None or not isinstance(output, torch.Tensor):
                return
            grids[name] = grid
            if "Pool" in type(module).__name__ or isinstance(module, nn.Dropout | nn.Softmax):
                pooled.append(output)
            elif not features and not any(output is p for p in pooled):
                before_head[name] = output

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n]
    head = model.get_submodule(head_name(model))
    handles.append(head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])))
    parameter = next(model.parameters())
    was_training = model.training
    picture = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    try:
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            model(picture.requires_grad_())
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"this network takes no pictures of {image_size} px: {first_line(error)}") from None
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    target = next(reversed(before_head), None)
    if target is not None and grids[target].reshape is vit_reshape_transform:
        target = _last_tokens(model, before_head, features[-1])
    return grids, target


def _last_tokens(model: nn.Module, outputs: dict[str, torch.Tensor], features: torch.Tensor) -> str | None:
    """The last normalised tokens that the head still learns about; after that, a class token stands for all others."""
    draw = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    gradients = torch.autograd.grad((features * draw).sum(), list(outputs.values()), allow_unused=True)
    felt = [
        name
        for name, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and gradient.ndim == 3 and vit_reshape_transform(gradient).any()
    ]
    normalised = [name for name in felt if "Norm" in type(model.get_submodule(name)).__name__]
    return next(reversed(normalised or felt), None)


def grid_of(output: object) -> Grid | None:
    """The grid that a layer puts out for square pictures; None where it is none, or a single place."""
    if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
        return None
    if output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
        return Grid(*output.shape[1:])
    if output.ndim == 4 and output.shape[1] == output.shape[2] > 1:
        return Grid(output.shape[3], output.shape[1], output.shape[2], swinT_reshape_transform)
    if output.ndim == 3:
        try:
            channels, height, width = vit_reshape_transform(output).shape[1:]
        except ValueError:
            return None
        return Grid(channels, height, width, vit_reshape_transform) if height > 1 else None
    return None


def find_target_layers(
    model: nn.Module, image_size: int, names: list[str] | None = None, stages: bool = False,
    finer: nn.Module | None = None,
) -> list[TargetLayer]:  # fmt: skip
    """The layers to explain: those named, or the one found.

    Args:
        stages: find the last layer of each of the last three grid sizes instead.
        finer: from :func:`dilate`, to take the layers of these names from.

    Raises:
        UserError: a name that is no layer with a grid (all such layers are listed); or layers of different layouts.
    """
    grids, target = grid_layers(model, image_size)
    if not names and target is None:
        raise UserError("no layer of this network puts out a grid to explain")
    if stages and isinstance(model, Multiscale):
        names = names or list(model.stages)
    chosen = names or [str(target)]
    if stages and not names:
        until = list(grids)[: list(grids).index(str(target)) + 1]
        last = {grids[name].height: name for name in until if grids[name].reshape is grids[str(target)].reshape}
        chosen = list(last.values())[-3:]
    inside = [f"backbone.{name}" if f"backbone.{name}" in grids else name for name in chosen]
    chosen = inside if isinstance(model, Multiscale) else chosen
    for name in chosen:
        if name not in grids:
            raise UserError(f"no layer {name!r} with a grid; there are: {', '.join(grids)}")
    if len({grids[name].reshape for name in chosen}) > 1:
        raise UserError(f"{' and '.join(chosen)} hold their channels in different places: explain one at a time")
    return [TargetLayer(name, (finer or model).get_submodule(name), grids[name]) for name in chosen]
