"""One run of a model, with what its target layers put out and the gradients that reach them.

Only what lies between the target layers and the output is needed for those gradients. So the run starts
without autograd; the first target layer that it meets becomes a leaf, and autograd is switched on from there.
Parameters and the layers below cost no memory and no backward pass, and the gradient is the same bit for bit.

Hooks exist during a run only, and ``.grad`` of nothing is ever written.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Module = torch.nn.Module
ReshapeTransform = Callable[[torch.Tensor], torch.Tensor]


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
def forward_hooks(layers: Sequence[Module], hook: Callable[[int, torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Calls ``hook(index of the layer, its output)`` during a while; what it returns replaces the output."""
    handles = []
    try:
        for index, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(lambda module, inputs, output, index=index: hook(index, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class ActivationsAndGradients:
    """Runs a model and records its target layers.

    Args:
        model: any module that maps a batch (N, ...) to outputs (N, ...).
        target_layers: modules of the model. One that runs several times is recorded at its last run.
        reshape_transform: applied to activations and gradients, for layers whose output is not
            (N, C, *spatial).

    Attributes:
        activations: one (N, C, *spatial) float32 tensor for each layer, after a run.
        gradients: the same of dY/dA, after :meth:`differentiate`.
    """

    def __init__(
        self, model: Module, target_layers: Sequence[Module], reshape_transform: ReshapeTransform | None = None
    ) -> None:
        self.model = model
        self.target_layers = list(target_layers)
        self.reshape_transform = reshape_transform
        self.clear()

    def clear(self) -> None:
        """Forget the last run."""
        self.activations: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self._outputs: dict[int, torch.Tensor] = {}

    release = clear

    def __call__(self, input_tensor: torch.Tensor, with_graph: bool = True) -> torch.Tensor:
        """Run the model in whatever mode it is.

        Args:
            input_tensor: (N, ...) batch.
            with_graph: keep the graph above the target layers, for :meth:`differentiate`.

        Returns:
            The model's output.

        Raises:
            ValueError: a target layer did not run.
        """
        self.clear()
        # Works inside a caller's inference_mode too: its tensors cannot be differentiated, their clones can.
        with torch.inference_mode(False), torch.no_grad():
            if input_tensor.is_inference():
                input_tensor = input_tensor.clone()

            def record(index: int, output: torch.Tensor) -> torch.Tensor | None:
                if not with_graph:
                    self._outputs[index] = output.clone()  # later modules may work in place
                    return None
                if not output.requires_grad:
                    output = output.detach().requires_grad_()
                    torch.set_grad_enabled(True)
                self._outputs[index] = output
                return output.clone()

            with forward_hooks(self.target_layers, record):
                result = self.model(input_tensor)
        for index, layer in enumerate(self.target_layers):
            if index not in self._outputs:
                raise ValueError(f"target layer {layer.__class__.__name__} did not run in the forward pass")
            self.activations.append(self._shaped(self._outputs[index]))
        return result

    def differentiate(self, score: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of a scalar made from the last run's output; the graph is freed.

        Returns:
            dY/dA for each target layer, (N, C, *spatial) float32.

        Raises:
            ValueError: the score does not depend on a target layer.
        """
        layers = [self._outputs[index] for index in range(len(self.target_layers))]
        if score.requires_grad:
            found: Sequence[torch.Tensor | None] = torch.autograd.grad(score, layers, allow_unused=True)
        else:
            found = [None] * len(layers)
        for layer, gradient in zip(self.target_layers, found, strict=True):
            if gradient is None:
                raise ValueError(f"the target does not depend on the target layer {layer.__class__.__name__}")
            self.gradients.append(self._shaped(gradient))
        self._outputs = {}
        return self.gradients

    def _shaped(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        if self.reshape_transform is not None:
            tensor = self.reshape_transform(tensor)
        return tensor.float()  # half precision is too coarse for sums over channels
