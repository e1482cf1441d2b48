"""Engines besides torch that compute a model on a CPU: ONNX Runtime and OpenVINO.

They compute what a model predicts from, and the evidence of a multiscale head, so that its heatmaps cost one prediction
as they do in torch. The model is exported when it is loaded, which takes some seconds, as a graph for one image at a
time: with few threads larger batches are no faster. Results are those of torch but for rounding, which is checked then.
Methods that look into the model, by gradients or at its layers, are computed in torch whatever the engine.

The graph of a convolutional model with a multiscale head takes images of all sizes that its strides divide, so that
tiles of large images are computed by the engine too. Images of other sizes are computed in torch.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.models import graphs
from crackcam.models.inference import AGREEMENT, folded
from crackcam.models.multiscale import COARSEST, Multiscale
from crackcam.runtime import ENGINES, TORCH, Runtime
from crackcam.text import first_line

logger = logging.getLogger(__name__)

SIZES = 4  # of images, which an engine is kept ready for


class Engine(Protocol):
    """A graph that is ready to run for images of one size."""

    def __init__(self, graph: bytes, output: str, height: int, width: int) -> None: ...

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) float32 -> the output."""
        ...


class OnnxRuntime:
    """See :class:`Engine`."""

    def __init__(self, graph: bytes, output: str, height: int, width: int) -> None:
        (runtime,) = _packages("onnx")
        settings = runtime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.add_free_dimension_override_by_name(graphs.HEIGHT, height)
        settings.add_free_dimension_override_by_name(graphs.WIDTH, width)
        self.session = runtime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        self.output = output

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        (found,) = self.session.run([self.output], {graphs.INPUT: image.contiguous().numpy()})
        return torch.from_numpy(found)


class OpenVino:
    """See :class:`Engine`."""

    PRECISION = "f32"  # else OpenVINO chooses bf16 where that is native

    def __init__(self, graph: bytes, output: str, height: int, width: int) -> None:
        core = _openvino_core()
        model = self.model_of(core, graph)
        model.reshape([1, 3, height, width])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": self.PRECISION,
        }
        self.compiled, self.output = core.compile_model(model, "CPU", settings), output

    def model_of(self, core: Any, graph: bytes) -> Any:
        """The graph as OpenVINO reads it."""
        return core.read_model(graph, b"")

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.compiled(image.contiguous().numpy())[self.output])


@functools.cache
def _openvino_core() -> Any:
    """OpenVINO's core, one for the process and never removed.

    It gives the thread that makes it a stack for signal handlers. Removed by another thread, such as one that collects
    garbage, it leaves that thread a stack that is gone, and the next signal, of an ended worker say, a crash.
    """
    (openvino,) = _packages("openvino")
    return openvino.Core()


CLASSES: dict[str, type[Engine]] = {"onnx": OnnxRuntime, "openvino": OpenVino}


class EngineModel(nn.Module):
    """A model that an engine computes.

    Args:
        model: the same in torch; for images of sizes that the graph does not take.
        graph: of the model, with one output: the evidence of a multiscale head, else the logits.
        side: of the images that it takes, in pixels.
        any_size: whether it takes others too, with sides of whole multiples of :data:`COARSEST`.
        engine: what runs it.
    """

    def __init__(self, model: nn.Module, graph: bytes, side: int, any_size: bool, engine: type[Engine]) -> None:
        super().__init__()
        self.model, self.graph, self.side, self.any_size, self.engine = model, graph, side, any_size, engine
        self._ready: dict[tuple[int, int], Engine] = {}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> logits (N, classes) float32."""
        if isinstance(self.model, Multiscale):
            return self.model.pool(self.evidence(inputs))
        return self._computed(inputs, graphs.LOGITS, self.model)

    def evidence(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> evidence, as :meth:`Multiscale.evidence`."""
        assert isinstance(self.model, Multiscale)
        return self._computed(inputs, graphs.EVIDENCE, self.model.evidence)

    def _computed(self, inputs: torch.Tensor, output: str, in_torch: Callable) -> torch.Tensor:
        height, width = inputs.shape[2:]
        if not self._takes(height, width):
            return in_torch(inputs)
        if (height, width) not in self._ready:
            if len(self._ready) == SIZES:
                del self._ready[next(iter(self._ready))]
            self._ready[height, width] = self.engine(self.graph, output, height, width)
        run = self._ready[height, width]
        return torch.cat([run(image) for image in inputs.split(1)])

    def _takes(self, height: int, width: int) -> bool:
        divisible = height % COARSEST == 0 == width % COARSEST
        return height == width == self.side or (self.any_size and divisible)


def convert(model: nn.Module, side: int, engine: str) -> EngineModel:
    """A model as an engine computes it.

    Args:
        model: in eval mode, on a CPU; left unchanged.
        side: of its inputs in pixels.
        engine: "onnx" or "openvino".

    Raises:
        UserError: a package is missing; the model cannot be exported; or the engine computes something else.
    """
    _packages(engine)
    made = folded(model, side) or model
    output = graphs.outputs_of(made)[-1]
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        graph = graphs.export_graph(graphs.plain_copy(made), noise, (output,))
    name, cls = ENGINES[engine].title, CLASSES[engine]
    if output == graphs.EVIDENCE and side % COARSEST == 0:
        found = EngineModel(made, graphs.for_any_size(graph), side, True, cls)
        another = side + COARSEST, side + 2 * COARSEST
        if all(_difference(found, *sides) <= AGREEMENT for sides in (another, (side, side))):
            return found
        logger.debug("the graph takes images of %d px only", side)
    found = EngineModel(made, graph.SerializeToString(), side, False, cls)
    difference = _difference(found, side, side)
    if not difference <= AGREEMENT:
        raise UserError(f"{name} does not compute what this model does: a result differs by {difference:g}")
    return found


def _difference(made: EngineModel, height: int, width: int) -> float:
    """The largest difference of an output to the model's own, relative to the largest; infinite where it fails."""
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    own = made.model.evidence if isinstance(made.model, Multiscale) else made.model
    run = made.evidence if isinstance(made.model, Multiscale) else made
    try:
        with torch.inference_mode():
            expected, found = own(noise), run(noise)
    except Exception as error:  # the exceptions of the engines have no common base, and models raise any
        logger.debug("%s fails at %d x %d px: %s", made.engine.__name__, width, height, first_line(error))
        return float("inf")
    if found.shape != expected.shape:
        return float("inf")
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


# -- which one -------------------------------------------------------------------------------------------------------


def resolve(name: str, runtime: Runtime) -> str:
    """The engine of ``--engine`` for a runtime: "torch", "onnx" or "openvino".

    Raises:
        UserError: it does not compute there, or so; or a package is missing.
    """
    possible = runtime.device.type == "cpu" and runtime.dtype == torch.float32
    if name == "auto":
        return next((each for each in CLASSES if possible and _is_installed(each)), TORCH)
    if name == TORCH:
        return name
    if runtime.device.type != "cpu":
        raise UserError(f"--engine {name} computes on CPUs: add --device cpu, or leave it out")
    if not possible:
        raise UserError(f"--engine {name} computes in fp32: add --precision fp32, or leave it out")
    _packages(name)
    return name


def _is_installed(name: str) -> bool:
    return all(importlib.util.find_spec(each) for each in (*graphs.TO_WRITE, ENGINES[name].package))


def _packages(name: str) -> list[Any]:
    """What runs an engine's graphs; raises UserError where that, or what exports them, is missing."""
    for_what, install = f"--engine {name} needs", f"crackcam[{name}]"
    graphs.require(graphs.TO_WRITE, for_what, install)
    return graphs.require((ENGINES[name].package,), for_what, install)
