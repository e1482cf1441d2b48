"""Grad-CAM, element by element."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, summed


class GradCAMElementWise(BaseCAM):
    """Gradients times activations, negative products dropped before the channels are summed: sum of relu(dY/dA * A).

    From Pillai and Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021, as the package grad-cam
    has it. Without the ReLU it is HiResCAM; with the ReLU on the gradient alone it is LayerCAM, which it equals
    wherever activations are not negative.
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return summed((run.gradients * run.activations).relu(), eigen_smooth)
