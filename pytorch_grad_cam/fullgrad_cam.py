"""FullGrad."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform, forward_hooks
from pytorch_grad_cam.base_cam import BaseCAM, finite
from pytorch_grad_cam.batches import (
    Batch,
    Targets,
    call,
    each_tensor,
    pictures_of,
    resolve_targets,
    target_scores,
    with_pictures,
)
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class FullGrad(BaseCAM):
    """Input times gradient, plus the gradient of every bias: for piecewise linear networks they sum to the score.

    map = psi(x * dY/dx) + sum over layers of psi(b * dY/dz), summed over channels, where z is what a convolution or
    batch norm with bias b puts out (for batch norm, b includes the shift by the running mean). psi is the absolute
    value, stretched to [0, 1] over all channels of a picture together, enlarged to the picture.

    Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019
    (arXiv:1905.00780), equation 6, with psi as in the authors' code. Resizing is linear, so channels are summed
    before it; and each layer's gradient is reduced as soon as the backward pass reaches it.

    Args:
        target_layers: ignored; all convolutions and batch norms with a bias take part.

    The other arguments are those of :class:`BaseCAM`. The map is not changed by ``normalize=False`` but for the last
    stretch: psi is part of the method.
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str] = (),
        reshape_transform: ReshapeTransform | None = None,
        **others: Any,
    ) -> None:
        super().__init__(model, (), reshape_transform, **others)

    def _layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        model, pictures = self.activations_and_grads.model, pictures_of(inputs)
        size = tuple(pictures.shape[2:])
        found = [(module, implicit_bias(module)) for module in model.modules()]
        layers = [module for module, bias in found if bias is not None]
        biases = [bias for _, bias in found if bias is not None]
        reduced: list[torch.Tensor] = []

        def watch(index: int, output: torch.Tensor) -> None:
            bias = biases[index]
            # The gradient hook sees the output as the layer made it, whatever works in place on it afterwards.
            output.register_hook(
                lambda gradient: reduced.append(psi(gradient.float() * map_utils.over_space(bias[None], gradient)))
            )

        with torch.enable_grad():
            leaf = pictures.detach().clone().requires_grad_()
            with forward_hooks(layers, watch):
                outputs = call(model, with_pictures(inputs, leaf))
            self.outputs = each_tensor(torch.Tensor.detach, outputs)
            resolved = resolve_targets(targets, self.outputs, len(pictures))
            scores = finite(target_scores(resolved, outputs))
            (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        reduced.append(psi(gradient.float() * pictures))
        enlarged = [map_utils.resize(layer, size) for layer in reduced]
        return [principal_map(torch.stack(enlarged, dim=1)) if eigen_smooth else torch.stack(enlarged).sum(dim=0)]


def implicit_bias(module: Module) -> torch.Tensor | None:
    """What a layer adds to its input's linear image: (channels,), or None where it has no such bias."""
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
    """Absolute value, stretched to [0, 1] over each picture's channels together, summed over them: (N, *spatial).

    The sum comes first, since the stretch is linear: large tensors are read three times rather than eight.
    """
    strength = product.abs()
    others = tuple(range(1, strength.ndim))
    low, high = strength.amin(dim=others), strength.amax(dim=others)
    varies = high - low > map_utils.ROUNDING * high
    offset, extent = strength.shape[1] * low, torch.where(varies, high - low, 1.0)
    total = strength.sum(dim=1)
    per_picture = (-1, *[1] * (total.ndim - 1))
    stretched = (total - offset.reshape(per_picture)).clamp(min=0) / extent.reshape(per_picture)
    return torch.where(varies.reshape(per_picture), stretched, 0.0)
