"""Smooth Grad-CAM++."""

from typing import Any

import torch

from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import with_images
from pytorch_grad_cam.outputs import target_scores
from pytorch_grad_cam.utils.maps import spatial_dims


class SmoothGradCAMPlusPlus(BaseCAM):
    """Grad-CAM++ with gradients averaged over noisy copies of the image.

    With D1, D2, D3 the means of G, G^2 and G^3 over the copies and S the sum of A over a channel's positions:
    w_c = sum over positions of D2 / (2 D2 + S D3) * relu(D1), which is equation 19 of Grad-CAM++ with those means; 0
    where the denominator is not positive. Gradients are divided by their largest magnitude first, so that their cubes
    do not underflow.

    Omeiza et al., Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional Neural
    Network Models, 2019 (arXiv:1908.01224).

    Args:
        samples: number of noisy copies, one run each.
        noise: standard deviation of the noise, as a fraction of the image's range of values.
        seed: seed of the noise.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import SmoothGradCAMPlusPlus
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> SmoothGradCAMPlusPlus(model, ["1"], samples=4)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def __init__(self, *arguments: Any, samples: int = 8, noise: float = 0.15, seed: int = 0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.samples, self.noise, self.seed = samples, noise, seed

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        gradients = torch.stack([self._gradients(run, images) for images in noisy_copies(self, run.images)])
        unit = gradients.abs().amax().clamp(min=torch.finfo(gradients.dtype).tiny)
        scaled = gradients / unit
        second, third = (scaled**2).mean(dim=0), (scaled**3).mean(dim=0) * unit
        space = spatial_dims(run.activations)
        denominator = 2 * second + run.activations.sum(dim=space, keepdim=True) * third
        alpha = torch.where(denominator > 0, second / torch.where(denominator > 0, denominator, 1.0), 0.0)
        return (alpha * gradients.mean(dim=0).relu()).sum(dim=space)

    def _gradients(self, run: LayerRun, images: torch.Tensor) -> torch.Tensor:
        recorder = ActivationsAndGradients(self.activations_and_grads.model, [run.layer], self.reshape_transform)
        outputs = recorder(with_images(run.inputs, images))
        with torch.enable_grad():
            score = target_scores(run.targets, outputs).sum()
        return recorder.differentiate(score)[0]


def noisy_copies(method: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """Copies of a batch with Gaussian noise of standard deviation ``method.noise`` times each image's range.

    Returns:
        ``method.samples`` tensors of the batch's shape.
    """
    generator = torch.Generator().manual_seed(method.seed)
    flat = images.flatten(1)
    extent = (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (images.ndim - 1))
    shape = images.shape[1:]  # the same noise for all images: a map does not depend on the rest of the batch
    noise = [torch.randn(shape, generator=generator).to(images) for _ in range(method.samples)]
    return [images + method.noise * extent * one for one in noise]
