"""Integrated Gradients."""

from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, images_in
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.utils.model_targets import Target


class IntegratedGradients(PixelCAM):
    """Mean gradient along the straight line from a baseline to the image, times the difference of the two.

    The signed map sums to the difference of the two scores, up to the error of the integral (midpoint rule).

    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365), equation 3.

    Args:
        steps: points on the line, each a forward and a backward pass.
        baseline: value of all inputs at the start; 0 is the mean image of a normalised input.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import IntegratedGradients
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> IntegratedGradients(model, steps=8)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    uses_gradients = True

    def __init__(self, *arguments: Any, steps: int = 32, baseline: float = 0.0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.steps, self.baseline = steps, baseline

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        image = images_in(inputs)
        change = image - self.baseline
        fractions = (torch.arange(self.steps, device=image.device) + 0.5) / self.steps
        path = self.baseline + fractions.to(image.dtype).reshape(-1, *[1] * (image.ndim - 1)) * change
        return self.pixel_gradients(inputs, target, path).mean(dim=0) * change[0].float()
