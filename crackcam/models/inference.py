"""A model as it predicts: the same function, computed faster.

In eval mode batch norm is a fixed scale and shift of each channel, which the convolution before it, or the one behind
it, can do with other weights at no cost: of an EfficientNet's time on a CPU that is a third. :class:`InferenceCopies`
folds it in a copy; the model itself stays as it is for everything that trains, saves, exports, hooks or changes it.

What can be folded is found by running a copy once on a small image of noise and watching which tensors go where, not
by tracing: the code of ``forward`` is kept, whatever it does, and the result is compared before it is used.
"""

from __future__ import annotations

import copy
import logging
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crackcam.text import first_line

logger = logging.getLogger(__name__)

SMALL = 64  # side in pixels of the image of noise, where the model accepts it
AGREEMENT = 1e-4  # of the logits of a copy with the model's, relative to the largest
CPU_PIXELS = 2 * 448**2  # of the images that a CPU computes at a time


def images_at_a_time(device: torch.device, pixels: torch.Tensor) -> int:
    """How many of a batch (N, C, H, W) go through a model together.

    On a CPU few: larger activations are in memory that is requested from the system anew each time, at half the speed.
    """
    together = CPU_PIXELS // (pixels.shape[-2] * pixels.shape[-1]) if device.type == "cpu" else len(pixels)
    return max(1, together)


def copy_sharing_tensors(model: nn.Module) -> nn.Module:
    """A copy of the modules with the same parameters and buffers."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


# -- when a copy is made ---------------------------------------------------------------------------------------------


@dataclass
class InferenceCopies:
    """The copy of a model that computes the same faster, for as long as the model stays what it is.

    The model itself is returned where no copy can be made, where its layers have hooks, and where it has changed since
    the last time: it may be in training, and is copied again once it stays as it is.
    """

    _state: _State | None = field(default=None, repr=False)  # of the model when it was last seen
    _copy: nn.Module | None = field(default=None, repr=False)
    _settled: bool = field(default=False, repr=False)  # whether a copy of the model in this state was tried

    def of(self, model: nn.Module, side: int, make: Callable[[nn.Module, int], nn.Module | None]) -> nn.Module:
        """What computes the same as the model.

        Args:
            model: on a CPU.
            side: of its inputs in pixels.
            make: :func:`folded`, or what makes copies that share no tensors with the model; always the same.
        """
        if not _may_copy(model) or (make is folded and not _may_fold(model)):
            return model
        state = _State.of(model, _layers(model) if make is folded else model.modules())
        if self._state is not None and not self._state.same(state):
            self._state, self._copy, self._settled = state, None, False
            return model
        if not self._settled:
            self._copy = make(model, side)
            self._state, self._settled = state, True
        return self._copy or model


def _may_copy(model: nn.Module) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return (
        bool(tensors)  # an ONNX file has none
        and not any(_changes_calls(module) for module in model.modules())
        and not any(tensor.is_inference() for tensor in tensors)
    )


def _may_fold(model: nn.Module) -> bool:
    types = {type(module) for module in model.modules()}
    return not types.isdisjoint(_norms()) and not types.isdisjoint(_convolutions())


def _changes_calls(module: nn.Module) -> bool:
    """Whether calling a module is more than its ``forward`` in eval mode: hooks, training, compiled code."""
    compiled = isinstance(module, torch.jit.ScriptModule) or type(module).__name__ == "OptimizedModule"
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return compiled or module.training or any(hooks)


@dataclass(frozen=True)
class _State:
    """What the output of a model depends on.

    Attributes:
        objects: the modules, their attributes and tensors; kept, so that no other object takes the place of one.
        numbers: versions and addresses of the tensors, lengths of lists and dictionaries.
        sums: of the tensors that a copy does not share, which writing to ``tensor.data`` changes unseen otherwise.
    """

    objects: list[Any]
    numbers: list[int]
    sums: torch.Tensor

    @classmethod
    def of(cls, model: nn.Module, copied: Iterable[nn.Module]) -> _State:
        """Of a model, and those of its layers whose tensors a copy does not share."""
        objects = _attributes(model)
        tensors = [value for value in objects if isinstance(value, torch.Tensor)]
        numbers = [number for tensor in tensors for number in (tensor._version, tensor.data_ptr())]
        numbers += [len(value) for value in objects if isinstance(value, list | dict | set)]
        own = [tensor for layer in copied for tensor in _tensors(layer) if tensor.is_floating_point()]
        with torch.inference_mode():
            return cls(objects, numbers, torch.stack([tensor.sum().float() for tensor in own]))

    def same(self, other: _State) -> bool:
        same = _identical(self.objects, other.objects) and self.numbers == other.numbers
        return same and torch.equal(self.sums, other.sums)


def _attributes(model: nn.Module) -> list[Any]:
    """The modules, their attributes and their tensors."""
    modules = list(model.modules())
    return [
        *modules,
        *(value for module in modules for value in vars(module).values()),
        *(tensor for module in modules for tensor in _tensors(module)),
    ]


def _identical(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers that can be folded."""
    types = {*_norms(), *_convolutions()}
    return [module for module in model.modules() if type(module) in types]


def _tensors(layer: nn.Module) -> Iterator[torch.Tensor]:
    return (tensor for tensor in (*layer._parameters.values(), *layer._buffers.values()) if tensor is not None)


# -- how it is made --------------------------------------------------------------------------------------------------


def folded(model: nn.Module, side: int) -> nn.Module | None:
    """A copy with batch norm folded into convolutions; None where nothing can be folded, or it computes another thing.

    Args:
        model: in eval mode, on a CPU; left unchanged.
        side: of its inputs in pixels.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return _folded(model, side)
    except Exception as error:  # of any type: the code of a model is anybody's
        logger.debug("batch norm is not folded: %s", first_line(error))
        return None


def _folded(model: nn.Module, side: int) -> nn.Module | None:
    made = copy_sharing_tensors(model)
    before = _attributes(made)
    noise, expected, flow = _watched(made, side)
    if not _identical(before, _attributes(made)):
        logger.debug("batch norm is not folded: the model changes itself when it runs")
        return None
    pairs = list(_pairs(made, flow))
    for first, second in pairs:
        _fold(first, second)
    norms = {layer for pair in pairs for layer in pair if type(layer) in _norms()}
    _leave_out(made, norms)
    if not norms:
        return None
    difference = (made(noise) - expected).abs().max().item()
    if not difference <= AGREEMENT * max(1.0, expected.abs().max().item()):
        logger.debug("batch norm is not folded: the copy's logits differ by %g", difference)
        return None
    logger.debug("batch norm folded: %d layers, logits differ by %.1e", len(norms), difference)
    return made


class _Flow(TorchDispatchMode):
    """Watches a model: how often each tensor is an operand, and what goes in and out of layers."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self.kept: list[Any] = []  # no other tensor may take the id of one
        self.calls: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.handles = [layer.register_forward_hook(self._call) for layer in layers]

    def _call(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.calls.setdefault(layer, []).append((inputs[0], output))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.uses.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        self.kept.append((args, result))
        return result


def _watched(model: nn.Module, side: int) -> tuple[torch.Tensor, torch.Tensor, _Flow]:
    """An image of noise, the logits of it, and how they were computed."""
    layers = _layers(model)
    parameter = next(model.parameters())
    for size in sorted({min(SMALL, side), side}):
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
        flow = _Flow(layers)
        try:
            with flow:
                return noise, model(noise), flow
        except Exception:
            if size == side:
                raise
        finally:
            for handle in flow.handles:
                handle.remove()
    raise AssertionError("unreachable")


def _pairs(model: nn.Module, flow: _Flow) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers, a convolution and a batch norm in either order, where the second alone uses what the first returns."""
    once = {layer: calls[0] for layer, calls in flow.calls.items() if len(calls) == 1}
    by_output = {id(output): layer for layer, (_, output) in once.items()}
    taken: set[nn.Module] = set()
    for second, (inputs, _) in once.items():  # in the order in which they ran
        first = by_output.get(id(inputs))
        if first is None or flow.uses[id(inputs)] != 1 or not _fits(first, second):
            continue
        norm = first if type(first) in _norms() else second
        if norm not in taken:
            taken.add(norm)
            yield first, second


def _fits(first: nn.Module, second: nn.Module) -> bool:
    """Whether two layers in a row are one convolution."""
    if isinstance(first, nn.Conv2d):
        return isinstance(second, nn.BatchNorm2d) and second.running_mean is not None
    # padded with zeros behind batch norm, not before it; and what follows an activation is no batch norm
    plain = type(first) is nn.BatchNorm2d and first.running_mean is not None
    return plain and type(second) is nn.Conv2d and second.groups == 1 and second.padding in ((0, 0), "valid")


def _fold(first: nn.Module, second: nn.Module) -> None:
    """Set the weights of the convolution of the two to those of both layers."""
    norm, convolution = (first, second) if isinstance(second, nn.Conv2d) else (second, first)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(convolution, nn.Conv2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    shift = (0 if norm.bias is None else norm.bias.double()) - norm.running_mean.double() * scale
    weight, bias = convolution.weight, 0 if convolution.bias is None else convolution.bias.double()
    if norm is second:
        made, bias = weight * scale[:, None, None, None].to(weight), bias * scale + shift
    else:
        made = weight * scale[:, None, None].to(weight)
        bias = bias + (weight.sum(dim=(2, 3)).double() * shift).sum(dim=1)
    convolution.weight, convolution.bias = nn.Parameter(made), nn.Parameter(bias.to(weight))


class _Activation(nn.Module):
    """What timm's layer of batch norm and activation does besides batch norm."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.drop, self.act = layer.drop, layer.act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(x))


def _leave_out(model: nn.Module, norms: set[nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child in norms:
                only = type(child) is nn.BatchNorm2d
                module.register_module(name, (nn.Identity() if only else _Activation(child)).eval())


# timm's layers are known once it is imported: before, no model has one


def _norms() -> tuple[type, ...]:
    return nn.BatchNorm2d, *_of_timm("BatchNormAct2d")


def _convolutions() -> tuple[type, ...]:
    return nn.Conv2d, *_of_timm("Conv2dSame")


def _of_timm(name: str) -> tuple[type, ...]:
    layers = sys.modules.get("timm.layers")
    return (getattr(layers, name),) if hasattr(layers, name) else ()
