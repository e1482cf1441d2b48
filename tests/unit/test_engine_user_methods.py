"""Subclasses that users write, with numpy arrays or tensors, and the recorder used directly."""

from functools import partial

import numpy as np
import pytest
import torch
from networks import CLASSES, Small, Tokens, activations_and_gradients, small_images
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    ActivationsAndGradients,
    BaseCAM,
    EigenCAM,
    GradCAM,
    LayerCAM,
    ShapleyCAM,
)
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
)
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from pytorch_grad_cam.utils.svd_on_activations import principal_map


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


class Mine(BaseCAM):
    """A channel's weight is its largest gradient; written with numpy arrays, for the package grad-cam."""

    def __init__(self, model, target_layers, reshape_transform=None):
        super().__init__(model, target_layers, reshape_transform)

    def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
        assert isinstance(activations, np.ndarray)
        assert len(targets) == len(input_tensor)
        return np.max(grads, axis=(2, 3))


class Lifted(GradCAM):
    """Calls ``super()`` in both."""

    def get_cam_weights(self, *arguments):
        return 2 * super().get_cam_weights(*arguments) - 1

    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        assert isinstance(grads, np.ndarray)
        return super().get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth) + 3


class Sharper(EigenCAM):
    def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
        assert grads is None
        return super().get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth) ** 3


class Halved(AblationCAM):
    """``super()`` of a method that runs the model again."""

    def get_cam_weights(self, *arguments):
        weights = super().get_cam_weights(*arguments)
        weights[:, ::2] = 0
        return weights


def test_methods_written_with_numpy(model, images):
    a, g = activations_and_gradients(model, model.relu, images, CLASSES)
    raw = {"normalize": False, "relu": False}

    def large(small):
        return nn.functional.interpolate(small[:, None], (16, 12), mode="bilinear", align_corners=False)[:, 0]

    found = Mine(model, [model.relu]).maps(images, CLASSES, **raw)
    assert torch.allclose(found, large((g.amax(dim=(2, 3), keepdim=True) * a).sum(1)), atol=1e-6)
    weights = 2 * g.mean(dim=(2, 3), keepdim=True) - 1
    found = Lifted(model, [model.relu]).maps(images, CLASSES, **raw)
    assert torch.allclose(found, large((weights * a).sum(1) + 3), atol=1e-5)
    component = principal_map(a)
    found = Sharper(model, [model.relu]).maps(images, **raw)
    assert torch.allclose(found, large(component**3), atol=1e-4)
    cam = AblationCAM(model, [model.relu])
    with torch.no_grad():
        weights = cam.channel_weights(*cam._run_model(images, CLASSES))
    weights[:, ::2] = 0
    found = Halved(model, [model.relu]).maps(images, CLASSES, **raw)
    assert torch.allclose(found, large((weights[:, :, None, None] * a).sum(1)), atol=1e-6)


def test_numpy_methods_outside_a_run(model, images):
    """As scripts for detectors call them, without a run of the model."""
    a, g = (t.numpy() for t in activations_and_gradients(model, model.relu, images, CLASSES))
    cam = LayerCAM(model, [model.relu])
    found = cam.get_cam_image(images, model.relu, None, a, g)
    assert np.allclose(found, (np.maximum(g, 0) * a).sum(axis=1), atol=1e-6)
    assert np.allclose(GradCAM(model, ["relu"]).get_cam_weights(None, None, None, a, g), g.mean(axis=(2, 3)))
    with pytest.raises(NotImplementedError, match="BaseCAM"):
        BaseCAM(model, ["relu"])(images, CLASSES)


def test_an_overridden_forward_is_called(model, images):
    class Inverted(GradCAM):
        def forward(self, input_tensor, targets, eigen_smooth=False):
            return 1 - super().forward(input_tensor, targets, eigen_smooth)

    assert np.array_equal(Inverted(model, ["relu"])(images, CLASSES), 1 - GradCAM(model, ["relu"])(images, CLASSES))


def test_activations_and_gradients_by_hand(model, images):
    """As scripts use the recorder: run, ``backward``, read the lists."""
    a, g = activations_and_gradients(model, model.relu, images, CLASSES)
    earlier = activations_and_gradients(model, model.bn1, images, CLASSES)
    recorder = ActivationsAndGradients(model, [model.bn1, model.relu], None)
    outputs = recorder(images)
    outputs[range(4), CLASSES].sum().backward()
    for found, expected in zip(recorder.activations, (earlier[0], a), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(recorder.gradients, (earlier[1], g), strict=True):
        assert torch.equal(found, expected)
    halved = ActivationsAndGradients(model, [model.relu], lambda tensor: tensor[:, ::2])
    halved(images)[range(4), CLASSES].sum().backward()
    assert torch.equal(halved.gradients[0], g[:, ::2])
    recorder.release()
    assert recorder.activations == recorder.gradients == []


def test_two_shapley_layers_can_be_differentiated_again(model, images):
    """Their gradients stay in the graph, with correct second derivatives; grad-cam frees it after the first layer."""
    targets = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    recorder = ShapleyCAM(model, ["bn1", "relu"]).activations_and_grads
    score = sum(target(output) for target, output in zip(targets, recorder(images), strict=True))
    gradients = recorder.differentiate(score)
    tails = [lambda a: torch.relu(model.conv2(torch.relu(a))), lambda a: a]  # from each layer to the pooling
    for activations, gradient, tail in zip(recorder.activations, gradients, tails, strict=True):
        (product,) = torch.autograd.grad(gradient, activations, activations.detach(), retain_graph=True)

        def total(a, tail=tail):
            outputs = model.fc(tail(a).mean(dim=(2, 3)))
            return sum(target(output) for target, output in zip(targets, outputs, strict=True))

        _, expected = torch.autograd.functional.vhp(total, activations.detach(), activations.detach())
        assert expected.abs().max() > 1e-6
        assert torch.allclose(product, expected, rtol=1e-3, atol=1e-8)


def test_shapley_cam_through_fused_attention(images):
    """PyTorch has no second derivative of fused attention; grad-cam fails."""
    network, grid = Tokens().eval(), partial(vit_reshape_transform, height=4, width=3)
    targets = [ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    kept = []
    handle = network.norm.register_forward_hook(lambda m, i, o: kept.append(o.detach()))
    network(images)
    handle.remove()
    expected = []
    for tokens, target in zip(kept[0], targets, strict=True):

        def score(tokens, target=target):
            after = tokens + network.attention(tokens, tokens, tokens)[0]  # attention weights are requested: not fused
            return target(network.head(after[:, 0])[0])

        one = tokens[None].requires_grad_()
        (gradient,) = torch.autograd.grad(score(one), one)
        _, product = torch.autograd.functional.vhp(score, one.detach(), one.detach())
        assert product.abs().max() > 1e-4
        weights = grid(gradient - product / 2).mean(dim=(2, 3), keepdim=True)
        expected.append((weights * grid(one.detach())).sum(1).relu())
    expected = nn.functional.interpolate(torch.stack(expected), (16, 12), mode="bilinear")[:, 0]
    found = ShapleyCAM(network, ["norm"], grid).maps(images, targets, normalize=False)
    assert torch.allclose(found, expected, atol=1e-6)


class Sharpened(GradCAM):
    """Override of scripts for detectors: each layer's maps to the third power."""

    def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
        recorded = self.activations_and_grads
        assert [a.shape for a in recorded.activations] == [g.shape for g in recorded.gradients]
        assert len(targets) == len(input_tensor)
        return [heatmap**3 for heatmap in super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)]


class Strongest(GradCAM):
    def aggregate_multi_layers(self, cam_per_target_layer):
        return np.concatenate(cam_per_target_layer, axis=1).max(axis=1)


class Coarse(GradCAM):
    def get_target_width_height(self, input_tensor):
        width, height = super().get_target_width_height(input_tensor)
        return width // 2, height // 2


def test_overrides_of_layer_merging(model, images):
    layers = ["bn1", "relu"]
    assert np.allclose(
        Strongest(model, layers)(images, CLASSES), np.maximum(*_normalized_maps(model, images, layers)), atol=1e-6
    )
    mean = np.mean([heatmap**3 for heatmap in _normalized_maps(model, images, layers)], axis=0)
    low, high = mean.min((1, 2), keepdims=True), mean.max((1, 2), keepdims=True)
    assert np.allclose(Sharpened(model, layers)(images, CLASSES), (mean - low) / (high - low), atol=1e-5)
    assert Coarse(model, layers)(images, CLASSES).shape == (4, 8, 6)
    assert GradCAM(model, layers).get_target_width_height(images) == (12, 16)
    with pytest.raises(ValueError, match="Strongest merges normalised heatmaps"):
        Strongest(model, layers).maps(images, CLASSES, normalize=False)
    assert not any(module._forward_hooks for module in model.modules())


def _normalized_maps(model, images, layers):
    """Each layer's maps: ReLU, normalised at their own size, then resized."""
    found = []
    for layer in layers:
        a, g = activations_and_gradients(model, model.get_submodule(layer), images, CLASSES)
        small = (g.mean(dim=(2, 3), keepdim=True) * a).sum(1).relu()
        low, high = small.amin((1, 2), keepdim=True), small.amax((1, 2), keepdim=True)
        large = nn.functional.interpolate(
            ((small - low) / (high - low))[:, None], (16, 12), mode="bilinear", align_corners=False
        )
        found.append(large[:, 0].numpy())
    return found
