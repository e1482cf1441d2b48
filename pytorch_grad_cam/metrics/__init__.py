"""Metrics of faithfulness: how well does a heatmap indicate where a score comes from?

``perturbation_confidence`` is common to all: perturb the image according to its map, and score it again.
``cam_mult_image`` multiplies the image by its map (drop and increase in confidence), ``road`` removes pixels
in the order of their relevance (ROAD), ``arcc`` combines three criteria in one number.

Imported on first use, so that ``import pytorch_grad_cam.metrics`` does not import torch.
"""

from importlib import import_module
from types import ModuleType

__all__ = ["arcc", "cam_mult_image", "perturbation_confidence", "road"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
