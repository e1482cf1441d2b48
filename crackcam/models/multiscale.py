"""A head that explains itself: the logit of a class is the sum of a map.

The last layer of each of the network's grids, from an output stride of 4 to 32, is turned into one map a class by a
linear layer (1x1 convolution). The maps of all stages, brought to the finest grid, add up to the *evidence* m: how much
each place speaks for each class. The logit is its mean over the places i, weighted by the evidence itself,

    logit = bias + sum_i c_i        c_i = scale * softmax(2 m)_i * m_i

(exponential softmax pooling: Wang, Li and Metze, ICASSP 2019, arXiv:1810.09050). So one place that is sure is enough,
however small it is in the picture, and the *contributions* c are the decision taken apart, exactly.

A class that is the absence of another has no places: its map is silenced, and its logit is its bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

FINEST, COARSEST = 4, 32  # output strides of the stages
SHARPNESS = 2.0  # of the weights: 0 is the mean over places, infinity their maximum
NOTHING = -4.0  # evidence of a place at first


class Multiscale(nn.Module):
    """A network without its head, and maps of its stages.

    Args:
        backbone: puts out (N, C, H, W) in each stage.
        stages: name of each stage's layer, as in ``backbone.named_modules()``, and its channels; finest first.
        classes: how many.

    Raises:
        AttributeError: the backbone has no layer of a name.
    """

    def __init__(self, backbone: nn.Module, stages: dict[str, int], classes: int) -> None:
        super().__init__()
        for name in stages:
            backbone.get_submodule(name)
        self.backbone = backbone
        self.stages = dict(stages)
        self.maps = nn.ModuleList(
            # Normalised, so that stages of all sizes learn alike.
            nn.Sequential(nn.BatchNorm2d(channels, affine=False), nn.Conv2d(channels, classes, 1))
            for channels in stages.values()
        )
        for map_ in self.maps.modules():  # most places speak for nothing, see Lin et al., Focal Loss, ICCV 2017
            if isinstance(map_, nn.Conv2d) and map_.bias is not None:
                nn.init.constant_(map_.bias, NOTHING / len(stages))
        self.scale = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.speaking: torch.Tensor
        self.register_buffer("speaking", torch.ones(classes))

    def silence(self, absence: int) -> None:
        """Takes the map away from the class that is the absence of others."""
        self.speaking[absence] = 0

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> logits (N, classes) float32."""
        return self.pool(self.evidence(pictures))

    def evidence(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, classes, h, w) float32, signed, on the finest stage's grid; 0 of silenced classes."""
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str) -> None:
            layer = self.backbone.get_submodule(name)
            handles.append(layer.register_forward_hook(lambda module, inputs, output: seen.update({name: output})))

        handles: list[torch.utils.hooks.RemovableHandle] = []
        try:
            for name in self.stages:
                keep(name)
            self.backbone(pictures)
        finally:
            for handle in handles:
                handle.remove()
        grid = seen[next(iter(self.stages))].shape[2:]
        maps = [stage(seen[name]).float() for stage, name in zip(self.maps, self.stages, strict=True)]
        enlarged = [F.interpolate(m, grid, mode="bilinear", align_corners=False) for m in maps]
        return torch.stack(enlarged).sum(dim=0) * self.speaking[:, None, None]

    def contributions(self, evidence: torch.Tensor) -> torch.Tensor:
        """What each place adds to the logit beside the bias, (N, classes, h, w), from :meth:`evidence`."""
        share = (SHARPNESS * evidence).flatten(2).softmax(dim=2).view_as(evidence)
        return self.scale[:, None, None] * share * evidence

    def pool(self, evidence: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) from :meth:`evidence`."""
        return self.contributions(evidence).sum(dim=(2, 3)) + self.bias
