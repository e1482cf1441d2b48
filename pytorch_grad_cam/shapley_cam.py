"""ShapleyCAM."""

import torch

from pytorch_grad_cam.activations_and_gradients import reshaped, tensor_below
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import map_tensors, tensors
from pytorch_grad_cam.utils.maps import spatial_dims


class ShapleyCAM(BaseCAM):
    """Weight channels by an estimate of their Shapley values: w_c = mean over positions of G - H A / 2.

    G is dY/dA, and H A the product of the Hessian with the activations. Where the layers above are piecewise linear and
    the target is a logit, H A is 0 and the map equals Grad-CAM's; the paper's target is ``ClassifierOutputReST``.

    Cai, CAMs as Shapley Value-based Explainers, The Visual Computer 2025 (arXiv:2501.06261), equation 14.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import ShapleyCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST
        >>> targets = [ClassifierOutputReST(0), ClassifierOutputReST(1)]
        >>> ShapleyCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets).shape
        (2, 16, 16)
    """

    detach = False

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        shaped, transform = self.activations_and_grads.shaped, self.reshape_transform
        shown = tensor_below(run.activations, reshaped(map_tensors(torch.Tensor.detach, run.activations), transform))
        outputs = list(tensors(run.activations))
        position = next((i for i, tensor in enumerate(outputs) if tensor is shown), 0)
        activations, gradients = outputs[position], list(tensors(run.gradients))[position]
        weights = shaped(run.gradients)
        if gradients.requires_grad:
            (product,) = torch.autograd.grad(
                gradients, activations, activations.detach(), retain_graph=True, allow_unused=True
            )
            if product is not None:
                products = map_tensors(lambda t: product if t is gradients else t, run.gradients)
                weights = weights - shaped(products) / 2
        return weights.mean(dim=spatial_dims(weights))
