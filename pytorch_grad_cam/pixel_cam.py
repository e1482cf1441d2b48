"""Base class of methods that explain the input pixels rather than a layer."""

from collections.abc import Sequence
from typing import Any

import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, require_finite
from pytorch_grad_cam.batches import (
    Batch,
    batch_item,
    call_model,
    images_in,
    map_tensors,
    with_images,
)
from pytorch_grad_cam.outputs import Targets, resolve_targets, target_scores
from pytorch_grad_cam.utils.model_targets import Target
from pytorch_grad_cam.utils.svd_on_activations import principal_map
from pytorch_grad_cam.visibility import why_no_gradient


class PixelCAM(BaseCAM):
    """A method that needs no target layer; a subclass defines ``pixel_map``.

    Args:
        target_layers: ignored.
        reshape_transform: ignored.

    The other arguments are those of :class:`BaseCAM`.
    """

    uses_gradients = False

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str] = (),
        reshape_transform: ReshapeTransform | None = None,
        **others: Any,
    ) -> None:
        super().__init__(model, (), reshape_transform, **others)

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        """Compute the signed map of one image.

        Args:
            inputs: a batch of one.
            target: the score to explain.

        Returns:
            (C, *spatial) float32; the channels are summed, or projected with ``eigen_smooth``.
        """
        raise NotImplementedError

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        images = images_in(inputs)
        with torch.no_grad():
            self.outputs = map_tensors(torch.Tensor.detach, call_model(self.activations_and_grads.model, inputs))
            resolved = resolve_targets(targets, self.outputs, len(images))
            require_finite(target_scores(resolved, self.outputs))
            inputs = self._inputs_of_single_images(inputs, self.outputs, resolved)
            channels = torch.stack(
                [self.pixel_map(batch_item(inputs, i, len(images)), target) for i, target in enumerate(resolved)]
            )
        return [principal_map(channels) if eigen_smooth else channels.sum(dim=1)]

    def scores(self, inputs: Batch, target: Target, images: torch.Tensor) -> torch.Tensor:
        """The target's score of each variant (M, C, *spatial) of the image, ``batch_size`` at a time: (M,) float32."""
        batches = images.split(self.batch_size)
        return torch.cat([self._score(with_images(inputs, batch), [target] * len(batch)) for batch in batches])

    def pixel_gradients(self, inputs: Batch, target: Target, images: torch.Tensor) -> torch.Tensor:
        """dY/dx of each variant (M, C, *spatial) of the image, ``batch_size`` at a time: same shape, float32."""
        model = self.activations_and_grads.model
        gradients = []
        with torch.enable_grad():
            for batch in images.split(self.batch_size):
                leaf = batch.detach().clone().requires_grad_()
                outputs = call_model(model, with_images(inputs, leaf))
                score = target_scores([target] * len(leaf), outputs).sum()
                gradients.append(pixel_gradient(model, score, leaf).float())
        return torch.cat(gradients)


def pixel_gradient(model: Module, score: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """Gradient of a score with respect to the images, in their shape.

    Raises:
        ValueError: there is none.
    """
    gradient = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        raise ValueError(f"the target does not depend on the images{why_no_gradient(model)}")
    return gradient
