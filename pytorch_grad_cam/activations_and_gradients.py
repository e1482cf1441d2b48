"""Run a model and record the outputs of its target layers and the gradients with respect to them.

Those gradients depend only on the part of the graph between the target layers and the output. The run therefore starts
without autograd; the output of the first target layer becomes a leaf, and autograd is enabled from there on. Parameters
and the layers below need no memory for activations and no backward pass, and the gradients are bit-identical.

Hooks exist only during a run and are active only in its thread; no ``.grad`` attribute is ever written.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytorch_grad_cam.batches import Batch, call_model, map_tensors, tensors
from pytorch_grad_cam.context import Module
from pytorch_grad_cam.graph import run_of_images
from pytorch_grad_cam.visibility import name_of, why_no_gradient

ReshapeTransform = Callable[[Any], torch.Tensor]


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


def tensor_below(batch: Batch, view: torch.Tensor) -> torch.Tensor | None:
    """The tensor of a batch that another one is a view of, if there is one."""
    storage = view.untyped_storage().data_ptr()
    return next((tensor for tensor in tensors(batch) if tensor.untyped_storage().data_ptr() == storage), None)


def module_by_name(modules: dict[str, Module], name: str) -> Module:
    """Look up a module by its name in ``model.named_modules()``.

    Raises:
        ValueError: there is none; the message lists similar names.
    """
    if name not in modules:
        from difflib import get_close_matches

        close = get_close_matches(name, modules, n=5, cutoff=0.4)
        reason = f"; similar: {', '.join(close)}" if close else ""
        if any(isinstance(module, torch.fx.GraphModule) for module in modules.values()):
            reason += "; of an exported or traced graph, explain the module that it was made from"
        raise ValueError(f"no layer {name!r} in the model{reason}")
    return modules[name]


@contextmanager
def forward_hooks(layers: Sequence[Module], hook: Callable[[int, Any], Any]) -> Iterator[None]:
    """Call ``hook(index, output)`` for each layer that runs; a value that it returns replaces the layer's output."""
    thread = threading.get_ident()

    def of_layer(index: int) -> Callable[[Module, Any, Any], Any]:
        return lambda module, inputs, output: hook(index, output) if threading.get_ident() == thread else None

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            with suppress(RuntimeError):  # scripted modules take no hooks: they do not run for Python
                stack.callback(layer.register_forward_hook(of_layer(index)).remove)
        yield


class ActivationsAndGradients:
    """Run a model and record activations and gradients of its target layers.

    Args:
        model: any module that maps a batch (N, ...) to outputs (N, ...).
        target_layers: modules of the model. Where one runs several times, its last run on the images is recorded.
        reshape_transform: applied to activations and gradients, for layers whose output is not
            (N, C, *spatial): other tensors, or mappings of tensors (feature pyramids).
        detach: False keeps activations and gradients in the graph, so that they can be differentiated again.

    Attributes:
        activations: after a run, one (N, C, *spatial) float32 tensor per layer; with ``detach=False`` the layer's
            output itself.
        layer_outputs: the layers' outputs before ``reshape_transform``.
        chosen_runs: for each layer, the index of the recorded run among its runs, and their number.

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
        self.chosen_runs: list[tuple[int, int]] = []
        self._gradient_by_id: dict[int, torch.Tensor | None] = {}  # id of an output tensor -> its gradient

    release = clear

    def __call__(self, inputs: Batch, with_graph: bool = True) -> Batch:
        """Run the model in its current mode.

        Args:
            inputs: a batch (N, ...); a tuple is passed as positional, a dict as keyword arguments.
            with_graph: keep the graph above the target layers, for gradients.

        Returns:
            The model's output.

        Raises:
            ValueError: a target layer did not run, or ran several times with no run that belongs to the images.
        """
        outputs = self._run(inputs, with_graph, autograd_below=False)
        if with_graph and self.layer_outputs and not any(tensor.requires_grad for tensor in tensors(outputs)):
            # The model's own no_grad() around the layer has restored the state before it: autograd off. Only in this
            # case do the layers below run with autograd.
            outputs = self._run(inputs, with_graph, autograd_below=True)
        return outputs

    def _run(self, inputs: Batch, with_graph: bool, autograd_below: bool) -> Batch:
        self.clear()
        runs: list[list[Batch]] = [[] for _ in self.target_layers]
        handles: list[tuple[Batch, Any]] = []
        gradient_by_id = self._gradient_by_id

        def leaf(output: torch.Tensor) -> torch.Tensor:
            return output.detach().requires_grad_() if output.is_floating_point() else output

        def record(index: int, output: Batch) -> Batch | None:
            if not with_graph:
                runs[index].append(map_tensors(torch.clone, output))  # later modules may work in place
                return None
            if not any(tensor.requires_grad for tensor in tensors(output)):
                output = map_tensors(leaf, output)
                torch.set_grad_enabled(True)
            handles.extend(
                (tensor, tensor.register_hook(partial(gradient_by_id.__setitem__, id(tensor))))
                for tensor in tensors(output)
                if tensor.requires_grad
            )
            runs[index].append(output)
            return map_tensors(torch.clone, output)

        # Inside a caller's inference_mode, too: inference tensors cannot be differentiated, their clones can.
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(autograd_below),
            self._twice_differentiable(),
            forward_hooks(self.target_layers, record),
        ):
            result = call_model(self.model, inputs)
        for layer, outputs in zip(self.target_layers, runs, strict=True):
            run = run_of_images(self.model, inputs, layer, outputs)
            self.chosen_runs.append((run, len(outputs)))
            self.layer_outputs.append(outputs[run])
        recorded = {id(tensor) for output in self.layer_outputs for tensor in tensors(output)}
        for tensor, handle in handles:
            if id(tensor) not in recorded:  # it may be freed now, and its id reused
                handle.remove()
        self.activations = [self.shaped(output) if self.detach else output for output in self.layer_outputs]
        return result

    def _twice_differentiable(self) -> AbstractContextManager[None]:
        """Context for a run whose gradients will be differentiated: fused attention has no second derivative."""
        return nullcontext() if self.detach else sdpa_kernel(SDPBackend.MATH)

    @property
    def gradients(self) -> list[Any]:
        """dY/dA of each target layer that the backward pass has reached, in the format of ``activations``."""

        def gradient(tensor: torch.Tensor) -> torch.Tensor:
            found = self._gradient_by_id.get(id(tensor))
            return torch.zeros_like(tensor) if found is None else found

        found = [map_tensors(gradient, output) for output in self.layer_outputs if self._is_reached(output)]
        return [self.shaped(gradient) for gradient in found] if self.detach else found

    def _is_reached(self, output: Batch) -> bool:
        return any(self._gradient_by_id.get(id(tensor)) is not None for tensor in tensors(output))

    def differentiate(self, score: torch.Tensor) -> list[Any]:
        """Compute the gradients of a scalar function of the last run's output.

        The graph is freed unless ``detach`` is False.

        Returns:
            :attr:`gradients`, one per target layer.

        Raises:
            ValueError: the score does not depend on a target layer, or has no gradient.
        """
        if not score.requires_grad:
            raise ValueError(f"the target does not depend on the target layers{why_no_gradient(self.model)}")
        flat = [tensor for output in self.layer_outputs for tensor in tensors(output) if tensor.requires_grad]
        if flat:
            torch.autograd.grad(score, flat, create_graph=not self.detach, allow_unused=True)
        for layer, output in zip(self.target_layers, self.layer_outputs, strict=True):
            if not self._is_reached(output):
                name, reason = name_of(self.model, layer), why_no_gradient(self.model)
                raise ValueError(f"the target does not depend on the target layer {name}{reason}")
        return self.gradients

    def shaped(self, output: Batch) -> torch.Tensor:
        """Bring a layer's output, or its gradient, into the shape (N, C, *spatial): float32, detached.

        Raises:
            TypeError: it is a mapping, and no ``reshape_transform`` turns it into a tensor.
            ValueError: it has no spatial dimension.
        """
        output = map_tensors(torch.Tensor.detach, output)
        output = reshaped(output, self.reshape_transform)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"the target layer returns a {type(output).__name__}: pass a reshape_transform")
        if output.ndim < 3:
            raise ValueError(
                f"the target layer returns {tuple(output.shape)}, not (images, channels, *spatial): choose a layer "
                "with positions, or pass a reshape_transform"
            )
        return output.float()  # half precision is too coarse for sums over channels


def reshaped(output: Batch, reshape_transform: ReshapeTransform | None) -> Any:
    """Apply a ``reshape_transform`` to what the layer returns.

    The first tensor of a tuple stands for it where there is no transform, or one that takes tensors only.
    """
    first = output[0] if isinstance(output, tuple | list) else output
    if reshape_transform is None:
        return first
    if first is output:
        return reshape_transform(output)
    try:
        return reshape_transform(output)
    except (AttributeError, TypeError):  # a transform written for tensors
        return reshape_transform(first)
