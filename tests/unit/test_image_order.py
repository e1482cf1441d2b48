"""A grid is accepted only in the order of the image: networks with orders of positions that are known by construction."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import crackcam
from crackcam.errors import UserError
from crackcam.models.target_layers import examine_layers, find_target_layers, grid_layers
from crackcam.preprocessing import Preprocessing

pytestmark = pytest.mark.slow

REGRESSION = Path(__file__).parents[1] / "regression"
SIZE = 64
SIDE = 8


class Rearranged(nn.Module):
    """Convolutions, a layer that rearranges the grid (N, 12, 8, 8), and a head; nothing else has a grid behind it."""

    def __init__(self, rearrange):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(3, 12, 8, 8), Rearrange(rearrange)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        found = self.last(torch.relu(self.conv(x)))
        return self.head(found.flatten(2).mean(2) if found.ndim == 4 else found.mean(1))


class Rearrange(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def windows(x):
    """Four 4 x 4 windows one after another, as tokens (N, 64, C)."""
    return x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 64, -1)


def permuted(x):
    return x.flatten(2)[..., torch.randperm(64, generator=torch.Generator().manual_seed(1))].reshape(x.shape)


def serpentine(x):
    return torch.stack([row.flip(2) if index % 2 else row for index, row in enumerate(x.unbind(2))], dim=2)


WRONG = {
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "transposed": lambda x: x.transpose(2, 3),
    "permuted": permuted,
    "every other row backwards": serpentine,
    "unrolled windows": windows,
    "shifted by half a window": lambda x: x.roll((2, 2), (2, 3)),
    "shifted by one token": lambda x: x.flatten(2).roll(1, 2).reshape(x.shape),
    "strided order": lambda x: torch.cat([x[:, :, ::2], x[:, :, 1::2]], dim=2),
}
RIGHT = {
    "(N, C, H, W)": lambda x: x,
    "(N, H, W, C)": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "class token": lambda x: torch.cat([x.mean((2, 3))[:, None], x.flatten(2).transpose(1, 2)], dim=1),
    "a hundredth of the positions' own": lambda x: 0.01 * x + x.mean((2, 3), keepdim=True),
    "one image stronger than the other": lambda x: x + 3 * x.flatten(1).square().mean(1)[:, None, None, None],
}


@pytest.mark.parametrize("order", WRONG)
def test_other_orders_are_not_explained(order):
    model = Rearranged(WRONG[order]).eval()
    grids, target = grid_layers(model, SIZE)
    assert (target, "last" in grids) == ("conv", False)
    with pytest.raises(UserError, match="the output of layer 'last' is not in the order of the image.*available: conv"):
        find_target_layers(model, SIZE, ["last"])


class Channels(Rearranged):
    """With a head that takes channels from the last axis."""

    def forward(self, x):
        return self.head(self.last(torch.relu(self.conv(x))).mean((1, 2)))


@pytest.mark.parametrize("order", RIGHT)
def test_image_order_is_recognised_in_every_layout(order):
    model = (Channels if order == "(N, H, W, C)" else Rearranged)(RIGHT[order]).eval()
    (layer,) = find_target_layers(model, SIZE)
    assert layer.name == "last"
    assert layer.grid[:3] == (12, SIDE, SIDE)


def test_a_constant_grid_is_explained_on_request_with_a_warning(caplog):
    model = Rearranged(lambda x: x.mean((2, 3), keepdim=True).expand_as(x).contiguous()).eval()
    found = examine_layers(model, SIZE)
    assert (found.target, [*found.grids], [*found.unproven]) == ("conv", ["conv"], ["last"])
    with caplog.at_level(logging.WARNING):
        (layer,) = find_target_layers(model, SIZE, ["last"])
    assert layer.name == "last"
    assert "affects all positions of layer last alike" in caplog.text


class Attention(nn.Module):
    """Tokens, a table of position biases and attention matrices, all of them square; both after the last grid."""

    def __init__(self, heads):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.qk = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), nn.Linear(24, 2 * 24)
        self.bias, self.softmax, self.drop = Table(heads), nn.Softmax(-1), nn.Dropout(0.1)
        self.head, self.heads = nn.Linear(24, 4), heads

    def forward(self, x):
        tokens = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        q, k = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qk(tokens).chunk(2, dim=2))
        weights = self.drop(self.softmax(q @ k.transpose(2, 3) + self.bias(x)))
        return self.head((weights.mean(1) @ tokens).mean(1))


class Table(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.values = nn.Parameter(torch.randn(heads, 64, 64))

    def forward(self, x):
        return self.values + 0


@pytest.mark.parametrize("heads", [2, 4])  # 4: as many as the images of the check
def test_attention_and_position_biases_are_no_grids(heads):
    model = Attention(heads).eval()
    grids, target = grid_layers(model, SIZE)
    assert target == "norm"
    assert not {"bias", "softmax", "drop"} & set(grids)
    (layer,) = find_target_layers(model, SIZE, stages=True)
    assert layer.name == "norm"


def test_positions_that_are_no_numbers_are_no_grid():
    model = Rearranged(lambda x: x).eval()
    model.mask = nn.Sequential(Rearrange(lambda x: x > 0), Rearrange(lambda x: torch.fft.fft2(x.float())))
    model.conv.register_forward_hook(lambda module, inputs, output: [model.mask(output), None][1])
    assert set(grid_layers(model, SIZE)[0]) == {"conv", "last"}


def test_windows_in_the_batch_are_no_grid():
    model = Rearranged(lambda x: x).eval()
    model.last = Rearrange(lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    model.head = nn.Sequential(Rearrange(lambda x: x.unflatten(0, (-1, 4)).mean(1)), model.head)
    assert [*grid_layers(model, SIZE)[0]] == ["conv"]
    with pytest.raises(UserError, match="no layer 'last' with a grid; available: conv"):
        find_target_layers(model, SIZE, ["last"])


def test_without_a_grid_in_image_order_the_message_says_so():
    model = Rearranged(lambda x: x).eval()
    model.conv = nn.Sequential(Whole())
    with pytest.raises(UserError, match="^no layer of this model is known to have a grid in the order of the image$"):
        crackcam.Classifier(model, ["a", "b", "c", "d"], Preprocessing(SIZE)).explain(
            np.zeros((SIZE, SIZE, 3), np.uint8), method="gradcam"
        )


class Whole(nn.Module):
    """(N, 12, 8, 8): patches in a wrong order."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return permuted(nn.functional.conv2d(x, self.weight, stride=8))


def test_the_model_runs_once_for_all_explanations():
    model = Rearranged(lambda x: x).eval()
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(3):
        find_target_layers(model, SIZE)
    assert len(runs) == 1
    with torch.no_grad():
        model.conv.weight.mul_(2)
    find_target_layers(model, SIZE)
    assert len(runs) == 2
    model.last = Rearrange(lambda x: x.flip(3))
    assert grid_layers(model, SIZE)[1] == "conv"  # another layer: looked at again, by several draws
    examined = len(runs)
    find_target_layers(model, SIZE)
    assert len(runs) == examined > 2


@pytest.mark.parametrize("size", [64, 224])
def test_trained_networks_of_small_images_keep_their_last_layer(size):
    """At 64 px the last grid has four positions, each of which sees all of the image."""
    for file, last in (("written_before", "features"), ("written_before_multiscale", "backbone.conv5")):
        model = crackcam.load(REGRESSION / f"{file}.safetensors").model
        found = examine_layers(model, size)
        assert found.target == last
        assert (found.scrambled, found.unproven) == (set(), {})
