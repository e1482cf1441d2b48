"""Integrated Gradients."""

from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, pictures_of
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.utils.model_targets import Target


class IntegratedGradients(PixelCAM):
    """Gradients along the straight way from a baseline to the picture, times the difference of the two.

    The signed map sums to the difference of the two scores, up to the error of the integral (midpoint rule).

    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365), equation 3.

    Args:
        steps: points on the way, each a forward and a backward pass.
        baseline: value of every input number at the start; 0 is the mean picture of a normalised input.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.
    """

    uses_gradients = True

    def __init__(self, *arguments: Any, steps: int = 32, baseline: float = 0.0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.steps, self.baseline = steps, baseline

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        picture = pictures_of(inputs)
        change = picture - self.baseline
        shares = (torch.arange(self.steps, device=picture.device) + 0.5) / self.steps
        way = self.baseline + shares.to(picture.dtype).reshape(-1, *[1] * (picture.ndim - 1)) * change
        return self.pixel_gradients(inputs, target, way).mean(dim=0) * change[0].float()
