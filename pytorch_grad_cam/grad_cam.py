"""Grad-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import spatial_dims


class GradCAM(BaseCAM):
    """Channels weighted by their mean gradient: w_c = mean over places of dY/dA_c.

    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
    ICCV 2017 (arXiv:1610.02391), equations 1 and 2.
    """

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        return run.gradients.mean(dim=spatial_dims(run.gradients))
