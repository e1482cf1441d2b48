"""Export models to ONNX files for runtimes without torch, and load such files.

    python train.py --export onnx                      also weights/model.onnx
    python inference.py --weights weights/model.onnx

The file contains the model in fp32, for batches of any length of its input size, (N, 3, size, size) normalised ->
logits (N, classes), and in its metadata under ``crackcam`` the model card: all that inference needs. With a multiscale
head it has a second output, the evidence (N, classes, h, w), see :mod:`crackcam.models.multiscale`. The file is
compared with the model before it is written. Its layers are not accessible: ``xai.py`` needs the checkpoint.

Exporting needs the packages onnx, onnxscript and onnxruntime; inference needs onnxruntime alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crackcam.config import RuntimeConfig
from crackcam.errors import UserError
from crackcam.files import write_atomically
from crackcam.models import graphs
from crackcam.models.checkpoint import KEY, parse_card, to_json
from crackcam.models.checks import check_runs
from crackcam.models.graphs import EVIDENCE, INPUT, LOGITS
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.runtime import ONNX, TORCH, Runtime, choose_device
from crackcam.types import ModelCard

TOLERANCE = 1e-4  # of probabilities, and of evidence
TO_WRITE, TO_RUN = ("onnx", "onnxscript", "onnxruntime"), ("onnxruntime",)


def require(packages: tuple[str, ...]) -> list[Any]:
    """Import packages; raises UserError, with the command that installs them, where one is missing."""
    return graphs.require(packages, "ONNX files need", " ".join(packages))


class OnnxModel(nn.Module):
    """An ONNX file as a model: (N, 3, size, size) float32 -> logits (N, classes) float32.

    The file may be untrusted: other files that it refers to are not read.

    Args:
        file: its path, or its content.
        device: where onnxruntime computes.

    Raises:
        UserError: damaged; or this onnxruntime does not support the device.
    """

    def __init__(self, file: Path | bytes, device: torch.device) -> None:
        super().__init__()
        (runtime,) = require(TO_RUN)
        providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        if providers.get(device.type) not in runtime.get_available_providers():
            raise UserError(f"this onnxruntime does not support {device.type}: use --device cpu")
        options = {"device_id": device.index or 0} if device.type == "cuda" else {}
        content = file if isinstance(file, bytes) else file.read_bytes()
        settings = runtime.SessionOptions()
        settings.log_severity_level = 4  # it would print text of the file unescaped
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            self.session = runtime.InferenceSession(content, settings, providers=[(providers[device.type], options)])
        except Exception as error:  # its exceptions have no common base
            name = file if isinstance(file, Path) else "file"
            raise UserError(f"{name} is truncated or not an ONNX file ({error})") from None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, on the device of the inputs."""
        return self.output(x, LOGITS)

    def output(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """The output of that name, on the device of the inputs; raises UserError where the file does not run."""
        try:
            (found,) = self.session.run([name], {INPUT: x.float().cpu().contiguous().numpy()})
        except Exception as error:  # its exceptions have no common base
            raise UserError(f"this ONNX file does not run ({error})") from None
        return torch.from_numpy(found).to(x.device)

    def card(self, path: Path) -> ModelCard:
        """The model card; raises UserError where the file has none, or it is damaged."""
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise UserError(f"{path} does not contain a model card: export it with python train.py --export onnx")
        return parse_card(text, path)


def load(path: Path, config: RuntimeConfig) -> LoadedModel:
    """Read an ONNX file.

    Args:
        path: a file that :func:`export` wrote.
        config: where to compute; with ``device`` "auto" on a GPU where onnxruntime supports it.

    Raises:
        UserError: no such file, damaged, or what the settings ask for is not available.
    """
    if not path.exists():
        raise UserError(f"no ONNX file at {path}: make one with python train.py --export onnx")
    if config.precision == "bf16":
        raise UserError("an ONNX file computes in fp32, as it was exported; drop --precision bf16")
    if config.engine not in ("auto", TORCH, ONNX):
        raise UserError(f"an ONNX file computes with ONNX Runtime; drop --engine {config.engine}")
    device = choose_device(_auto_device() if config.device == "auto" else config.device)
    model = OnnxModel(path, device)
    card = model.card(path)
    check_runs(model, len(card.classes), card.preprocessing.size, str(path))
    return LoadedModel(model, card, Runtime(device, torch.float32, "as exported", ONNX), path)


def _auto_device() -> str:
    (runtime,) = require(TO_RUN)
    has_cuda = torch.cuda.is_available() and "CUDAExecutionProvider" in runtime.get_available_providers()
    return "cuda" if has_cuda else "cpu"


def export(path: Path, network: LoadedModel, pixels: torch.Tensor) -> float:
    """Write a model as an ONNX file.

    Args:
        path: the file.
        network: the model and its card.
        pixels: (N, 3, size, size) uint8, to compare the file and the model on.

    Returns:
        The largest difference of a probability of the file to the model's own, in fp32.

    Raises:
        UserError: a package is missing; or ONNX does not support the model.
        ArithmeticError: the file would predict something else.
    """
    onnx = require(TO_WRITE)[0]
    cpu = torch.device("cpu")
    plain = graphs.plain_copy(network.model)
    inputs = network.preprocessing.normalize(pixels, cpu).contiguous()
    graph = graphs.export_graph(plain, inputs[:1].repeat(2, 1, 1, 1), graphs.outputs_of(plain))
    content = _with_card(onnx, graph, network.card)
    with torch.inference_mode():
        exported = OnnxModel(content, cpu)
        difference = (plain(inputs).softmax(1) - exported(inputs).softmax(1)).abs().max().item()
        if not difference < TOLERANCE:
            raise ArithmeticError(f"exported to ONNX, the model's probabilities differ by {difference:g}")
        if isinstance(plain, Multiscale):
            of_maps = (plain.evidence(inputs) - exported.output(inputs, EVIDENCE)).abs().max().item()
            if not of_maps < TOLERANCE:
                raise ArithmeticError(f"exported to ONNX, the model's evidence differs by {of_maps:g}")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return difference


def _with_card(onnx: Any, graph: Any, card: ModelCard) -> bytes:
    onnx.helper.set_model_props(graph, {KEY: to_json(card)})
    onnx.checker.check_model(graph)
    return graph.SerializeToString()
