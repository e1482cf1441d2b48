"""Layers of a model, by type or by predicate, and others put in their place.

A layer is the module itself, compared by identity. The model counts as none of its own layers.
"""

from collections.abc import Callable, Collection

import torch

Module = torch.nn.Module


def replace_layer_recursive(model: Module, old_layer: Module, new_layer: Module) -> bool:
    """Put a layer in the place of another: the first in definition order, where it has several.

    Returns:
        Whether ``old_layer`` was found.
    """
    for name, layer in _children(model):
        if layer is old_layer:
            setattr(model, name, new_layer)
            return True
        if replace_layer_recursive(layer, old_layer, new_layer):
            return True
    return False


def replace_all_layer_type_recursive(
    model: Module, old_layer_type: type[Module] | tuple[type[Module], ...], new_layer: Module
) -> None:
    """Put one layer, the same everywhere, in the place of all instances of a type and of its subclasses."""
    for name, layer in _children(model):
        if isinstance(layer, old_layer_type):
            setattr(model, name, new_layer)
        else:
            replace_all_layer_type_recursive(layer, old_layer_type, new_layer)


def find_layer_types_recursive(model: Module, layer_types: Collection[type[Module]]) -> list[Module]:
    """Layers of exactly these types (not of their subclasses), in definition order, each once."""
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: Module, predicate: Callable[[Module], bool]) -> list[Module]:
    """Layers for which ``predicate`` holds, in definition order, each once."""
    return [layer for layer in model.modules() if layer is not model and predicate(layer)]


def _children(model: Module) -> list[tuple[str, Module]]:
    # named_children() would leave out the second name of a layer that has two.
    return [(name, layer) for name, layer in model._modules.items() if layer is not None]
