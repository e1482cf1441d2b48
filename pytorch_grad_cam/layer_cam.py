"""LayerCAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, Run
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class LayerCAM(BaseCAM):
    """Each place of each channel has its own weight: sum over channels of relu(dY/dA) * A.

    Useful in earlier, finer layers, where one weight a channel is too coarse.

    Jiang et al., LayerCAM, IEEE Transactions on Image Processing 2021, equations 5 and 6.
    """

    def layer_map(
        self, run: Run, activations: torch.Tensor, gradients: torch.Tensor, eigen_smooth: bool
    ) -> torch.Tensor:
        weighted = gradients.relu() * activations
        return principal_map(weighted) if eigen_smooth else weighted.sum(dim=1)
