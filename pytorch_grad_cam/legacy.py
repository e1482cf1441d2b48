"""The older arguments that tutorials still pass: each works, and says once what replaced it."""

import warnings

import torch

from pytorch_grad_cam.batches import Targets

_already_said: set[str] = set()


def warn_once(message: str) -> None:
    """Warn (FutureWarning) the first time that this message comes up in the process."""
    if message not in _already_said:
        _already_said.add(message)
        warnings.warn(message, FutureWarning, stacklevel=3)


def move_as_use_cuda_says(model: torch.nn.Module, use_cuda: bool | None) -> torch.nn.Module:
    """What ``use_cuda=True`` did: the model goes to the GPU. ``None`` means that nobody passed it."""
    if use_cuda is None:
        return model
    warn_once("use_cuda= is outdated: move the model yourself, as in model.to('cuda')")
    return model.cuda() if use_cuda else model


def targets_of_category(target_category: int | list[int] | None, targets: Targets, batch: int) -> Targets:
    """What ``target_category=`` (one class index, or one for each picture) means as ``targets``."""
    if target_category is None:
        return targets
    warn_once("target_category= is outdated: pass targets=[ClassifierOutputTarget(index), ...]")
    if targets is not None:
        raise ValueError("pass targets or target_category, not both")
    return [target_category] * batch if isinstance(target_category, int) else target_category
