"""Where and how a model computes: device, precision, memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from crackcam import distributed
from crackcam.errors import UserError
from crackcam.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from crackcam.text import first_line

# -- device and precision -----------------------------------------------------------------------------------


def choose_device(name: str) -> torch.device:
    """The device of ``--device``, of several processes a GPU each; raises UserError where it is unknown or absent."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):  # torch knows more, which compute nothing: meta
        raise UserError(f"--device {name} is not available here: it is auto, cpu, mps, cuda or cuda:NUMBER")
    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = distributed.local_device(torch.device(name))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name} is not available here: {first_line(error)}") from None
    return device


def choose_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of ``--precision``, and the reason for it."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name], "asked for"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "native on this GPU"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16, "native on this processor"
    return torch.float32, "no native bf16 here"


def describe_machine(device: torch.device, dtype: torch.dtype, reason: str) -> str:
    """'cpu, bf16 (native on this processor)'."""
    return f"{device}, {'bf16' if 'bfloat16' in str(dtype) else 'fp32'} ({reason})"


def library_versions() -> dict[str, str]:
    """Versions of what computed a result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}


@dataclass(frozen=True)
class Runtime:
    """Where and how a network computes.

    Attributes:
        device: where.
        dtype: float32, or what autocast computes in.
        mean, std: normalisation of values in 0..1, one for each colour.
    """

    device: torch.device
    dtype: torch.dtype
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def autocast(self) -> AbstractContextManager[object]:
        """The context to run networks in."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def input(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) uint8 -> normalised float32 on the device, channels last."""
        # bytes travel to the device; in place: batches are large, and each copy is a pass through memory
        scaled = pixels.to(self.device).contiguous(memory_format=torch.channels_last).float().div_(255)
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return scaled.sub_(mean).div_(std)

    def pixels(self, inputs: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`input`: the picture (N, 3, H, W) uint8 that comes closest."""
        mean, std = (torch.tensor(values, device=inputs.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
