"""FullGrad."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.func import functional_call

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, require_finite
from pytorch_grad_cam.batches import Batch, call_model, images_in, map_tensors, with_images
from pytorch_grad_cam.implicit_biases import ImplicitBiases
from pytorch_grad_cam.outputs import Targets, resolve_targets, target_scores
from pytorch_grad_cam.pixel_cam import pixel_gradient
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.svd_on_activations import principal_map
from pytorch_grad_cam.visibility import require_python


class FullGrad(BaseCAM):
    """Input times gradient, plus the gradient of every bias: for piecewise linear networks they sum to the score.

    map = psi(x * dY/dx) + sum over operations of psi(b * dY/dz), summed over channels, where z is the output of an
    operation with the implicit bias b (``pytorch_grad_cam.implicit_biases``; for batch norm, b includes the shift by
    the running mean). psi is the absolute value, min-max normalised to [0, 1] over all channels of an image together,
    and resized to the image. Biases without positions, such as those of a linear classifier, have no place in the map.

    Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019
    (arXiv:1905.00780), equation 6, with psi as in the authors' code. Resizing is linear, so channels are summed before
    it; and each layer's gradient is reduced as soon as the backward pass reaches it.

    Args:
        target_layers: ignored; all operations with a bias contribute.

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
        reduced: list[torch.Tensor] = []

        def take(product: torch.Tensor, channels_last: bool) -> None:
            if product.ndim == images.ndim and len(product) == len(images):
                reduced.append(psi(product.movedim(-1, 1) if channels_last else product))

        self.outputs = decompose(model, inputs, targets, take)
        resized = [map_utils.resize(layer, size) for layer in reduced]
        return [principal_map(torch.stack(resized, dim=1)) if eigen_smooth else torch.stack(resized).sum(dim=0)]


def decompose(model: Module, inputs: Batch, targets: Targets, take: Callable[[torch.Tensor, bool], None]) -> Batch:
    """Decompose the scores into a product for each bias, and for the images, which is the last.

    Args:
        model: the model.
        inputs: a batch.
        targets: as in a call of :class:`FullGrad`.
        take: called with each product of a bias and its gradient, in the shape of the operation's output, float32, and
            whether its channels are the last dimension. Gradients are freed as the backward pass proceeds.

    Returns:
        The model's output, detached.

    Raises:
        ValueError: the model contains scripted or traced code, or the scores have no gradient.
    """
    require_python(model, "FullGrad")
    images = images_in(inputs)
    # Nothing but the images requires a gradient: what does not, is a constant.
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def watch(output: torch.Tensor, bias: torch.Tensor, channels_last: bool) -> None:
        def multiply(gradient: torch.Tensor | None) -> None:
            if gradient is not None:  # otherwise an operation above has none, and the images have none either
                take(gradient.float() * bias, channels_last)

        # The gradient belongs to the output as the operation returned it, even if it is modified in place later.
        output.register_hook(multiply)

    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        with ImplicitBiases(watch):
            outputs = call_model(lambda *a, **k: functional_call(model, weights, a, k), with_images(inputs, leaf))
        resolved = resolve_targets(targets, map_tensors(torch.Tensor.detach, outputs), len(images))
        scores = require_finite(target_scores(resolved, outputs))
        gradient = pixel_gradient(model, scores.sum(), leaf)
    take(gradient.float() * images, False)
    return map_tensors(torch.Tensor.detach, outputs)


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
