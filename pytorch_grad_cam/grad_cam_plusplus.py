"""Grad-CAM++."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import spatial_dims


class GradCAMPlusPlus(BaseCAM):
    """Positive gradients G = dY/dA, weighted place by place: w_c = sum over places of alpha * relu(G).

    alpha = G^2 / (2 G^2 + G^3 S) with S the sum of A over the channel's places, which is 1 / (2 + S G) wherever
    G counts (G > 0). So written it holds at every scale of the gradients, and no epsilon is needed. alpha is
    a weight: where activations are signed and the denominator is not positive, it is 0.

    Chattopadhay et al., Grad-CAM++, WACV 2018 (arXiv:1710.11063), equations 7 and 19.
    """

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        activations, gradients = run.activations, run.gradients
        places = spatial_dims(activations)
        denominator = 2 + activations.sum(dim=places, keepdim=True) * gradients
        counts = (gradients > 0) & (denominator > 0)
        return torch.where(counts, gradients / denominator, 0.0).sum(dim=places)
