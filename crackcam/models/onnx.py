"""A network as an ONNX file, for runtimes without torch; and such a file as a network of ours.

    python train.py --export onnx                      also weights/model.onnx
    python inference.py --weights weights/model.onnx

The file holds the network in fp32, for any number of pictures of its size, (N, 3, size, size) normalised -> logits
(N, classes), and the checkpoint's card in its metadata under ``crackcam``: all that inference needs. It is checked
against the network before it is written. It has no layers to look into, so that maps need the checkpoint.

Needs the packages onnx, onnxscript and onnxruntime; to predict, onnxruntime alone.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import io
import json
import logging
import os
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.files import write_atomically
from crackcam.models.checkpoint import KEY, SCHEMA, ModelCard, card_of
from crackcam.runtime import Runtime
from crackcam.text import first_line

TOLERANCE = 1e-4  # of probabilities
TO_WRITE, TO_RUN = ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)


def require(packages: tuple[str, ...]) -> list[Any]:
    """The packages, imported; raises UserError, with the command that installs them, where one is missing."""
    try:
        return [importlib.import_module(name) for name in packages]
    except ImportError as error:
        raise UserError(
            f"ONNX files need a package that is missing ({error.name}): pip install {' '.join(packages)}"
        ) from None


class OnnxModel(nn.Module):
    """An ONNX file as a network: (N, 3, size, size) float32 -> logits (N, classes) float32.

    The file may be a stranger's: it is read by itself, and other files that it names are not.

    Args:
        file: its path, or its content.
        device: where the runtime computes.

    Raises:
        UserError: damaged; or this onnxruntime has no support for the device.
    """

    def __init__(self, file: Path | bytes, device: torch.device) -> None:
        super().__init__()
        (runtime,) = require(TO_RUN)
        providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        if providers.get(device.type) not in runtime.get_available_providers():
            raise UserError(f"this onnxruntime does not compute on {device.type}: give --device cpu")
        options = {"device_id": device.index or 0} if device.type == "cuda" else {}
        content = file if isinstance(file, bytes) else file.read_bytes()
        settings = runtime.SessionOptions()
        settings.log_severity_level = 4  # it would print what the file says, as it is
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            self.session = runtime.InferenceSession(content, settings, providers=[(providers[device.type], options)])
        except Exception as error:  # its exceptions have no common base
            raise UserError(f"{file if isinstance(file, Path) else 'file'} is no whole ONNX file ({error})") from None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, on the device of the pictures."""
        try:
            (logits,) = self.session.run(["logits"], {"pictures": x.float().cpu().contiguous().numpy()})
        except Exception as error:  # its exceptions have no common base
            raise UserError(f"this ONNX file cannot be run ({error})") from None
        return torch.from_numpy(logits).to(x.device)

    def card(self, path: Path) -> ModelCard:
        """The checkpoint's card; raises UserError where the file has none, or it is damaged."""
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise UserError(f"{path} does not say what it predicts: export it with python train.py --export onnx")
        return card_of(text, path)


def device_and_dtype(device: str, precision: str) -> tuple[str, torch.dtype, str]:
    """What ``--device`` and ``--precision`` mean for an ONNX file: name, dtype, reason.

    Raises:
        UserError: bf16, which such a file does not compute in.
    """
    if precision == "bf16":
        raise UserError("an ONNX file computes in fp32, as it was exported: leave --precision bf16 out")
    if device == "auto":
        (runtime,) = require(TO_RUN)
        has_cuda = torch.cuda.is_available() and "CUDAExecutionProvider" in runtime.get_available_providers()
        device = "cuda" if has_cuda else "cpu"
    return device, torch.float32, "as exported, by onnxruntime"


def export(path: Path, model: nn.Module, card: ModelCard, machine: Runtime, pixels: torch.Tensor) -> float:
    """Write a network; returns the largest difference of a probability to the network's own, in fp32.

    Args:
        pixels: (N, 3, size, size) uint8, what to compare on.

    Raises:
        UserError: a package is missing; or the network has what ONNX has not.
        ArithmeticError: the file would predict something else.
    """
    onnx = require(TO_WRITE)[0]
    plain = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format).eval()
    inputs = dataclasses.replace(machine, device=torch.device("cpu"), dtype=torch.float32).input(pixels).contiguous()
    content = _with_card(onnx, _graph(plain, inputs[:1].repeat(2, 1, 1, 1)), card)  # of one, it would take one only
    with torch.inference_mode():
        wanted = plain(inputs).softmax(1)
        found = OnnxModel(content, torch.device("cpu"))(inputs).softmax(1)
    difference = (wanted - found).abs().max().item()
    if not difference < TOLERANCE:
        raise ArithmeticError(f"exported to ONNX, the network's probabilities differ by {difference:g}")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return difference


def _graph(model: nn.Module, inputs: torch.Tensor) -> Any:
    """The network as an ONNX model, for any number of pictures."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # results go to stdout
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model, (inputs,), dynamo=True, verbose=False, input_names=["pictures"], output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("pictures", min=1)},),
            )  # fmt: skip
    except Exception as error:
        raise UserError(f"this network cannot be exported to ONNX: {first_line(error)}") from None
    assert program is not None
    return program.model_proto


def _with_card(onnx: Any, model: Any, card: ModelCard) -> bytes:
    onnx.helper.set_model_props(model, {KEY: json.dumps({"schema": SCHEMA, **dataclasses.asdict(card)})})
    onnx.checker.check_model(model)
    return model.SerializeToString()
