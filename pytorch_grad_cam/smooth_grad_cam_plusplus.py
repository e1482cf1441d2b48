"""Smooth Grad-CAM++."""

from typing import Any

import torch

from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import target_scores, with_pictures
from pytorch_grad_cam.utils.maps import spatial_dims


class SmoothGradCAMPlusPlus(BaseCAM):
    """Grad-CAM++ with gradients averaged over noisy copies of the picture.

    With D1, D2, D3 the means of G, G^2 and G^3 over the copies and S the sum of A over a channel's places:
    w_c = sum over places of D2 / (2 D2 + S D3) * relu(D1), as equation 19 of Grad-CAM++ with those means; 0 where the
    denominator is not positive. Gradients are divided by their largest first, so that their cubes do not underflow.

    Omeiza et al., Smooth Grad-CAM++, 2019 (arXiv:1908.01224).

    Args:
        samples: noisy copies, one run each.
        noise: standard deviation of the noise, as a share of the range of the picture's values.
        seed: of the noise.

    The other arguments are those of :class:`BaseCAM`.
    """

    def __init__(self, *arguments: Any, samples: int = 8, noise: float = 0.15, seed: int = 0, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.samples, self.noise, self.seed = samples, noise, seed

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        gradients = torch.stack([self._gradients(run, pictures) for pictures in noisy_copies(self, run.pictures)])
        unit = gradients.abs().amax().clamp(min=torch.finfo(gradients.dtype).tiny)
        scaled = gradients / unit
        second, third = (scaled**2).mean(dim=0), (scaled**3).mean(dim=0) * unit
        places = spatial_dims(run.activations)
        denominator = 2 * second + run.activations.sum(dim=places, keepdim=True) * third
        alpha = torch.where(denominator > 0, second / torch.where(denominator > 0, denominator, 1.0), 0.0)
        return (alpha * gradients.mean(dim=0).relu()).sum(dim=places)

    def _gradients(self, run: LayerRun, pictures: torch.Tensor) -> torch.Tensor:
        recorder = ActivationsAndGradients(self.activations_and_grads.model, [run.layer], self.reshape_transform)
        outputs = recorder(with_pictures(run.inputs, pictures))
        with torch.enable_grad():
            score = target_scores(run.targets, outputs).sum()
        return recorder.differentiate(score)[0]


def noisy_copies(method: Any, pictures: torch.Tensor) -> list[torch.Tensor]:
    """Copies of a batch with Gaussian noise: ``method.samples``, with ``method.noise`` of each picture's range."""
    generator = torch.Generator().manual_seed(method.seed)
    flat = pictures.flatten(1)
    extent = (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (pictures.ndim - 1))
    shape = pictures.shape[1:]  # the same noise for each picture: maps do not depend on the rest of the batch
    noise = [torch.randn(shape, generator=generator).to(pictures) for _ in range(method.samples)]
    return [pictures + method.noise * extent * one for one in noise]
