"""Methods that are built on another method: Finer-CAM, Refine-CAM, SESS and guided Grad-CAM."""

import numpy as np
import pytest
import torch
import torchvision
from networks import CLASSES, Small, activations_and_gradients, finished, grad_cam_maps, method, small_images
from torch import nn

from pytorch_grad_cam import (
    SESS,
    AblationCAM,
    EigenCAM,
    FinerCAM,
    FullGrad,
    GradCAM,
    GuidedBackpropReLUModel,
    GuidedGradCAM,
    IntegratedGradients,
    LayerCAM,
    RefineCAM,
    ScoreCAM,
)


@pytest.fixture
def model():
    return Small().eval()


@pytest.fixture
def images():
    return small_images()


def test_finer_cam_is_a_difference_of_maps(model, images):
    """Gradients are linear: the map of y_c - alpha * sum w_j y_j is the same sum of the logits' Grad-CAM maps."""
    of_class = []
    for c in range(3):
        a, g = activations_and_gradients(model, model.relu, images, [c] * 4)
        of_class.append((g.mean(dim=(2, 3), keepdim=True) * a).sum(1))
    logits = model(images).detach()
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
        found = FinerCAM(model, [model.relu])(images, **arguments)
        assert abs(found - finished(torch.stack(expected), (16, 12))).max() < 2e-5
    classes = FinerCAM(model, ["relu"])(images, logits.argmax(1).tolist())
    assert np.array_equal(classes, FinerCAM(model, ["relu"])(images))


def test_finer_cam_requires_other_classes(model, images):
    with pytest.raises(ValueError, match="the same for all classes"):
        FinerCAM(model, ["relu"], base_method=EigenCAM)
    one_logit = nn.Sequential(model, nn.Linear(3, 1))
    with pytest.raises(ValueError, match="compares classes"):
        FinerCAM(one_logit, [model.relu])(images)


def test_refine_cam_multiplies_the_layers_maps(model, images):
    product = np.ones((4, 16, 12), np.float32)
    for layer in ("bn1", "relu"):
        product *= GradCAM(model, [layer])(images, CLASSES)
    expected = (product - product.min((1, 2), keepdims=True)) / np.ptp(product, axis=(1, 2), keepdims=True)
    found = RefineCAM(model, ["bn1", "relu"], base_method=GradCAM)(images, CLASSES)
    assert abs(found - expected).max() < 1e-6


def test_refine_cam_smooths_each_layer_before_the_product(model, images):
    layers = ["bn1", "relu"]
    single = [method("GradCAMPlusPlus", model, [layer]).maps(images, CLASSES, eigen_smooth=True) for layer in layers]
    expected = single[0] * single[1]
    expected = (expected - expected.amin((1, 2), keepdim=True)) / (expected.amax((1, 2)) - expected.amin((1, 2)))[
        :, None, None
    ]
    found = method("RefineCAM", model, layers).maps(images, CLASSES, eigen_smooth=True)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, method("RefineCAM", model, layers).maps(images, CLASSES), atol=1e-2)


@pytest.mark.parametrize("composite", [FinerCAM, RefineCAM])
@pytest.mark.parametrize("base", [AblationCAM, ScoreCAM, FullGrad, IntegratedGradients])
def test_composite_methods_accept_any_base_method(composite, base, model, images):
    """Including base methods with a forward pass of their own; the batch size is passed on."""
    sizes = []
    handle = model.fc.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    cam = composite(model, ["relu"], base_method=base)
    cam.batch_size = 5
    found = cam(images, [lambda output: output[1]] * 4)
    handle.remove()
    assert np.array_equal(found, base(model, ["relu"])(images, [lambda output: output[1]] * 4))
    assert torch.equal(cam.outputs, model(images).detach())
    if base in (ScoreCAM, IntegratedGradients):
        assert max(sizes) == 5


@pytest.mark.parametrize(("pool", "filtered"), [("mean", 0), ("max", 0.5)])
def test_sess_by_hand(pool, filtered, model, images):
    """Two scales of one image, with windows of 12 x 12 pixels pasted by OpenCV."""
    import cv2

    image, total, counts, windows = images[:1], np.zeros((16, 12), np.float32), np.zeros((16, 12)), []
    for side in (12, 15):
        scaled = torchvision.transforms.functional.resize(image, side, antialias=True)
        height, width = scaled.shape[-2:]
        for top in range(0, height - 12 + 1, 1) if height == 12 else [0, height - 12]:
            for left in [0] if width == 12 else [0, width - 12]:
                patch = scaled[..., top : top + 12, left : left + 12]
                windows.append((patch, top, left, height, width, model(patch).softmax(1)[0, 1].item()))
    assert len(windows) == 2 + 4
    windows = sorted(windows, key=lambda window: window[-1])[int(filtered * len(windows)) :]
    for patch, top, left, height, width, score in windows:
        heatmap = finished(grad_cam_maps(model, model.relu, patch, [1]), (12, 12))[0]
        canvas = np.zeros((height, width), np.float32)
        canvas[top : top + 12, left : left + 12] = heatmap * (score / windows[-1][-1])
        canvas = cv2.resize(canvas, (12, 16))
        counts += canvas > 0
        total = np.maximum(total, canvas) if pool == "max" else total + canvas
    total = total if pool == "max" else total / np.maximum(counts, 1)
    for smooth in (False, True):
        expected = cv2.GaussianBlur(total, (11, 11), 5.0) if smooth else total
        cam = SESS(model, ["relu"], num_scales=2, pool=pool, pre_filter_ratio=filtered, smooth=smooth, batch_size=4)
        found = cam.maps(image, [1], normalize=False)[0].numpy()
        assert abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("wrong", [{"pool": "sum"}, {"pre_filter_ratio": 1}, {"num_scales": 0}, {"scales": [4]}])
def test_sess_rejects_invalid_arguments(wrong, model, images):
    with pytest.raises(ValueError, match=next(iter(wrong)).rstrip("s")):
        SESS(model, ["relu"], **wrong)(images, CLASSES)


def test_guided_grad_cam_is_the_product(model, images):
    found = GuidedGradCAM(model, ["relu"])(images, CLASSES)
    detail = GuidedBackpropReLUModel(model)(images, CLASSES)
    heatmap = finished(grad_cam_maps(model, model.relu, images, CLASSES), (16, 12))
    assert found.shape == (4, 16, 12, 3)
    assert np.allclose(found, heatmap[..., None] * detail, atol=1e-5)
    layered = GuidedGradCAM(model, ["relu"], base_method=LayerCAM)(images, CLASSES)
    assert np.allclose(layered, LayerCAM(model, ["relu"])(images, CLASSES)[..., None] * detail, atol=1e-6)
