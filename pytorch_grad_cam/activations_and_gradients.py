"""One run of a model, with what its target layers put out and the gradients that reach them.

Only what lies between the target layers and the output is needed for those gradients. So the run starts
without autograd; the first target layer that it meets becomes a leaf, and autograd is switched on from there.
Parameters and the layers below cost no memory and no backward pass, and the gradient is the same bit for bit.

Hooks exist during a run only and see only the thread that made it; ``.grad`` of nothing is ever written.
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

from pytorch_grad_cam.batches import Batch, call, each_tensor, tensors

Module = torch.nn.Module
ReshapeTransform = Callable[[Any], torch.Tensor]

_locks: WeakKeyDictionary[Module, threading.RLock] = WeakKeyDictionary()
_making_locks = threading.Lock()


@contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """``model.eval()`` for a while; afterwards each module is in train or eval mode as it was."""
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in were_training:
            module.training = True


@contextmanager
def explained(model: Module) -> Iterator[None]:
    """What every explanation needs around it, whoever calls: eval mode, no inference mode, the model to itself.

    Random number generators are put back, for models that draw in eval mode too. Two threads that explain one model
    take turns. What ``torch.compile`` compiled runs uncompiled, since compiled code passes hooks by. Weights that a
    caller's autocast has cast during the explanation, mostly without autograd, are cast anew for the caller.
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
    """Python instead of compiled code. The compiler has one stance for all threads: the last to leave puts it back."""

    def __init__(self) -> None:
        self.changing = threading.Lock()
        self.users = 0
        self.stance: Any = None

    def __enter__(self) -> None:
        with self.changing:
            self.users += 1
            if self.stance is None and "torch._dynamo" in sys.modules:  # else nothing was compiled
                self.stance = torch.compiler.set_stance("force_eager")

    def __exit__(self, *exception: object) -> None:
        with self.changing:
            self.users -= 1
            if self.users == 0 and self.stance is not None:
                self.stance.__exit__(None, None, None)
                self.stance = None


_uncompiled = _Uncompiled()


def plain(model: Module) -> Module:
    """The model without the wrappers of ``torch.compile`` and data parallelism, whose modules it shares."""
    while True:
        if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(Module, model._orig_mod)
        else:
            return model


def device_of(model: Module) -> torch.device:
    """Where the model is now."""
    return next((t.device for held in (model.parameters(), model.buffers()) for t in held), torch.device("cpu"))


@contextmanager
def forward_hooks(layers: Sequence[Module], hook: Callable[[int, Any], Any]) -> Iterator[None]:
    """Calls ``hook(index of the layer, its output)`` during a while; what it returns replaces the output."""
    thread = threading.get_ident()

    def of_layer(index: int) -> Callable[[Module, Any, Any], Any]:
        return lambda module, inputs, output: hook(index, output) if threading.get_ident() == thread else None

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(of_layer(index)).remove)
        yield


class ActivationsAndGradients:
    """Runs a model and records its target layers.

    Args:
        model: any module that maps a batch (N, ...) to outputs (N, ...).
        target_layers: modules of the model. One that runs several times is recorded at its last run.
        reshape_transform: applied to activations and gradients, for layers whose output is not
            (N, C, *spatial): other tensors, or mappings of tensors (feature pyramids).
        detach: False keeps activations and gradients as they are, in the graph, so that they can be
            differentiated again.

    Attributes:
        activations: one (N, C, *spatial) float32 tensor for each layer, after a run; with ``detach=False`` the
            layer's output itself.
        layer_outputs: what the layers put out, as it was.
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
        """Forget the last run."""
        self.activations: list[Any] = []
        self.layer_outputs: list[Batch] = []
        self._arrived: dict[int, torch.Tensor] = {}  # id of a tensor in an output -> its gradient

    release = clear

    def __call__(self, inputs: Batch, with_graph: bool = True) -> Batch:
        """Run the model in whatever mode it is.

        Args:
            inputs: a batch (N, ...); a tuple is passed as arguments, a dict as keyword arguments.
            with_graph: keep the graph above the target layers, for gradients.

        Returns:
            The model's output.

        Raises:
            ValueError: a target layer did not run.
        """
        outputs = self._run(inputs, with_graph, autograd_below=False)
        if with_graph and self.layer_outputs and not any(tensor.requires_grad for tensor in tensors(outputs)):
            # The model's own no_grad() around the layer put autograd back as it was before it: off. Only then the
            # layers below run with it.
            outputs = self._run(inputs, with_graph, autograd_below=True)
        return outputs

    def _run(self, inputs: Batch, with_graph: bool, autograd_below: bool) -> Batch:
        self.clear()
        outputs: dict[int, Batch] = {}
        handles: dict[int, list[Any]] = {}
        arrived = self._arrived

        def leaf(output: torch.Tensor) -> torch.Tensor:
            return output.detach().requires_grad_() if output.is_floating_point() else output

        def record(index: int, output: Batch) -> Batch | None:
            if not with_graph:
                outputs[index] = each_tensor(torch.clone, output)  # later modules may work in place
                return None
            if not any(tensor.requires_grad for tensor in tensors(output)):
                output = each_tensor(leaf, output)
                torch.set_grad_enabled(True)
            for handle in handles.get(index, ()):
                handle.remove()  # the layer runs again: its earlier output may go, and its id may come back
            handles[index] = [
                tensor.register_hook(partial(arrived.__setitem__, id(tensor)))
                for tensor in tensors(output)
                if tensor.requires_grad
            ]
            outputs[index] = output
            return each_tensor(torch.clone, output)

        # Works inside a caller's inference_mode too: its tensors cannot be differentiated, their clones can.
        with torch.inference_mode(False), torch.set_grad_enabled(autograd_below), self._twice_differentiable():
            inputs = each_tensor(lambda t: t.clone() if t.is_inference() else t, inputs)
            with forward_hooks(self.target_layers, record):
                result = call(self.model, inputs)
        for index, layer in enumerate(self.target_layers):
            if index not in outputs:
                raise ValueError(f"target layer {layer.__class__.__name__} did not run in the forward pass")
        self.layer_outputs = [outputs[index] for index in range(len(self.target_layers))]
        self.activations = [self.shaped(output) if self.detach else output for output in self.layer_outputs]
        return result

    def _twice_differentiable(self) -> AbstractContextManager[None]:
        """Around a run whose gradients will be differentiated: fused attention has no second derivative."""
        return nullcontext() if self.detach else sdpa_kernel(SDPBackend.MATH)

    @property
    def gradients(self) -> list[Any]:
        """dY/dA for each target layer that gradients have reached, in the form of the activations."""
        reached = [output for output in self.layer_outputs if any(id(t) in self._arrived for t in tensors(output))]
        found = [each_tensor(lambda t: self._arrived.get(id(t), torch.zeros_like(t)), output) for output in reached]
        return [self.shaped(gradient) for gradient in found] if self.detach else found

    def differentiate(self, score: torch.Tensor) -> list[Any]:
        """Gradients of a scalar made from the last run's output; the graph is freed, unless ``detach`` is False.

        Returns:
            :attr:`gradients`, one for each target layer.

        Raises:
            ValueError: the score does not depend on a target layer.
        """
        flat = [tensor for output in self.layer_outputs for tensor in tensors(output) if tensor.requires_grad]
        if score.requires_grad and flat:
            torch.autograd.grad(score, flat, create_graph=not self.detach, allow_unused=True)
        for layer, output in zip(self.target_layers, self.layer_outputs, strict=True):
            if not any(id(tensor) in self._arrived for tensor in tensors(output)):
                raise ValueError(f"the target does not depend on the target layer {layer.__class__.__name__}")
        return self.gradients

    def shaped(self, output: Batch) -> torch.Tensor:
        """A layer's output, or its gradient, as (N, C, *spatial) float32, detached.

        Raises:
            TypeError: it is a mapping, and there is no ``reshape_transform`` that makes one tensor of it.
        """
        if isinstance(output, tuple | list):
            output = output[0]
        output = each_tensor(torch.Tensor.detach, output)
        if self.reshape_transform is not None:
            output = self.reshape_transform(output)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"the target layer puts out {type(output).__name__}: pass a reshape_transform")
        return output.float()  # half precision is too coarse for sums over channels
