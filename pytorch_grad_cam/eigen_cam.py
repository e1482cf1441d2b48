"""Eigen-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class EigenCAM(BaseCAM):
    """First principal component of the activations. Independent of the class; needs no gradient.

    Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020 (arXiv:2008.00299).
    Activations are centred first, and the sign of the component, which the paper leaves open, is chosen such that it
    correlates with the sum of the channels, each weighted by its root mean square.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import EigenCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> EigenCAM(model, ["1"])(torch.rand(2, 3, 16, 16)).shape
        (2, 16, 16)
    """

    uses_gradients = False
    explains_target = False

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return principal_map(run.activations, by_strength=True)
