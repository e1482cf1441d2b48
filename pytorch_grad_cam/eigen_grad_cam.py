"""Eigen-Grad-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class EigenGradCAM(BaseCAM):
    """First principal component of gradients times activations: a class-specific Eigen-CAM.

    Introduced by the package grad-cam; there is no paper. The sign of the component is chosen such that it correlates
    with the sum of the channels, which is the evidence for the class.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import EigenGradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> EigenGradCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return principal_map(run.gradients * run.activations)
