"""Run a model and record the outputs of its target layers and the gradients with respect to them.

Those gradients depend only on the part of the graph between the target layers and the output. The run therefore starts
without autograd; the output of the first target layer becomes a leaf, and autograd is enabled from there on. Parameters
and the layers below need no memory for activations and no backward pass, and the gradients are bit-identical.

Hooks exist only during a run and are active only in its thread; no ``.grad`` attribute is ever written.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytorch_grad_cam.batches import Batch, call_model, map_tensors, tensors

Module = torch.nn.Module
ReshapeTransform = Callable[[Any], torch.Tensor]

_locks: WeakKeyDictionary[Module, threading.RLock] = WeakKeyDictionary()
_making_locks = threading.Lock()


@contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """Switch to ``model.eval()``, and afterwards restore train or eval mode of each module."""
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in were_training:
            module.training = True


@contextmanager
def explanation_context(model: Module) -> Iterator[None]:
    """Prepare a model for an explanation, and restore everything afterwards.

    Eval mode is on, inference mode is off, and two threads that explain the same model take turns. The states of the
    random number generators are restored, for models that draw random numbers in eval mode too. Code compiled by
    ``torch.compile`` runs uncompiled, since compiled code skips hooks. The autocast cache is cleared: weights cast
    during the explanation, mostly without autograd, must not be reused by the caller.
    """
    with _making_locks:
        lock = _locks.setdefault(model, threading.RLock())
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.callback(torch.clear_autocast_cache)
        for around in (lock, torch.random.fork_rng(devices), torch.inference_mode(False), evaluation_mode(model)):
            stack.enter_context(around)
        with _uncompiled:
            yield


class _Uncompiled:
    """Run Python instead of compiled code. The compiler's stance is global: the last thread to leave restores it."""

    def __init__(self) -> None:
        self.changing = threading.Lock()
        self.users = 0
        self.stance: Any = None

    def __enter__(self) -> None:
        with self.changing:
            self.users += 1
            if self.stance is None and "torch._dynamo" in sys.modules:  # otherwise nothing was compiled
                self.stance = torch.compiler.set_stance("force_eager")

    def __exit__(self, *exception: object) -> None:
        with self.changing:
            self.users -= 1
            if self.users == 0 and self.stance is not None:
                self.stance.__exit__(None, None, None)
                self.stance = None


_uncompiled = _Uncompiled()


def unwrap(model: Module) -> Module:
    """Strip the wrappers of ``torch.compile`` and data parallelism, which share the modules of the model inside."""
    while True:
        if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(Module, model._orig_mod)
        else:
            return model


def device_of(model: Module) -> torch.device:
    """Current device of a model; the CPU where it has neither parameters nor buffers."""
    return next((t.device for held in (model.parameters(), model.buffers()) for t in held), torch.device("cpu"))


def module_by_name(modules: dict[str, Module], name: str) -> Module:
    """Look up a module by its name in ``model.named_modules()``.

    Raises:
        ValueError: there is none; the message lists similar names.
    """
    if name not in modules:
        from difflib import get_close_matches

        close = get_close_matches(name, modules, n=5, cutoff=0.4)
        raise ValueError(f"no layer {name!r} in the model{'; similar: ' + ', '.join(close) if close else ''}")
    return modules[name]


@contextmanager
def forward_hooks(layers: Sequence[Module], hook: Callable[[int, Any], Any]) -> Iterator[None]:
    """Call ``hook(index, output)`` for each layer that runs; a value that it returns replaces the layer's output."""
    thread = threading.get_ident()

    def of_layer(index: int) -> Callable[[Module, Any, Any], Any]:
        return lambda module, inputs, output: hook(index, output) if threading.get_ident() == thread else None

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(of_layer(index)).remove)
        yield


class ActivationsAndGradients:
    """Run a model and record activations and gradients of its target layers.

    Args:
        model: any module that maps a batch (N, ...) to outputs (N, ...).
        target_layers: modules of the model. A module that runs several times is recorded at its last run.
        reshape_transform: applied to activations and gradients, for layers whose output is not
            (N, C, *spatial): other tensors, or mappings of tensors (feature pyramids).
        detach: False keeps activations and gradients in the graph, so that they can be differentiated again.

    Attributes:
        activations: after a run, one (N, C, *spatial) float32 tensor per layer; with ``detach=False`` the layer's
            output itself.
        layer_outputs: the layers' outputs before ``reshape_transform``.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import ActivationsAndGradients
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> recorder = ActivationsAndGradients(model, [model[1]])
        >>> scores = recorder(torch.rand(2, 3, 16, 16))
        >>> (gradients,) = recorder.differentiate(scores[:, 0].sum())
        >>> recorder.activations[0].shape == gradients.shape == (2, 4, 14, 14)
        True
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module],
        reshape_transform: ReshapeTransform | None = None,
        detach: bool = True,
    ) -> None:
        self.model = model
        self.target_layers = list(target_layers)
        self.reshape_transform = reshape_transform
        self.detach = detach
        self.clear()

    def clear(self) -> None:
        """Discard the recording of the last run."""
        self.activations: list[Any] = []
        self.layer_outputs: list[Batch] = []
        self._gradient_by_id: dict[int, torch.Tensor] = {}  # id of an output tensor -> its gradient

    release = clear

    def __call__(self, inputs: Batch, with_graph: bool = True) -> Batch:
        """Run the model in its current mode.

        Args:
            inputs: a batch (N, ...); a tuple is passed as positional, a dict as keyword arguments.
            with_graph: keep the graph above the target layers, for gradients.

        Returns:
            The model's output.

        Raises:
            ValueError: a target layer did not run.
        """
        outputs = self._run(inputs, with_graph, autograd_below=False)
        if with_graph and self.layer_outputs and not any(tensor.requires_grad for tensor in tensors(outputs)):
            # The model's own no_grad() around the layer has restored the state before it: autograd off. Only in this
            # case do the layers below run with autograd.
            outputs = self._run(inputs, with_graph, autograd_below=True)
        return outputs

    def _run(self, inputs: Batch, with_graph: bool, autograd_below: bool) -> Batch:
        self.clear()
        outputs: dict[int, Batch] = {}
        handles: dict[int, list[Any]] = {}
        gradient_by_id = self._gradient_by_id

        def leaf(output: torch.Tensor) -> torch.Tensor:
            return output.detach().requires_grad_() if output.is_floating_point() else output

        def record(index: int, output: Batch) -> Batch | None:
            if not with_graph:
                outputs[index] = map_tensors(torch.clone, output)  # later modules may work in place
                return None
            if not any(tensor.requires_grad for tensor in tensors(output)):
                output = map_tensors(leaf, output)
                torch.set_grad_enabled(True)
            for handle in handles.get(index, ()):
                handle.remove()  # the layer runs again: its earlier output may be freed, and its id reused
            handles[index] = [
                tensor.register_hook(partial(gradient_by_id.__setitem__, id(tensor)))
                for tensor in tensors(output)
                if tensor.requires_grad
            ]
            outputs[index] = output
            return map_tensors(torch.clone, output)

        # Inside a caller's inference_mode, too: inference tensors cannot be differentiated, their clones can.
        with torch.inference_mode(False), torch.set_grad_enabled(autograd_below), self._twice_differentiable():
            inputs = map_tensors(lambda t: t.clone() if t.is_inference() else t, inputs)
            with forward_hooks(self.target_layers, record):
                result = call_model(self.model, inputs)
        for index, layer in enumerate(self.target_layers):
            if index not in outputs:
                raise ValueError(f"target layer {layer.__class__.__name__} did not run in the forward pass")
        self.layer_outputs = [outputs[index] for index in range(len(self.target_layers))]
        self.activations = [self.shaped(output) if self.detach else output for output in self.layer_outputs]
        return result

    def _twice_differentiable(self) -> AbstractContextManager[None]:
        """Context for a run whose gradients will be differentiated: fused attention has no second derivative."""
        return nullcontext() if self.detach else sdpa_kernel(SDPBackend.MATH)

    @property
    def gradients(self) -> list[Any]:
        """dY/dA of each target layer that the backward pass has reached, in the format of ``activations``."""
        reached = [
            output for output in self.layer_outputs if any(id(t) in self._gradient_by_id for t in tensors(output))
        ]
        found = [
            map_tensors(lambda t: self._gradient_by_id.get(id(t), torch.zeros_like(t)), output) for output in reached
        ]
        return [self.shaped(gradient) for gradient in found] if self.detach else found

    def differentiate(self, score: torch.Tensor) -> list[Any]:
        """Compute the gradients of a scalar function of the last run's output.

        The graph is freed unless ``detach`` is False.

        Returns:
            :attr:`gradients`, one per target layer.

        Raises:
            ValueError: the score does not depend on a target layer.
        """
        flat = [tensor for output in self.layer_outputs for tensor in tensors(output) if tensor.requires_grad]
        if score.requires_grad and flat:
            torch.autograd.grad(score, flat, create_graph=not self.detach, allow_unused=True)
        for layer, output in zip(self.target_layers, self.layer_outputs, strict=True):
            if not any(id(tensor) in self._gradient_by_id for tensor in tensors(output)):
                raise ValueError(f"the target does not depend on the target layer {layer.__class__.__name__}")
        return self.gradients

    def shaped(self, output: Batch) -> torch.Tensor:
        """Bring a layer's output, or its gradient, into the shape (N, C, *spatial): float32, detached.

        Raises:
            TypeError: it is a mapping, and no ``reshape_transform`` turns it into a tensor.
        """
        if isinstance(output, tuple | list):
            output = output[0]
        output = map_tensors(torch.Tensor.detach, output)
        if self.reshape_transform is not None:
            output = self.reshape_transform(output)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"the target layer returns a {type(output).__name__}: pass a reshape_transform")
        return output.float()  # half precision is too coarse for sums over channels
