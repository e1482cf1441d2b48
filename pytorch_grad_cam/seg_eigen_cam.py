"""Seg-Eigen-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class SegEigenCAM(BaseCAM):
    """First principal component of |gradients| times activations, with the sign that makes its largest value positive.

    Made for segmentation networks, whose gradients indicate where the class is rather than which channels support it.

    Chung and Ying, Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation Models, Applied
    Sciences 15(13), 2025 (doi:10.3390/app15137562), equations 10 and 13.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import SegEigenCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> SegEigenCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        component = principal_map(run.gradients.abs() * run.activations)
        flat = component.flatten(1)
        negative = flat.amin(1).abs() > flat.amax(1).abs()
        return torch.where(negative[:, None], -flat, flat).reshape(component.shape)
