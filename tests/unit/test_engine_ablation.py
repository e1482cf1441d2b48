"""Ablation-CAM: which part of the model runs again, and that the result is that of the whole model."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from networks import CLASSES, Small, Tokens, resized, small_images
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    AblationLayerVit,
)
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def ablation_by_hand(model, layer, images, classes, first_token=None, shaped=lambda output: output):
    """Ablation-CAM with one full forward pass per channel, set to 0 by a hook at the layer's last run: (N, 16, 12).

    ``first_token`` is the first token of (N, tokens, C) whose channel is set to 0; None: the output is (N, C, H, W).
    """
    outputs = []
    with torch.no_grad():
        handle = layer.register_forward_hook(lambda m, i, o: outputs.append(o.clone()))
        intact = model(images)[range(len(images)), classes]
        handle.remove()
        channels = outputs[-1].shape[1 if first_token is None else 2]
        weights = torch.zeros(len(images), channels)
        for channel in range(channels):
            runs = []

            def ablate(module, inputs, output, channel=channel, runs=runs):
                runs.append(1)
                output = output.clone()
                if len(runs) == len(outputs):
                    output[
                        (slice(None), channel) if first_token is None else (..., slice(first_token, None), channel)
                    ] = 0
                return output

            handle = layer.register_forward_hook(ablate)
            weights[:, channel] = (intact - model(images)[range(len(images)), classes]) / intact.abs()
            handle.remove()
    return resized((weights[:, :, None, None] * shaped(outputs[-1])).sum(1).relu(), (16, 12))


def test_ablation_cam_runs_the_network_without_each_channel(model, images):
    expected = ablation_by_hand(model, model.relu, images, CLASSES)
    for batch_size in (32, 1, 3):
        cam = AblationCAM(model, [model.relu], batch_size=batch_size)
        assert torch.allclose(cam.maps(images, CLASSES, normalize=False), expected, atol=1e-6)


def test_ablation_cam_is_not_inverted_when_all_logits_shift(model, images):
    """grad-cam divides by the signed score: with a bias of -10 its map is the negative of the one with +10."""
    found = []
    for bias in (10.0, -10.0):
        nn.init.constant_(model.fc.bias, bias)
        found.append(AblationCAM(model, [model.relu])(images, CLASSES))
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.999


def test_ablation_cam_with_concatenating_layers():
    """DenseNet concatenates the output of the layer with those of earlier layers."""
    torch.manual_seed(0)
    network = torchvision.models.densenet121(num_classes=2).eval()
    x = torch.randn(1, 3, 64, 64)
    layer = network.features.denseblock4.denselayer16.conv1
    cam = AblationCAM(network, [layer], batch_size=64)
    with torch.no_grad():
        found = cam.channel_weights(*cam._run_model(x, [1]))
    weights = []
    with torch.no_grad():
        intact = network(x)[0, 1]
        for channel in range(4):
            handle = layer.register_forward_hook(lambda m, i, o, c=channel: o.index_fill(1, torch.tensor([c]), 0))
            weights.append(((intact - network(x)[0, 1]) / intact.abs()).item())
            handle.remove()
    assert found[0, :4].tolist() == pytest.approx(weights, abs=1e-5)


class Pack(nn.Module):
    """Returns an object of its own class, as detectors do for their images."""

    def forward(self, x):
        return SimpleNamespace(content=x + 1)


class Forward(nn.Module):
    """Three convolutions and a linear layer, connected in a different way by each method."""

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

    def modifies_below_in_place_before_the_layer(self, x):
        y = self.below(x)
        y += 1
        return self.finish(self.above(torch.tanh(self.layer(y) + y)))

    def modifies_below_in_place_after_the_layer(self, x):
        y = self.below(x)
        z = self.layer(y)
        y += torch.tanh(z)
        return self.finish(self.above(y))

    def modifies_the_layer_in_place_and_reshapes_the_batch(self, x):
        y = self.below(x)
        z = self.layer(y).mul_(-2)
        return self.finish(self.above(torch.tanh(z) + y.view(-1, *y.shape[2:]).view_as(y)))

    def layer_runs_twice(self, x):
        return self.finish(self.above(torch.tanh(self.layer(torch.tanh(self.layer(self.below(x)))))))

    def module_runs_below_and_above(self, x):
        return self.finish(self.above(torch.tanh(self.layer(self.above(self.below(x))))))

    def passes_an_object(self, x):
        packed = self.pack(self.below(x))
        return self.finish(self.above(torch.tanh(self.layer(packed.content) + packed.content)))

    def changes_the_logits(self, x):
        logits = self.in_place_above(x)
        logits[:, 1] *= 3
        return logits

    def mixes_the_logits(self, x):
        logits = self.in_place_above(x)
        logits[:, 0] += logits[:, 2] ** 2
        return logits

    def depends_on_the_whole_batch(self, x):
        y = self.below(x)
        z = self.layer(y)
        return self.finish(self.above(torch.tanh(z) * y.mean(dim=0, keepdim=True)))


CASES = [name for name in vars(Forward) if not name.startswith("_") and name not in ("forward", "finish")]

NOT_REPLAYED = {
    "modifies_below_in_place_before_the_layer",
    "modifies_below_in_place_after_the_layer",
    "modifies_the_layer_in_place_and_reshapes_the_batch",
}


@pytest.mark.parametrize("case", CASES)
def test_ablation_is_exact_for_every_kind_of_forward(case, images):
    network = Forward(case).eval()
    x = images[:1] if case == "depends_on_the_whole_batch" else images
    targets = CLASSES[: len(x)]
    expected = ablation_by_hand(network, network.layer, x, targets)
    assert expected.max() > 1e-4  # far above the tolerance
    for batch_size in (1, 4, 32):
        found = AblationCAM(network, ["layer"], batch_size=batch_size).maps(x, targets, normalize=False)
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_ablation_replays_where_a_replay_is_exact(case, images):
    """The convolution below the layer is computed once, unless a replay would not be exact.

    Where the layer runs twice, one more pass shows which run follows from which.
    """
    network = Forward(case).eval()
    x = images[:1] if case == "depends_on_the_whole_batch" else images
    computed = []
    network.below.__dict__["_conv_forward"] = lambda *arguments: (
        computed.append(1) or nn.Conv2d._conv_forward(network.below, *arguments)
    )
    AblationCAM(network, ["layer"])(x, CLASSES[: len(x)])
    passes = len(computed) - (case == "layer_runs_twice")
    assert (passes > 1) == (case in NOT_REPLAYED)


@pytest.mark.parametrize("hooked", ["below", "layer", "above", "fc"])
def test_ablation_with_caller_hooks_that_change_outputs(hooked, images):
    network = Forward("in_place_above").eval()
    network.get_submodule(hooked).register_forward_hook(
        lambda m, i, o: 2 * o + torch.arange(o.shape[1]).view(-1, *[1] * (o.ndim - 2))
    )
    expected = ablation_by_hand(network, network.layer, images, CLASSES)
    found = AblationCAM(network, ["layer"]).maps(images, CLASSES, normalize=False)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ablation_of_some_channels(images):
    """The other channels have weight 0; those that are ablated have the same weight as in a full ablation."""
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
    """``AblationLayerVit`` also sets a channel of the class token to 0; by default only those of the grid."""
    network, grid = Tokens().eval(), partial(vit_reshape_transform, height=4, width=3)
    for layer, first in ((AblationLayerVit(), 0), (None, 1)):
        expected = ablation_by_hand(network, network.norm, images, CLASSES, first, grid)
        for batch_size in (3, 32):
            cam = AblationCAM(network, ["norm"], grid, ablation_layer=layer, batch_size=batch_size)
            assert torch.allclose(cam.maps(images, CLASSES, normalize=False), expected, atol=1e-5)


def test_ablation_of_a_repeated_layer_keeps_no_tapes(model, images):
    cam = AblationCAM(model, ["relu", "relu"])
    assert np.allclose(cam(images, CLASSES), AblationCAM(model, ["relu"])(images, CLASSES), atol=1e-6)
    assert cam._tapes == {}
    with pytest.raises(IndexError):
        cam(images, [99] * 4)
    assert cam._tapes == {}
