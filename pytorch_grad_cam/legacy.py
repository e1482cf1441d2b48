"""Deprecated arguments that tutorials still pass: each works, and warns once with its replacement."""

import warnings

import torch

from pytorch_grad_cam.outputs import Targets

_issued: set[str] = set()


def warn_once(message: str) -> None:
    """Issue a FutureWarning the first time that this message occurs in the process."""
    if message not in _issued:
        _issued.add(message)
        warnings.warn(message, FutureWarning, stacklevel=3)


def apply_use_cuda(model: torch.nn.Module, use_cuda: bool | None) -> torch.nn.Module:
    """Move the model to the GPU where ``use_cuda`` is True; None means that the argument was not passed."""
    if use_cuda is None:
        return model
    warn_once("use_cuda= is deprecated: move the model yourself, for example model.to('cuda')")
    return model.cuda() if use_cuda else model


def targets_from_category(target_category: int | list[int] | None, targets: Targets) -> Targets:
    """Let ``target_category=`` (one class index, or one per image) be ``targets``."""
    if target_category is None:
        return targets
    warn_once("target_category= is deprecated: pass targets=[ClassifierOutputTarget(index), ...]")
    if targets is not None:
        raise ValueError("pass targets or target_category, not both")
    return target_category
