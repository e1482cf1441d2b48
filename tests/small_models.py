"""Small models for tests of the API: quick to run, and with heatmaps that can be told by hand."""

import numpy as np
import torch
from torch import nn

import crackcam
from crackcam.models.multiscale import Multiscale


class Bright(nn.Module):
    """Logits (dark, bright): minus and plus the mean of the only feature, which is the red channel, in two stages."""

    def __init__(self):
        super().__init__()
        self.red = nn.Conv2d(3, 1, 1, bias=False)
        self.stage = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
        self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
        with torch.no_grad():
            self.red.weight.copy_(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
            self.stage[0].weight.fill_(1)
            self.fc.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.fc.bias.copy_(torch.tensor([0.4, 0.0]))

    def forward(self, x):
        return self.fc(self.flatten(self.pool(self.stage(self.red(x)))))


def bright_classifier(size=16, **preprocessing):
    """Classes dark and bright; pixels in 0..1 without normalisation."""
    plain = crackcam.Preprocessing(size=size, mean=(0, 0, 0), std=(1, 1, 1), **preprocessing)
    return crackcam.Classifier(Bright(), ["dark", "bright"], plain, device="cpu")


def bright_corner(height=32, width=48):
    """An image that is red in its upper left quarter."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2, 0] = 255
    return image


class DarkPlaces(nn.Module):
    """A backbone at two output strides: how dark the darkest pixel is; and whether zeros of padding are near."""

    def __init__(self, stride):
        super().__init__()
        self.fine, self.coarse = nn.MaxPool2d(stride), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.shrink = nn.AvgPool2d(2)
        with torch.no_grad():
            self.coarse.weight.fill_(1 / 27)

    def forward(self, x):
        return self.coarse(self.shrink(self.fine(1 - x)))


def dark_lines(size=32, tiled_area=None, stride=4):
    """A multiscale classifier, Negative and Positive, for which a thin dark line is a crack; pixels in 0..1.

    Evidence for Positive is 20 times the darkness of the darkest pixel of ``stride``², less 11, and a little of the coarse grid.
    """
    model = Multiscale(DarkPlaces(stride), {"fine": 3, "coarse": 3}, classes=2)
    for stage in model.maps:
        stage[0] = nn.Identity()
    with torch.no_grad():
        for stage, weight, bias in zip(model.maps, (20.0, 0.5), (-11.0, 0.0), strict=True):
            stage[1].weight.zero_()
            stage[1].weight[1] = weight / 3
            stage[1].bias.fill_(bias)
        model.mask_out_class(0)
    plain = crackcam.Preprocessing(size=size, mean=(0, 0, 0), std=(1, 1, 1), max_scale=1.0)
    classifier = crackcam.Classifier(model, ["Negative", "Positive"], plain, device="cpu")
    classifier.card.area = tiled_area or {}
    classifier.card.head = "multiscale"
    return classifier


def wall(height=320, width=320, cracked=True):
    """A noisy grey wall, (height, width, 3) uint8, with a crack of 2 px from left to right, in the upper half."""
    image = np.random.default_rng(3).integers(150, 170, (height, width, 3), dtype=np.uint8)
    if cracked:
        image[height // 3 : height // 3 + 2, width // 8 : -width // 8] = 20
    return image
