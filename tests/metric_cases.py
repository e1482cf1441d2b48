"""Networks, images and maps that the tests of the metrics share."""

import numpy as np
import torch
from torch import nn

from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

PERCENTILES = [10, 20, 30, 40, 50, 60, 70, 80, 90]

SIDE = 20


class Sum(nn.Module):
    """Class 0: the sum of the image; class 1: its negative. Records the size of each batch."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(len(x))
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], dim=1)


def network():
    """A small network with weights large enough for probabilities to differ."""
    torch.manual_seed(0)
    head = nn.Linear(8, 3)
    nn.init.normal_(head.weight, std=5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def distinct_maps():
    """(2, 20, 20) without ties: each a permutation of the ranks."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(SIDE * SIDE).reshape(SIDE, SIDE) for _ in range(2)]).astype(np.float32) / 400


def sparse_map():
    """(20, 20), of which 60 % are exactly 0, as after a ReLU."""
    values = np.random.default_rng(1).permutation(np.maximum(np.arange(400) - 239, 0)) / 160
    return torch.from_numpy(values.astype(np.float32).reshape(SIDE, SIDE))


TARGETS = [ClassifierOutputSoftmaxTarget(0), ClassifierOutputSoftmaxTarget(2)]


def metric_images():
    """(2, 3, 20, 20) noise."""
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


LEFT_RIGHT = [((0, -1), 1.0), ((0, 1), 1.0)]


def mask_of(kind, percentile, cam):
    """The mask passed to the imputer: 1 for kept, 0 for removed."""
    (mask,) = kind(percentile, lambda image, mask: mask[None])(cam[None], cam)
    return mask


def brightness(input_tensor, targets):
    """A base method whose maps are the normalised brightness."""
    assert len(targets) == len(input_tensor)
    bright = input_tensor.abs().mean(dim=1).numpy()
    return bright / bright.max(axis=(1, 2), keepdims=True)
