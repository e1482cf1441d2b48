"""A map that knows nothing, to compare others with."""

from typing import Any

import torch

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun


class RandomCAM(BaseCAM):
    """Channels weighted at random, uniformly in [-1, 1]: what a method must beat. There is no paper.

    Weights are drawn anew in every call, from a generator that belongs to the object; the same seed gives the same
    sequence of maps.

    Args:
        seed: of the generator.

    The other arguments are those of :class:`BaseCAM`.
    """

    uses_gradients = False
    explains_target = False

    def __init__(self, *arguments: Any, seed: int = 0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.generator = torch.Generator().manual_seed(seed)

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        weights = torch.rand(run.activations.shape[:2], generator=self.generator)
        return (2 * weights - 1).to(run.activations.device)
