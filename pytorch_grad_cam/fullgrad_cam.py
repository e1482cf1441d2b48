"""FullGrad."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform, forward_hooks
from pytorch_grad_cam.base_cam import BaseCAM, require_finite
from pytorch_grad_cam.batches import (
    Batch,
    Targets,
    call_model,
    images_in,
    map_tensors,
    resolve_targets,
    target_scores,
    with_images,
)
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class FullGrad(BaseCAM):
    """Input times gradient, plus the gradient of every bias: for piecewise linear networks they sum to the score.

    map = psi(x * dY/dx) + sum over layers of psi(b * dY/dz), summed over channels, where z is the output of a
    convolution or batch norm with bias b (for batch norm, b includes the shift by the running mean). psi is the
    absolute value, min-max normalised to [0, 1] over all channels of an image together, and resized to the image.

    Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019
    (arXiv:1905.00780), equation 6, with psi as in the authors' code. Resizing is linear, so channels are summed before
    it; and each layer's gradient is reduced as soon as the backward pass reaches it.

    Args:
        target_layers: ignored; all convolutions and batch norms with a bias contribute.

    The other arguments are those of :class:`BaseCAM`. ``normalize=False`` skips only the final normalisation: psi is
    part of the method.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import FullGrad
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> FullGrad(model)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str] = (),
        reshape_transform: ReshapeTransform | None = None,
        **others: Any,
    ) -> None:
        super().__init__(model, (), reshape_transform, **others)

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        model, images = self.activations_and_grads.model, images_in(inputs)
        size = tuple(images.shape[2:])
        candidates = [(module, implicit_bias(module)) for module in model.modules()]
        layers = [module for module, bias in candidates if bias is not None]
        biases = [bias for _, bias in candidates if bias is not None]
        reduced: list[torch.Tensor] = []

        def watch(index: int, output: torch.Tensor) -> None:
            bias = biases[index]
            # The gradient belongs to the output as the layer returned it, even if it is modified in place later.
            output.register_hook(
                lambda gradient: reduced.append(
                    psi(gradient.float() * map_utils.broadcast_over_space(bias[None], gradient))
                )
            )

        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            with forward_hooks(layers, watch):
                outputs = call_model(model, with_images(inputs, leaf))
            self.outputs = map_tensors(torch.Tensor.detach, outputs)
            resolved = resolve_targets(targets, self.outputs, len(images))
            scores = require_finite(target_scores(resolved, outputs))
            (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        reduced.append(psi(gradient.float() * images))
        resized = [map_utils.resize(layer, size) for layer in reduced]
        return [principal_map(torch.stack(resized, dim=1)) if eigen_smooth else torch.stack(resized).sum(dim=0)]


def implicit_bias(module: Module) -> torch.Tensor | None:
    """Constant that a layer adds to a linear function of its input: (channels,), or None where there is none."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if module.running_mean is None or module.running_var is None:
            return None
        slope = (module.running_var + module.eps).rsqrt()
        if module.affine:
            slope = slope * module.weight
        shift = -module.running_mean * slope
        return (shift + module.bias if module.affine else shift).detach().float()
    if isinstance(module, nn.modules.conv._ConvNd) and module.bias is not None:
        return module.bias.detach().float()
    return None


def psi(product: torch.Tensor) -> torch.Tensor:
    """Absolute value, min-max normalised over all channels of an image together, then summed: (N, *spatial).

    The sum is computed first, since the normalisation is linear: large tensors are read three times rather than eight.
    """
    strength = product.abs()
    others = tuple(range(1, strength.ndim))
    low, high = strength.amin(dim=others), strength.amax(dim=others)
    varies = high - low > map_utils.ROUNDING * high
    offset, extent = strength.shape[1] * low, torch.where(varies, high - low, 1.0)
    total = strength.sum(dim=1)
    per_image = (-1, *[1] * (total.ndim - 1))
    normalized = (total - offset.reshape(per_image)).clamp(min=0) / extent.reshape(per_image)
    return torch.where(varies.reshape(per_image), normalized, 0.0)
