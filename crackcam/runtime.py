"""Where and how a model computes: device and precision."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from crackcam import distributed
from crackcam.config import RuntimeConfig
from crackcam.errors import UserError
from crackcam.text import first_line

TORCH, ONNX, OPENVINO = "torch", "onnx", "openvino"  # values of --engine


class EngineName(NamedTuple):
    """What an engine besides torch is called: by people, and by pip."""

    title: str
    package: str


ENGINES = {ONNX: EngineName("ONNX Runtime", "onnxruntime"), OPENVINO: EngineName("OpenVINO", "openvino")}


@dataclass(frozen=True)
class Runtime:
    """Where and how a model computes.

    Attributes:
        device: where.
        dtype: float32, or what autocast computes in.
        reason: why this dtype, for people; empty where the settings name it.
        engine: what predicts, and computes evidence, see :mod:`crackcam.models.engines`.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    reason: str = ""
    engine: str = TORCH

    @classmethod
    def of(cls, config: RuntimeConfig) -> Runtime:
        """The runtime that settings ask for; raises UserError where it is not available."""
        device = choose_device(config.device)
        return cls(device, *choose_precision(config.precision, device))

    @property
    def precision(self) -> str:
        """'fp32' or 'bf16'."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def __str__(self) -> str:
        engine = f", {ENGINES[self.engine].title}" if self.engine in ENGINES else ""
        return f"{self.device}, {self.precision}{engine}" + (f" ({self.reason})" if self.reason else "")

    @property
    def packages(self) -> tuple[str, ...]:
        """What pip installs the engine by; nothing for torch."""
        return (ENGINES[self.engine].package,) if self.engine in ENGINES else ()

    def autocast(self) -> AbstractContextManager[object]:
        """The context to run a model in."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)


def choose_device(name: str) -> torch.device:
    """The device of ``--device``, a GPU for each process; raises UserError where it is unknown or not available."""
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
    """The dtype of ``--precision``, and the reason for it where the machine chose."""
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[name], ""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "native on this GPU"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16, "native on this processor"
    return torch.float32, "no native bf16 here"
