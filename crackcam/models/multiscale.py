"""A classification head that explains itself: the logit of a class is the sum of a map.

A linear layer (1x1 convolution) turns the last layer of each grid of the backbone, from output stride 4 to 32, into one
map for each class, and so does one on top of a small decoder that reads all of them. These maps, resized to the finest
grid, add up to the *evidence* m: how much each place supports each class. The logit is its mean over the places i,
weighted by the evidence itself,

    logit = bias + sum_i c_i        c_i = scale * softmax(2 m)_i * m_i

(exponential softmax pooling: Wang, Li and Metze, ICASSP 2019, arXiv:1810.09050). One confident place is enough, however
small it is in the image, and the *contributions* c decompose the logit exactly.

A class that is the absence of another has no places: its map is masked out, and its logit is its bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

FINEST, COARSEST = 4, 32  # output strides of the stages
SHARPNESS = 2.0  # of the weights: 0 is the mean over places, infinity their maximum
DECODER_CHANNELS = 48
INITIAL_EVIDENCE = -4.0  # most places support no class: Lin et al., Focal Loss, arXiv:1708.02002


class Decoder(nn.Module):
    """A top-down path through the stages: each passes on what it knows to the next finer one.

    Feature Pyramid Networks (Lin et al., CVPR 2017, arXiv:1612.03144), with depthwise separable convolutions.

    Args:
        stages: channels of each stage, finest first.
        channels: of the path.
    """

    def __init__(self, stages: Iterable[int], channels: int) -> None:
        super().__init__()
        # Normalised, so that stages of all sizes learn alike.
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(inputs, affine=False), nn.Conv2d(inputs, channels, 1)) for inputs in stages
        )
        self.smooth = nn.ModuleList(_separable_convolution(channels) for _ in self.lateral)

    def forward(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Outputs of the stages (N, C, H, W), finest first -> (N, channels, H, W) on the finest grid."""
        path: torch.Tensor | None = None
        for lateral, smooth, output in reversed(list(zip(self.lateral, self.smooth, outputs, strict=True))):
            here = lateral(output)
            if path is not None:
                here = here + F.interpolate(path, here.shape[2:], mode="bilinear", align_corners=False)
            path = smooth(here)
        assert path is not None
        return path


def _separable_convolution(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


class Multiscale(nn.Module):
    """A backbone without its head, and maps of its stages.

    Args:
        backbone: returns (N, C, H, W) in each stage.
        stages: name of each stage's layer, as in ``backbone.named_modules()``, and its channels; finest first.
        classes: number of classes.
        decoder: channels of a :class:`Decoder` whose map is added to those of the stages; 0: none.

    Raises:
        AttributeError: the backbone has no layer of a name.
    """

    def __init__(self, backbone: nn.Module, stages: dict[str, int], classes: int, decoder: int = 0) -> None:
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
        self.decoder_channels = decoder
        self.decoder = Decoder(stages.values(), decoder) if decoder else None
        if decoder:
            self.maps.append(nn.Conv2d(decoder, classes, 1))
        for layer in self.maps.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.constant_(layer.bias, INITIAL_EVIDENCE / len(self.maps))
        self.scale = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.speaking: torch.Tensor  # a name in checkpoints, see class_mask
        self.register_buffer("speaking", torch.ones(classes))

    @property
    def class_mask(self) -> torch.Tensor:
        """(classes,) float32: 0 for classes whose map is masked out, else 1."""
        return self.speaking

    def mask_out_class(self, absence: int) -> None:
        """Mask out the map of the class that is the absence of others."""
        self.speaking[absence] = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> logits (N, classes) float32."""
        return self.pool(self.evidence(inputs))

    def evidence(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, classes, h, w) float32, signed, on the grid of the finest stage; 0 where masked out."""
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str) -> torch.utils.hooks.RemovableHandle:
            layer = self.backbone.get_submodule(name)
            return layer.register_forward_hook(lambda module, inputs, output: outputs.update({name: output}))

        handles = [keep(name) for name in self.stages]
        try:
            self.backbone(inputs)
        finally:
            for handle in handles:
                handle.remove()
        grid = outputs[next(iter(self.stages))].shape[2:]
        features = [outputs[name] for name in self.stages]
        maps = [to_map(of_one).float() for to_map, of_one in zip(self.maps, features, strict=False)]
        if self.decoder:
            maps.append(self.maps[-1](self.decoder(features)).float())
        enlarged = [F.interpolate(m, grid, mode="bilinear", align_corners=False) for m in maps]
        return torch.stack(enlarged).sum(dim=0) * self.speaking[:, None, None]

    def contributions(self, evidence: torch.Tensor) -> torch.Tensor:
        """What each place adds to the logit beside the bias, (N, classes, h, w), from :meth:`evidence`."""
        weights = (SHARPNESS * evidence).flatten(2).softmax(dim=2).view_as(evidence)
        return self.scale[:, None, None] * weights * evidence

    def pool(self, evidence: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) from :meth:`evidence`."""
        return self.contributions(evidence).sum(dim=(2, 3)) + self.bias
