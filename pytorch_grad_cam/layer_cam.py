"""LayerCAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, summed


class LayerCAM(BaseCAM):
    """Each place of each channel has its own weight: sum over channels of relu(dY/dA) * A.

    Useful in earlier, finer layers, where one weight a channel is too coarse.

    Jiang et al., LayerCAM, IEEE Transactions on Image Processing 2021, equations 5 and 6.
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        return summed(run.gradients.relu() * run.activations, eigen_smooth)
