"""Put a multiscale head on the stages of a backbone."""

from __future__ import annotations

from torch import nn

from crackcam.errors import UserError
from crackcam.models.heads import head_name
from crackcam.models.multiscale import COARSEST, DECODER_CHANNELS, FINEST, Multiscale
from crackcam.models.target_layers import examine_layers


def add_multiscale_head(model: nn.Module, classes: int, image_size: int) -> Multiscale:
    """The model with a fresh multiscale head in place of its own.

    Args:
        model: a classifier; becomes the backbone.
        classes: number of classes.
        image_size: side of its inputs in pixels.

    Raises:
        UserError: its layers do not return grids of several sizes, channels first.
    """
    stages = examine_layers(model, image_size).until_target()
    last = {
        grid.height: name
        for name, grid in stages.items()
        if grid.reshape is None and FINEST <= round(image_size / grid.height) <= COARSEST
    }
    if len(last) < 2:
        raise UserError("--head multiscale needs an architecture with grids of several sizes")
    return with_maps(model, {name: stages[name].channels for name in last.values()}, classes, DECODER_CHANNELS)


def with_maps(model: nn.Module, stages: dict[str, int], classes: int, decoder: int = 0) -> Multiscale:
    """As :func:`add_multiscale_head`, with layers, their channels and those of the decoder given.

    Raises:
        AttributeError: there is no such layer.
    """
    parent, _, child = head_name(model).rpartition(".")
    model.get_submodule(parent).register_module(child, nn.Identity())
    return Multiscale(model, stages, classes, decoder)
