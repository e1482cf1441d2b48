"""Find layers of a model by type or by predicate, and replace them.

Layers are compared by identity. The model itself is not one of its layers.
"""

from collections.abc import Callable, Collection

import torch

Module = torch.nn.Module


def replace_layer_recursive(model: Module, old_layer: Module, new_layer: Module) -> bool:
    """Replace a layer by another: its first occurrence in definition order.

    Returns:
        Whether ``old_layer`` was found.

    Examples:
        >>> from torch import nn
        >>> from pytorch_grad_cam.utils.find_layers import replace_layer_recursive
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()))
        >>> replace_layer_recursive(model, model[1][0], nn.GELU())
        True
        >>> model[1][0]
        GELU(approximate='none')
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
    """Replace all instances of a type and of its subclasses by one and the same layer.

    Examples:
        >>> from torch import nn
        >>> from pytorch_grad_cam.utils.find_layers import replace_all_layer_type_recursive
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()))
        >>> replace_all_layer_type_recursive(model, nn.ReLU, nn.GELU())
        >>> model[1][0]
        GELU(approximate='none')
    """
    for name, layer in _children(model):
        if isinstance(layer, old_layer_type):
            setattr(model, name, new_layer)
        else:
            replace_all_layer_type_recursive(layer, old_layer_type, new_layer)


def find_layer_types_recursive(model: Module, layer_types: Collection[type[Module]]) -> list[Module]:
    """Layers of exactly these types (not of their subclasses), in definition order, each once.

    Examples:
        >>> from torch import nn
        >>> from pytorch_grad_cam.utils.find_layers import find_layer_types_recursive
        >>> find_layer_types_recursive(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU())), [nn.ReLU])
        [ReLU()]
    """
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def find_layer_predicate_recursive(model: Module, predicate: Callable[[Module], bool]) -> list[Module]:
    """Layers for which ``predicate`` is true, in definition order, each once.

    Examples:
        >>> from torch import nn
        >>> from pytorch_grad_cam.utils.find_layers import find_layer_predicate_recursive
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()))
        >>> find_layer_predicate_recursive(model, lambda layer: not list(layer.children()))
        [Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)), ReLU()]
    """
    return [layer for layer in model.modules() if layer is not model and predicate(layer)]


def _children(model: Module) -> list[tuple[str, Module]]:
    # named_children() would omit the second name of a layer that has two.
    return [(name, layer) for name, layer in model._modules.items() if layer is not None]
