"""Helpers: images and overlays, targets, reshape transforms, projections.

Imported on first use, so that ``import pytorch_grad_cam.utils`` does not import torch.
"""

from importlib import import_module

_MODULE_OF = {"deprocess_image": "image", "get_2d_projection": "svd_on_activations"}
_MODULES = ("find_layers", "image", "maps", "model_targets", "reshape_transforms", "svd_on_activations")

__all__ = sorted([*_MODULE_OF, *_MODULES])


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
