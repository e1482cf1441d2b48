"""RandomCAM, a baseline without any information."""

from typing import Any

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun


class RandomCAM(BaseCAM):
    """Weight channels at random, uniformly in [-1, 1]: a baseline that every method must beat. There is no paper.

    Weights are drawn anew in every call, from a generator that belongs to the object; the same seed gives the same
    sequence of maps.

    Args:
        seed: seed of the generator.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import RandomCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> RandomCAM(model, ["1"], seed=0)(torch.rand(2, 3, 16, 16)).shape
        (2, 16, 16)
    """

    uses_gradients = False
    explains_target = False

    def __init__(self, *arguments: Any, seed: int = 0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.generator = torch.Generator().manual_seed(seed)

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        weights = torch.rand(run.activations.shape[:2], generator=self.generator)
        return (2 * weights - 1).to(run.activations.device)
