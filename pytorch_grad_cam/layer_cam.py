"""LayerCAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, reduce_channels


class LayerCAM(BaseCAM):
    """Weight each position of each channel by its own positive gradient: sum over channels of relu(dY/dA) * A.

    Useful in earlier layers of higher resolution, where one weight per channel is too coarse.

    Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE Transactions on Image
    Processing 2021, equations 5 and 6.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import LayerCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> LayerCAM(model, ["0", "1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape  # the mean of two layers
        (2, 16, 16)
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return reduce_channels(run.gradients.relu() * run.activations, eigen_smooth)
