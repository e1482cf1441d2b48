"""The calls shown in grad-cam's documentation for detection, segmentation, embeddings and feature factorisation."""

import numpy as np
import pytest
import torch
import torchvision
from documented_cases import finished_map, input_batch, resnet, rgb_image, with_statistics
from networks import activations_and_gradients
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pytorch_grad_cam import (
    AblationCAM,
    DeepFeatureFactorization,
    EigenCAM,
    GradCAM,
    run_dff_on_image,
)
from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN
from pytorch_grad_cam.utils.image import (
    scale_accross_batch_and_channels,
    scale_cam_image,
    show_cam_on_image,
    show_factorization_on_image,
)
from pytorch_grad_cam.utils.model_targets import (
    FasterRCNNBoxScoreTarget,
    SemanticSegmentationTarget,
)
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

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


@pytest.fixture(scope="module")
def detector(input_tensor):
    """A Faster R-CNN with random weights that detects boxes of any score."""
    torch.manual_seed(0)
    network = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=96,
        max_size=96,
        box_score_thresh=0.0,
        box_detections_per_img=4,
        rpn_pre_nms_top_n_test=30,
        rpn_post_nms_top_n_test=10,
        rpn_score_thresh=0.0,
    ).eval()
    with_statistics(network.backbone, input_tensor)
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
        settings = {"ablation_layer": AblationLayerFasterRCNN(), "ratio_channels_to_ablate": 0.1}
    cam = cam_class(detector, target_layers, reshape_transform=fasterrcnn_reshape_transform, **settings)
    grayscale_cam = cam(tensor, targets=targets)
    grayscale_cam = grayscale_cam[0, :]
    assert grayscale_cam.shape == (96, 96)
    if cam_class is EigenCAM:
        with torch.no_grad():
            pyramid = detector.backbone(detector.transform([tensor[0]])[0].tensors)
        levels = fasterrcnn_reshape_transform(pyramid)[0].double().numpy()
        positions = levels.reshape(len(levels), -1).T
        component = (positions - positions.mean(0)) @ np.linalg.svd(positions - positions.mean(0), full_matrices=False)[
            2
        ][0]
        component *= np.sign(np.corrcoef(component, positions.sum(1))[0, 1])
        by_hand = finished_map(torch.from_numpy(component.reshape(levels.shape[1:])), (96, 96))
        assert np.allclose(grayscale_cam, by_hand, atol=1e-4)
        assert show_cam_on_image(rgb_img, grayscale_cam, use_rgb=True).max() == 255
    else:
        with torch.no_grad():
            (weights,) = cam.channel_weights(*cam._run_model(tensor, targets))
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
    with_statistics(network, input_tensor)
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
    assert np.allclose(grayscale_cam, finished_map(small, (96, 96)), atol=1e-4)
    # without the wrapper, too: the output's "out" is what targets see
    assert np.array_equal(GradCAM(segmenter, target_layers)(input_tensor, targets)[0], grayscale_cam)


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
    """Similarity of the image to a crop of it; the opposite target has the opposite signed map."""
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
        assert np.allclose(found, finished_map(small, (96, 96)), atol=1e-3)
    assert torch.allclose(*[m * s for m, s in zip(signed.values(), (1, -1), strict=True)], atol=1e-7)


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
    assert 0.9 < maps.max(axis=(1, 2)).min() <= 1  # normalised to 1 before they are resized
    probabilities = torch.softmax(torch.from_numpy(concept_outputs), axis=-1).numpy()
    labels = [f"class {row.argmax()}" for row in probabilities]
    visualization = show_factorization_on_image(rgb_img, maps, image_weight=0.3, concept_labels=labels)
    assert visualization.shape == (96, 192, 3)

    img_pil = Image.fromarray(np.uint8(255 * rgb_img))
    image = run_dff_on_image(
        model=model,
        target_layer=model.layer4,
        classifier=classifier,
        img_pil=img_pil,
        img_tensor=input_tensor[0],
        n_components=3,
        top_k=2,
    )
    assert image.shape == (96, 3 * 96, 3)
    assert np.array_equal(image[:, :96], np.asarray(img_pil))
    over = show_factorization_on_image(np.asarray(img_pil) / 255, maps, image_weight=0.3)
    assert np.array_equal(image[:, 96:192], over)
