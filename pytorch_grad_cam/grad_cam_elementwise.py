"""Grad-CAM, element by element."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, reduce_channels


class GradCAMElementWise(BaseCAM):
    """Sum over channels of relu(dY/dA * A): negative products are removed before the channels are summed.

    Based on Pillai and Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021, as implemented by the
    package grad-cam. Without the ReLU it is HiResCAM; with the ReLU on the gradient alone it is LayerCAM, which it
    equals wherever activations are not negative.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAMElementWise
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> GradCAMElementWise(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return reduce_channels((run.gradients * run.activations).relu(), eigen_smooth)
