"""Eigen-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class EigenCAM(BaseCAM):
    """First principal component of the activations. It asks for no class and needs no gradient.

    Muhammad and Yeasin, Eigen-CAM, IJCNN 2020 (arXiv:2008.00299). Activations are centred first and the
    component's sign is turned towards the sum of the channels, which the paper leaves open.
    """

    uses_gradients = False
    explains_target = False

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return principal_map(run.activations)
