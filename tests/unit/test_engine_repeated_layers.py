"""A layer that runs several times in one forward pass: the map is that of the explained images, never of others."""

import numpy as np
import pytest
import torch
from networks import CLASSES, finished, method, resized
from torch import nn

from pytorch_grad_cam import AblationCAM, EigenCAM, FullGrad, GradCAM, ScoreCAM


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 6, 3, stride=2, padding=1)

    def forward(self, x):
        return torch.tanh(self.second(torch.relu(self.first(x))))


class Siamese(nn.Module):
    """One encoder for any number of images; logits of what they have in common and what not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.fc = Encoder(), nn.Linear(6, 3)

    def forward(self, *images):
        vectors = [self.enc(x).mean(dim=(2, 3)) for x in images]
        return self.fc(torch.stack(vectors).prod(dim=0) + vectors[0] - sum(vectors[1:]))


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, 16, 12, generator=generator) for _ in range(count)]


def activations_of_run(model, layer, inputs, run, classes=CLASSES):
    """Output of one run of a layer and the gradient of the classes' logits, by plain hooks."""
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    outputs = model(*inputs)
    handle.remove()
    (gradients,) = torch.autograd.grad(outputs[range(len(outputs)), classes].sum(), kept[run])
    return kept[run].detach(), gradients


def by_hand(model, layer, inputs, run):
    a, g = activations_of_run(model, layer, inputs, run)
    return (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)


@pytest.mark.parametrize("branches", [2, 3, 4])
@pytest.mark.parametrize("frozen", [False, True])
def test_siamese_networks_show_the_first_image(branches, frozen):
    model, images = Siamese().eval(), pictures(branches)
    expected = finished(by_hand(model, model.enc, images, 0), (16, 12))
    model.requires_grad_(not frozen)
    assert np.allclose(GradCAM(model, ["enc"])(tuple(images), CLASSES), expected, atol=1e-5)
    with torch.no_grad():
        inner = GradCAM(model, ["enc.second"])(tuple(images), CLASSES)
    model.requires_grad_(True)
    assert np.allclose(inner, finished(by_hand(model, model.enc.second, images, 0), (16, 12)), atol=1e-5)


def test_the_order_of_a_dict_says_which_image_is_explained():
    class Named(Siamese):
        def forward(self, a, b):
            return super().forward(a, b)

    model, (a, b) = Named().eval(), pictures(2)
    expected = finished(by_hand(model, model.enc, (a, b), 1), (16, 12))
    assert np.allclose(GradCAM(model, ["enc"])({"b": b, "a": a}, CLASSES), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["EigenCAM", "LayerCAM", "ShapleyCAM", "SmoothGradCAMPlusPlus", "FullGrad"])
def test_siamese_networks_equal_a_network_of_one_input(name):
    """In which the other image is a constant."""
    model, (a, b) = Siamese().eval(), pictures(2)

    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.fc = model.enc, model.fc
            with torch.no_grad():
                self.register_buffer("other", model.enc(b).mean(dim=(2, 3)))

        def forward(self, x):
            vector = self.enc(x).mean(dim=(2, 3))
            return self.fc(vector * self.other + vector - self.other)

    found = method(name, model, ["enc"])((a, b), CLASSES)
    assert np.allclose(found, method(name, Bound().eval(), ["enc"])(a, CLASSES), atol=1e-4)
    assert found.max() == 1


def test_ablation_of_a_siamese_network():
    """Only the run on the first image is ablated; by hand, with one pass per channel."""
    model, (a, b) = Siamese().eval(), pictures(2)
    activations, _ = activations_of_run(model, model.enc, (a, b), 0)
    weights = torch.zeros(4, 6)
    with torch.no_grad():
        intact = model(a, b)[range(4), CLASSES]
        for channel in range(6):
            runs = []

            def ablate(module, inputs, output, runs=runs, channel=channel):
                runs.append(1)
                return output.index_fill(1, torch.tensor([channel]), 0) if len(runs) == 1 else output

            handle = model.enc.register_forward_hook(ablate)
            weights[:, channel] = (intact - model(a, b)[range(4), CLASSES]) / intact.abs()
            handle.remove()
    expected = resized((weights[:, :, None, None] * activations).sum(1).relu(), (16, 12))
    found = AblationCAM(model, ["enc"]).maps((a, b), CLASSES, normalize=False)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.max() > 0.01


def test_score_cam_of_a_siamese_network_masks_the_first_image():
    model, (a, b) = Siamese().eval(), pictures(2)
    with torch.no_grad():
        activations = model.enc(a)
        scores = torch.zeros(4, 6)
        for channel in range(6):
            mask = nn.functional.interpolate(
                activations[:, channel : channel + 1], (16, 12), mode="bilinear", align_corners=True
            )
            low, high = mask.amin((2, 3), keepdim=True), mask.amax((2, 3), keepdim=True)
            scores[:, channel] = model(a * (mask - low) / (high - low), b)[range(4), CLASSES]
        expected = (scores.softmax(dim=1)[:, :, None, None] * activations).sum(1)
    found = ScoreCAM(model, ["enc"])((a, b), CLASSES)
    assert np.allclose(found, finished(expected, (16, 12)), atol=1e-4)


class Unrolled(nn.Module):
    """A cell with shared weights for each of several images, repeated for each of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.cell, self.fc = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, a, b):
        vectors = [self.cell(torch.tanh(self.cell(torch.tanh(self.stem(x))))).mean(dim=(2, 3)) for x in (a, b)]
        return self.fc(vectors[0] * vectors[1] + vectors[0])


def test_repeated_blocks_of_a_siamese_network():
    """Runs 0 and 1 are on the first image, 2 and 3 on the second: the last of the first image counts."""
    model, inputs = Unrolled().eval(), tuple(pictures(2))
    for cam_class in (GradCAM, EigenCAM):
        cam = cam_class(model, ["cell"])
        cam._run_model(inputs, CLASSES)
        assert cam.activations_and_grads.chosen_runs == [(1, 4)]
    expected = finished(by_hand(model, model.cell, inputs, 1), (16, 12))
    assert np.allclose(GradCAM(model, ["cell"])(inputs, CLASSES), expected, atol=1e-5)


class SideBySide(Siamese):
    """Two views of one image: both halves of its channels, or the image and its mirror image."""

    def __init__(self, view):
        super().__init__()
        self.view = view

    def forward(self, x):
        return super().forward(*((x[:, :3], x[:, 3:]) if self.view == "halves" else (x, x.flip(-1))))


@pytest.mark.parametrize("view", ["halves", "mirrored"])
@pytest.mark.parametrize("cam_class", [GradCAM, EigenCAM, AblationCAM])
def test_runs_side_by_side_on_one_input_are_an_error(view, cam_class):
    images = torch.randn(4, 6 if view == "halves" else 3, 16, 12)
    with pytest.raises(ValueError, match=r"layer enc \(Encoder\) runs 2 times side by side.* choose a layer that runs"):
        cam_class(SideBySide(view).eval(), ["enc"])(images, CLASSES)


class Albert(nn.Module):
    """Blocks that share their weights; the body within no_grad, or not."""

    def __init__(self, frozen):
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.block, self.fc = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), nn.Linear(5, 3)
        self.frozen = frozen

    def body(self, x):
        x = self.stem(x)
        for _ in range(4):
            x = x + torch.tanh(self.block(x))
        return x

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.body(x)
        return self.fc(torch.tanh(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("frozen", [False, True])
def test_blocks_that_share_weights_are_explained_at_their_last_run(frozen):
    (images,) = pictures(1)
    model = Albert(False).eval()
    expected = finished(by_hand(model, model.block, (images,), 3), (16, 12))
    assert np.allclose(GradCAM(Albert(frozen).eval(), ["block"])(images, CLASSES), expected, atol=1e-5)


def test_a_layer_that_is_listed_twice_counts_twice():
    model, inputs = Siamese().eval(), tuple(pictures(2))
    for cam_class in (GradCAM, EigenCAM, AblationCAM):
        once, twice = (cam_class(model, ["enc"] * count)(inputs, CLASSES) for count in (1, 2))
        assert np.allclose(once, twice, atol=1e-6)


def test_full_grad_ignores_the_biases_of_other_images():
    """A second image changes the map only through the gradient of the first."""

    class Sum(Siamese):
        def forward(self, a, b):
            return self.fc(self.enc(a).mean(dim=(2, 3)) + self.enc(b).mean(dim=(2, 3)))

    model, (a, b) = Sum().eval(), pictures(2)
    alone = FullGrad(nn.Sequential(model.enc, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc))(a, CLASSES)
    assert np.allclose(FullGrad(model)((a, b), CLASSES), alone, atol=1e-5)


class TwoEncoders(nn.Module):
    """A layer for each of two images, and one for both."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.both = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.fc = nn.Linear(5, 3)

    def forward(self, a, b):
        return self.fc(torch.tanh(self.both(torch.tanh(self.first(a)) * torch.tanh(self.second(b)))).mean(dim=(2, 3)))


@pytest.mark.parametrize("cam_class", [GradCAM, EigenCAM, AblationCAM, ScoreCAM])
def test_layers_of_other_images_are_an_error(cam_class):
    """Their map must not be laid over the explained images; a dict chooses others."""
    model, (a, b) = TwoEncoders().eval(), pictures(2)
    with pytest.raises(ValueError, match=r"layer second \(Conv2d\) does not depend on the explained images.*as a dict"):
        cam_class(model, ["second"])((a, b), CLASSES)
    assert cam_class(model, ["second"])({"b": b, "a": a}, CLASSES).max() == 1
    if cam_class is GradCAM:
        for name, inputs in (("second", {"b": b, "a": a}), ("first", (a, b)), ("both", (a, b))):
            expected = finished(by_hand(model, model.get_submodule(name), (a, b), 0), (16, 12))
            assert np.allclose(GradCAM(model, [name])(inputs, CLASSES), expected, atol=1e-5)
