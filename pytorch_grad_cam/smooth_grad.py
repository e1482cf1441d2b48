"""SmoothGrad."""

from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, pictures_of
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.smooth_grad_cam_plusplus import noisy_copies
from pytorch_grad_cam.utils.model_targets import Target


class SmoothGrad(PixelCAM):
    """Size of the gradient with respect to the pixels, averaged over noisy copies of the picture.

    Smilkov et al., SmoothGrad: removing noise by adding noise, 2017 (arXiv:1706.03825).

    Args:
        samples: noisy copies, each a forward and a backward pass.
        noise: standard deviation of the noise, as a share of the range of the picture's values.
        seed: of the noise.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.
    """

    uses_gradients = True

    def __init__(self, *arguments: Any, samples: int = 25, noise: float = 0.15, seed: int = 0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.samples, self.noise, self.seed = samples, noise, seed

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        copies = torch.cat(noisy_copies(self, pictures_of(inputs)))
        return self.pixel_gradients(inputs, target, copies).mean(dim=0).abs()
