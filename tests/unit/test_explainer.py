"""A method bound to a model: heatmaps by hand, one forward pass or two, smoothing, precision, comparison."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow_resnet import NarrowResNet
from networks import Small, grad_cam_maps, resized
from small_models import bright_classifier, bright_corner
from torchvision.models import VisionTransformer

from crackcam.config import ExplainConfig
from crackcam.data.images import DecodedImage
from crackcam.errors import UserError
from crackcam.explain import heatmaps
from crackcam.explain.anatomy import gradcam_steps
from crackcam.explain.explainer import Explainer, compare, resolve_best
from crackcam.methods import NAMED
from crackcam.models import stages
from crackcam.models.loaded import LoadedModel
from crackcam.models.target_layers import find_target_layers
from crackcam.runtime import Runtime
from crackcam.types import ModelCard, Prediction
from pytorch_grad_cam import GradCAM

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("examined_once")]

CPU = torch.device("cpu")
ONE_PASS = [name for name in NAMED if heatmaps.one_pass(name)]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(4)  # with which no heatmap is 0
    return LoadedModel(NarrowResNet(2).eval(), ModelCard("resnet18", ["no", "yes"], 64))


def batch(number=3, seed=0):
    """Pixels (N, 3, 64, 64), and the images that they are."""
    pixels = torch.randint(
        0, 256, (number, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return pixels, list(pixels.permute(0, 2, 3, 1).numpy())


def explainer(network, batch_size=32, **settings):
    (found,) = Explainer.of(network, ExplainConfig(**{"method": "gradcam", **settings}), batch_size)
    return found


@pytest.mark.parametrize("target", [0, 1, 2])
def test_grad_cam_by_hand(target):
    """Mean gradient of each channel times its activation, summed, rectified, enlarged: plain autograd, no CAM library."""
    network = LoadedModel(Small().eval(), ModelCard("small", ["a", "b", "c"], 32))
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    pixels = network.to_pixels([image])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.card.mean, network.card.std))
    signed = grad_cam_maps(network.model, network.model.conv2, (pixels.float() / 255 - mean) / std, [target])
    assert signed.min() < 0 < signed.max()
    expected = resized(resized(signed.relu(), (32, 32)), image.shape[:2])[0].numpy()
    bound = explainer(network, layer="conv2")
    probabilities, targets, (found,) = bound.predict_and_explain(pixels, [image], target)
    heatmap = bound.explanation(image, Prediction.of("abc", [1, 0, 0]), target, found).heatmap
    assert np.abs(heatmap - expected).max() <= 1e-4 * expected.max()
    assert targets == [target]
    assert torch.allclose(probabilities, network.probabilities(pixels), atol=1e-6)


@pytest.mark.parametrize("method", ONE_PASS)
def test_one_pass_predicts_and_explains_as_two_do(resnet, method):
    network, layers = resnet, ["layer2"]
    if method == "evidence":
        network = resnet.with_model(stages.add_multiscale_head(NarrowResNet(2), 2, 64).eval())
    if method in ("refinecam", "cam"):
        layers = ["layer4"] if method == "cam" else ["layer2", "layer3"]
    pixels, arrays = batch()
    bound = explainer(network, method=method, layer=layers)
    for target in (None, 1):
        probabilities, targets, found = bound.predict_and_explain(pixels, arrays, target)
        expected = torch.from_numpy(network.all_probabilities(pixels, 3))
        assert torch.allclose(probabilities, expected, atol=1e-6)
        assert targets == (expected.argmax(dim=1).tolist() if target is None else [1] * 3)
        two = bound.explain(pixels, arrays, targets)
        assert target is None or torch.stack(two).max() > 0
        assert torch.allclose(torch.stack(found), torch.stack(two), rtol=1e-4, atol=1e-6)


def test_a_large_batch_is_split_and_gives_the_same(resnet):
    pixels, arrays = batch(5)
    whole = explainer(resnet).predict_and_explain(pixels, arrays, None)
    split = explainer(resnet, batch_size=2).predict_and_explain(pixels, arrays, None)
    assert torch.allclose(whole[0], split[0], atol=1e-6)
    assert whole[1] == split[1]
    assert torch.allclose(torch.stack(whole[2]), torch.stack(split[2]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", ["aug_smooth", "eigen_smooth"])
def test_smoothing_is_that_of_the_engine(resnet, smoothing):
    pixels, arrays = batch(2)
    _, targets, found = explainer(resnet, layer="layer3", **{smoothing: True}).predict_and_explain(pixels, arrays, 1)
    engine = GradCAM(resnet.model, [resnet.model.layer3])
    expected = engine.maps(resnet.to_inputs(pixels), targets, normalize=False, **{smoothing: True})
    plain = engine.maps(resnet.to_inputs(pixels), targets, normalize=False)
    assert torch.allclose(torch.stack(found), expected, rtol=1e-4, atol=1e-7)
    assert (expected - plain).abs().max() > 0.05 * plain.max()


def test_what_is_not_smoothed(resnet):
    pixels, arrays = batch(1)
    for method in ("guidedbackprop", "guidedgradcam"):
        with pytest.raises(UserError, match=f"{method} makes images, not heatmaps: leave aug_smooth and eigen_smoo"):
            explainer(resnet, method=method, eigen_smooth=True).explain(pixels, arrays, [0])
    multiscale = resnet.with_model(stages.add_multiscale_head(NarrowResNet(2), 2, 64).eval())
    bound = explainer(multiscale, method="evidence", aug_smooth=True)
    for work in (lambda: bound.predict_and_explain(pixels, arrays, 0), lambda: bound.explain(pixels, arrays, [0])):
        with pytest.raises(UserError, match="evidence is the decision itself: leave aug_smooth and eigen_smooth out"):
            work()


def test_bf16_heatmaps_agree_with_fp32(resnet):
    half = LoadedModel(resnet.model, resnet.card, Runtime(CPU, torch.bfloat16))
    pixels, arrays = batch(6)
    exact, rough = (
        torch.stack(explainer(network, layer="layer3").explain(pixels, arrays, [1] * 6)).float().numpy().ravel()
        for network in (resnet, half)
    )
    assert not np.array_equal(exact, rough)
    assert np.corrcoef(exact, rough)[0, 1] > 0.97


# -- what is explained ---------------------------------------------------------------------------------------------------


def test_the_target(resnet):
    assert explainer(resnet).target_index() is None
    assert explainer(resnet).target_index("no") == 0
    assert explainer(resnet, target="yes").target_index("no") == 1
    assert explainer(resnet, target="predicted").target_index("no") is None
    with pytest.raises(UserError, match="no class 'maybe' to explain; available: predicted, no, yes"):
        explainer(resnet, target="maybe").target_index()


def test_best_is_evidence_where_there_is_some_and_otherwise_what_the_model_can(resnet, caplog):
    caplog.set_level(logging.INFO, "crackcam")

    def best(network, **settings):
        found = resolve_best(ExplainConfig(**settings), network)
        return found.method, found.fuse, found.stride

    assert best(resnet) == (("layercam",), "product", 8)
    assert caplog.messages[-1] == "best: --method layercam --stride 8 --fuse product"
    assert best(resnet, layer="layer4") == (("layercam",), None, None)
    assert best(resnet, stride=16) == (("layercam",), "product", 16)
    assert best(resnet, method="gradcam") == (("gradcam",), None, None)
    multiscale = resnet.with_model(stages.add_multiscale_head(NarrowResNet(2), 2, 64).eval())
    assert best(multiscale) == (("evidence",), None, None)
    tokens = VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=2).eval()
    assert best(LoadedModel(tokens, ModelCard("vit", ["no", "yes"], 64))) == (("layercam",), None, None)
    assert caplog.messages[-1] == "best: --method layercam"


def test_several_methods_are_bound_one_by_one(resnet):
    found = Explainer.of(resnet, ExplainConfig(method="gradcam,refinecam", stride=8))
    assert [each.method for each in found] == ["gradcam", "refinecam"]
    assert [each.config.method for each in found] == [("gradcam",), ("refinecam",)]
    assert [each.layer_names for each in found] == [["layer4"], ["layer2", "layer3", "layer4"]]
    assert all(each.explained.model is not resnet.model for each in found)
    assert all(each.network is resnet for each in found)


# -- several methods on the same images -----------------------------------------------------------------------------------


def decoded(arrays):
    return [DecodedImage(Path(f"{number}.png"), array) for number, array in enumerate(arrays)]


def test_methods_are_compared_on_the_same_images(resnet, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    _, arrays = batch(2)
    explainers = Explainer.of(resnet, ExplainConfig(method="gradcam,eigencam"))
    found = compare(explainers, decoded(arrays), None, "yes")
    assert list(found.maps) == list(found.seconds) == list(found.explainers) == ["gradcam", "eigencam"]
    assert [each.true for each in found.predictions] == ["yes"] * 2
    assert found.targets == [resnet.card.classes.index(each.label) for each in found.predictions]
    for index, prediction in enumerate(found.predictions):
        explanations = found.explanations(index)
        assert [each.method for each in explanations] == ["gradcam", "eigencam"]
        assert all(each.prediction is prediction and each.target == prediction.label for each in explanations)
        alone = explainer(resnet, method="eigencam").explain(found.pixels, arrays, found.targets)
        assert torch.allclose(explanations[1].map, alone[index], rtol=1e-4, atol=1e-6)
    assert "gradcam: evidence for the predicted class, at layer4" in caplog.messages
    assert compare(explainers[:1], decoded(arrays), 1).targets == [1, 1]


def test_methods_that_cannot_explain_a_model_are_left_out(resnet, caplog):
    """CAM needs average pooling and one linear layer; here a threshold stands between."""
    torch.manual_seed(0)
    model = NarrowResNet(2).eval()
    model.avgpool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Threshold(1e3, 0.0))
    network, (_, arrays) = resnet.with_model(model), batch(1)
    found = compare(Explainer.of(network, ExplainConfig(method="cam,gradcam")), decoded(arrays), 0)
    assert list(found.maps) == list(found.explainers) == ["gradcam"]
    assert "left out cam cannot explain this: CAM needs exactly global average pooling" in caplog.text
    with pytest.raises(UserError, match="cam cannot explain this: CAM needs exactly"):
        compare(Explainer.of(network, ExplainConfig(method="cam")), decoded(arrays), 0)


def test_none_of_several_methods_can_explain_a_model():
    network = bright_classifier()
    explainers = Explainer.of(network, ExplainConfig(method="gradcam,layercam", layer="stage"))
    with_fuse = [replace(each, combination=replace(each.combination, fuse="mean")) for each in explainers]
    with pytest.raises(UserError, match="none of these methods can explain this model"):
        compare(with_fuse, decoded([bright_corner()]), None)


def test_as_a_function_of_any_model_of_the_architecture(resnet):
    pixels, arrays = batch(2)
    torch.manual_seed(1)
    other = NarrowResNet(2).eval()
    for settings in ({}, {"refine": "lines"}):
        bound = explainer(resnet, layer="layer3", **settings)
        made = bound.as_function()(other, resnet.to_inputs(pixels), [0, 1])
        expected = torch.stack(explainer(resnet.with_model(other), layer="layer3").explain(pixels, arrays, [0, 1]))
        if settings:
            assert not torch.allclose(made, expected, rtol=1e-3)
        else:
            assert torch.allclose(made, expected, rtol=1e-4, atol=1e-7)


# -- anatomy --------------------------------------------------------------------------------------------------------------


def test_steps_lead_to_grad_cam(resnet):
    (layer,) = find_target_layers(resnet.model, 64, ["layer3"])
    pixels, arrays = batch(1)
    steps = gradcam_steps(resnet, layer, pixels, 1)
    (expected,) = explainer(resnet, layer="layer3").explain(pixels, arrays, [1])
    assert steps.activations.shape == steps.gradients.shape == (32, 4, 4)
    assert torch.allclose(steps.heatmap, expected, atol=1e-7)
    assert torch.allclose(steps.weights, steps.gradients.mean(dim=(1, 2)))
    assert torch.allclose(steps.signed, (steps.weights[:, None, None] * steps.activations).sum(dim=0), atol=1e-6)


def test_layers_are_named_only_where_they_are_used(resnet):
    fullgrad, gradcam = Explainer.of(resnet, ExplainConfig(method="fullgrad,gradcam", layer="layer3"))
    assert (fullgrad.layer_names, gradcam.layer_names) == ([], ["layer3"])
    with pytest.raises(UserError, match="fullgrad, rise: no target layer is used, leave layer out"):
        Explainer.of(resnet, ExplainConfig(method="fullgrad,rise", layer="layer3"))
    pixels, images = batch(1)
    with pytest.raises(UserError, match="smoothgrad reads no target layer: leave fuse out"):
        explainer(resnet, method="smoothgrad", fuse="mean").explain(pixels, images, [0])
