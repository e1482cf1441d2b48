"""The calls shown in grad-cam's documentation, made to this engine: classification, transformers, metrics, tutorials."""

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from documented_cases import finished_map, grad_cam_by_hand, input_batch, resnet, rgb_image
from networks import activations_and_gradients

from pytorch_grad_cam import (
    SESS,
    AblationCAM,
    EigenCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackpropReLUModel,
    HiResCAM,
    ScoreCAM,
    XGradCAM,
)
from pytorch_grad_cam.ablation_layer import AblationLayerVit
from pytorch_grad_cam.metrics.arcc import ARCC
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
from pytorch_grad_cam.metrics.road import ROADCombined, ROADLeastRelevantFirst, ROADMostRelevantFirst
from pytorch_grad_cam.utils.image import (
    deprocess_image,
    show_cam_on_image,
)
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rgb_img():
    return rgb_image()


@pytest.fixture(scope="module")
def input_tensor():
    return input_batch()


@pytest.fixture(scope="module")
def model():
    return resnet()


def test_usage_example(model, input_tensor, rgb_img):
    target_layers = [model.layer4[-1]]
    targets = [ClassifierOutputTarget(281)]
    with GradCAM(model=model, target_layers=target_layers) as cam:
        grayscale_cam = cam(input_tensor=input_tensor, targets=targets)
        grayscale_cam = grayscale_cam[0, :]
        visualization = show_cam_on_image(rgb_img, grayscale_cam, use_rgb=True)
        model_outputs = cam.outputs
    assert np.allclose(grayscale_cam, grad_cam_by_hand(model, model.layer4[-1], input_tensor, 281), atol=1e-5)
    assert torch.allclose(model_outputs, model(input_tensor), atol=1e-5)
    assert visualization.shape == (96, 96, 3)
    highest = np.unravel_index(grayscale_cam.argmax(), grayscale_cam.shape)
    lowest = np.unravel_index(grayscale_cam.argmin(), grayscale_cam.shape)
    assert visualization[highest].argmax() == 0
    assert visualization[lowest].argmax() == 2


@pytest.mark.parametrize(
    "cam_class", [GradCAM, HiResCAM, ScoreCAM, GradCAMPlusPlus, AblationCAM, XGradCAM, EigenCAM, FullGrad]
)
def test_usage_example_with_every_class_it_imports(cam_class, model, input_tensor):
    """With both kinds of smoothing, and the batch size set as documented."""
    with cam_class(model=model, target_layers=[model.layer1[-1]]) as cam:
        cam.batch_size = 64
        found = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])
        assert found.shape == (1, 96, 96)
        assert found.dtype == np.float32
        assert found.min() == 0
        assert found.max() == pytest.approx(1, abs=1e-6)
        if cam_class is not FullGrad:
            smooth = cam(input_tensor, [ClassifierOutputTarget(281)], eigen_smooth=True)
            assert (abs(smooth - found).max() > 1e-3) == (cam_class is not EigenCAM)


def test_aug_smooth_and_eigen_smooth(model, input_tensor):
    """Both together: the mean of the smoothed maps of six variants."""
    cam = HiResCAM(model, [model.layer3])
    targets = [ClassifierOutputTarget(5)]
    expected = 0
    for flip in (False, True):
        for factor in (0.9, 1.0, 1.1):
            x = (input_tensor.flip(-1) if flip else input_tensor) * factor
            heatmap = cam(x, targets, eigen_smooth=True)
            expected = expected + (heatmap[..., ::-1] if flip else heatmap) / 6
    found = cam(input_tensor=input_tensor, targets=targets, aug_smooth=True, eigen_smooth=True)
    assert np.allclose(found, expected, atol=1e-5)


def test_documented_layers(input_tensor):
    """VGG and MobileNet: ``features[-1]``; MNASNet: ``layers[-1]``."""
    for network, layer in [
        (torchvision.models.squeezenet1_1(num_classes=300), lambda m: m.features[-1]),
        (torchvision.models.mobilenet_v3_small(num_classes=300), lambda m: m.features[-1]),
        (torchvision.models.mnasnet0_5(num_classes=300), lambda m: m.layers[-1]),
    ]:
        found = GradCAM(model=network.eval(), target_layers=[layer(network)])(input_tensor, [ClassifierOutputTarget(2)])
        assert np.allclose(found[0], grad_cam_by_hand(network, layer(network), input_tensor, 2), atol=1e-4)


def vit_grid(tensor, height=6, width=6):
    result = tensor[:, 1:, :].reshape(tensor.size(0), height, width, tensor.size(2))
    return result.transpose(2, 3).transpose(1, 2)


def swin_grid(tensor, height=3, width=3):
    result = tensor.reshape(tensor.size(0), height, width, tensor.size(-1))
    return result.transpose(2, 3).transpose(1, 2)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model(
        "deit_tiny_patch16_224", pretrained=False, img_size=96, depth=2, embed_dim=24, num_heads=2, num_classes=10
    ).eval()


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        img_size=96,
        window_size=3,
        depths=(1, 1, 1, 2),
        embed_dim=12,
        num_heads=(1, 2, 2, 2),
        num_classes=10,
    ).eval()


@pytest.mark.parametrize("cam_class", [GradCAM, EigenCAM, ScoreCAM, AblationCAM])
def test_vision_transformer(cam_class, vit, input_tensor):
    settings = {"ablation_layer": AblationLayerVit()} if cam_class is AblationCAM else {}
    with cam_class(model=vit, target_layers=[vit.blocks[-1].norm1], reshape_transform=vit_grid, **settings) as cam:
        found = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(5)])
    assert found.shape == (1, 96, 96)
    assert found.max() == pytest.approx(1, abs=1e-6)
    if cam_class is GradCAM:
        by_hand = grad_cam_by_hand(vit, vit.blocks[-1].norm1, input_tensor, 5, vit_grid)
        assert np.allclose(found[0], by_hand, atol=1e-4)
    if cam_class is AblationCAM:
        weights = torch.zeros(24)
        with torch.no_grad():
            intact = vit(input_tensor)[0, 5]
            for c in range(24):
                handle = vit.blocks[-1].norm1.register_forward_hook(
                    lambda m, i, o, c=c: o.index_fill(2, torch.tensor([c]), 0)
                )
                weights[c] = (intact - vit(input_tensor)[0, 5]) / intact.abs()
                handle.remove()
        a, _ = activations_and_gradients(vit, vit.blocks[-1].norm1, input_tensor, [5])
        assert np.allclose(
            found[0], finished_map((weights[:, None, None] * vit_grid(a)[0]).sum(0), (96, 96)), atol=1e-3
        )


@pytest.mark.parametrize("cam_class", [GradCAM, EigenCAM, AblationCAM])
def test_swin_transformer(cam_class, swin, input_tensor):
    layer = swin.layers[-1].blocks[-1].norm1
    found = cam_class(model=swin, target_layers=[layer], reshape_transform=swin_grid)(
        input_tensor=input_tensor, targets=[ClassifierOutputTarget(5)]
    )
    assert found.shape == (1, 96, 96)
    assert found.max() == pytest.approx(1, abs=1e-6)
    if cam_class is GradCAM:
        assert np.allclose(found[0], grad_cam_by_hand(swin, layer, input_tensor, 5, swin_grid), atol=1e-4)


def test_guided_backpropagation(model, input_tensor):
    grayscale_cam = GradCAM(model=model, target_layers=[model.layer4[-1]])(input_tensor, None)[0]
    gb_model = GuidedBackpropReLUModel(model=model, device=torch.device("cpu"))
    gb = gb_model(input_tensor, target_category=None)
    cam_mask = cv2.merge([grayscale_cam, grayscale_cam, grayscale_cam])
    cam_gb = deprocess_image(cam_mask * gb)
    result = deprocess_image(gb)
    category = int(model(input_tensor).argmax())
    assert np.array_equal(gb, gb_model(input_tensor, target_category=category))
    assert gb.shape == result.shape == cam_gb.shape == (96, 96, 3)
    assert result.dtype == np.uint8
    grey = np.bincount(cam_gb[grayscale_cam == 0].ravel()).argmax()
    assert (cam_gb[grayscale_cam == 0] == grey).all()  # no detail where the map is 0
    assert result.std() > cam_gb[grayscale_cam == 0].std()


def test_metrics(model, input_tensor):
    targets = [ClassifierOutputTarget(281)]
    grayscale_cams = GradCAM(model=model, target_layers=[model.layer4])(input_tensor, targets)
    inverse_cams = 1 - grayscale_cams
    metric_targets = [ClassifierOutputSoftmaxTarget(281)]
    scores, batch_visualizations = CamMultImageConfidenceChange()(
        input_tensor, inverse_cams, metric_targets, model, return_visualization=True
    )
    visualization = deprocess_image(batch_visualizations[0, :])
    with torch.no_grad():
        before = model(input_tensor).softmax(1)[0, 281]
        after = model(input_tensor * torch.from_numpy(inverse_cams)[:, None]).softmax(1)[0, 281]
    assert scores[0] == pytest.approx((after - before).item(), abs=1e-6)
    assert np.allclose(batch_visualizations[0], input_tensor[0].numpy() * inverse_cams[0], atol=1e-6)
    assert visualization.dtype == np.uint8

    road = {}
    for metric in (ROADMostRelevantFirst, ROADLeastRelevantFirst):
        cam_metric = metric(percentile=75)
        road[metric], perturbed = cam_metric(
            input_tensor, grayscale_cams, metric_targets, model, return_visualization=True
        )
        changed = (perturbed[0] != input_tensor[0]).any(dim=0).float().mean()
        assert changed.item() == pytest.approx(0.25, abs=0.01)
        with torch.no_grad():
            assert road[metric][0] == pytest.approx((model(perturbed).softmax(1)[0, 281] - before).item(), abs=1e-6)
    cam_metric = ROADCombined(percentiles=[75])
    combined = cam_metric(input_tensor, grayscale_cams, metric_targets, model)
    assert combined[0] == pytest.approx(
        (road[ROADLeastRelevantFirst][0] - road[ROADMostRelevantFirst][0]) / 2, abs=1e-6
    )


def test_arcc(model, input_tensor):
    targets = [ClassifierOutputSoftmaxTarget(281)]
    with GradCAM(model=model, target_layers=[model.layer3]) as cam:
        grayscale_cams = cam(input_tensor, targets)
        cam_metric = ARCC(base_method=cam, road_percentiles=[50])
        arcc_score = cam_metric(input_tensor, grayscale_cams, targets, model)
        seen_through = cam(input_tensor * torch.from_numpy(grayscale_cams)[:, None], targets)
    coherency = (1 + np.corrcoef(grayscale_cams.ravel(), seen_through.ravel())[0, 1]) / 2
    road = float(np.clip(2 * ROADCombined(percentiles=[50])(input_tensor, grayscale_cams, targets, model)[0], 0, 1))
    parts = [coherency, 1 - grayscale_cams.mean(), road]
    expected = 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0
    assert arcc_score[0] == pytest.approx(expected, abs=1e-4)


def test_sess(model, input_tensor):
    with SESS(model=model, target_layers=[model.layer4], base_method=GradCAM, num_scales=2) as cam:
        grayscale_cam = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])
    assert grayscale_cam.shape == (1, 96, 96)
    assert grayscale_cam.max() == pytest.approx(1, abs=1e-6)
    one_window = SESS(
        model=model,
        target_layers=[model.layer4],
        base_method=GradCAM,
        num_scales=1,
        step_size=96,
        pre_filter_ratio=0.5,
        smooth=False,
        batch_size=32,
    )
    found = one_window(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])
    assert np.allclose(found[0], grad_cam_by_hand(model, model.layer4, input_tensor, 281), atol=1e-4)


@pytest.mark.filterwarnings("ignore:use_cuda:FutureWarning", "ignore:target_category:FutureWarning")
def test_tutorial_of_the_crack_classifier(model, input_tensor):
    """With deprecated arguments."""
    for cam_class in (GradCAM, GradCAMPlusPlus, XGradCAM, EigenCAM):
        cam = cam_class(model=model, target_layers=[model.layer4[-1]], use_cuda=False)
        grayscale_cam = cam(input_tensor=input_tensor, target_category=1)
        newer = cam_class(model, [model.layer4[-1]])(input_tensor, [ClassifierOutputTarget(1)])
        assert np.array_equal(grayscale_cam, newer)


def test_tutorial_from_scratch_with_hooks(model, input_tensor):
    """The map of a forward hook, a full backward hook, mean gradients, a weighted sum and a ReLU."""
    stored = {}
    layer = model.layer4[-1].conv2
    handles = [
        layer.register_forward_hook(lambda module, inputs, output: stored.update(activations=output.detach().clone())),
        layer.register_full_backward_hook(
            lambda module, grad_input, grad_output: stored.update(gradients=grad_output[0].clone())
        ),
    ]
    output = model(input_tensor)
    category = int(output.argmax())
    output[0, category].backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    weights = stored["gradients"].mean(dim=[0, 2, 3])
    heatmap = torch.relu((weights[:, None, None] * stored["activations"][0]).sum(dim=0))
    found = GradCAM(model, ["layer4.1.conv2"])(input_tensor)[0]
    assert np.allclose(found, finished_map(heatmap, (96, 96)), atol=1e-4)
