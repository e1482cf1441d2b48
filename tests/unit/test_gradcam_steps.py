"""The steps of Grad-CAM against the hooks that the tutorial writes by hand."""

import re

import pytest
import torch
import torchvision
from conftest import ROOT
from torch import nn

from crackcam.explain.anatomy import gradcam_steps
from crackcam.models.loaded import LoadedModel
from crackcam.models.target_layers import find_target_layers
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/tutorials/grad-cam-from-scratch.md"


class Slim(torchvision.models.VGG):
    """VGG's convolutions; a classifier of a fiftieth of its weights, which take seconds to draw."""

    def __init__(self, features, num_classes=1000, **others):
        nn.Module.__init__(self)
        self.features, self.avgpool = features, nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def page():
    """What the Python blocks of the page compute, with random weights: the names after each block."""
    original, names, after = torchvision.models.vgg16, {}, []
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models.vgg, "VGG", Slim)
        patch.setattr(torchvision.models, "vgg16", lambda weights: original(weights=None))
        for block in re.findall(r"```py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
            exec(block, names)
            after.append(dict(names))
    return after


def test_the_page_computes_grad_cam(page):
    by_hand, by_engine = page
    assert by_hand["captured"]["activations"].shape == (1, 512, 14, 14)
    small = by_hand["heatmap"][None, None]
    large = nn.functional.interpolate(small, (224, 224), mode="bilinear", align_corners=False)[0]
    assert large.max() > 0
    assert torch.allclose(large, by_engine["heatmap"], atol=1e-6 * float(large.max()))
    assert not any(module._forward_hooks or module._backward_hooks for module in by_hand["model"].modules())


def test_a_layer_before_an_in_place_relu(page):
    """Of a model as torchvision builds it, where the ReLU overwrites what features.28 returned."""
    model = page[0]["model"]
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    network = LoadedModel(model, ModelCard("vgg16", [str(number) for number in range(1000)], 96))
    (layer,) = find_target_layers(model, 96, ["features.28"])
    pixels = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    steps = gradcam_steps(network, layer, pixels, 7)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    kept = []
    handle = layer.module.register_forward_hook(lambda m, i, output: kept.append(output) or output.retain_grad())
    model(network.to_inputs(pixels))[0, 7].backward()
    handle.remove()
    assert steps.activations.shape == (512, 6, 6)
    assert steps.activations.min() < 0  # as the convolution made them
    assert torch.allclose(steps.activations, kept[0][0].detach(), atol=1e-5)
    assert torch.allclose(steps.gradients, kept[0].grad[0], atol=1e-7)
