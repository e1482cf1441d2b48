"""Read the tensors of untrusted weights files, without running code of a file, and load tensors into a model."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torchvision.models import MNASNet

from crackcam.errors import UserError

KEY = "crackcam"  # of the card in the metadata of a checkpoint
DEPTH = 4  # of dictionaries in each other that are searched for a state dict
NO_MODELS = ("optim", "sched", "scaler", "loss", "criterion", "metric", "callback", "loop", "hparams", "hyper")
WRAPPERS = {"module", "_orig_mod", "model", "net", "ema", "ema_model", "model_ema", "student", "teacher"}
ALONE = {"network", "backbone", "encoder"}  # wrappers where there are no other parts: else parts of a network
SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx")
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file, or of a state dict saved with ``torch.save``, on the CPU.

    A state dict may lie in the checkpoint of a training framework, and its names may begin with those of wrappers:
    :func:`unwrap`.

    Raises:
        UserError: no such file, damaged, or not weights; or it holds several models.
    """
    refuse_folder(path)
    if not path.is_file():
        raise UserError(f"no weights file at {path}")
    if path.suffix != ".safetensors":
        return _checked(unwrap(read_pickle(path), path), path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            own = KEY in (file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error})") from None
    return _checked(tensors if own else unwrap(tensors, path), path)


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], strict: bool = True) -> Any:
    """``model.load_state_dict`` for tensors without the versions of layers, which only ``state_dict`` adds to them.

    torchvision's MNASNet refuses those. They are of its second version, as its weights of ImageNet are.
    """
    state = OrderedDict(tensors)
    state._metadata = {  # type: ignore[attr-defined]
        name: {"version": 2} for name, module in model.named_modules() if isinstance(module, MNASNet)
    }
    return model.load_state_dict(state, strict=strict)


def unwrap(document: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint, with the names that the network itself has.

    Args:
        document: a state dict; or a dictionary that holds one, at any depth.
        path: the file, for messages.

    Raises:
        UserError: there is none; or several, those of a model and of its moving average, say.
    """
    found = dict(_state_dicts(document, ()))
    if ("state_dict",) in found and not any("ema" in key.lower() for keys in found for key in keys):
        found = {("state_dict",): found["state_dict",]}  # beside it there are tensors of losses and metrics
    if not found:
        raise UserError(f"{path} does not contain a state_dict: save model.state_dict()")
    if len(found) > 1:
        names = ", ".join(".".join(keys) for keys in found)
        item = "".join(f"[{key!r}]" for key in next(iter(found)))
        raise UserError(f"{path} holds several models ({names}): save one of them, torch.load(...){item}")
    (tensors,) = found.values()
    return _without_wrappers({name.replace("._orig_mod.", "."): value for name, value in tensors.items()}, path)


def _state_dicts(document: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """State dicts and the keys that lead to them; not those of optimizers and the like."""
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        return
    if document and all(isinstance(value, torch.Tensor) for value in document.values()):
        yield keys, document
    elif len(keys) < DEPTH:
        for key, value in document.items():
            if not any(word in key.lower() for word in NO_MODELS):
                yield from _state_dicts(value, (*keys, key))


def _without_wrappers(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Remove the names of wrappers: Lightning's ``model.``, ``module.`` of DataParallel, ``_orig_mod.`` of compile.

    What lies beside a wrapped network in a training module, a loss say, is left out.
    """
    while True:
        parts = {name.split(".", 1)[0] for name in tensors}
        parts = {part for part in parts if not any(word in part.lower() for word in NO_MODELS)}
        wrappers = sorted(parts & (WRAPPERS | ALONE if len(parts) == 1 else WRAPPERS))
        if not wrappers:
            return tensors
        if len(wrappers) > 1:
            raise UserError(f"{path} holds several models ({', '.join(wrappers)}): save the state_dict of one of them")
        start = f"{wrappers[0]}."
        tensors = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


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
