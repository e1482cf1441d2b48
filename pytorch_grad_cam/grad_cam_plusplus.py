"""Grad-CAM++."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import spatial_dims


class GradCAMPlusPlus(BaseCAM):
    """Weight channels by their positive gradients G = dY/dA: w_c = sum over positions of alpha * relu(G).

    alpha = G^2 / (2 G^2 + G^3 S) with S the sum of A over the channel's positions. Where G > 0, this is
    1 / (2 + S G), which holds at every scale of the gradients and needs no epsilon. alpha is a weight: where
    activations are signed and the denominator is not positive, it is 0.

    Chattopadhay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV 2018
    (arXiv:1710.11063), equations 7 and 19.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAMPlusPlus
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> GradCAMPlusPlus(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        activations, gradients = run.activations, run.gradients
        space = spatial_dims(activations)
        denominator = 2 + activations.sum(dim=space, keepdim=True) * gradients
        counts = (gradients > 0) & (denominator > 0)
        return torch.where(counts, gradients / denominator, 0.0).sum(dim=space)
