"""Guided backpropagation: the gradient of a class with respect to the pixels, positive paths only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform, device_of, explained, plain
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import (
    Batch,
    Targets,
    call,
    each_tensor,
    pictures_of,
    resolve_targets,
    target_scores,
    with_pictures,
)
from pytorch_grad_cam.grad_cam import GradCAM
from pytorch_grad_cam.legacy import move_as_use_cuda_says


class GuidedBackpropReLU(torch.autograd.Function):
    """A ReLU that lets a gradient back only where it is positive and the input was."""

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
    """While active, every ReLU of this thread is a guided one: as a module, a function or in place."""

    RELUS = frozenset({torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_,
                       torch.nn.functional.relu, torch.nn.functional.relu_})  # fmt: skip

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function not in self.RELUS:
            return function(*args, **kwargs)
        activations = args[0] if args else kwargs["input"]
        if function.__name__.endswith("_") or kwargs.get("inplace") or True in args[1:]:
            return activations.copy_(GuidedBackpropReLU.apply(activations.clone()))
        return GuidedBackpropReLU.apply(activations)


class GuidedBackpropReLUModel:
    """Guided backpropagation through a model, which stays as it is: no module is replaced.

    Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR Workshop 2015 (arXiv:1412.6806).

    Args:
        model: maps (N, C, H, W) to (N, K) scores.
        device: where to run; None: where the model is.
        use_cuda: outdated.
    """

    def __init__(
        self, model: Module, device: torch.device | str | None = None, *, use_cuda: bool | None = None
    ) -> None:
        model = move_as_use_cuda_says(model, use_cuda)
        self.model = model if device is None else model.to(device)

    def __call__(self, input_img: torch.Tensor, target_category: int | list[int] | None = None) -> np.ndarray:
        """Gradients with respect to the pixels.

        Args:
            input_img: (N, C, H, W) batch.
            target_category: class index, or one for each picture; None: the predicted class of each.

        Returns:
            float32 (H, W, C) for one picture, (N, H, W, C) for several.
        """
        targets = (
            [target_category] * len(pictures_of(input_img)) if isinstance(target_category, int) else target_category
        )
        pictures = self.gradients(input_img, targets).movedim(1, -1).cpu().numpy()
        return pictures[0] if len(pictures) == 1 else pictures

    forward = __call__

    def gradients(self, inputs: Batch, targets: Targets = None) -> torch.Tensor:
        """The same as a tensor on the model's device, for any targets: (N, C, *spatial) float32."""
        model = plain(self.model)
        with explained(model), torch.enable_grad():
            inputs = each_tensor(lambda t: t.to(device_of(model)), inputs)
            pictures = pictures_of(inputs)
            leaf = pictures.detach().clone().requires_grad_()
            with _GuidedReLUs():
                outputs = call(model, with_pictures(inputs, leaf))
            resolved = resolve_targets(targets, outputs, len(pictures))
            (gradient,) = torch.autograd.grad(target_scores(resolved, outputs).sum(), leaf)
        return gradient.float()


class GuidedGradCAM:
    """Guided backpropagation, dimmed where Grad-CAM is cold: fine detail of one class.

    Selvaraju et al., Grad-CAM, ICCV 2017 (arXiv:1610.02391), section 3.2.

    Args:
        model: maps (N, C, H, W) to (N, K) scores.
        target_layers, reshape_transform: of the map, see :class:`~pytorch_grad_cam.BaseCAM`.
        base_method: class of the map's method; None: Grad-CAM.
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
        """Signed pictures: (N, H, W, C) float32; ``utils.image.deprocess_image`` makes each one visible.

        The arguments are those of :meth:`BaseCAM.__call__`.
        """
        return self.gradients(input_tensor, targets).movedim(1, -1).cpu().numpy()

    def gradients(self, inputs: Batch, targets: Targets = None) -> torch.Tensor:
        """The same as a tensor on the model's device: (N, C, *spatial) float32."""
        return self.base_cam.maps(inputs, targets)[:, None] * self.guided.gradients(inputs, targets)
