"""Seg-Eigen-CAM."""

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class SegEigenCAM(BaseCAM):
    """First principal component of |gradients| times activations, turned so that its largest value is positive.

    Made for segmentation networks, whose gradients say where the class is rather than which channels speak for it.

    Chung and Ying, Seg-Eigen-CAM: Eigen-Value-Based Visual Explanations for Semantic Segmentation Models, Applied
    Sciences 15(13), 2025, equations 10 and 13.
    """

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        component = principal_map(run.gradients.abs() * run.activations)
        flat = component.flatten(1)
        wrong_way = flat.amin(1).abs() > flat.amax(1).abs()
        return torch.where(wrong_way[:, None], -flat, flat).reshape(component.shape)
