"""HiResCAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, summed


class HiResCAM(BaseCAM):
    """Gradients times activations, summed over the channels.

    Where the layers above are linear, the map says what each place adds to the score. Grad-CAM averages the gradient
    over the places first and may show places that the network did not use.

    Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks,
    2020 (arXiv:2011.08891). The signed map (``maps(..., relu=False, normalize=False)``) is the one that adds up.
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return summed(run.gradients * run.activations, eigen_smooth)
