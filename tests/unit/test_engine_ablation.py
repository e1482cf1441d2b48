"""Ablation-CAM: which part of the model runs again, and that the result is that of the whole model."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from networks import CLASSES, Small, Tokens, small_images
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    AblationLayerVit,
)
from pytorch_grad_cam.replay import Tape
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def test_ablation_cam_runs_the_network_without_each_channel(model, images):
    """Plain reference: one full forward pass for every channel, zeroed by a hook."""
    weights = torch.zeros(4, 8)
    with torch.no_grad():
        activations = []
        handle = model.relu.register_forward_hook(lambda m, i, o: activations.append(o.clone()))
        intact = model(images)
        handle.remove()
        for channel in range(8):

            def without(m, i, o, channel=channel):
                o = o.clone()
                o[:, channel] = 0
                return o

            handle = model.relu.register_forward_hook(without)
            lost = model(images)
            handle.remove()
            for i, c in enumerate(CLASSES):
                weights[i, channel] = (intact[i, c] - lost[i, c]) / intact[i, c].abs()
    expected = (weights[:, :, None, None] * activations[0]).sum(1).relu()
    expected = nn.functional.interpolate(expected[:, None], (16, 12), mode="bilinear")[:, 0]
    for batch_size in (32, 1, 3):
        cam = AblationCAM(model, [model.relu], batch_size=batch_size)
        assert torch.allclose(cam.maps(images, CLASSES, normalize=False), expected, atol=1e-6)


def test_ablation_cam_does_not_turn_round_when_all_logits_shift(model, images):
    """grad-cam divides by the signed score: with a bias of -10 its map is the negative of the one with +10."""
    found = []
    for bias in (10.0, -10.0):
        nn.init.constant_(model.fc.bias, bias)
        found.append(AblationCAM(model, [model.relu])(images, CLASSES))
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.999


def test_ablation_cam_where_later_layers_concatenate():
    """DenseNet joins the hooked layer with earlier ones: the copies cannot spread, so the image is repeated."""
    torch.manual_seed(0)
    network = torchvision.models.densenet121(num_classes=2).eval()
    x = torch.randn(1, 3, 64, 64)
    layer = network.features.denseblock4.denselayer16.conv1
    cam = AblationCAM(network, [layer], batch_size=64)
    found = cam.maps(x, [1], normalize=False)
    weights = []
    with torch.no_grad():
        intact = network(x)[0, 1]
        for channel in range(4):
            handle = layer.register_forward_hook(lambda m, i, o, c=channel: o.index_fill(1, torch.tensor([c]), 0))
            weights.append(((intact - network(x)[0, 1]) / intact.abs()).item())
            handle.remove()
    with torch.no_grad():
        whole = cam.channel_weights(*cam._run_model(x, [1]))
    assert whole[0, :4].tolist() == pytest.approx(weights, abs=1e-5)
    assert torch.isfinite(found).all()


def whole(model, layers, images, targets, batch_size=32, **others):
    """Ablation-CAM that runs the whole model for each channel, as the plain reference does."""
    original, Tape._is_exact = Tape._is_exact, lambda tape: False
    try:
        return AblationCAM(model, layers, batch_size=batch_size, **others).maps(images, targets, normalize=False)
    finally:
        Tape._is_exact = original


class Pack(nn.Module):
    """Puts out an object of its own, as detectors pass their images on."""

    def forward(self, x):
        return SimpleNamespace(content=x + 1)


class Forward(nn.Module):
    """Two convolutions and a head; what ``forward`` does with them is the case."""

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(0)
        self.below, self.layer = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.above, self.fc, self.case = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3), case
        self.relu, self.pack = nn.ReLU(inplace=True), Pack()

    def forward(self, x):
        return getattr(self, self.case)(x)

    def finish(self, x):
        return self.fc(x.mean(dim=(2, 3)))

    def in_place_above(self, x):
        return self.finish(self.above(self.relu(self.layer(self.relu(self.below(x))))))

    def adds_to_what_lies_below_before(self, x):
        y = self.below(x)
        y += 1
        return self.finish(self.above(torch.tanh(self.layer(y) + y)))

    def adds_to_what_lies_below_after(self, x):
        y = self.below(x)
        z = self.layer(y)
        y += torch.tanh(z)
        return self.finish(self.above(y))

    def works_in_place_and_then_on_the_batch(self, x):
        y = self.below(x)
        z = self.layer(y).mul_(-2)
        return self.finish(self.above(torch.tanh(z) + y.view(-1, *y.shape[2:]).view_as(y)))

    def layer_runs_twice(self, x):
        return self.finish(self.above(torch.tanh(self.layer(torch.tanh(self.layer(self.below(x)))))))

    def module_runs_below_and_above(self, x):
        return self.finish(self.above(torch.tanh(self.layer(self.above(self.below(x))))))

    def passes_an_object_on(self, x):
        packed = self.pack(self.below(x))
        return self.finish(self.above(torch.tanh(self.layer(packed.content) + packed.content)))

    def changes_the_logits(self, x):
        logits = self.in_place_above(x)
        logits[:, 1] *= 3
        return logits

    def logits_of_another_order(self, x):
        logits = self.in_place_above(x)
        logits[:, 0] += logits[:, 2] ** 2
        return logits

    def looks_at_the_whole_batch(self, x):
        y = self.below(x)
        z = self.layer(y)
        return self.finish(self.above(torch.tanh(z) * y.mean(dim=0, keepdim=True)))


CASES = [name for name in vars(Forward) if not name.startswith("_") and name not in ("forward", "finish")]

NOT_REPLAYED = {
    "adds_to_what_lies_below_before",
    "adds_to_what_lies_below_after",
    "works_in_place_and_then_on_the_batch",
}


@pytest.mark.parametrize("case", CASES)
def test_ablation_is_exact_whatever_forward_does(case, images, monkeypatch):
    network = Forward(case).eval()
    x = images[:1] if case == "looks_at_the_whole_batch" else images
    targets = CLASSES[: len(x)]
    expected = whole(network, ["layer"], x, targets)
    runs = []
    network.below.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    for batch_size in (1, 4, 32):
        runs.clear()
        found = AblationCAM(network, ["layer"], batch_size=batch_size).maps(x, targets, normalize=False)
        assert torch.allclose(found, expected, atol=1e-6)
    assert found.abs().max() > 1e-4


@pytest.mark.parametrize("case", CASES)
def test_ablation_replays_where_it_can(case, images):
    """The convolution below the layer is computed once, unless a replay would not be exact."""
    network = Forward(case).eval()
    x = images[:1] if case == "looks_at_the_whole_batch" else images
    computed = []
    network.below.__dict__["_conv_forward"] = lambda *arguments: (
        computed.append(1) or nn.Conv2d._conv_forward(network.below, *arguments)
    )
    AblationCAM(network, ["layer"])(x, CLASSES[: len(x)])
    assert (len(computed) > 1) == (case in NOT_REPLAYED)


@pytest.mark.parametrize("hooked", ["below", "layer", "above", "fc"])
def test_ablation_with_hooks_of_the_callers_that_change_outputs(hooked, images):
    network = Forward("in_place_above").eval()
    network.get_submodule(hooked).register_forward_hook(
        lambda m, i, o: 2 * o + torch.arange(o.shape[1]).view(-1, *[1] * (o.ndim - 2))
    )
    expected = whole(network, ["layer"], images, CLASSES)
    found = AblationCAM(network, ["layer"]).maps(images, CLASSES, normalize=False)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ablation_of_some_channels(images):
    """The others have weight 0; those that are tried have the weight that they have among all."""
    network = Forward("in_place_above").eval()
    weights = {}
    for ratio in (0.5, 1.0):
        cam = AblationCAM(network, ["layer"], ratio_channels_to_ablate=ratio)
        with torch.no_grad():
            weights[ratio] = torch.cat([cam.channel_weights(run) for run in cam._run_model(images, CLASSES)])
    tried = weights[0.5] != 0
    assert tried.sum(dim=1).tolist() == [3] * 4
    assert torch.allclose(weights[0.5][tried], weights[1.0][tried], atol=1e-6)
    assert (weights[1.0] != 0).all()
    with pytest.raises(ValueError, match="ratio_channels_to_ablate"):
        AblationCAM(network, ["layer"], ratio_channels_to_ablate=0)


def test_ablation_of_tokens(images):
    """With ``AblationLayerVit`` a channel is off in the class token too; without, in the grid alone."""
    network, grid = Tokens().eval(), partial(vit_reshape_transform, height=4, width=3)
    with torch.no_grad():
        normed = []
        handle = network.norm.register_forward_hook(lambda m, i, o: normed.append(o.clone()))
        intact = network(images)
        handle.remove()
        for layer, first in ((AblationLayerVit(), 0), (None, 1)):
            weights = torch.zeros(4, 8)
            for c in range(8):

                def without(m, i, o, c=c, first=first):
                    o = o.clone()
                    o[:, first:, c] = 0
                    return o

                handle = network.norm.register_forward_hook(without)
                lost = network(images)
                handle.remove()
                for i, k in enumerate(CLASSES):
                    weights[i, c] = (intact[i, k] - lost[i, k]) / intact[i, k].abs()
            expected = (weights[:, :, None, None] * grid(normed[0])).sum(1).relu()
            expected = nn.functional.interpolate(expected[:, None], (16, 12), mode="bilinear")[:, 0]
            for batch_size in (3, 32):
                cam = AblationCAM(network, ["norm"], grid, ablation_layer=layer, batch_size=batch_size)
                found = cam.maps(images, CLASSES, normalize=False)
                assert torch.allclose(found, expected, atol=1e-5)


def test_ablation_of_one_layer_named_twice_and_nothing_kept(model, images):
    cam = AblationCAM(model, ["relu", "relu"])
    assert np.allclose(cam(images, CLASSES), AblationCAM(model, ["relu"])(images, CLASSES), atol=1e-6)
    assert cam._tapes == {}
    with pytest.raises(IndexError):
        cam(images, [99] * 4)
    assert cam._tapes == {}
