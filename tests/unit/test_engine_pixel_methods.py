"""Methods that explain pixels rather than a layer, and guided backpropagation, against references by hand."""

import numpy as np
import pytest
import torch
from networks import CLASSES, Small, small_images
from torch import nn

import pytorch_grad_cam
from pytorch_grad_cam import (
    RISE,
    GuidedBackpropReLUModel,
    IntegratedGradients,
    SmoothGrad,
)


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def test_rise_is_the_score_weighted_sum_of_masks(model, images):
    cam = RISE(model, masks=70, shown=0.3, seed=2)
    generator = torch.Generator().manual_seed(2)
    masks = torch.stack([cam._mask((16, 12), generator) for _ in range(70)])
    assert 0 <= masks.min() <= masks.max() <= 1
    assert masks.mean().item() == pytest.approx(0.3, abs=0.03)
    with torch.no_grad():
        scores = torch.stack([model(image * masks[:, None])[:, c] for image, c in zip(images, CLASSES, strict=True)])
    scores = scores - scores.mean(dim=1, keepdim=True)
    expected = torch.einsum("nm,mhw->nhw", scores, masks) / (70 * 0.3)
    found = cam.maps(images, CLASSES, normalize=False, relu=False)
    assert torch.allclose(found, expected, atol=1e-5)


class Corner(nn.Module):
    """Depends only on the first five rows and four columns; its score is far from 0."""

    def forward(self, x):
        return x[..., :5, :4].sum(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, -1.0]) + 100


@pytest.mark.parametrize("name", ["RISE", "Occlusion", "IntegratedGradients", "SmoothGrad"])
def test_pixel_methods_highlight_the_relevant_pixels(name):
    """On a model without parameters or layers."""
    settings = {"RISE": {"masks": 500}, "Occlusion": {"window": 2}}.get(name, {})
    heatmap = getattr(pytorch_grad_cam, name)(Corner(), **settings)(torch.ones(1, 3, 16, 12), [0])[0]
    inside = np.zeros((16, 12), bool)
    inside[:5, :4] = True
    assert heatmap[inside].mean() > 4 * heatmap[~inside].mean()
    assert np.unravel_index(heatmap.argmax(), heatmap.shape) <= (4, 3)
    if name in ("IntegratedGradients", "SmoothGrad"):
        assert heatmap[inside].min() == 1
        assert heatmap[~inside].max() == 0


def test_smooth_grad_by_hand(model, images):
    """Absolute mean gradient of noisy copies, summed over the channels; noise is a fraction of the image's range."""
    generator = torch.Generator().manual_seed(1)
    expected = []
    noise = [torch.randn((3, 16, 12), generator=generator) for _ in range(6)]
    for image, c in zip(images, CLASSES, strict=True):
        copies = torch.stack([image + 0.1 * (image.max() - image.min()) * one for one in noise]).requires_grad_()
        (gradients,) = torch.autograd.grad(model(copies)[:, c].sum(), copies)
        expected.append(gradients.mean(0).abs().sum(0))
    cam = SmoothGrad(model, samples=6, noise=0.1, seed=1)
    cam.batch_size = 4
    assert torch.allclose(cam.maps(images, CLASSES, normalize=False), torch.stack(expected), atol=1e-5)


def test_integrated_gradients_are_complete(model, images):
    """The signed map sums to the difference of the scores."""
    ours = IntegratedGradients(model, steps=200).maps(images, CLASSES, normalize=False, relu=False)
    with torch.no_grad():
        difference = model(images)[range(4), CLASSES] - model(torch.zeros_like(images))[range(4), CLASSES]
    assert torch.allclose(ours.sum((1, 2)), difference, rtol=0.01, atol=0.01 * float(difference.abs().max()))


def test_guided_backprop(model, images):
    """Against a backward pass with ReLUs by hand; for one image, repeatedly, and for a batch."""
    guided = GuidedBackpropReLUModel(model)
    x = images[:1]
    first = guided(x, target_category=2)
    assert first.shape == (16, 12, 3)
    assert np.array_equal(first, guided(x, target_category=2))

    leaf = x.clone().requires_grad_()
    z2 = model.bn1(model.conv1(leaf))
    z3 = model.conv2(torch.relu(z2))
    (to_z3,) = torch.autograd.grad(model.fc(torch.relu(z3).mean(dim=(2, 3)))[0, 2], z3, retain_graph=True)
    (to_hidden,) = torch.autograd.grad(z3, z2, to_z3.clamp(min=0), retain_graph=True)
    (to_leaf,) = torch.autograd.grad(z2, leaf, to_hidden.clamp(min=0))
    assert np.allclose(first, to_leaf[0].permute(1, 2, 0).numpy(), atol=1e-6)

    batch = guided(images, target_category=[2, 0, 1, 0])
    assert batch.shape == (4, 16, 12, 3)
    assert np.allclose(batch[0], first, atol=1e-6)
    assert type(model.relu) is nn.ReLU
    assert model.relu.inplace


def test_guided_backprop_through_relus_of_any_kind():
    """As a function, a method, and in place as a statement whose result is not used."""

    class Kinds(nn.Module):
        def __init__(self, kind):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.kind = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), kind

        def forward(self, x):
            x = self.first(x)
            if self.kind == "statement":
                nn.functional.relu(x, inplace=True)
            elif self.kind == "method":
                x.relu_()
            else:
                x = torch.relu(x)
            return self.second(x).mean(dim=(2, 3))

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = GuidedBackpropReLUModel(Kinds("function"))(x, [0, 1])
    plain = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Kinds("function")(plain)[[0, 1], [0, 1]].sum(), plain)
    assert abs(expected - gradient.movedim(1, -1).numpy()).max() > 1e-3  # not the plain gradient
    for kind in ("statement", "method"):
        assert np.array_equal(GuidedBackpropReLUModel(Kinds(kind))(x, [0, 1]), expected)
