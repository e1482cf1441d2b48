"""Parts of a model that hooks, function modes or autograd cannot see, in words."""

from collections.abc import Iterator

import torch

Module = torch.nn.Module


def name_of(model: Module, layer: Module) -> str:
    """The layer's name in the model with its type, for messages."""
    name = next((name for name, module in model.named_modules() if module is layer), "")
    return f"{name} ({type(layer).__name__})" if name else type(layer).__name__


def why_not_run(model: Module, layer: Module) -> str:
    """Why a layer did not run, where the model shows it: the end of a message."""
    for name, module in _scripted(model):
        if any(inner is layer for inner in module.modules()):
            return f": {name} is scripted or traced, and hooks inside it do not run; explain the Python model"
    parent = next((m for m in model.modules() if any(child is layer for child in m.children())), None)
    if isinstance(parent, torch.nn.MultiheadAttention):
        return f": the attention around it uses its weights only; choose {name_of(model, parent)}"
    return ""


def why_no_gradient(model: Module) -> str:
    """Why outputs have no gradient, where the model shows it: the end of a message."""
    for name, module in model.named_modules():
        if "quantized" in type(module).__module__:
            return (
                f": {name or 'the model'} ({type(module).__name__}) is quantized and has no gradient; explain the "
                "float model, or use a method without gradients (EigenCAM, ScoreCAM, AblationCAM, Occlusion)"
            )
    return ": the layers above disable autograd (no_grad, inference_mode, detach, numpy) or do not use the layer"


def require_python(model: Module, method: str) -> None:
    """Check that a method sees all operations of a model.

    Raises:
        ValueError: a part is scripted or traced code.
    """
    for name, _ in _scripted(model):
        raise ValueError(
            f"{method} must see every operation, and {name} is scripted or traced (torch.jit): pass the Python model "
            "that it was made from, or use another method"
        )


def _scripted(model: Module) -> Iterator[tuple[str, Module]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield name or "the model", module
