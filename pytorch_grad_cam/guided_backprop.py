"""Guided backpropagation: gradient of a class with respect to the pixels, along positive paths only."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform, device_of, unwrap
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import Batch, call_model, images_in, prepare, tensors, with_images
from pytorch_grad_cam.context import explanation_context, with_usable_caches
from pytorch_grad_cam.grad_cam import GradCAM
from pytorch_grad_cam.graph import nodes_below
from pytorch_grad_cam.legacy import apply_use_cuda
from pytorch_grad_cam.outputs import Targets, resolve_targets, target_scores
from pytorch_grad_cam.pixel_cam import pixel_gradient
from pytorch_grad_cam.visibility import require_python

# Beginnings of the names of their nodes in the autograd graph
OTHER_ACTIVATIONS = {"Hardtanh", "Threshold", "LeakyRelu", "PreluKernel", "Elu", "Gelu", "Silu", "Hardswish", "Mish"}


class GuidedBackpropReLU(torch.autograd.Function):
    """ReLU whose backward pass keeps a gradient only where both it and the input are positive."""

    @staticmethod
    def forward(ctx: Any, activations: torch.Tensor) -> torch.Tensor:
        output = activations.clamp(min=0)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (output,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (output > 0)


class _GuidedReLUs(TorchFunctionMode):
    """While active, every ReLU of this thread is a guided one, whether a module, a function or in place."""

    RELUS = frozenset(
        {
            torch.relu,
            torch.relu_,
            torch.Tensor.relu,
            torch.Tensor.relu_,
            torch.nn.functional.relu,
            torch.nn.functional.relu_,
            torch.ops.aten.relu.default,
            torch.ops.aten.relu_.default,
        }
    )

    CLAMPS = frozenset(
        {torch.clamp, torch.clamp_min, torch.clip, torch.Tensor.clamp, torch.Tensor.clamp_min, torch.Tensor.clip}
    )

    def _clamps_at_zero(self, function: Any, args: tuple, kwargs: dict) -> bool:
        """Whether this is a ReLU by another name: clamp(min=0)."""
        limits = [limit for limit in (*args[1:], *kwargs.values()) if limit is not None]
        numbers = all(isinstance(limit, int | float) for limit in limits)
        return function in self.CLAMPS and numbers and limits == [0] and kwargs.get("max") is None

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function not in self.RELUS and not self._clamps_at_zero(function, args, kwargs):
            return function(*args, **kwargs)
        activations = args[0] if args else kwargs["input"]
        if "relu_" in function.__name__ or kwargs.get("inplace") or True in args[1:]:
            return activations.copy_(GuidedBackpropReLU.apply(activations.clone()))
        return GuidedBackpropReLU.apply(activations)


class GuidedBackpropReLUModel:
    """Guided backpropagation through a model, without replacing any of its modules.

    Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR Workshop 2015 (arXiv:1412.6806).

    Args:
        model: maps (N, C, H, W) to (N, K) scores.
        device: device to run on; None: the model's current device.
        use_cuda: deprecated.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GuidedBackpropReLUModel
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> GuidedBackpropReLUModel(model)(torch.rand(2, 3, 16, 16), target_category=[0, 1]).shape
        (2, 16, 16, 3)
    """

    def __init__(
        self, model: Module, device: torch.device | str | None = None, *, use_cuda: bool | None = None
    ) -> None:
        model = apply_use_cuda(model, use_cuda)
        self.model = model if device is None else model.to(device)

    def __call__(self, input_img: torch.Tensor, target_category: int | list[int] | None = None) -> np.ndarray:
        """Compute the guided gradients with respect to the pixels.

        Args:
            input_img: (N, C, H, W) batch.
            target_category: class index, or one per image; None: the predicted class of each.

        Returns:
            float32 (H, W, C) for one image, (N, H, W, C) for several.
        """
        gradients = self.gradients(input_img, target_category).movedim(1, -1).cpu().numpy()
        return gradients[0] if len(gradients) == 1 else gradients

    forward = __call__

    def gradients(self, inputs: Batch, targets: Targets = None) -> torch.Tensor:
        """The same as a tensor on the model's device, for any targets: (N, C, *spatial) float32.

        Raises:
            ValueError: the model has no ReLU, or one that is out of sight.
        """
        model = unwrap(self.model)
        require_python(model, "guided backpropagation")
        with explanation_context(model), torch.enable_grad():
            inputs = prepare(inputs, device_of(model))
            return with_usable_caches(lambda: _guided_gradients(model, inputs, targets))


def _guided_gradients(model: Module, inputs: Batch, targets: Targets) -> torch.Tensor:
    images = images_in(inputs)
    leaf = images.detach().clone().requires_grad_()
    with _GuidedReLUs():
        outputs = call_model(model, with_images(inputs, leaf))
    score = target_scores(resolve_targets(targets, outputs, len(images)), outputs).sum()
    gradient = pixel_gradient(model, score, leaf)
    names = {node.name() for node in nodes_below([tensor.grad_fn for tensor in tensors(outputs)])}
    if not any(GuidedBackpropReLU.__name__ in name for name in names):
        raise ValueError(
            "guided backpropagation changes the gradient of ReLUs, and none ran: in a network with other activations "
            "(GELU, SiLU) it is the plain gradient; use SmoothGrad or IntegratedGradients"
        )
    if others := sorted({name.partition("Backward")[0] for name in names} & OTHER_ACTIVATIONS):
        warnings.warn(
            f"guided backpropagation changes the gradient of ReLUs alone: that of other activations in this network "
            f"({', '.join(others)}) is the plain one",
            UserWarning,
            stacklevel=3,
        )
    if hidden := [name for name in names if name.startswith("ReluBackward") or "DifferentiableGraph" in name]:
        raise ValueError(
            f"guided backpropagation must see every ReLU, and code that is scripted or compiled ran one ({hidden[0]}): "
            "pass the Python model"
        )
    return gradient.float()


class GuidedGradCAM:
    """Guided backpropagation times Grad-CAM: high-resolution detail of one class.

    Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv:1610.02391), section 3.2.

    Args:
        model: maps (N, C, H, W) to (N, K) scores.
        target_layers: of the heatmap, see :class:`~pytorch_grad_cam.BaseCAM`.
        reshape_transform: of the heatmap, see :class:`~pytorch_grad_cam.BaseCAM`.
        base_method: class of the method that computes the heatmap.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GuidedGradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> GuidedGradCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16, 3)
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.guided = GuidedBackpropReLUModel(model)

    def __call__(self, input_tensor: Batch, targets: Targets = None) -> np.ndarray:
        """Compute signed gradients, masked by the heatmap: (N, H, W, C) float32.

        The arguments are those of :meth:`BaseCAM.__call__`; ``utils.image.deprocess_image`` converts a result to an
        image.
        """
        return self.gradients(input_tensor, targets).movedim(1, -1).cpu().numpy()

    def gradients(self, inputs: Batch, targets: Targets = None) -> torch.Tensor:
        """The same as a tensor on the model's device: (N, C, *spatial) float32."""
        return self.base_cam.maps(inputs, targets)[:, None] * self.guided.gradients(inputs, targets)
