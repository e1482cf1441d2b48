"""Heatmaps against captum and torchcam."""

import pytest
import torch
from networks import CLASSES, Small, method, normalized, small_images
from torch import nn

from pytorch_grad_cam import (
    GradCAM,
    GuidedGradCAM,
    IntegratedGradients,
    Occlusion,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def test_captum_agrees(model, images):
    from captum.attr import LayerGradCam

    theirs = LayerGradCam(model, model.conv2).attribute(images, target=CLASSES)[:, 0].detach()
    ours = GradCAM(model, [model.conv2])
    small = ours.maps(images, CLASSES, normalize=False)
    theirs = nn.functional.interpolate(theirs[:, None].relu(), (16, 12), mode="bilinear")[:, 0]
    assert torch.allclose(small, theirs, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 7])
def test_captum_agrees_on_integrated_gradients(steps, model, images):
    from captum.attr import IntegratedGradients as Captums

    theirs = Captums(model).attribute(images, torch.full_like(images, 0.3), CLASSES, None, steps, "riemann_middle")
    ours = IntegratedGradients(model, steps=steps, baseline=0.3).maps(images, CLASSES, normalize=False, relu=False)
    assert torch.allclose(ours, theirs.sum(1).float(), atol=1e-5)


def test_captum_agrees_on_occlusion(model, images):
    """With windows that fit exactly, since captum cuts off the last one."""
    from captum.attr import Occlusion as Captums

    theirs = Captums(model).attribute(images, (3, 4, 4), (3, 2, 2), baselines=0.5, target=CLASSES)[:, 0]
    ours = Occlusion(model, window=4, stride=2, cover=0.5).maps(images, CLASSES, normalize=False, relu=False)
    assert torch.allclose(ours, theirs.float(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
def test_captum_agrees_on_guided_grad_cam():
    from captum.attr import GuidedGradCam

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 2),
    )
    x = torch.randn(2, 3, 12, 12)
    theirs = GuidedGradCam(network, network[3]).attribute(x, [0, 1], interpolate_mode="bilinear").detach()
    heatmap = GradCAM(network, ["3"]).maps(x, [0, 1], normalize=False)  # captum does not normalise it
    ours = heatmap[:, None] * GuidedGradCAM(network, ["3"]).guided.gradients(x, [0, 1])
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "LayerCAM"])
def test_torchcam_agrees(model, images, name):
    import torchcam.methods

    small = []
    for i, c in enumerate(CLASSES):
        with getattr(torchcam.methods, name)(model, target_layer="relu") as extractor:
            small.append(extractor(c, model(images[i : i + 1].clone().requires_grad_()))[0])
    found = method(name, model, [model.relu]).maps(images, CLASSES, normalize=False)
    expected = nn.functional.interpolate(torch.cat(small)[:, None], (16, 12), mode="bilinear")[:, 0]
    # torchcam's XGradCAM and LayerCAM scale their weights; the maps agree after normalisation
    assert torch.allclose(normalized(found), normalized(expected.detach()), atol=0.02 if name == "LayerCAM" else 1e-4)
