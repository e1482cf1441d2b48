"""Models as ONNX graphs.

Their inputs are normalised images (N, 3, H, W); their outputs logits (N, classes) and, of a multiscale head, evidence
(N, classes, h, w).
"""

from __future__ import annotations

import copy
import importlib
import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models.multiscale import Multiscale
from crackcam.text import first_line

INPUT, LOGITS, EVIDENCE = "pictures", "logits", "evidence"  # names in the graphs
HEIGHT, WIDTH = "height", "width"  # of the input, where they are not fixed
TO_WRITE = ("onnx", "onnxscript")


def require(packages: tuple[str, ...], for_what: str, install: str) -> list[Any]:
    """Import packages.

    Args:
        packages: their import names.
        for_what: the beginning of the message: "ONNX files need".
        install: what pip installs them by.

    Raises:
        UserError: one is missing; with the command that installs it.
    """
    try:
        return [importlib.import_module(name) for name in packages]
    except ImportError as error:
        raise UserError(f"{for_what} a package that is missing ({error.name}): pip install {install}") from None


class _Outputs(nn.Module):
    """A model with the outputs of its graph."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not isinstance(self.model, Multiscale):
            return (self.model(x),)
        evidence = self.model.evidence(x)
        return tuple(evidence if name == EVIDENCE else self.model.pool(evidence) for name in self.names)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in fp32, in the memory format that ONNX has."""
    return copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format).eval()


def outputs_of(model: nn.Module) -> tuple[str, ...]:
    """Names of all outputs that the graph of a model can have."""
    return (LOGITS, EVIDENCE) if isinstance(model, Multiscale) else (LOGITS,)


def export_graph(model: nn.Module, inputs: torch.Tensor, names: tuple[str, ...]) -> Any:
    """A model as an ONNX graph, ``onnx.ModelProto``.

    Args:
        model: a :func:`plain_copy`.
        inputs: (N, 3, H, W). A graph exported with one image takes one image only; with two, batches of any length,
            which takes three times as long to export.
        names: of the outputs.

    Raises:
        UserError: ONNX does not support the model.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dynamic = ({0: torch.export.Dim(INPUT, min=1)},) if len(inputs) > 1 else None
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # stdout is for results
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Outputs(model, names),
                (inputs,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(names),
                dynamic_shapes=dynamic,
            )
    except Exception as error:
        cause = (
            error.__cause__ if isinstance(error.__cause__, Exception) else error
        )  # error itself says what to try next
        raise UserError(f"this model cannot be exported to ONNX: {first_line(cause)}") from None
    assert program is not None
    return program.model_proto


def for_any_size(graph: Any) -> bytes:
    """A graph of one size for images of other ones too: what is resized to fixed sizes is resized by their ratio.

    Whether it computes the same as the model, at sizes that its strides divide, has to be seen: layers may know their
    size in other ways.
    """
    (onnx,) = require(("onnx",), "ONNX graphs need", "onnx")
    made = copy.deepcopy(graph)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*made.graph.value_info, *made.graph.input)
    }
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    for number, node in enumerate(made.graph.node):
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[0] in shapes and node.input[3] in constants:
            ratios = constants[node.input[3]] / shapes[node.input[0]]
            name = f"resize_by_{number}"
            made.graph.initializer.append(onnx.numpy_helper.from_array(ratios.astype("float32"), name))
            node.input[2] = name
            del node.input[3]
    del made.graph.value_info[:]
    for value in (*made.graph.input, *made.graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip(dims[2:], (HEIGHT, WIDTH), strict=True):
            dim.dim_param = name if value in made.graph.input else f"{value.name}_{name}"
    return made.SerializeToString()
