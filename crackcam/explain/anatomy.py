"""The steps of Grad-CAM on one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crackcam.models.loaded import LoadedModel
from crackcam.models.target_layers import TargetLayer
from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.utils.maps import resize


@dataclass(frozen=True)
class GradCAMSteps:
    """The steps of Grad-CAM on one image, at the layer's own resolution, on the CPU.

    Attributes:
        activations: (C, h, w) float32 output of the layer.
        gradients: (C, h, w) float32 of the explained logit with respect to them.
        weights: (C,) float32, mean gradient of each channel.
        signed: (h, w) float32, sum of the weighted channels, before the ReLU.
        heatmap: (size, size) float32, after ReLU and resizing to the network's input.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    weights: torch.Tensor
    signed: torch.Tensor
    heatmap: torch.Tensor


def gradcam_steps(network: LoadedModel, layer: TargetLayer, pixels: torch.Tensor, target: int) -> GradCAMSteps:
    """Grad-CAM step by step. Selvaraju et al., ICCV 2017 (arXiv:1610.02391).

    Args:
        layer: target layer.
        pixels: (1, 3, size, size) uint8.
        target: class index.
    """
    recorder = ActivationsAndGradients(network.model, [layer.module], layer.reshape)
    logits = recorder(network.to_inputs(pixels))
    (gradients,) = recorder.differentiate(logits[0, target].float())
    activations, gradients = recorder.activations[0][0].cpu(), gradients[0].cpu()
    weights = gradients.mean(dim=(1, 2))
    signed = torch.einsum("c,chw->hw", weights, activations)
    size = (pixels.shape[2], pixels.shape[3])
    return GradCAMSteps(activations, gradients, weights, signed, resize(signed.relu()[None], size)[0])
