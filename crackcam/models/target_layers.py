"""Find the layers that a CAM can explain."""

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

Reshape = Callable[[torch.Tensor], torch.Tensor]


class Grid(NamedTuple):
    """Shape of a layer's output as (N, channels, height, width).

    Attributes:
        channels, height, width: of the grid.
        reshape: brings the output to that layout; None where it has it already.
    """

    channels: int
    height: int
    width: int
    reshape: Reshape | None = None


class TargetLayer(NamedTuple):
    """A layer to explain: its name as in ``model.named_modules()``, the module, and the grid of its output."""

    name: str
    module: nn.Module
    grid: Grid

    @property
    def reshape(self) -> Reshape | None:
        """Brings its output to (N, C, H, W) where it has another layout."""
        return self.grid.reshape


def grid_layers(model: nn.Module, image_size: int) -> tuple[dict[str, Grid], str | None]:
    """Layers that a CAM can explain: those whose output is a grid.

    Args:
        model: any classifier; as it was, afterwards.
        image_size: side of its inputs in pixels.

    Returns:
        The grid of each layer by name, in the order of execution; and the name of the default target layer: the last
        grid before pooling and head, under its outermost name. None where there is no grid.

    Raises:
        UserError: the model does not accept inputs of that size.
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
    try:
        _run(model, image_size)
    finally:
        for handle in handles:
            handle.remove()
    target = next(reversed(before_head), None)
    if target is not None and grids[target].reshape is vit_reshape_transform:
        target = _last_tokens(model, before_head, features[-1])
    return grids, target


def _run(model: nn.Module, image_size: int) -> None:
    """One forward pass with gradients in eval mode."""
    parameter = next(model.parameters())
    was_training = model.training
    image = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    try:
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            model(image.requires_grad_())
    except UserError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"this model does not accept {image_size} px inputs: {first_line(error)}") from None
    finally:
        model.train(was_training)


def _last_tokens(model: nn.Module, outputs: dict[str, torch.Tensor], features: torch.Tensor) -> str | None:
    """The last normalised tokens that the head depends on; behind the last attention, only the class token counts."""
    draw = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    gradients = torch.autograd.grad((features * draw).sum(), list(outputs.values()), allow_unused=True)
    relevant = [
        name
        for name, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and gradient.ndim == 3 and vit_reshape_transform(gradient).any()
    ]
    normalised = [name for name in relevant if "Norm" in type(model.get_submodule(name)).__name__]
    return next(reversed(normalised or relevant), None)


def grid_of(output: object) -> Grid | None:
    """The grid in a layer's output for a square input; None where there is none, or one of a single place."""
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
    model: nn.Module,
    image_size: int,
    names: list[str] | None = None,
    stages: bool = False,
    dilated: nn.Module | None = None,
) -> list[TargetLayer]:
    """The layers to explain.

    Args:
        model: any classifier.
        image_size: side of its inputs in pixels.
        names: of the layers; None: the default target layer, see :func:`grid_layers`.
        stages: by default the last layer of each of the last three grid sizes instead.
        dilated: result of :func:`crackcam.models.output_stride.dilate`, to take the modules of these names from.

    Raises:
        UserError: a name is not a layer with a grid (all such layers are listed); or the layers' layouts differ.
    """
    grids, target = grid_layers(model, image_size)
    if names:
        chosen = list(names)
    elif target is None:
        raise UserError("no layer of this model has a grid to explain")
    else:
        chosen = _stages(model, grids, target) if stages else [target]
    if isinstance(model, Multiscale):  # layers go by the names of the architecture
        chosen = [f"backbone.{name}" if f"backbone.{name}" in grids else name for name in chosen]
    for name in chosen:
        if name not in grids:
            raise UserError(f"no layer {name!r} with a grid; available: {', '.join(grids)}")
    if len({grids[name].reshape for name in chosen}) > 1:
        raise UserError(f"{' and '.join(chosen)} have different layouts: explain one at a time")
    return [TargetLayer(name, (dilated or model).get_submodule(name), grids[name]) for name in chosen]


def _stages(model: nn.Module, grids: dict[str, Grid], target: str) -> list[str]:
    """The stages of a multiscale head; else the last layer of each of the last three grid sizes up to the target."""
    if isinstance(model, Multiscale):
        return list(model.stages)
    until = list(grids)[: list(grids).index(target) + 1]
    last = {grids[name].height: name for name in until if grids[name].reshape is grids[target].reshape}
    return list(last.values())[-3:]
