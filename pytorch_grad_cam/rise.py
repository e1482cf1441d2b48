"""RISE."""

from typing import Any

import torch
import torch.nn.functional as F

from pytorch_grad_cam.batches import Batch, pictures_of
from pytorch_grad_cam.pixel_cam import PixelCAM
from pytorch_grad_cam.utils.model_targets import Target


class RISE(PixelCAM):
    """Mean score of the picture seen through random masks, for each pixel over the masks that show it.

    A mask is a coarse random grid, enlarged smoothly and shifted by less than a cell. As in the paper's equation 6, the
    sum is divided by the expected and not the actual showing of a pixel; the score of an average mask is taken off,
    which changes no order and keeps logits of any level.

    Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018 (arXiv:1806.07421).

    Args:
        masks: how many, one forward pass each. The paper takes 4,000 and more; 1,000 show the same, with more noise.
        cells: side of the coarse grid.
        shown: probability that a cell shows the picture.
        seed: of the masks, which are the same for all pictures.

    The other arguments are those of :class:`BaseCAM`; target layers are ignored.
    """

    def __init__(
        self, *arguments: Any, masks: int = 1000, cells: int = 7, shown: float = 0.5, seed: int = 0, **others: Any
    ) -> None:
        super().__init__(*arguments, **others)
        self.masks, self.cells, self.shown, self.seed = masks, cells, shown, seed

    def pixel_map(self, inputs: Batch, target: Target) -> torch.Tensor:
        picture = pictures_of(inputs)
        size = tuple(picture.shape[2:])
        generator = torch.Generator().manual_seed(self.seed)
        heat = torch.zeros(size, device=picture.device)
        total, scores = torch.zeros(size, device=picture.device), []
        for start in range(0, self.masks, self.batch_size):
            count = min(self.batch_size, self.masks - start)
            some = torch.stack([self._mask(size, generator) for _ in range(count)]).to(picture.device)
            score = self.scores(inputs, target, picture * some[:, None].to(picture.dtype))
            # A product and a sum, since a matrix product would be in half precision under a caller's autocast.
            heat += (score.reshape(-1, *[1] * len(size)) * some).sum(dim=0)
            total += some.sum(dim=0)
            scores.append(score)
        level = torch.cat(scores).mean()
        return ((heat - level * total) / (self.masks * self.shown))[None]

    def _mask(self, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        coarse = (torch.rand([self.cells] * len(size), generator=generator) < self.shown).float()
        cell = [-(-side // self.cells) for side in size]
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
        large = F.interpolate(
            coarse[None, None], [(self.cells + 1) * side for side in cell], mode=mode, align_corners=False
        )[0, 0]
        for axis, (side, step) in enumerate(zip(size, cell, strict=True)):
            large = large.narrow(axis, int(torch.randint(step, (1,), generator=generator)), side)
        return large
