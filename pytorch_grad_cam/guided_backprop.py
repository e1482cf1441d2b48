"""Guided backpropagation: the gradient of a class with respect to the pixels, positive paths only."""

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pytorch_grad_cam.activations_and_gradients import Module, evaluation_mode
from pytorch_grad_cam.legacy import move_as_use_cuda_says
from pytorch_grad_cam.utils.model_targets import resolve_targets, target_scores


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
        if function in self.RELUS:
            return GuidedBackpropReLU.apply(args[0] if args else kwargs["input"])
        return function(*args, **kwargs)


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
        with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(self.model):
            device = next(self.model.parameters()).device
            leaf = input_img.detach().clone().to(device).requires_grad_()
            with _GuidedReLUs():
                outputs = self.model(leaf)
            if isinstance(target_category, int):
                target_category = [target_category] * len(leaf)
            targets = resolve_targets(target_category, outputs)
            (gradient,) = torch.autograd.grad(target_scores(targets, outputs).sum(), leaf)
        pictures = gradient.float().permute(0, 2, 3, 1).cpu().numpy()
        return pictures[0] if len(pictures) == 1 else pictures
