"""HiResCAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, reduce_channels


class HiResCAM(BaseCAM):
    """Gradients times activations, summed over the channels.

    Where the layers above are linear, the map is the contribution of each position to the score. Grad-CAM averages the
    gradient over the positions first, and may highlight positions that the network did not use.

    Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks,
    2020 (arXiv:2011.08891). Contributions have a sign: ``maps(..., relu=False, normalize=False)`` keeps it.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import HiResCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> HiResCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return reduce_channels(run.gradients * run.activations, eigen_smooth)
