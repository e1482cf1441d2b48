"""Grad-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import spatial_dims


class GradCAM(BaseCAM):
    """Weight channels by their mean gradient: w_c = mean over positions of dY/dA_c.

    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
    ICCV 2017 (arXiv:1610.02391), equations 1 and 2.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> cam = GradCAM(model, [model[1]])  # the layer, or its name: ["1"]
        >>> images = torch.rand(2, 3, 16, 16)
        >>> heatmaps = cam(images, targets=[0, 1])  # numpy, in [0, 1]; targets=None explains the predicted classes
        >>> heatmaps.shape
        (2, 16, 16)
        >>> signed = cam.maps(images, [0, 1], normalize=False, relu=False)  # tensor; evidence against is negative
    """

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        return run.gradients.mean(dim=spatial_dims(run.gradients))
