"""Refine-CAM."""

from collections.abc import Sequence
from typing import Any

import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import Batch
from pytorch_grad_cam.grad_cam_plusplus import GradCAMPlusPlus
from pytorch_grad_cam.outputs import Targets
from pytorch_grad_cam.utils import maps as map_utils


class RefineCAM(BaseCAM):
    """Product of another method's maps at several layers: late layers locate the class, early ones add resolution.

    All layers are recorded in one run of the model.

    Domeniconi et al., How to Evaluate and Refine your CAM, 2026 (arXiv:2605.14641).

    Args:
        base_method: class of the method whose maps are multiplied.
        others: further arguments of ``base_method``.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import RefineCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> RefineCAM(model, ["0", "1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        **others: Any,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform, **others)
        super().__init__(
            model,
            target_layers,
            reshape_transform,
            uses_gradients=self.base_cam.uses_gradients,
            detach=self.base_cam.detach,
        )
        self.explains_target = self.base_cam.explains_target
        self.base_cam.activations_and_grads = self.activations_and_grads
        self.batch_size = self.base_cam.batch_size

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        self.base_cam.batch_size = self.batch_size
        layer_maps = self.base_cam._compute_layer_maps(inputs, targets, eigen_smooth)
        self.outputs = self.base_cam.outputs
        return layer_maps

    def _merge_layers(self, layer_maps: list[torch.Tensor], size: tuple[int, ...], normalize: bool) -> torch.Tensor:
        normalized = [map_utils.normalize(map_utils.resize(map_utils.normalize(m), size)) for m in layer_maps]
        product = torch.stack(normalized).prod(dim=0)
        return map_utils.normalize(product) if normalize else product

    def _merge_signed(self, layer_maps: list[torch.Tensor], size: tuple[int, ...]) -> torch.Tensor:
        raise ValueError(
            "RefineCAM multiplies maps, and a product of signed maps is not signed evidence: use relu=True"
        )
