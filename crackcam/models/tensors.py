"""Read the tensors of untrusted weights files; no code of a file is run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from crackcam.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx")
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file, or of a state dict saved with ``torch.save``, on the CPU.

    Raises:
        UserError: no such file, damaged, or not weights.
    """
    refuse_folder(path)
    if not path.is_file():
        raise UserError(f"no weights file at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return _checked({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{path} is truncated or not a safetensors file ({error})") from None
    state = read_pickle(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"{path} does not contain a state_dict: save model.state_dict()")
    # Prefixes of torch.compile and DataParallel.
    return _checked({n.removeprefix("_orig_mod.").removeprefix("module."): tensor for n, tensor in state.items()}, path)


def refuse_folder(path: Path) -> None:
    """Raises UserError, with the weights in it, where a path is a folder."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        hint = f"name a file in it, {', '.join(map(str, files))}" if files else "there are no weights in it"
        raise UserError(f"{path} is a folder: {hint}")


def read_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote, of tensors and plain values only.

    Raises:
        UserError: damaged, contains more than that, or is compressed to less than its content's size.
    """
    try:
        if zipfile.is_zipfile(path):  # torch.save does not compress
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise ValueError("compressed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception:  # readers raise exceptions of any type for a damaged file
        raise UserError(f"{path} is damaged or contains more than tensors: save model.state_dict()") from None


def _checked(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors; raises UserError where one is not dense numbers in memory, integers or of a usual precision."""
    for name, tensor in tensors.items():
        numeric = tensor.dtype in FLOATS or not (tensor.is_floating_point() or tensor.is_complex())
        if not numeric or tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{path} is damaged: {name} is not a weight tensor ({tensor.dtype}, {tensor.layout})")
    return tensors
