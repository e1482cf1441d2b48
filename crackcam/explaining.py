"""Pictures and a method's name -> heat maps."""

from __future__ import annotations

import numpy as np
import torch

from crackcam.console import UserError
from crackcam.methods import method_class
from crackcam.model import TargetLayer
from crackcam.predicting import Network


def heat_maps(
    network: Network, method: str, layers: list[TargetLayer], pixels: torch.Tensor, targets: list[int],
    *, batch_size: int = 32, aug_smooth: bool = False, eigen_smooth: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Explain pictures.

    Args:
        method: a name in :data:`crackcam.methods.METHODS`.
        layers: target layers.
        pixels: (N, 3, size, size) uint8.
        targets: class index for each picture.
        batch_size: pictures at a time; also masked pictures at a time in methods that make them.
        aug_smooth, eigen_smooth: as in :class:`pytorch_grad_cam.BaseCAM`.

    Returns:
        (N, size, size) float32 on the device, >= 0, in the method's own unit.

    Raises:
        UserError: the method cannot explain this network; the message says why.
    """
    reshape = next((layer.reshape for layer in layers if layer.reshape), None)
    cam = method_class(method)(network.model, [layer.module for layer in layers], reshape)
    if method == "scorecam":
        cam.batch_size = batch_size
    maps = []
    try:
        for start in range(0, len(pixels), batch_size):
            inputs = network.machine.input(pixels[start : start + batch_size])
            chosen = targets[start : start + batch_size]
            with network.machine.autocast():
                maps.append(cam.maps(inputs, chosen, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth, normalize=False))
    except ValueError as error:
        raise UserError(f"{method} cannot explain this: {error}") from error
    return torch.cat(maps)


def at_picture_size(heat: torch.Tensor, picture: np.ndarray) -> np.ndarray:
    """A map (size, size), laid over the whole picture that was squashed to that size: (H, W) float32."""
    from pytorch_grad_cam.utils.maps import resize

    return resize(heat[None], picture.shape[:2])[0].cpu().numpy()
