"""Eigen-Grad-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class EigenGradCAM(BaseCAM):
    """First principal component of gradients times activations: Eigen-CAM that tells classes apart.

    Introduced by the package grad-cam; there is no paper. The component's sign is turned towards the sum of
    the channels, that is towards what speaks for the class.
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return principal_map(run.gradients * run.activations)
