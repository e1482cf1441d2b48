"""Heatmaps of each method against its formula, written out by hand."""

import numpy as np
import pytest
import torch
from networks import CLASSES, Small, activations_and_gradients, finished, method, normalized, resized, small_images
from torch import nn

from pytorch_grad_cam import (
    CAM,
    FullGrad,
    GradCAM,
    RandomCAM,
    ScoreCAM,
    ShapleyCAM,
    SmoothGradCAMPlusPlus,
)
from pytorch_grad_cam.base_cam import LayerRun
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def principal(matrix):
    """(C, *spatial) float64 -> first principal component of its positions, by numpy's SVD."""
    positions = matrix.reshape(len(matrix), -1).T
    centred = positions - positions.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][0]


def along(component, one):
    """The component of (C, *spatial), with the sign that correlates with the sum of the channels."""
    sign = np.sign(np.corrcoef(component, one.sum(axis=0).ravel())[0, 1])
    return (sign * component).reshape(one.shape[1:])


def kernel_principal(one):
    """Sigmoid kernel of the centred positions, centred in its feature space: the eigenvector scaled to unit variance."""
    positions = one.reshape(len(one), -1).T
    centred = positions - positions.mean(axis=0)
    kernel = np.tanh(centred @ centred.T / len(one) + 1)
    mean = np.eye(len(kernel)) - 1 / len(kernel)
    values, vectors = np.linalg.eigh(mean @ kernel @ mean)
    return vectors[:, -1] * np.sqrt(values[-1])


def unusual_positions(one):
    """FEM of (C, H, W): a channel's mean where it exceeds its mean by two standard deviations."""
    total = np.zeros(one.shape[1:])
    for channel in one:
        total[channel > channel.mean() + 2 * channel.std()] += channel.mean()
    return total


def largest_positive(component, one):
    farthest = component[np.abs(component).argmax()]
    return (np.sign(farthest) * component).reshape(one.shape[1:])


def reference_maps(name, model, layer, x):
    a, g = activations_and_gradients(model, layer, x, CLASSES)
    if name == "GradCAM":
        return (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)
    if name == "HiResCAM":
        return (g * a).sum(1)
    if name == "GradCAMElementWise":
        return (g * a).clamp(min=0).sum(1)
    if name == "LayerCAM":
        return (g.clamp(min=0) * a).sum(1)
    if name == "CAM":
        return (model.fc.weight[CLASSES, :, None, None] * a).sum(1).detach()
    if name == "XGradCAM":
        return ((g * a).sum(dim=(2, 3), keepdim=True) / a.sum(dim=(2, 3), keepdim=True).clamp(min=1e-20) * a).sum(1)
    if name == "GradCAMPlusPlus":  # equation 19, in float64 and without any epsilon
        a, g = a.double(), g.double()
        alpha = torch.nan_to_num(g**2 / (2 * g**2 + g**3 * a.sum(dim=(2, 3), keepdim=True)))
        return ((alpha * g.clamp(min=0)).sum(dim=(2, 3), keepdim=True) * a).sum(1).float()
    a, g = a.double().numpy(), g.double().numpy()
    found = {
        "EigenCAM": lambda: [along(principal(one), one) for one in a],
        "EigenGradCAM": lambda: [along(principal(one), one) for one in g * a],
        "SegEigenCAM": lambda: [largest_positive(principal(one), one) for one in abs(g) * a],
        "KPCA_CAM": lambda: [along(kernel_principal(one), one) for one in a],
        "FEM": lambda: [unusual_positions(one) for one in a],
    }[name]()
    return torch.from_numpy(np.stack(found)).float()


@pytest.mark.parametrize(
    "name",
    [
        "GradCAM",
        "HiResCAM",
        "GradCAMElementWise",
        "LayerCAM",
        "CAM",
        "XGradCAM",
        "GradCAMPlusPlus",
        "EigenCAM",
        "EigenGradCAM",
        "SegEigenCAM",
        "KPCA_CAM",
        "FEM",
    ],
)
def test_method_equals_its_formula(name, model, images):
    """After an in-place ReLU, and, where the method is defined for signed activations, after a batch norm."""
    layers = ["relu"] if name in ("CAM", "XGradCAM", "GradCAMPlusPlus") else ["relu", "bn1"]
    for layer in layers:
        found = method(name, model, [layer])(images, targets=CLASSES)
        expected = finished(reference_maps(name, model, model.get_submodule(layer), images), (16, 12))
        assert found.shape == (4, 16, 12)
        assert found.dtype == np.float32
        assert abs(found - expected).max() < 2e-5


def test_grad_cam_on_a_network_computed_by_hand():
    """Two channels, 2 x 2 positions, no learning: every number can be verified by hand."""
    network = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    network[3].weight.data = torch.tensor([[4.0, -8.0], [0.0, 4.0]])
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    # dY0/dA = weight / 4 at every position: channel weights (1, -2); map = A0 - 2 A1 = [[-1, 2], [3, 2]]
    raw = GradCAM(network, [network[0]]).maps(x, [0], normalize=False)
    assert torch.equal(raw, torch.tensor([[[0.0, 2.0], [3.0, 2.0]]]))
    assert GradCAM(network, [network[0]])(x, [0])[0].tolist() == pytest.approx(np.array([[0, 2 / 3], [1, 2 / 3]]))


def test_cam_is_grad_cam_times_the_number_of_places(model, images):
    """Below global average pooling, the mean gradient of a channel is its weight divided by the 8 x 6 positions."""
    signed = [c(model, ["relu"]).maps(images, CLASSES, normalize=False, relu=False) for c in (CAM, GradCAM)]
    assert torch.allclose(signed[0], 48 * signed[1], atol=1e-5)


def test_cam_rejects_networks_without_pooling_and_linear_layer(model, images):
    """A hidden layer in the head, another layer than the last, no linear layer at all, a target that is no logit."""
    deep = nn.Sequential(
        model.conv1, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    for network, layer, targets in [
        (deep, "0", [0] * 4),
        (model, "bn1", CLASSES),
        (nn.Sequential(model.conv1, nn.AdaptiveAvgPool2d(1), nn.Flatten()), "0", CLASSES),
        (model, "relu", [ClassifierOutputSoftmaxTarget(0)] * 4),
    ]:
        with pytest.raises(ValueError, match="CAM (needs|explains)"):
            CAM(network, [layer])(images, targets)


def test_score_cam_by_hand(model, images):
    a, _ = activations_and_gradients(model, model.relu, images, CLASSES)
    a[1, 2] = 0.5  # a constant channel masks everything
    expected = []
    with torch.no_grad():
        for i, c in enumerate(CLASSES):
            scores = []
            for channel in a[i]:
                mask = nn.functional.interpolate(channel[None, None], (16, 12), mode="bilinear", align_corners=True)
                extent = mask.max() - mask.min()
                mask = (mask - mask.min()) / extent if extent > 1e-6 else torch.zeros_like(mask)
                scores.append(model(images[i : i + 1] * mask)[0, c])
            weights = torch.stack(scores).softmax(0)
            expected.append((weights[:, None, None] * a[i]).sum(0))
    cam = ScoreCAM(model, [model.relu])
    targets = [ClassifierOutputTarget(c) for c in CLASSES]
    for batch_size in (32, 3):
        cam.batch_size = batch_size
        with torch.no_grad():
            found = cam.layer_map(LayerRun(images, model(images), targets, model.relu, a, a[:0]), eigen_smooth=False)
        assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def test_score_cam_of_the_strongest_channels(model, images):
    from pytorch_grad_cam.ablation_layer import AblationLayer

    a, _ = activations_and_gradients(model, model.relu, images, CLASSES)
    maps = []
    for one, image, category in zip(a, images, CLASSES, strict=True):
        tried = AblationLayer().activations_to_be_ablated(one.numpy(), 0.5)
        assert len(tried) == 4
        scores = []
        for channel in one[tried]:
            mask = torch.nn.functional.interpolate(channel[None, None], (16, 12), mode="bilinear", align_corners=True)[
                0, 0
            ]
            seen = image * (mask - mask.min()) / (mask.max() - mask.min())
            scores.append(model(seen[None])[0, category])
        weights = torch.stack(scores).softmax(0)
        maps.append((weights[:, None, None] * one[tried]).sum(0))
    expected = finished(torch.stack(maps).detach(), (16, 12))
    found = method("ScoreCAM", model, ["relu"], ratio_channels_to_score=0.5)(images, CLASSES)
    assert np.allclose(found, expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"in \(0, 1\], got 0"):
        method("ScoreCAM", model, ["relu"], ratio_channels_to_score=0)


def test_full_grad_equals_the_authors_formula(model, images):
    """psi: absolute value, min-max over all channels of an image together, each channel resized, summed."""
    leaf = images.clone().requires_grad_()
    z1 = model.conv1(leaf)
    z2 = model.bn1(z1)
    z3 = model.conv2(torch.relu(z2))
    outputs = model.fc(torch.relu(z3).mean(dim=(2, 3)))
    parts = torch.autograd.grad(outputs[torch.arange(4), torch.tensor(CLASSES)].sum(), [leaf, z1, z2, z3])
    scale = model.bn1.weight / (model.bn1.running_var + model.bn1.eps).sqrt()
    biases = [leaf, model.conv1.bias, model.bn1.bias - model.bn1.running_mean * scale, model.conv2.bias]
    total = torch.zeros(4, 16, 12)
    for gradient, bias in zip(parts, biases, strict=True):
        product = (gradient * (bias if bias.ndim == 4 else bias.view(1, -1, 1, 1))).abs()
        low, high = product.amin(dim=(1, 2, 3), keepdim=True), product.amax(dim=(1, 2, 3), keepdim=True)
        product = (product - low) / (high - low)
        total += nn.functional.interpolate(product, (16, 12), mode="bilinear", align_corners=False).sum(1)
    assert torch.allclose(
        FullGrad(model, []).maps(images, CLASSES, normalize=False), total.detach(), rtol=1e-4, atol=1e-5
    )


def tails(model):
    """The part of the network above each of two layers, as a function of its output (1, C, H, W)."""
    return {
        "relu": lambda a: model.fc(a.mean(dim=(2, 3)))[0],
        "bn1": lambda a: model.fc(torch.relu(model.conv2(torch.relu(a))).mean(dim=(2, 3)))[0],
    }


@pytest.mark.parametrize("target", [ClassifierOutputSoftmaxTarget, ClassifierOutputReST, ClassifierOutputTarget])
def test_shapley_cam_subtracts_half_the_hessians_product(target, model, images):
    targets, small = [target(c) for c in CLASSES], {}
    for layer, tail in tails(model).items():
        a, _ = activations_and_gradients(model, model.get_submodule(layer), images, CLASSES)
        expected = []
        for one, explained in zip(a, targets, strict=True):
            score = lambda a, tail=tail, explained=explained: explained(tail(a))  # noqa: E731
            one = one[None].requires_grad_()
            (gradient,) = torch.autograd.grad(score(one), one)
            _, product = torch.autograd.functional.vhp(score, one.detach(), one.detach())
            if target is ClassifierOutputTarget:
                assert not product.any()
            weights = (gradient - product / 2).mean(dim=(2, 3), keepdim=True)
            expected.append((weights * one).sum(1).detach())
        small[layer] = torch.cat(expected)
        found = ShapleyCAM(model, [layer])(images, targets)
        assert abs(found - finished(small[layer], (16, 12))).max() < 1e-4
    both = np.mean([resized(normalized(m), (16, 12)).numpy() for m in small.values()], axis=0)
    expected = map_utils.normalize(torch.from_numpy(both)).numpy()
    assert abs(ShapleyCAM(model, list(small))(images, targets) - expected).max() < 1e-4


def test_smooth_grad_cam_plus_plus_by_hand(model, images):
    """In float64: D2 / (2 D2 + S D3) relu(D1), with the mean powers of the gradients at noisy copies."""
    cam = SmoothGradCAMPlusPlus(model, ["relu"], samples=5, noise=0.2, seed=3)
    generator = torch.Generator().manual_seed(3)
    a, _ = activations_and_gradients(model, model.relu, images, CLASSES)
    extent = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    noisy = [images + 0.2 * extent * torch.randn((3, 16, 12), generator=generator) for _ in range(5)]
    g = torch.stack([activations_and_gradients(model, model.relu, x, CLASSES)[1].double() for x in noisy])
    first, second, third = ((g**k).mean(0) for k in (1, 2, 3))
    denominator = 2 * second + third * a.double().sum((2, 3), keepdim=True)
    alpha = torch.where(denominator > 0, second / denominator, 0)
    expected = ((alpha * first.clamp(min=0)).sum((2, 3), keepdim=True) * a).sum(1).float()
    assert abs(cam(images, CLASSES) - finished(expected, (16, 12))).max() < 1e-4


def test_random_cam_is_reproducible_and_draws_from_its_own_generator(model, images):
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    cam, again, other = (RandomCAM(model, ["relu"], seed=seed) for seed in (4, 4, 5))
    first, second = cam(images), cam(images)
    assert np.array_equal(first, again(images))
    assert np.array_equal(second, again(images))
    for different in (second, other(images)):
        assert abs(np.corrcoef(first.ravel(), different.ravel())[0, 1]) < 0.9
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002
    run = LayerRun(images, None, [], model.relu, torch.zeros(2, 5000, 1, 1), torch.zeros(0))
    weights = cam.channel_weights(run)
    assert -1 <= weights.min() < -0.99
    assert 0.99 < weights.max() <= 1
    assert abs(weights.mean()) < 0.02
