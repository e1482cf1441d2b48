"""Occlusion."""

from typing import Any

import torch

from pytorch_grad_cam.batches import Batch, pictures_of
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.utils.model_targets import Target


class Occlusion(PixelCAM):
    """What the score loses when a window is covered: the mean loss over the windows that cover a pixel.

    Windows start at every multiple of the stride, and once more flush with the far edge, so that all pixels are
    covered.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv:1311.2901).

    Args:
        window: side of the window in pixels; None: a seventh of the picture's longest side.
        stride: in pixels; None: half the window.
        cover: value that covers; 0 is the mean colour of a normalised input.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.
    """

    def __init__(
        self, *arguments: Any, window: int | None = None, stride: int | None = None, cover: float = 0.0, **others: Any
    ) -> None:
        super().__init__(*arguments, **others)
        self.window, self.stride, self.cover = window, stride, cover

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        picture = pictures_of(inputs)
        size = picture.shape[2:]
        window = self.window or max(1, round(max(size) / 7))
        stride = self.stride or max(1, window // 2)
        starts = [[*range(0, max(1, side - window + 1), stride), max(0, side - window)] for side in size]
        corners = torch.cartesian_prod(*[torch.tensor(sorted(set(of_side))) for of_side in starts])
        corners = corners.reshape(-1, len(size)).to(picture.device)
        lost = torch.zeros(size, device=picture.device)
        counts = torch.zeros(size, device=picture.device)
        intact = self.scores(inputs, target, picture)
        for some in corners.split(self.batch_size):
            covers = torch.ones(len(some), *size, dtype=torch.bool, device=picture.device)
            for axis, side in enumerate(size):
                place = torch.arange(side, device=picture.device)
                inside = (place >= some[:, axis, None]) & (place < some[:, axis, None] + window)
                covers &= inside.reshape(len(some), *[-1 if a == axis else 1 for a in range(len(size))])
            variants = torch.where(covers[:, None], self.cover, picture)
            loss = intact - self.scores(inputs, target, variants)
            lost += (loss.reshape(-1, *[1] * len(size)) * covers).sum(dim=0)
            counts += covers.sum(dim=0)
        return (lost / counts)[None]
