"""The CAM engine against formulas written out by hand, and against what it must leave alone."""

import gc
import warnings

import numpy as np
import pytest
import torch
import torchvision
from networks import CLASSES, METHODS, OF_NO_CLASS, Small, activations_and_gradients, method, small_pictures
from torch import nn

import pytorch_grad_cam
from pytorch_grad_cam import (
    CAM,
    RISE,
    SESS,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FinerCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackpropReLUModel,
    GuidedGradCAM,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    RandomCAM,
    RefineCAM,
    ScoreCAM,
    ShapleyCAM,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    XGradCAM,
    legacy,
)
from pytorch_grad_cam.base_cam import LayerRun
from pytorch_grad_cam.utils import image, maps
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection, principal_map


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def pictures():
    return small_pictures()


def finished(small, size):
    """ReLU, min-max, bilinear enlargement, min-max: as every method ends."""
    out = []
    for one in small.relu():
        one = (one - one.min()) / (one.max() - one.min())
        one = nn.functional.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        out.append((one - one.min()) / (one.max() - one.min()))
    return torch.stack(out).numpy()


def principal(matrix):
    """(C, *spatial) float64 -> its places' first principal component, by numpy's SVD."""
    places = matrix.reshape(len(matrix), -1).T
    centred = places - places.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][0]


def along(component, one):
    """The component of (C, *spatial), turned so that it correlates with the sum of the channels."""
    sign = np.sign(np.corrcoef(component, one.sum(axis=0).ravel())[0, 1])
    return (sign * component).reshape(one.shape[1:])


def kernel_principal(one):
    """Sigmoid kernel of the centred places, centred in its feature space: the eigenvector scaled to unit variance."""
    places = one.reshape(len(one), -1).T
    centred = places - places.mean(axis=0)
    kernel = np.tanh(centred @ centred.T / len(one) + 1)
    mean = np.eye(len(kernel)) - 1 / len(kernel)
    values, vectors = np.linalg.eigh(mean @ kernel @ mean)
    return vectors[:, -1] * np.sqrt(values[-1])


def unusual_places(one):
    """FEM of (C, H, W): a channel's mean where it exceeds its mean by two standard deviations."""
    total = np.zeros(one.shape[1:])
    for channel in one:
        total[channel > channel.mean() + 2 * channel.std()] += channel.mean()
    return total


def turned_to_the_largest(component, one):
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
        "SegEigenCAM": lambda: [turned_to_the_largest(principal(one), one) for one in abs(g) * a],
        "KPCA_CAM": lambda: [along(kernel_principal(one), one) for one in a],
        "FEM": lambda: [unusual_places(one) for one in a],
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
def test_method_equals_its_formula(name, model, pictures):
    """After an in-place ReLU, and, where signed activations make a difference, after a batch norm."""
    layers = ["relu"] if name in ("CAM", "XGradCAM", "GradCAMPlusPlus") else ["relu", "bn1"]
    for layer in layers:
        found = method(name, model, [layer])(pictures, targets=CLASSES)
        expected = finished(reference_maps(name, model, model.get_submodule(layer), pictures), (16, 12))
        assert found.shape == (4, 16, 12)
        assert found.dtype == np.float32
        assert abs(found - expected).max() < 2e-5


def test_grad_cam_on_a_network_small_enough_for_paper():
    """Two channels, 2x2 places, no learning: every number can be checked by eye."""
    network = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    network[3].weight.data = torch.tensor([[4.0, -8.0], [0.0, 4.0]])
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    # dY0/dA = weight / 4 at every place: channel weights (1, -2); map = A0 - 2 A1 = [[-1, 2], [3, 2]]
    raw = GradCAM(network, [network[0]]).maps(x, [0], normalize=False)
    assert torch.equal(raw, torch.tensor([[[0.0, 2.0], [3.0, 2.0]]]))
    assert GradCAM(network, [network[0]])(x, [0])[0].tolist() == pytest.approx(np.array([[0, 2 / 3], [1, 2 / 3]]))


def test_ablation_cam_runs_the_network_without_each_channel(model, pictures):
    """Plain reference: one full forward pass for every channel, zeroed by a hook."""
    weights = torch.zeros(4, 8)
    with torch.no_grad():
        activations = []
        handle = model.relu.register_forward_hook(lambda m, i, o: activations.append(o.clone()))
        intact = model(pictures)
        handle.remove()
        for channel in range(8):

            def without(m, i, o, channel=channel):
                o = o.clone()
                o[:, channel] = 0
                return o

            handle = model.relu.register_forward_hook(without)
            lost = model(pictures)
            handle.remove()
            for i, c in enumerate(CLASSES):
                weights[i, channel] = (intact[i, c] - lost[i, c]) / intact[i, c].abs()
    expected = (weights[:, :, None, None] * activations[0]).sum(1).relu()
    expected = nn.functional.interpolate(expected[:, None], (16, 12), mode="bilinear")[:, 0]
    for batch_size in (32, 1, 3):
        cam = AblationCAM(model, [model.relu], batch_size=batch_size)
        assert torch.allclose(cam.maps(pictures, CLASSES, normalize=False), expected, atol=1e-6)


def test_ablation_cam_does_not_turn_round_when_all_logits_shift(model, pictures):
    """grad-cam divides by the signed score: with a bias of -10 its map is the negative of the one with +10."""
    found = []
    for bias in (10.0, -10.0):
        nn.init.constant_(model.fc.bias, bias)
        found.append(AblationCAM(model, [model.relu])(pictures, CLASSES))
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.999


def test_ablation_cam_where_later_layers_concatenate():
    """DenseNet joins the hooked layer with earlier ones: the copies cannot spread, so the picture is repeated."""
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
        whole = cam.channel_weights(*cam._runs(x, [1]))
    assert whole[0, :4].tolist() == pytest.approx(weights, abs=1e-5)
    assert torch.isfinite(found).all()


def test_score_cam_by_hand(model, pictures):
    a, _ = activations_and_gradients(model, model.relu, pictures, CLASSES)
    a[1, 2] = 0.5  # a constant channel masks everything
    expected = []
    with torch.no_grad():
        for i, c in enumerate(CLASSES):
            scores = []
            for channel in a[i]:
                mask = nn.functional.interpolate(channel[None, None], (16, 12), mode="bilinear", align_corners=True)
                extent = mask.max() - mask.min()
                mask = (mask - mask.min()) / extent if extent > 1e-6 else torch.zeros_like(mask)
                scores.append(model(pictures[i : i + 1] * mask)[0, c])
            weights = torch.stack(scores).softmax(0)
            expected.append((weights[:, None, None] * a[i]).sum(0))
    cam = ScoreCAM(model, [model.relu])
    targets = [ClassifierOutputTarget(c) for c in CLASSES]
    for batch_size in (32, 3):
        cam.batch_size = batch_size
        with torch.no_grad():
            found = cam.layer_map(
                LayerRun(pictures, model(pictures), targets, model.relu, a, a[:0]), eigen_smooth=False
            )
        assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def test_full_grad_is_complete(model, pictures):
    """Input times gradient plus bias times gradient sums to the logit (proposition 1 of the paper)."""
    from pytorch_grad_cam.activations_and_gradients import forward_hooks
    from pytorch_grad_cam.fullgrad_cam import implicit_bias

    layers = [m for m in model.modules() if implicit_bias(m) is not None]
    assert len(layers) == 3
    gradients = {}
    x = pictures.clone().requires_grad_()
    with forward_hooks(layers, lambda i, o: o.register_hook(lambda g: gradients.update({i: g})) and None):
        outputs = model(x)
    (gradient,) = torch.autograd.grad(outputs[torch.arange(4), torch.tensor(CLASSES)].sum(), x)
    total = (gradient * x).sum(dim=(1, 2, 3)) + model.fc.bias[torch.tensor(CLASSES)]
    for i, layer in enumerate(layers):
        total = total + (gradients[i] * implicit_bias(layer).view(1, -1, 1, 1)).sum(dim=(1, 2, 3))
    assert torch.allclose(total, outputs[torch.arange(4), torch.tensor(CLASSES)], atol=1e-4)


def test_full_grad_equals_the_authors_formula(model, pictures):
    """psi: absolute, min-max over all channels of a picture together, enlarged channel by channel, summed."""
    leaf = pictures.clone().requires_grad_()
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
        FullGrad(model, []).maps(pictures, CLASSES, normalize=False), total.detach(), rtol=1e-4, atol=1e-5
    )


def test_guided_backprop(model, pictures):
    """Against ReLUs replaced by hand; for one picture, the same picture twice, and a batch."""
    guided = GuidedBackpropReLUModel(model)
    x = pictures[:1]
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

    batch = guided(pictures, target_category=[2, 0, 1, 0])
    assert batch.shape == (4, 16, 12, 3)
    assert np.allclose(batch[0], first, atol=1e-6)
    assert type(model.relu) is nn.ReLU
    assert model.relu.inplace


def tails(model):
    """What follows each of two layers, as functions of its output (1, C, H, W)."""
    return {
        "relu": lambda a: model.fc(a.mean(dim=(2, 3)))[0],
        "bn1": lambda a: model.fc(torch.relu(model.conv2(torch.relu(a))).mean(dim=(2, 3)))[0],
    }


@pytest.mark.parametrize("target", [ClassifierOutputSoftmaxTarget, ClassifierOutputReST, ClassifierOutputTarget])
def test_shapley_cam_subtracts_half_the_hessians_product(target, model, pictures):
    targets, small = [target(c) for c in CLASSES], {}
    for layer, tail in tails(model).items():
        a, _ = activations_and_gradients(model, model.get_submodule(layer), pictures, CLASSES)
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
        found = ShapleyCAM(model, [layer])(pictures, targets)
        assert abs(found - finished(small[layer], (16, 12))).max() < 1e-4
    both = np.mean([finished_once(m, (16, 12)) for m in small.values()], axis=0)
    stretched = maps.normalize(torch.from_numpy(both)).numpy()
    assert abs(ShapleyCAM(model, list(small))(pictures, targets) - stretched).max() < 1e-4


def finished_once(small, size):
    """As :func:`finished`, before the last stretch: what is averaged over layers."""
    large = nn.functional.interpolate(normalized(small)[:, None], size=size, mode="bilinear", align_corners=False)
    return large[:, 0].numpy()


def test_finer_cam_is_a_difference_of_maps(model, pictures):
    """Gradients are linear: the map of y_c - alpha * sum w_j y_j is that of the logits' maps, each by plain Grad-CAM."""
    of_class = []
    for c in range(3):
        a, g = activations_and_gradients(model, model.relu, pictures, [c] * 4)
        of_class.append((g.mean(dim=(2, 3), keepdim=True) * a).sum(1))
    logits = model(pictures).detach()
    for arguments, ranks in [
        ({}, [1, 2]),
        ({"comparison_categories": [1], "alpha": 0.6}, [1]),
        ({"target_idx": 2}, [1, 2]),
    ]:
        expected = []
        for i, scores in enumerate(logits):
            main = arguments.get("target_idx", int(scores.argmax()))
            order = sorted(set(range(3)) - {main}, key=lambda c: abs(scores[c] - scores[main]))
            others = [order[rank - 1] for rank in ranks]
            weights = scores[others].softmax(0)
            mean = sum(w * of_class[c][i] for w, c in zip(weights, others, strict=True))
            expected.append(of_class[main][i] - arguments.get("alpha", 1) * mean)
        found = FinerCAM(model, [model.relu])(pictures, **arguments)
        assert abs(found - finished(torch.stack(expected), (16, 12))).max() < 2e-5
    classes = FinerCAM(model, ["relu"])(pictures, logits.argmax(1).tolist())
    assert np.array_equal(classes, FinerCAM(model, ["relu"])(pictures))


def test_finer_cam_needs_something_to_compare(model, pictures):
    with pytest.raises(ValueError, match="the same for all classes"):
        FinerCAM(model, ["relu"], base_method=EigenCAM)
    one_logit = nn.Sequential(model, nn.Linear(3, 1))
    with pytest.raises(ValueError, match="compares classes"):
        FinerCAM(one_logit, [model.relu])(pictures)


def test_refine_cam_multiplies_the_layers_maps(model, pictures):
    product = np.ones((4, 16, 12), np.float32)
    for layer in ("bn1", "relu"):
        product *= GradCAM(model, [layer])(pictures, CLASSES)
    expected = (product - product.min((1, 2), keepdims=True)) / np.ptp(product, axis=(1, 2), keepdims=True)
    found = RefineCAM(model, ["bn1", "relu"], base_method=GradCAM)(pictures, CLASSES)
    assert abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("around", [FinerCAM, RefineCAM])
@pytest.mark.parametrize("base", [AblationCAM, ScoreCAM, FullGrad, IntegratedGradients])
def test_methods_of_methods_take_any_method(around, base, model, pictures):
    """Those with a pass of their own too; and the batch size is theirs."""
    sizes = []
    handle = model.fc.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    cam = around(model, ["relu"], base_method=base)
    cam.batch_size = 5
    found = cam(pictures, [lambda output: output[1]] * 4)
    handle.remove()
    assert np.array_equal(found, base(model, ["relu"])(pictures, [lambda output: output[1]] * 4))
    assert torch.equal(cam.outputs, model(pictures).detach())
    if base in (ScoreCAM, IntegratedGradients):
        assert max(sizes) == 5


@pytest.mark.parametrize(("pool", "filtered"), [("mean", 0), ("max", 0.5)])
def test_sess_by_hand(pool, filtered, model, pictures):
    """Two scales of one picture: three windows at the first, six at the second; theirs are placed with OpenCV."""
    import cv2

    picture, total, counts, windows = pictures[:1], np.zeros((16, 12), np.float32), np.zeros((16, 12)), []
    for side in (12, 15):
        scaled = torchvision.transforms.functional.resize(picture, side, antialias=True)
        height, width = scaled.shape[-2:]
        for top in range(0, height - 12 + 1, 1) if height == 12 else [0, height - 12]:
            for left in [0] if width == 12 else [0, width - 12]:
                patch = scaled[..., top : top + 12, left : left + 12]
                windows.append((patch, top, left, height, width, model(patch).softmax(1)[0, 1].item()))
    assert len(windows) == 2 + 4
    windows = sorted(windows, key=lambda window: window[-1])[int(filtered * len(windows)) :]
    for patch, top, left, height, width, score in windows:
        heat = finished(reference_of(model, patch), (12, 12))[0]
        canvas = np.zeros((height, width), np.float32)
        canvas[top : top + 12, left : left + 12] = heat * (score / windows[-1][-1])
        canvas = cv2.resize(canvas, (12, 16))
        counts += canvas > 0
        total = np.maximum(total, canvas) if pool == "max" else total + canvas
    total = total if pool == "max" else total / np.maximum(counts, 1)
    for smooth in (False, True):
        expected = cv2.GaussianBlur(total, (11, 11), 5.0) if smooth else total
        cam = SESS(model, ["relu"], num_scales=2, pool=pool, pre_filter_ratio=filtered, smooth=smooth, batch_size=4)
        found = cam.maps(picture, [1], normalize=False)[0].numpy()
        assert abs(found - expected).max() < 1e-5


def reference_of(model, patch):
    a, g = activations_and_gradients(model, model.relu, patch, [1])
    return (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)


@pytest.mark.parametrize("wrong", [{"pool": "sum"}, {"pre_filter_ratio": 1}, {"num_scales": 0}, {"scales": [4]}])
def test_sess_refuses(wrong, model, pictures):
    with pytest.raises(ValueError, match=next(iter(wrong)).rstrip("s")):
        SESS(model, ["relu"], **wrong)(pictures, CLASSES)


def test_cam_is_grad_cam_times_the_number_of_places(model, pictures):
    """Behind global average pooling, the mean gradient of a channel is its weight divided by the 8 x 6 places."""
    signed = [c(model, ["relu"]).maps(pictures, CLASSES, normalize=False, relu=False) for c in (CAM, GradCAM)]
    assert torch.allclose(signed[0], 48 * signed[1], atol=1e-5)


def test_cam_refuses_networks_without_pooling_and_linear_layer(model, pictures):
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
            CAM(network, [layer])(pictures, targets)


def test_smooth_grad_cam_plus_plus_by_hand(model, pictures):
    """In float64: D2 / (2 D2 + S D3) relu(D1), with the mean powers of the gradients at noisy copies."""
    cam = SmoothGradCAMPlusPlus(model, ["relu"], samples=5, noise=0.2, seed=3)
    generator = torch.Generator().manual_seed(3)
    a, _ = activations_and_gradients(model, model.relu, pictures, CLASSES)
    extent = pictures.amax((1, 2, 3), keepdim=True) - pictures.amin((1, 2, 3), keepdim=True)
    noisy = [pictures + 0.2 * extent * torch.randn((3, 16, 12), generator=generator) for _ in range(5)]
    g = torch.stack([activations_and_gradients(model, model.relu, x, CLASSES)[1].double() for x in noisy])
    first, second, third = ((g**k).mean(0) for k in (1, 2, 3))
    denominator = 2 * second + third * a.double().sum((2, 3), keepdim=True)
    alpha = torch.where(denominator > 0, second / denominator, 0)
    expected = ((alpha * first.clamp(min=0)).sum((2, 3), keepdim=True) * a).sum(1).float()
    assert abs(cam(pictures, CLASSES) - finished(expected, (16, 12))).max() < 1e-4


def test_rise_is_the_masks_sum_weighted_by_score(model, pictures):
    cam = RISE(model, masks=70, shown=0.3, seed=2)
    generator = torch.Generator().manual_seed(2)
    masks = torch.stack([cam._mask((16, 12), generator) for _ in range(70)])
    assert 0 <= masks.min() <= masks.max() <= 1
    assert masks.mean().item() == pytest.approx(0.3, abs=0.03)
    with torch.no_grad():
        scores = torch.stack(
            [model(picture * masks[:, None])[:, c] for picture, c in zip(pictures, CLASSES, strict=True)]
        )
    scores = scores - scores.mean(dim=1, keepdim=True)
    expected = torch.einsum("nm,mhw->nhw", scores, masks) / (70 * 0.3)
    found = cam.maps(pictures, CLASSES, normalize=False, relu=False)
    assert torch.allclose(found, expected, atol=1e-5)


class Corner(nn.Module):
    """Looks at the first five rows and four columns, and at nothing else; a score far from 0."""

    def forward(self, x):
        return x[..., :5, :4].sum(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, -1.0]) + 100


@pytest.mark.parametrize("name", ["RISE", "Occlusion", "IntegratedGradients", "SmoothGrad"])
def test_pixel_methods_find_what_counts(name):
    """On a model with neither parameters nor layers."""
    settings = {"RISE": {"masks": 500}, "Occlusion": {"window": 2}}.get(name, {})
    heat = getattr(pytorch_grad_cam, name)(Corner(), **settings)(torch.ones(1, 3, 16, 12), [0])[0]
    inside = np.zeros((16, 12), bool)
    inside[:5, :4] = True
    assert heat[inside].mean() > 4 * heat[~inside].mean()
    assert np.unravel_index(heat.argmax(), heat.shape) <= (4, 3)
    if name in ("IntegratedGradients", "SmoothGrad"):
        assert heat[inside].min() == 1
        assert heat[~inside].max() == 0


def test_smooth_grad_by_hand(model, pictures):
    """The mean gradient at noisy copies, absolute, summed over the colours; noise is a share of the picture's range."""
    generator = torch.Generator().manual_seed(1)
    expected = []
    noise = [torch.randn((3, 16, 12), generator=generator) for _ in range(6)]
    for picture, c in zip(pictures, CLASSES, strict=True):
        copies = torch.stack([picture + 0.1 * (picture.max() - picture.min()) * one for one in noise]).requires_grad_()
        (gradients,) = torch.autograd.grad(model(copies)[:, c].sum(), copies)
        expected.append(gradients.mean(0).abs().sum(0))
    cam = SmoothGrad(model, samples=6, noise=0.1, seed=1)
    cam.batch_size = 4
    assert torch.allclose(cam.maps(pictures, CLASSES, normalize=False), torch.stack(expected), atol=1e-5)


def test_guided_grad_cam_is_the_product(model, pictures):
    found = GuidedGradCAM(model, ["relu"])(pictures, CLASSES)
    detail = GuidedBackpropReLUModel(model)(pictures, CLASSES)
    heat = finished(reference_maps("GradCAM", model, model.relu, pictures), (16, 12))
    assert found.shape == (4, 16, 12, 3)
    assert np.allclose(found, heat[..., None] * detail, atol=1e-5)
    layered = GuidedGradCAM(model, ["relu"], base_method=LayerCAM)(pictures, CLASSES)
    assert np.allclose(layered, LayerCAM(model, ["relu"])(pictures, CLASSES)[..., None] * detail, atol=1e-6)


def test_guided_backprop_through_relus_of_any_kind():
    """As a module, a function, a method, and in place as a statement whose result nobody takes."""

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


def test_random_cam_is_reproducible_and_draws_from_its_own_generator(model, pictures):
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    cam, again, other = (RandomCAM(model, ["relu"], seed=seed) for seed in (4, 4, 5))
    first, second = cam(pictures), cam(pictures)
    assert np.array_equal(first, again(pictures))
    assert np.array_equal(second, again(pictures))
    for different in (second, other(pictures)):
        assert abs(np.corrcoef(first.ravel(), different.ravel())[0, 1]) < 0.9
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002
    run = LayerRun(pictures, None, [], model.relu, torch.zeros(2, 5000, 1, 1), torch.zeros(0))
    weights = cam.channel_weights(run)
    assert -1 <= weights.min() < -0.99
    assert 0.99 < weights.max() <= 1
    assert abs(weights.mean()) < 0.02


# -- other packages as references ------------------------------------------------------------------------------------


def normalized(m):
    m = m.clamp(min=0)
    return (m - m.amin(dim=(1, 2), keepdim=True)) / (
        m.amax(dim=(1, 2), keepdim=True) - m.amin(dim=(1, 2), keepdim=True)
    )


def test_captum_agrees(model, pictures):
    from captum.attr import LayerGradCam

    theirs = LayerGradCam(model, model.conv2).attribute(pictures, target=CLASSES)[:, 0].detach()
    ours = GradCAM(model, [model.conv2])
    small = ours.maps(pictures, CLASSES, normalize=False)
    theirs = nn.functional.interpolate(theirs[:, None].relu(), (16, 12), mode="bilinear")[:, 0]
    assert torch.allclose(small, theirs, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 7])
def test_captum_agrees_on_integrated_gradients(steps, model, pictures):
    from captum.attr import IntegratedGradients as Captums

    theirs = Captums(model).attribute(pictures, torch.full_like(pictures, 0.3), CLASSES, None, steps, "riemann_middle")
    ours = IntegratedGradients(model, steps=steps, baseline=0.3).maps(pictures, CLASSES, normalize=False, relu=False)
    assert torch.allclose(ours, theirs.sum(1).float(), atol=1e-5)


def test_integrated_gradients_are_complete(model, pictures):
    """The signed map sums to the difference of the scores."""
    ours = IntegratedGradients(model, steps=200).maps(pictures, CLASSES, normalize=False, relu=False)
    with torch.no_grad():
        difference = model(pictures)[range(4), CLASSES] - model(torch.zeros_like(pictures))[range(4), CLASSES]
    assert torch.allclose(ours.sum((1, 2)), difference, rtol=0.01, atol=0.01 * float(difference.abs().max()))


def test_captum_agrees_on_occlusion(model, pictures):
    """Where windows fit, so that captum's last one is not cut off."""
    from captum.attr import Occlusion as Captums

    theirs = Captums(model).attribute(pictures, (3, 4, 4), (3, 2, 2), baselines=0.5, target=CLASSES)[:, 0]
    ours = Occlusion(model, window=4, stride=2, cover=0.5).maps(pictures, CLASSES, normalize=False, relu=False)
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
    heat = GradCAM(network, ["3"]).maps(x, [0, 1], normalize=False)  # captum does not stretch it
    ours = heat[:, None] * GuidedGradCAM(network, ["3"]).guided.gradients(x, [0, 1])
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["GradCAM", "XGradCAM", "LayerCAM"])
def test_torchcam_agrees(model, pictures, name):
    import torchcam.methods

    small = []
    for i, c in enumerate(CLASSES):
        with getattr(torchcam.methods, name)(model, target_layer="relu") as extractor:
            small.append(extractor(c, model(pictures[i : i + 1].clone().requires_grad_()))[0])
    found = method(name, model, [model.relu]).maps(pictures, CLASSES, normalize=False)
    expected = nn.functional.interpolate(torch.cat(small)[:, None], (16, 12), mode="bilinear")[:, 0]
    # torchcam's XGradCAM and LayerCAM scale their weights; the maps agree after the stretch
    assert torch.allclose(normalized(found), normalized(expected.detach()), atol=0.02 if name == "LayerCAM" else 1e-4)


# -- nothing is left behind ------------------------------------------------------------------------------------------


def state_of(model):
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "modules": [id(m) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "parameters": [p.detach().clone() for p in model.parameters()],
        "rng": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_left_behind(name, pictures):
    model = Small().train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model(pictures).sum().backward()
    before = state_of(model)
    kept = pictures.clone()
    cam = method(name, model, [model.relu])
    cam(pictures, CLASSES)
    failing = [ClassifierOutputTarget(0)] * 3 + [lambda output: output[99]]
    if name not in OF_NO_CLASS:  # which never ask for the targets
        with pytest.raises(ValueError if name == "CAM" else IndexError):
            cam(pictures, failing)
    del cam
    gc.collect()
    after = state_of(model)
    assert [key for key in before if not same(before[key], after[key])] == []
    assert torch.equal(pictures, kept)
    assert pictures.grad is None


def test_guided_backprop_leaves_nothing_behind(pictures):
    model = Small().train()
    before = state_of(model)
    GuidedBackpropReLUModel(model)(pictures, target_category=1)
    after = state_of(model)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_activations_are_not_held_between_calls(model, pictures):
    cam = GradCAM(model, [model.relu])
    cam(pictures)
    model(pictures)
    assert cam.activations_and_grads.activations == []
    assert not cam.outputs.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_frozen_models_and_callers_without_grad(name, model, pictures):
    expected = method(name, model, [model.relu])(pictures, CLASSES)
    for p in model.parameters():
        p.requires_grad_(False)
        p.grad = torch.ones_like(p)
    with torch.no_grad():
        assert np.array_equal(method(name, model, [model.relu])(pictures, CLASSES), expected)
    with torch.inference_mode():
        assert np.array_equal(method(name, model, [model.relu])(pictures.clone(), CLASSES), expected)
    assert all((p.grad == 1).all() for p in model.parameters())


def test_gradient_is_bit_identical_to_a_full_backward_pass(model, pictures):
    a, g = activations_and_gradients(model, model.relu, pictures, CLASSES)
    recorder = pytorch_grad_cam.ActivationsAndGradients(model, [model.relu])
    outputs = recorder(pictures)
    found = recorder.differentiate(outputs[torch.arange(4), torch.tensor(CLASSES)].sum())
    assert torch.equal(recorder.activations[0], a)
    assert torch.equal(found[0], g)


def test_in_place_layers_after_the_target_do_not_spoil_it(pictures):
    """conv2 is followed by an in-place ReLU: its own, signed output is what is explained."""
    model = Small().eval()
    with torch.no_grad():
        signed = model.conv2(torch.relu(model.bn1(model.conv1(pictures))))
    for with_graph in (True, False):
        recorder = pytorch_grad_cam.ActivationsAndGradients(model, [model.conv2])
        recorder(pictures, with_graph=with_graph)
        assert torch.equal(recorder.activations[0], signed)


# -- calls -----------------------------------------------------------------------------------------------------------


def test_default_target_is_the_predicted_class(model, pictures):
    predicted = model(pictures).argmax(1).tolist()
    cam = GradCAM(model=model, target_layers=[model.relu])
    assert np.array_equal(cam(input_tensor=pictures), cam(pictures, [ClassifierOutputTarget(c) for c in predicted]))
    assert torch.equal(cam.outputs, model(pictures).detach())


def test_the_tutorials_older_arguments_work_and_warn_once(model, pictures):
    legacy._already_said.clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            cam = GradCAM(model=model, target_layers=[model.relu], use_cuda=False)
            one = cam(input_tensor=pictures, target_category=1)
            several = cam(input_tensor=pictures, target_category=CLASSES)
            AblationCAM(model=model, target_layers=[model.relu], use_cuda=False)
            FullGrad(model=model, target_layers=[model.relu], use_cuda=False)
            GuidedBackpropReLUModel(model=model, use_cuda=False)
    messages = [str(w.message) for w in seen if w.category is FutureWarning]
    assert len(messages) == 2
    assert any("use_cuda" in m for m in messages)
    assert any("target_category" in m for m in messages)
    assert np.array_equal(one, cam(pictures, [1] * 4))
    assert np.array_equal(several, cam(pictures, CLASSES))


def test_wrong_number_of_targets_is_an_error(model, pictures):
    with pytest.raises(ValueError, match="1 targets for 4 pictures"):
        GradCAM(model, [model.relu])(pictures, [ClassifierOutputTarget(0)])
    with pytest.raises(ValueError, match="not both"):
        GradCAM(model, [model.relu])(pictures, [0] * 4, target_category=0)


def test_layers_that_do_not_take_part(model, pictures):
    stranger = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="did not run"):
        GradCAM(model, [stranger])(pictures)
    with pytest.raises(ValueError, match="does not depend"):
        GradCAM(model, [model.relu])(pictures, [lambda output: torch.tensor(1.0)] * 4)


def test_context_manager_lets_errors_through(model, pictures):
    with pytest.raises(IndexError), GradCAM(model, [model.relu]) as cam:
        cam(pictures, [99] * 4)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_its_pictures(name, model, pictures):
    together = method(name, model, [model.relu])(pictures, CLASSES)
    cam = method(name, model, [model.relu])
    alone = np.concatenate([cam(pictures[i : i + 1], CLASSES[i : i + 1]) for i in range(4)])
    assert abs(together - alone).max() < 1e-4
    assert together.min() >= 0
    assert together.max() <= 1


def test_several_layers_are_averaged(model, pictures):
    both = LayerCAM(model, [model.bn1, model.relu])(pictures, CLASSES)
    each = [LayerCAM(model, [layer])(pictures, CLASSES) for layer in (model.bn1, model.relu)]
    small = [LayerCAM(model, [layer]).maps(pictures, CLASSES, normalize=False) for layer in (model.bn1, model.relu)]
    assert all(m.shape == (4, 16, 12) for m in small)
    mean = maps.normalize(torch.from_numpy(np.mean(each, axis=0))).numpy()
    # the layers are stretched at their own resolution, before they are enlarged
    assert np.corrcoef(both.ravel(), mean.ravel())[0, 1] > 0.99


def test_aug_smooth_is_the_mean_over_six_variants(model, pictures):
    cam = GradCAM(model, [model.relu])
    expected = np.zeros((4, 16, 12), np.float32)
    for flip in (False, True):
        for factor in (0.9, 1.0, 1.1):
            x = pictures.flip(-1) if flip else pictures
            heat = cam(x * factor, CLASSES)
            expected += (heat[..., ::-1] if flip else heat) / 6
    assert np.allclose(cam(pictures, CLASSES, aug_smooth=True), expected, atol=1e-6)
    assert np.allclose(cam.forward_augmentation_smoothing(pictures, CLASSES), expected, atol=1e-6)
    assert torch.equal(cam.outputs, model(pictures).detach())


def test_eigen_smooth_projects_the_weighted_activations(model, pictures):
    a, g = activations_and_gradients(model, model.relu, pictures, CLASSES)
    expected = finished(principal_map(g.mean(dim=(2, 3), keepdim=True) * a), (16, 12))
    assert np.allclose(GradCAM(model, [model.relu])(pictures, CLASSES, eigen_smooth=True), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "EigenGradCAM"])
def test_maps_do_not_depend_on_the_scale_of_the_logits(name, scale, model, pictures):
    """grad-cam's absolute epsilons wipe out maps of small scale."""
    cam = method(name, model, [model.relu])
    if (
        name == "GradCAMPlusPlus"
    ):  # equation 19 itself depends on the scale of G * S; only tiny and zero must not break it
        heat = cam(pictures, [lambda output: output[0] * scale] * 4)
        assert heat.max() == 1
        return
    assert np.allclose(cam(pictures, [0] * 4), cam(pictures, [lambda output: output[0] * scale] * 4), atol=1e-4)


def test_volumes(pictures):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.randn(2, 1, 6, 8, 10)
    for name in METHODS:
        if name == "SESS":  # windows are of pictures
            with pytest.raises(ValueError, match="pictures"):
                method(name, network, [network[1]])(x, [0, 1])
            continue
        heat = method(name, network, [network[1]])(x, [0, 1])
        assert heat.shape == (2, 6, 8, 10), name
        assert 0 <= heat.min() <= heat.max() <= 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_another_precision(dtype, name, model, pictures):
    expected = method(name, model, [model.relu])(pictures, CLASSES)
    found = method(name, model.to(dtype), [model.relu])(pictures.to(dtype), CLASSES)
    assert found.dtype == np.float32
    # small differences of bfloat16 scores: coarse
    least = 0.8 if name == "Occlusion" else 0.95
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least


@pytest.mark.parametrize("name", METHODS)
def test_not_a_number_is_an_error(name, model, pictures):
    pictures[2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        method(name, model, [model.relu])(pictures, CLASSES)


def test_nothing_for_the_class_gives_zeros(model, pictures):
    with torch.no_grad():
        model.fc.weight[0] = -model.fc.weight[0].abs()
    heat = GradCAM(model, [model.relu])(pictures, [0] * 4)
    assert not heat.any()


# -- helpers -----------------------------------------------------------------------------------------------------------


def test_normalize():
    heat = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1e-30], [2e-30, 4e-30]]])
    assert maps.normalize(heat).tolist() == [
        [[0.0, 0.5], [0.25, 1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.25], [0.5, 1.0]],
    ]


def test_resize_is_opencvs():
    import cv2

    heat = torch.rand(1, 7, 9)
    expected = cv2.resize(heat[0].numpy(), (50, 40))
    assert np.allclose(maps.resize(heat, (40, 50))[0].numpy(), expected, atol=1e-5)
    assert np.allclose(
        image.scale_cam_image(heat.numpy(), (50, 40)), maps.resize(maps.normalize(heat), (40, 50)).numpy()
    )


@pytest.mark.parametrize(("channels", "side"), [(64, 7), (5, 30)])
def test_principal_map_is_the_svds(channels, side):
    a = np.random.default_rng(0).random((3, channels, side, side), dtype=np.float32)
    found = get_2d_projection(a)
    for one, projected in zip(a.astype(np.float64), found, strict=True):
        places = one.reshape(channels, -1).T
        centred = places - places.mean(axis=0)
        component = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        assert min(abs(component - projected.ravel()).max(), abs(component + projected.ravel()).max()) < 1e-4
        assert np.corrcoef(projected.ravel(), places.sum(axis=1))[0, 1] >= 0


def test_principal_map_of_what_differs_by_rounding_is_zero():
    """It would be stretched to a map of noise."""
    activations = torch.full((2, 5, 6, 6), 0.3)
    activations[0] += 1e-8 * torch.rand(5, 6, 6)
    activations[1, :, 2, 2] += 1e-4
    found = principal_map(activations)
    assert not found[0].any()
    assert found[1].flatten().argmax() == 2 * 6 + 2


def test_preprocess_and_deprocess():
    picture = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    tensor = image.preprocess_image(picture / 255, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    assert tensor.shape == (1, 3, 5, 4)
    assert tensor[0, 1, 2, 3].item() == pytest.approx((picture[2, 3, 1] / 255 - 0.2) / 0.6, abs=1e-6)
    assert torch.equal(image.preprocess_image(picture), image.preprocess_image(np.float32(picture) / 255))
    values = np.array([-1.0, 0.0, 1.0])
    assert image.deprocess_image(values).tolist() == [int(255 * (0.5 + 0.1 * v / np.std(values))) for v in values]


def test_show_cam_on_image():
    picture = np.full((4, 4, 3), 0.5, np.float32)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    over = image.show_cam_on_image(picture, heat, use_rgb=True)
    assert over.dtype == np.uint8
    assert over.max() == 255
    assert over[0, 0].argmax() == 0  # red where hot
    assert over[3, 3].argmax() == 2  # blue where cold
    assert np.array_equal(image.show_cam_on_image(picture, heat)[..., ::-1], over)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        image.show_cam_on_image(picture * 255, heat)
    with pytest.raises(ValueError, match="image_weight"):
        image.show_cam_on_image(picture, heat, image_weight=2)


def test_eigen_maps_need_no_gradient(model, pictures, monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    EigenCAM(model, [model.relu])(pictures)
    with pytest.raises(TypeError):
        EigenGradCAM(model, [model.relu])(pictures)


def test_names_resolve_lazily():
    assert pytorch_grad_cam.GradCAMPlusPlus is GradCAMPlusPlus
    assert pytorch_grad_cam.XGradCAM is XGradCAM
    assert set(pytorch_grad_cam.__all__) <= set(dir(pytorch_grad_cam))
    with pytest.raises(AttributeError, match="NoSuchCAM"):
        _ = pytorch_grad_cam.NoSuchCAM


def test_signed_maps_of_several_layers_keep_their_zero(model, pictures):
    single = [GradCAM(model, [layer]).maps(pictures, CLASSES, normalize=False, relu=False) for layer in ("bn1", "relu")]
    coarse = [heat.abs().amax((1, 2)) for heat in single]
    assert all(heat.min() < 0 < heat.max() for heat in single)
    found = GradCAM(model, ["bn1", "relu"]).maps(pictures, CLASSES, normalize=False, relu=False)
    # The largest size is taken at the layer's own resolution: that of bn1 is the picture's.
    a, g = activations_and_gradients(model, model.relu, pictures, CLASSES)
    own = (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)
    expected = single[0] / coarse[0][:, None, None] / 2 + single[1] / own.abs().amax((1, 2))[:, None, None] / 2
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="RefineCAM multiplies maps"):
        method("RefineCAM", model, ["bn1", "relu"]).maps(pictures, CLASSES, normalize=False, relu=False)


def test_refinecam_smooths_each_layer_before_the_product(model, pictures):
    layers = ["bn1", "relu"]
    single = [method("GradCAMPlusPlus", model, [layer]).maps(pictures, CLASSES, eigen_smooth=True) for layer in layers]
    expected = single[0] * single[1]
    expected = (expected - expected.amin((1, 2), keepdim=True)) / (expected.amax((1, 2)) - expected.amin((1, 2)))[
        :, None, None
    ]
    found = method("RefineCAM", model, layers).maps(pictures, CLASSES, eigen_smooth=True)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, method("RefineCAM", model, layers).maps(pictures, CLASSES), atol=1e-2)


def test_scorecam_can_try_the_strongest_channels_alone(model, pictures):
    from pytorch_grad_cam.ablation_layer import AblationLayer

    a, _ = activations_and_gradients(model, model.relu, pictures, CLASSES)
    maps = []
    for one, picture, category in zip(a, pictures, CLASSES, strict=True):
        tried = AblationLayer().activations_to_be_ablated(one.numpy(), 0.5)
        assert len(tried) == 4
        scores = []
        for channel in one[tried]:
            mask = torch.nn.functional.interpolate(channel[None, None], (16, 12), mode="bilinear", align_corners=True)[
                0, 0
            ]
            seen = picture * (mask - mask.min()) / (mask.max() - mask.min())
            scores.append(model(seen[None])[0, category])
        weights = torch.stack(scores).softmax(0)
        maps.append((weights[:, None, None] * one[tried]).sum(0))
    expected = finished(torch.stack(maps).detach(), (16, 12))
    found = method("ScoreCAM", model, ["relu"], ratio_channels_to_score=0.5)(pictures, CLASSES)
    assert np.allclose(found, expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"in \(0, 1\], got 0"):
        method("ScoreCAM", model, ["relu"], ratio_channels_to_score=0)
