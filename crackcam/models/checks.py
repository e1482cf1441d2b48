"""Checks that a model computes what it should."""

from __future__ import annotations

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.text import counted, first_line


def check_finite(model: nn.Module, whose: str) -> None:
    """Raises UserError where weights are NaN or infinite: whatever such a network says means nothing."""
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(f"{whose} holds numbers that are none (NaN or infinite) in {name}: make or fetch it again")


def check_runs(model: nn.Module, classes: int, image_size: int, whose: str) -> None:
    """Raises UserError where a network does not turn a picture of noise into a finite logit for each class."""
    parameter = next(model.parameters(), torch.empty(0))
    noise = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            logits = model(noise.to(parameter))
            good = logits.shape == (1, classes) and bool(logits.isfinite().all())
    except UserError:
        raise
    except Exception as error:  # stages that are none, sizes that it does not take: whatever its layers raise
        raise UserError(f"{whose} does not run on pictures of {image_size} px ({first_line(error)})") from None
    if not good:
        raise UserError(
            f"{whose} does not put out a finite number for each of its {counted(classes, 'class', 'classes')}"
        )


# -- running -----------------------------------------------------------------------------------------------------


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, channels last (1.6 times as fast on processors)."""
    return model.to(device).to(memory_format=torch.channels_last)


def takes_size(model: nn.Module, size: int) -> bool:
    """Whether the network runs on pictures of that size: networks with a position for each token do not."""
    parameter = next(model.parameters())
    was_training = model.training
    try:
        model.eval()
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        model.train(was_training)
    return True
