"""Occlusion."""

from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, images_in
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.utils.model_targets import Target


class Occlusion(PixelCAM):
    """Loss of score when a window is covered: for each pixel, the mean loss over all windows that contain it.

    Windows start at every multiple of the stride, and once more flush with the far edge, so that all pixels are
    covered.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv:1311.2901).

    Args:
        window: side of the window in pixels; None: a seventh of the image's longest side.
        stride: distance between windows in pixels; None: half the window.
        cover: value of covered pixels; 0 is the mean colour of a normalised input.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import Occlusion
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> Occlusion(model, window=4)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def __init__(
        self, *arguments: Any, window: int | None = None, stride: int | None = None, cover: float = 0.0, **others: Any
    ) -> None:
        super().__init__(*arguments, **others)
        self.window, self.stride, self.cover = window, stride, cover

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        image = images_in(inputs)
        size = image.shape[2:]
        window = self.window or max(1, round(max(size) / 7))
        loss_sum = torch.zeros(size, device=image.device)
        counts = torch.zeros(size, device=image.device)
        intact = self.scores(inputs, target, image)
        for corners in self._corners(size, window).to(image.device).split(self.batch_size):
            covered = torch.ones(len(corners), *size, dtype=torch.bool, device=image.device)
            for axis, side in enumerate(size):
                position = torch.arange(side, device=image.device)
                inside = (position >= corners[:, axis, None]) & (position < corners[:, axis, None] + window)
                covered &= inside.reshape(len(corners), *[-1 if a == axis else 1 for a in range(len(size))])
            occluded = torch.where(covered[:, None], self.cover, image)
            loss = intact - self.scores(inputs, target, occluded)
            loss_sum += (loss.reshape(-1, *[1] * len(size)) * covered).sum(dim=0)
            counts += covered.sum(dim=0)
        return (loss_sum / counts)[None]

    def _corners(self, size: torch.Size, window: int) -> torch.Tensor:
        """First corner of every window: (windows, spatial dimensions) int64."""
        stride = self.stride or max(1, window // 2)
        starts = [{*range(0, max(1, side - window + 1), stride), max(0, side - window)} for side in size]
        return torch.cartesian_prod(*[torch.tensor(sorted(of_side)) for of_side in starts]).reshape(-1, len(size))
