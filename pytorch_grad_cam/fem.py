"""FEM, the Feature Explanation Method."""

from collections.abc import Sequence
from typing import Any

import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, reduce_channels
from pytorch_grad_cam.utils.maps import broadcast_over_space, spatial_dims


class FEM(BaseCAM):
    """Positions where channels are unusually active: sum over channels of mean(A) * [A > mean(A) + k * std(A)].

    Independent of the class; needs no gradient. Mean and standard deviation are taken over the spatial positions of a
    channel.

    Fuad et al., Features Understanding in 3D CNNs for Actions Recognition in Video, IPTA 2020.

    Args:
        k: number of standard deviations above the mean from which an activation counts as unusual.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import FEM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> FEM(model, ["1"], k=1)(torch.rand(2, 3, 16, 16)).shape
        (2, 16, 16)
    """

    uses_gradients = False
    explains_target = False

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        k: float = 2,
        **others: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **others)
        self.k = k

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        space = spatial_dims(run.activations)
        deviations, means = torch.std_mean(run.activations, dim=space, correction=0)
        unusual = run.activations > broadcast_over_space(means + self.k * deviations, run.activations)
        return reduce_channels(broadcast_over_space(means, run.activations) * unusual, eigen_smooth)
