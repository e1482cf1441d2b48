"""The CAM engine against formulas written out by hand, and against what it must leave alone."""

import gc
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import pytorch_grad_cam
from crackcam.methods import METHODS, method_class
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackpropReLUModel,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
    legacy,
)
from pytorch_grad_cam.utils import image, maps
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection, principal_map


class Small(nn.Module):
    """Two convolutions with batch norm, in-place ReLU, average pooling, a linear head: 3 classes."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.relu = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 3)
        self.bn1.running_mean.normal_(0, 0.3)
        self.bn1.running_var.uniform_(0.5, 2)
        nn.init.normal_(self.bn1.weight)
        nn.init.normal_(self.bn1.bias)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.relu(self.conv2(x)).mean(dim=(2, 3)))


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def pictures():
    return torch.randn(4, 3, 16, 12, generator=torch.Generator().manual_seed(1))


def activations_and_gradients(model, layer, x, classes):
    """By plain retain_grad, on clones: an independent reference."""
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    outputs = model(x)
    handle.remove()
    (activations,) = kept
    score = outputs[torch.arange(len(x)), torch.tensor(classes)].sum()
    (gradients,) = torch.autograd.grad(score, activations)
    return activations.detach(), gradients


def finished(small, size):
    """ReLU, min-max, bilinear enlargement, min-max: as every method ends."""
    out = []
    for one in small.relu():
        one = (one - one.min()) / (one.max() - one.min())
        one = nn.functional.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        out.append((one - one.min()) / (one.max() - one.min()))
    return torch.stack(out).numpy()


CLASSES = [0, 1, 2, 1]


def reference_maps(name, model, layer, x):
    a, g = activations_and_gradients(model, layer, x, CLASSES)
    if name == "gradcam":
        return (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)
    if name == "layercam":
        return (g.clamp(min=0) * a).sum(1)
    if name == "xgradcam":
        return ((g * a).sum(dim=(2, 3), keepdim=True) / a.sum(dim=(2, 3), keepdim=True).clamp(min=1e-20) * a).sum(1)
    if name == "gradcam++":  # equation 19, in float64 and without any epsilon
        a, g = a.double(), g.double()
        alpha = torch.nan_to_num(g**2 / (2 * g**2 + g**3 * a.sum(dim=(2, 3), keepdim=True)))
        return ((alpha * g.clamp(min=0)).sum(dim=(2, 3), keepdim=True) * a).sum(1).float()
    matrices = (a if name == "eigencam" else g * a).double()
    out = []
    for one in matrices.numpy():
        places = one.reshape(len(one), -1).T
        centred = places - places.mean(axis=0)
        component = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        sign = np.sign(np.corrcoef(component, places.sum(axis=1))[0, 1])
        out.append((sign * component).reshape(one.shape[1:]))
    return torch.from_numpy(np.stack(out)).float()


@pytest.mark.parametrize("name", ["gradcam", "layercam", "xgradcam", "gradcam++", "eigencam", "eigengradcam"])
def test_method_equals_its_formula(name, model, pictures):
    found = method_class(name)(model, [model.relu])(pictures, targets=CLASSES)
    expected = finished(reference_maps(name, model, model.relu, pictures), (16, 12))
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
    from pytorch_grad_cam.base_cam import LayerRun

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


@pytest.mark.parametrize(
    ("name", "theirs"), [("gradcam", "GradCAM"), ("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")]
)
def test_torchcam_agrees(model, pictures, name, theirs):
    import torchcam.methods

    small = []
    for i, c in enumerate(CLASSES):
        with getattr(torchcam.methods, theirs)(model, target_layer="relu") as extractor:
            small.append(extractor(c, model(pictures[i : i + 1].clone().requires_grad_()))[0])
    found = method_class(name)(model, [model.relu]).maps(pictures, CLASSES, normalize=False)
    expected = nn.functional.interpolate(torch.cat(small)[:, None], (16, 12), mode="bilinear")[:, 0]
    # torchcam's XGradCAM and LayerCAM scale their weights; the maps agree after the stretch
    assert torch.allclose(normalized(found), normalized(expected.detach()), atol=0.02 if name == "layercam" else 1e-4)


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
    cam = method_class(name)(model, [model.relu])
    cam(pictures, CLASSES)
    failing = [ClassifierOutputTarget(0)] * 3 + [lambda output: output[99]]
    if name != "eigencam":  # which never asks for the targets
        with pytest.raises(IndexError):
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
    expected = method_class(name)(model, [model.relu])(pictures, CLASSES)
    for p in model.parameters():
        p.requires_grad_(False)
    cam = method_class(name)(model, [model.relu])
    with torch.no_grad():
        assert np.array_equal(cam(pictures, CLASSES), expected)
    with torch.inference_mode():
        assert np.array_equal(cam(pictures.clone(), CLASSES), expected)


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
    cam = method_class(name)(model, [model.relu])
    together = cam(pictures, CLASSES)
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
    assert torch.equal(cam.outputs, model(pictures).detach())


def test_eigen_smooth_projects_the_weighted_activations(model, pictures):
    a, g = activations_and_gradients(model, model.relu, pictures, CLASSES)
    expected = finished(principal_map(g.mean(dim=(2, 3), keepdim=True) * a), (16, 12))
    assert np.allclose(GradCAM(model, [model.relu])(pictures, CLASSES, eigen_smooth=True), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "xgradcam", "layercam", "eigengradcam"])
def test_maps_do_not_depend_on_the_scale_of_the_logits(name, scale, model, pictures):
    """grad-cam's absolute epsilons wipe out maps of small scale."""
    cam = method_class(name)(model, [model.relu])
    if name == "gradcam++":  # equation 19 itself depends on the scale of G * S; only tiny and zero must not break it
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
        heat = method_class(name)(network, [network[1]])(x, [0, 1])
        assert heat.shape == (2, 6, 8, 10), name
        assert 0 <= heat.min() <= heat.max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, model, pictures):
    expected = GradCAM(model, [model.relu])(pictures, CLASSES)
    found = GradCAM(model.to(dtype), [model.relu])(pictures.to(dtype), CLASSES)
    assert found.dtype == np.float32
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_not_a_number_is_an_error(model, pictures):
    pictures[2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        GradCAM(model, [model.relu])(pictures, CLASSES)


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
