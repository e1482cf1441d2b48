"""XGrad-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import ROUNDING, spatial_dims


class XGradCAM(BaseCAM):
    """Gradients averaged with the activations as weights: w_c = sum(G * A_c) / sum(A_c) over the places.

    A channel whose activations sum to nothing beside their own size carries no weight.

    Fu et al., Axiom-based Grad-CAM, BMVC 2020 (arXiv:2008.02312), equation 8.
    """

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        activations = run.activations
        places = spatial_dims(activations)
        total = activations.sum(dim=places)
        counts = total.abs() > ROUNDING * activations.abs().sum(dim=places)
        weighted = (run.gradients * activations).sum(dim=places)
        return torch.where(counts, weighted / torch.where(counts, total, 1.0), 0.0)
