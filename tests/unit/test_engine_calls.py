"""Arguments of a call: targets, layers, smoothing, normalisation; and which inputs are errors."""

import warnings

import numpy as np
import pytest
import torch
from networks import (
    CLASSES,
    METHODS,
    Small,
    activations_and_gradients,
    finished,
    method,
    normalized,
    resized,
    small_images,
)
from torch import nn

from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    LayerCAM,
    legacy,
)
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputTarget,
)
from pytorch_grad_cam.utils.svd_on_activations import principal_map


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def test_default_target_is_the_predicted_class(model, images):
    predicted = model(images).argmax(1).tolist()
    cam = GradCAM(model=model, target_layers=[model.relu])
    assert np.array_equal(cam(input_tensor=images), cam(images, [ClassifierOutputTarget(c) for c in predicted]))
    assert torch.equal(cam.outputs, model(images).detach())


def test_deprecated_arguments_work_and_warn_once(model, images):
    legacy._issued.clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            cam = GradCAM(model=model, target_layers=[model.relu], use_cuda=False)
            one = cam(input_tensor=images, target_category=1)
            several = cam(input_tensor=images, target_category=CLASSES)
            AblationCAM(model=model, target_layers=[model.relu], use_cuda=False)
            FullGrad(model=model, target_layers=[model.relu], use_cuda=False)
            GuidedBackpropReLUModel(model=model, use_cuda=False)
    messages = [str(w.message) for w in seen if w.category is FutureWarning]
    assert len(messages) == 2
    assert any("use_cuda" in m for m in messages)
    assert any("target_category" in m for m in messages)
    assert np.array_equal(one, cam(images, [1] * 4))
    assert np.array_equal(several, cam(images, CLASSES))


def test_wrong_number_of_targets_is_an_error(model, images):
    with pytest.raises(ValueError, match="1 targets for 4 images"):
        GradCAM(model, [model.relu])(images, [ClassifierOutputTarget(0)])
    with pytest.raises(ValueError, match="not both"):
        GradCAM(model, [model.relu])(images, [0] * 4, target_category=0)


def test_layers_without_influence_are_errors(model, images):
    unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="did not run"):
        GradCAM(model, [unused])(images)
    with pytest.raises(ValueError, match="does not depend"):
        GradCAM(model, [model.relu])(images, [lambda output: torch.tensor(1.0)] * 4)


def test_context_manager_propagates_errors(model, images):
    with pytest.raises(IndexError), GradCAM(model, [model.relu]) as cam:
        cam(images, [99] * 4)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_equals_its_single_images(name, model, images):
    together = method(name, model, [model.relu])(images, CLASSES)
    cam = method(name, model, [model.relu])
    alone = np.concatenate([cam(images[i : i + 1], CLASSES[i : i + 1]) for i in range(4)])
    assert abs(together - alone).max() < 1e-4
    assert together.min() >= 0
    assert together.max() <= 1


def test_several_layers_are_averaged(model, images):
    """Each layer's map is normalised at its own resolution before it is resized."""
    maps = []
    for layer in (model.bn1, model.relu):
        a, g = activations_and_gradients(model, layer, images, CLASSES)
        maps.append(resized(normalized((g.clamp(min=0) * a).sum(1)), (16, 12)))
    expected = normalized(torch.stack(maps).mean(dim=0)).numpy()
    assert np.allclose(LayerCAM(model, [model.bn1, model.relu])(images, CLASSES), expected, atol=1e-5)


def test_signed_maps_of_several_layers_preserve_zero(model, images):
    single = [GradCAM(model, [layer]).maps(images, CLASSES, normalize=False, relu=False) for layer in ("bn1", "relu")]
    coarse = [heatmap.abs().amax((1, 2)) for heatmap in single]
    assert all(heatmap.min() < 0 < heatmap.max() for heatmap in single)
    found = GradCAM(model, ["bn1", "relu"]).maps(images, CLASSES, normalize=False, relu=False)
    # The largest size is taken at the layer's own resolution: that of bn1 is the image's.
    a, g = activations_and_gradients(model, model.relu, images, CLASSES)
    own = (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)
    expected = single[0] / coarse[0][:, None, None] / 2 + single[1] / own.abs().amax((1, 2))[:, None, None] / 2
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="RefineCAM multiplies maps"):
        method("RefineCAM", model, ["bn1", "relu"]).maps(images, CLASSES, normalize=False, relu=False)


def test_aug_smooth_is_the_mean_over_six_variants(model, images):
    cam = GradCAM(model, [model.relu])
    expected = np.zeros((4, 16, 12), np.float32)
    for flip in (False, True):
        for factor in (0.9, 1.0, 1.1):
            x = images.flip(-1) if flip else images
            heatmap = cam(x * factor, CLASSES)
            expected += (heatmap[..., ::-1] if flip else heatmap) / 6
    assert np.allclose(cam(images, CLASSES, aug_smooth=True), expected, atol=1e-6)
    assert np.allclose(cam.forward_augmentation_smoothing(images, CLASSES), expected, atol=1e-6)
    assert torch.equal(cam.outputs, model(images).detach())


def test_eigen_smooth_projects_the_weighted_activations(model, images):
    a, g = activations_and_gradients(model, model.relu, images, CLASSES)
    expected = finished(principal_map(g.mean(dim=(2, 3), keepdim=True) * a), (16, 12))
    assert np.allclose(GradCAM(model, [model.relu])(images, CLASSES, eigen_smooth=True), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
@pytest.mark.parametrize("name", ["GradCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "EigenGradCAM"])
def test_maps_do_not_depend_on_the_scale_of_the_logits(name, scale, model, images):
    """The absolute epsilons of grad-cam erase maps of small scale."""
    found = method(name, model, [model.relu])(images, [lambda output: output[0] * scale] * 4)
    expected = method(name, model, [model.relu])(images, [0] * 4)
    if name == "GradCAMPlusPlus":  # equation 19 depends on the scale of G * S: by hand, in float64
        a, g = activations_and_gradients(model, model.relu, images, [0] * 4)
        a, g = a.double(), g.double() * scale
        alpha = torch.nan_to_num(g**2 / (2 * g**2 + g**3 * a.sum(dim=(2, 3), keepdim=True)))
        weights = (alpha * g.clamp(min=0)).sum(dim=(2, 3), keepdim=True)
        expected = finished((weights * a).sum(1), (16, 12))
    assert np.allclose(found, expected, atol=1e-4)


def normalized_volumes(maps):
    low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
    return ((maps - low) / (high - low)).numpy()


def test_volumes():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x = torch.randn(2, 1, 6, 8, 10)
    for name in METHODS:
        if name == "SESS":  # its windows are two-dimensional
            with pytest.raises(ValueError, match="images"):
                method(name, network, [network[1]])(x, [0, 1])
            continue
        heatmap = method(name, network, [network[1]])(x, [0, 1])
        assert heatmap.shape == (2, 6, 8, 10), name
        assert 0 <= heatmap.min() <= heatmap.max() <= 1
    a, g = activations_and_gradients(network, network[1], x, [0, 1])
    maps = normalized_volumes((g.mean(dim=(2, 3, 4), keepdim=True) * a).sum(1).relu())
    assert np.allclose(GradCAM(network, ["1"])(x, [0, 1]), maps, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_another_precision(dtype, name, model, images):
    expected = method(name, model, [model.relu])(images, CLASSES)
    found = method(name, model.to(dtype), [model.relu])(images.to(dtype), CLASSES)
    assert found.dtype == np.float32
    # small differences of bfloat16 scores: coarse
    least = 0.8 if name == "Occlusion" else 0.95
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least


@pytest.mark.parametrize("name", METHODS)
def test_nan_inputs_are_errors(name, model, images):
    images[2] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        method(name, model, [model.relu])(images, CLASSES)


def test_no_evidence_for_the_class_gives_zeros(model, images):
    with torch.no_grad():
        model.fc.weight[0] = -model.fc.weight[0].abs()
    heatmap = GradCAM(model, [model.relu])(images, [0] * 4)
    assert not heatmap.any()


def test_eigen_maps_need_no_gradient(model, images, monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    EigenCAM(model, [model.relu])(images)
    with pytest.raises(TypeError):
        EigenGradCAM(model, [model.relu])(images)
