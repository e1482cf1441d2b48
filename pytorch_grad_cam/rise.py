"""RISE."""

from typing import Any

import torch
import torch.nn.functional as F

from pytorch_grad_cam.batches import Batch, images_in
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.utils.maps import LINEAR
from pytorch_grad_cam.utils.model_targets import Target


class RISE(PixelCAM):
    """Mean score of the image under random masks, for each pixel over the masks that leave it visible.

    A mask is a coarse random grid, resized smoothly and shifted by less than a cell. As in the paper's equation 6, the
    sum is divided by the expected, not the actual, visibility of a pixel. The mean score over all masks is subtracted,
    which does not change the ranking of pixels and supports logits of any level.

    Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018 (arXiv:1806.07421).

    Args:
        masks: number of masks, one forward pass each. The paper uses 4,000 and more; 1,000 show the same regions with
            more noise.
        cells: side of the coarse grid.
        shown: probability that a cell leaves the image visible, in (0, 1].
        seed: seed of the masks, which are the same for all images.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import RISE
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> RISE(model, masks=32)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def __init__(
        self, *arguments: Any, masks: int = 1000, cells: int = 7, shown: float = 0.5, seed: int = 0, **others: Any
    ) -> None:
        super().__init__(*arguments, **others)
        self.masks, self.cells, self.shown, self.seed = masks, cells, shown, seed

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        image = images_in(inputs)
        size = tuple(image.shape[2:])
        generator = torch.Generator().manual_seed(self.seed)
        weighted = torch.zeros(size, device=image.device)
        total, scores = torch.zeros(size, device=image.device), []
        for start in range(0, self.masks, self.batch_size):
            count = min(self.batch_size, self.masks - start)
            masks = torch.stack([self._mask(size, generator) for _ in range(count)]).to(image.device)
            score = self.scores(inputs, target, image * masks[:, None].to(image.dtype))
            # A product and a sum, since a matrix product would be in half precision under a caller's autocast.
            weighted += (score.reshape(-1, *[1] * len(size)) * masks).sum(dim=0)
            total += masks.sum(dim=0)
            scores.append(score)
        mean_score = torch.cat(scores).mean()
        return ((weighted - mean_score * total) / (self.masks * self.shown))[None]

    def _mask(self, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        coarse = (torch.rand([self.cells] * len(size), generator=generator) < self.shown).float()
        cell = [-(-side // self.cells) for side in size]
        large = F.interpolate(
            coarse[None, None], [(self.cells + 1) * side for side in cell], mode=LINEAR[len(size)], align_corners=False
        )[0, 0]
        for axis, (side, step) in enumerate(zip(size, cell, strict=True)):
            large = large.narrow(axis, int(torch.randint(step, (1,), generator=generator)), side)
        return large
