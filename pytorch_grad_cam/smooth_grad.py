"""SmoothGrad."""

from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, images_in
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.smooth_grad_cam_plusplus import noisy_copies
from pytorch_grad_cam.utils.model_targets import Target


class SmoothGrad(PixelCAM):
    """Magnitude of the gradient with respect to the pixels, averaged over noisy copies of the image.

    Smilkov et al., SmoothGrad: removing noise by adding noise, 2017 (arXiv:1706.03825).

    Args:
        samples: number of noisy copies, each a forward and a backward pass.
        noise: standard deviation of the noise, as a fraction of the image's range of values.
        seed: seed of the noise.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import SmoothGrad
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> SmoothGrad(model, samples=4)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    uses_gradients = True

    def __init__(self, *arguments: Any, samples: int = 25, noise: float = 0.15, seed: int = 0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.samples, self.noise, self.seed = samples, noise, seed

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        copies = torch.cat(noisy_copies(self, images_in(inputs)))
        return self.pixel_gradients(inputs, target, copies).mean(dim=0).abs()
