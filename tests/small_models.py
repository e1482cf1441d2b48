"""Small models for tests of the API: quick to run, and with heatmaps that can be told by hand."""

import numpy as np
import torch
from torch import nn

import crackcam


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
