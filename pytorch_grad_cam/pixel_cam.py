"""What methods that ask the pixels, and not a layer, have in common with class activation maps: the call."""

from collections.abc import Sequence
from typing import Any

import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, finite
from pytorch_grad_cam.batches import (
    Batch,
    Targets,
    call,
    each_tensor,
    one_of,
    pictures_of,
    resolve_targets,
    target_scores,
    with_pictures,
)
from pytorch_grad_cam.utils.model_targets import Target
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class PixelCAM(BaseCAM):
    """A method with one function, ``pixel_map``, that needs no target layer.

    Args:
        target_layers, reshape_transform: ignored.

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
        """The signed map of one picture.

        Args:
            inputs: a batch of one.

        Returns:
            (C, *spatial) float32; channels are summed, or projected where ``eigen_smooth`` asks for it.
        """
        raise NotImplementedError

    def _layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        pictures = pictures_of(inputs)
        with torch.no_grad():
            self.outputs = each_tensor(torch.Tensor.detach, call(self.activations_and_grads.model, inputs))
            resolved = resolve_targets(targets, self.outputs, len(pictures))
            finite(target_scores(resolved, self.outputs))
            channels = torch.stack(
                [self.pixel_map(one_of(inputs, i, len(pictures)), target) for i, target in enumerate(resolved)]
            )
        return [principal_map(channels) if eigen_smooth else channels.sum(dim=1)]

    def scores(self, inputs: Batch, target: Target, pictures: torch.Tensor) -> torch.Tensor:
        """The target's score of variants (M, C, *spatial) of the picture: (M,) float32, ``batch_size`` at a time."""
        batches = pictures.split(self.batch_size)
        return torch.cat([self._score(with_pictures(inputs, some), [target] * len(some)) for some in batches])

    def pixel_gradients(self, inputs: Batch, target: Target, pictures: torch.Tensor) -> torch.Tensor:
        """dY/dx at variants (M, C, *spatial) of the picture, float32, ``batch_size`` at a time."""
        model = self.activations_and_grads.model
        gradients = []
        with torch.enable_grad():
            for some in pictures.split(self.batch_size):
                leaf = some.detach().clone().requires_grad_()
                outputs = call(model, with_pictures(inputs, leaf))
                (gradient,) = torch.autograd.grad(target_scores([target] * len(leaf), outputs).sum(), leaf)
                gradients.append(gradient.float())
        return torch.cat(gradients)
