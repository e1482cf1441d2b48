"""XGrad-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import ROUNDING, spatial_dims


class XGradCAM(BaseCAM):
    """Weight channels by their activation-weighted mean gradient: w_c = sum(G * A_c) / sum(A_c) over the positions.

    A channel whose activations sum to zero, up to rounding, has weight 0.

    Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020
    (arXiv:2008.02312), equation 8.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import XGradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> XGradCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        activations = run.activations
        space = spatial_dims(activations)
        total = activations.sum(dim=space)
        counts = total.abs() > ROUNDING * activations.abs().sum(dim=space)
        weighted = (run.gradients * activations).sum(dim=space)
        return torch.where(counts, weighted / torch.where(counts, total, 1.0), 0.0)
