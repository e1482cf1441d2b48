"""Grad-CAM, element by element."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, reduce_channels


class GradCAMElementWise(BaseCAM):
    """Gradients times activations, with negative products removed before the channels are summed: sum of relu(dY/dA * A).

    Based on Pillai and Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021, as implemented by the
    package grad-cam. Without the ReLU it is HiResCAM; with the ReLU on the gradient alone it is LayerCAM, which it
    equals wherever activations are not negative.

    @EX GradCAMElementWise
        >>> GradCAMElementWise(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return reduce_channels((run.gradients * run.activations).relu(), eigen_smooth)
