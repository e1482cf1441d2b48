"""The calls that grad-cam's documentation shows, made to this package, on small networks and pictures.

Where the documentation shows a call, it is made with the same names and arguments; the map is held against one that is
made by hand, or against what the network's construction makes true.
"""

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from networks import activations_and_gradients
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pytorch_grad_cam import (
    SESS,
    AblationCAM,
    DeepFeatureFactorization,
    EigenCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackpropReLUModel,
    HiResCAM,
    ScoreCAM,
    XGradCAM,
    run_dff_on_image,
)
from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN, AblationLayerVit
from pytorch_grad_cam.metrics.arcc import ARCC
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
from pytorch_grad_cam.metrics.road import ROADCombined, ROADLeastRelevantFirst, ROADMostRelevantFirst
from pytorch_grad_cam.utils.image import (
    deprocess_image,
    preprocess_image,
    scale_accross_batch_and_channels,
    scale_cam_image,
    show_cam_on_image,
    show_factorization_on_image,
)
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    FasterRCNNBoxScoreTarget,
    SemanticSegmentationTarget,
)
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform


@pytest.fixture(scope="module")
def rgb_img():
    """Smooth noise with a bright square, in [0, 1]."""
    random = np.random.default_rng(0)
    picture = cv2.GaussianBlur(random.random((96, 96, 3), dtype=np.float32), (0, 0), 5)
    picture[24:48, 40:72] = 1
    return np.float32(picture)


@pytest.fixture(scope="module")
def input_tensor(rgb_img):
    return preprocess_image(rgb_img, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def model(input_tensor):
    """ResNet-18 with random weights, whose batch norms know the picture and whose classes differ."""
    torch.manual_seed(0)
    network = acquainted(torchvision.models.resnet18(num_classes=300), input_tensor)
    nn.init.normal_(network.fc.weight, std=0.2)
    return network


def acquainted(network, x):
    """Random weights, and batch norms that know such pictures: without that, deep networks put out the same for all."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(x + 0.2 * torch.randn(4, *x.shape[1:]))
    return network.eval()


def finished(small, size):
    """ReLU, min-max, bilinear enlargement, min-max of one map."""
    small = small.relu()
    small = (small - small.min()) / (small.max() - small.min())
    large = F.interpolate(small[None, None], size=size, mode="bilinear")[0, 0].detach().numpy()
    return (large - large.min()) / np.ptp(large)


def grad_cam_by_hand(model, layer, x, category, shaped=lambda tensor: tensor):
    a, g = (shaped(tensor) for tensor in activations_and_gradients(model, layer, x, [category]))
    return finished((g.mean(dim=(2, 3), keepdim=True) * a).sum(1)[0], tuple(x.shape[2:]))


# -- classification --------------------------------------------------------------------------------------------------


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
    hottest = np.unravel_index(grayscale_cam.argmax(), grayscale_cam.shape)
    coldest = np.unravel_index(grayscale_cam.argmin(), grayscale_cam.shape)
    assert visualization[hottest].argmax() == 0
    assert visualization[coldest].argmax() == 2


@pytest.mark.parametrize(
    "cam_class", [GradCAM, HiResCAM, ScoreCAM, GradCAMPlusPlus, AblationCAM, XGradCAM, EigenCAM, FullGrad]
)
def test_usage_example_with_every_class_it_imports(cam_class, model, input_tensor):
    """And both kinds of smoothing, with the batch size set as the documentation says."""
    with cam_class(model=model, target_layers=[model.layer2[-1]]) as cam:
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
            heat = cam(x, targets, eigen_smooth=True)
            expected = expected + (heat[..., ::-1] if flip else heat) / 6
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


# -- transformers ----------------------------------------------------------------------------------------------------


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
        "swin_tiny_patch4_window7_224", pretrained=False, img_size=96, window_size=3, depths=(1, 1, 1, 2), embed_dim=12,
        num_heads=(1, 2, 2, 2), num_classes=10,
    ).eval()  # fmt: skip


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
        assert np.allclose(found[0], finished((weights[:, None, None] * vit_grid(a)[0]).sum(0), (96, 96)), atol=1e-3)


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


# -- detection -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(input_tensor):
    """A Faster R-CNN with random weights that finds boxes all the same: any score is good enough."""
    torch.manual_seed(0)
    network = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=96, box_score_thresh=0.0,
        box_detections_per_img=4, rpn_pre_nms_top_n_test=30, rpn_post_nms_top_n_test=10, rpn_score_thresh=0.0,
    ).eval()  # fmt: skip
    acquainted(network.backbone, input_tensor)
    return network


def predict(input_tensor, model, detection_threshold):
    outputs = model(input_tensor)
    keep = [index for index, score in enumerate(outputs[0]["scores"]) if score >= detection_threshold]
    boxes = np.int32([outputs[0]["boxes"][index].detach().cpu().numpy() for index in keep])
    return boxes, [int(outputs[0]["labels"][index]) for index in keep]


@pytest.mark.parametrize("cam_class", [EigenCAM, AblationCAM])
def test_faster_rcnn(cam_class, detector, rgb_img):
    tensor = torch.from_numpy(rgb_img).permute(2, 0, 1)[None]
    boxes, labels = predict(tensor, detector, 0.0)
    assert len(boxes) == 4
    target_layers = [detector.backbone]
    targets = [FasterRCNNBoxScoreTarget(labels=labels, bounding_boxes=boxes)]
    settings = {}
    if cam_class is AblationCAM:
        settings = {"ablation_layer": AblationLayerFasterRCNN(), "ratio_channels_to_ablate": 0.2}
    cam = cam_class(detector, target_layers, reshape_transform=fasterrcnn_reshape_transform, **settings)
    grayscale_cam = cam(tensor, targets=targets)
    grayscale_cam = grayscale_cam[0, :]
    assert grayscale_cam.shape == (96, 96)
    if cam_class is EigenCAM:
        with torch.no_grad():
            pyramid = detector.backbone(detector.transform([tensor[0]])[0].tensors)
        levels = fasterrcnn_reshape_transform(pyramid)[0].double().numpy()
        places = levels.reshape(len(levels), -1).T
        component = (places - places.mean(0)) @ np.linalg.svd(places - places.mean(0), full_matrices=False)[2][0]
        component *= np.sign(np.corrcoef(component, places.sum(1))[0, 1])
        by_hand = finished(torch.from_numpy(component.reshape(levels.shape[1:])), (96, 96))
        assert np.allclose(grayscale_cam, by_hand, atol=1e-4)
        assert show_cam_on_image(rgb_img, grayscale_cam, use_rgb=True).max() == 255
    else:
        with torch.no_grad():
            (weights,) = cam.channel_weights(*cam._runs(tensor, targets))
            intact = targets[0](detector(tensor)[0])
            assert weights.abs().max() > 0.01
            for channel in weights.abs().argsort(descending=True)[:3].tolist():

                def without(module, inputs, output, channel=channel):
                    level = list(output)[channel // 256]
                    return {**output, level: output[level].index_fill(1, torch.tensor([channel % 256]), 0)}

                handle = detector.backbone.register_forward_hook(without)
                lost = targets[0](detector(tensor)[0])
                handle.remove()
                assert weights[channel].item() == pytest.approx(((intact - lost) / intact).item(), abs=1e-5)

    # the map within each box alone, as the tutorial renormalises it
    renormalized = np.zeros(grayscale_cam.shape, dtype=np.float32)
    for x1, y1, x2, y2 in boxes:
        renormalized[y1:y2, x1:x2] = scale_cam_image(grayscale_cam[y1:y2, x1:x2].copy()[None])[0]
        assert renormalized[y1:y2, x1:x2].max() in (0, pytest.approx(1))
    scaled = scale_accross_batch_and_channels(np.stack([grayscale_cam, 3 * grayscale_cam])[None], (48, 32))
    assert scaled.shape == (1, 2, 32, 48)
    assert np.allclose(scaled[0, 0], scaled[0, 1], atol=1e-6)


# -- segmentation ----------------------------------------------------------------------------------------------------


class SegmentationModelOutputWrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)["out"]


@pytest.fixture(scope="module")
def segmenter(input_tensor):
    torch.manual_seed(0)
    network = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    acquainted(network, input_tensor)
    with torch.no_grad():  # no class everywhere
        network.classifier.low_classifier.bias -= network(input_tensor)["out"].mean(dim=(0, 2, 3))
    return network


def test_semantic_segmentation(segmenter, input_tensor):
    model = SegmentationModelOutputWrapper(segmenter)
    output = model(input_tensor)
    category = 2
    mask = F.softmax(output, dim=1)[0].argmax(axis=0).detach().cpu().numpy()
    mask_float = np.float32(mask == category)
    assert 0 < mask_float.mean() < 1
    target_layers = [model.model.backbone.get_submodule("16")]
    targets = [SemanticSegmentationTarget(category, mask_float)]
    with GradCAM(model=model, target_layers=target_layers) as cam:
        grayscale_cam = cam(input_tensor=input_tensor, targets=targets)[0, :]

    kept = []
    handle = target_layers[0].register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    score = (model(input_tensor)[0, category] * torch.from_numpy(mask_float)).sum()
    handle.remove()
    (gradients,) = torch.autograd.grad(score, kept[0])
    small = (gradients.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(1)[0]
    assert np.allclose(grayscale_cam, finished(small, (96, 96)), atol=1e-4)
    # without the wrapper, too: the output's "out" is what targets see
    assert np.array_equal(GradCAM(segmenter, target_layers)(input_tensor, targets)[0], grayscale_cam)


# -- embeddings ------------------------------------------------------------------------------------------------------


class ResnetFeatureExtractor(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.feature_extractor = nn.Sequential(*list(model.children())[:-1])

    def __call__(self, x):
        return self.feature_extractor(x)[:, :, 0, 0]


class SimilarityToConceptTarget:
    def __init__(self, features):
        self.features = features

    def __call__(self, model_output):
        cos = nn.CosineSimilarity(dim=0)
        return cos(model_output, self.features)


class DifferenceFromConceptTarget(SimilarityToConceptTarget):
    def __call__(self, model_output):
        return 1 - super().__call__(model_output)


def test_embeddings(model, input_tensor):
    """What makes the picture like its own square? The opposite target has the opposite signed map."""
    extractor = ResnetFeatureExtractor(model)
    with torch.no_grad():
        concept = extractor(input_tensor[..., 24:48, 40:72])[0]
    target_layers = [extractor.feature_extractor[7][-1]]
    signed = {}
    for target in (SimilarityToConceptTarget, DifferenceFromConceptTarget):
        with GradCAM(model=extractor, target_layers=target_layers) as cam:
            found = cam(input_tensor=input_tensor, targets=[target(concept)])[0, :]
            signed[target] = cam.maps(input_tensor, [target(concept)], normalize=False, relu=False)
        kept = []
        handle = target_layers[0].register_forward_hook(lambda m, i, o, kept=kept: kept.append(o) or o.clone())
        score = F.cosine_similarity(extractor(input_tensor)[0], concept, dim=0)
        handle.remove()
        (gradients,) = torch.autograd.grad(score, kept[0])
        gradients = gradients if target is SimilarityToConceptTarget else -gradients
        small = (gradients.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(1)[0]
        assert np.allclose(found, finished(small, (96, 96)), atol=1e-3)
    assert torch.allclose(*[m * s for m, s in zip(signed.values(), (1, -1), strict=True)], atol=1e-7)


# -- guided backpropagation ------------------------------------------------------------------------------------------


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
    assert (cam_gb[grayscale_cam == 0] == grey).all()  # nothing where the map is cold
    assert result.std() > cam_gb[grayscale_cam == 0].std()


# -- metrics ---------------------------------------------------------------------------------------------------------


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


# -- SESS ------------------------------------------------------------------------------------------------------------


def test_sess(model, input_tensor):
    with SESS(model=model, target_layers=[model.layer4], base_method=GradCAM, num_scales=2) as cam:
        grayscale_cam = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])
    assert grayscale_cam.shape == (1, 96, 96)
    assert grayscale_cam.max() == pytest.approx(1, abs=1e-6)
    one_window = SESS(
        model=model, target_layers=[model.layer4], base_method=GradCAM, num_scales=1, step_size=96,
        pre_filter_ratio=0.5, smooth=False, batch_size=32,
    )  # fmt: skip
    found = one_window(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])
    assert np.allclose(found[0], grad_cam_by_hand(model, model.layer4, input_tensor, 281), atol=1e-4)


# -- deep feature factorization --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_deep_feature_factorization(model, input_tensor, rgb_img):
    classifier = model.fc
    dff = DeepFeatureFactorization(model=model, target_layer=model.layer4, computation_on_concepts=classifier)
    concepts, batch_explanations, concept_outputs = dff(input_tensor, 3)
    assert concepts.shape == (512, 3)
    a, _ = activations_and_gradients(model, model.layer4, input_tensor, [0])
    offset = a.amin(dim=(0, 2, 3)).numpy()
    expected = classifier(torch.from_numpy(concepts.T)).detach().numpy()
    assert np.allclose(concept_outputs, expected, atol=1e-4)
    assert np.allclose((concepts - offset[:, None]).min(), 0, atol=1e-4)
    maps = batch_explanations[0]
    assert maps.shape == (3, 96, 96)
    assert maps.min() == 0
    assert 0.9 < maps.max(axis=(1, 2)).min() <= 1  # stretched to 1 before they are enlarged
    probabilities = torch.softmax(torch.from_numpy(concept_outputs), axis=-1).numpy()
    labels = [f"class {row.argmax()}" for row in probabilities]
    visualization = show_factorization_on_image(rgb_img, maps, image_weight=0.3, concept_labels=labels)
    assert visualization.shape == (96, 192, 3)

    img_pil = Image.fromarray(np.uint8(255 * rgb_img))
    picture = run_dff_on_image(
        model=model, target_layer=model.layer4, classifier=classifier, img_pil=img_pil, img_tensor=input_tensor[0],
        n_components=3, top_k=2,
    )  # fmt: skip
    assert picture.shape == (96, 3 * 96, 3)
    assert np.array_equal(picture[:, :96], np.asarray(img_pil))
    over = show_factorization_on_image(np.asarray(img_pil) / 255, maps, image_weight=0.3)
    assert np.array_equal(picture[:, 96:192], over)


# -- the blog tutorials ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:use_cuda:FutureWarning", "ignore:target_category:FutureWarning")
def test_tutorial_of_the_crack_classifier(model, input_tensor):
    """The older arguments."""
    for cam_class in (GradCAM, GradCAMPlusPlus, XGradCAM, EigenCAM):
        cam = cam_class(model=model, target_layers=[model.layer4[-1]], use_cuda=False)
        grayscale_cam = cam(input_tensor=input_tensor, target_category=1)
        newer = cam_class(model, [model.layer4[-1]])(input_tensor, [ClassifierOutputTarget(1)])
        assert np.array_equal(grayscale_cam, newer)


def test_tutorial_from_scratch_with_hooks(model, input_tensor):
    """Forward hook, full backward hook, mean gradients, weighted sum, ReLU: our map is the one that they make."""
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
    assert np.allclose(found, finished(heatmap, (96, 96)), atol=1e-4)
