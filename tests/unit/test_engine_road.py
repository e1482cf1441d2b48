"""ROAD and ARCC by hand, and which arguments are errors."""

import numpy as np
import pytest
import torch
from metric_cases import LEFT_RIGHT, SIDE, TARGETS, Sum, brightness, distinct_maps, metric_images, network, sparse_map
from torch import nn

from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity, batch_pearson_coherency
from pytorch_grad_cam.metrics.cam_mult_image import (
    CamMultImageConfidenceChange,
)
from pytorch_grad_cam.metrics.perturbation_confidence import (
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import (
    NoisyLinearImputer,
    ROADCombined,
    ROADLeastRelevantFirst,
    ROADLeastRelevantFirstAverage,
    ROADMostRelevantFirst,
    ROADMostRelevantFirstAverage,
)


@pytest.fixture
def model():
    return network()


@pytest.fixture
def images():
    return metric_images()


def test_road_removes_the_fraction_of_its_percentile():
    """A bright region of 5 % of the pixels on black: the score is lost without it, and kept without 5 % of the rest."""
    x = torch.zeros(1, 1, SIDE, SIDE)
    x[..., 4:8, 5:10] = 1
    cams = x[0].numpy()
    most, blank = ROADMostRelevantFirst(95)(x, cams, [0], Sum(), return_visualization=True)
    assert most[0] == pytest.approx(-20, abs=0.2)
    assert blank.abs().max() < 0.06
    assert ROADLeastRelevantFirst(95)(x, cams, [0], Sum())[0] == pytest.approx(0, abs=0.2)
    assert ROADLeastRelevantFirst()(x, cams, [0], Sum())[0] > -0.5 * ROADMostRelevantFirst(20)(x, cams, [0], Sum())[0]


def test_averages_are_the_means_of_single_percentiles(images, model):
    cams = np.stack([sparse_map(), distinct_maps()[1]])

    def mean(kind):
        return np.mean([kind(percentile)(images, cams, TARGETS, model) for percentile in (30, 60)], axis=0)

    most, least = mean(ROADMostRelevantFirst), mean(ROADLeastRelevantFirst)
    assert abs(most - least).min() > 1e-2
    found = [
        kind([30, 60])(images, cams, TARGETS, model)
        for kind in (ROADMostRelevantFirstAverage, ROADLeastRelevantFirstAverage, ROADCombined)
    ]
    for one, expected in zip(found, [most, least, (least - most) / 2], strict=True):
        assert one.dtype == np.float32
        assert np.allclose(one, expected, atol=1e-6)


def test_the_opposite_map_has_the_opposite_score(images, model):
    score = ROADCombined()(images, distinct_maps(), TARGETS, model)
    assert abs(score).min() > 1e-2
    assert np.allclose(ROADCombined()(images, 1 - distinct_maps(), TARGETS, model), -score, atol=1e-6)


def test_scores_are_reproducible_and_independent_of_the_batch(images, model):
    cams = np.stack([sparse_map(), distinct_maps()[1]])
    metric = ROADCombined([20, 40, 60, 80])
    together = metric(images, cams, TARGETS, model)
    assert np.array_equal(metric(images, cams, TARGETS, model), together)
    metric.batch_size = 3
    alone = [metric(images[i : i + 1], cams[i : i + 1], TARGETS[i : i + 1], model)[0] for i in range(2)]
    assert np.allclose(alone, together, atol=1e-6)


def test_the_original_is_scored_once_and_the_rest_in_batches(images):
    model = Sum().eval()
    ROADCombined()(images[:1], distinct_maps()[:1], [0], model)
    assert model.batches == [1, 18]
    model.batches.clear()
    average = ROADMostRelevantFirstAverage()
    average.batch_size = 8
    average(images, distinct_maps(), [0, 1], model)
    assert model.batches == [2, 8, 8, 2]


def test_averager_uses_an_overridden_call_of_a_metric(images, model):
    class Lost(ROADMostRelevantFirst):
        def __call__(self, *arguments):
            return np.maximum(-super().__call__(*arguments), 0)

    arguments = images, distinct_maps(), TARGETS, model
    expected = np.mean([np.maximum(-ROADMostRelevantFirst(p)(*arguments), 0) for p in (20, 80)], axis=0)
    found = AveragerAcrossThresholds(Lost, [20, 80])(*arguments)
    assert found.max() > 0
    assert np.allclose(found, expected, atol=1e-7)


def test_averager_accepts_any_imputer(images):
    """With an imputer that sets pixels to 0, the score is the sum of the kept pixels."""

    def metric(percentile):
        return PerturbationConfidenceMetric(RemoveMostRelevantFirst(percentile, torch.mul))

    cams = distinct_maps()
    found = AveragerAcrossThresholds(metric, [25, 75])(images, cams, [0, 0], Sum())
    lost = [-(images.numpy() * (cams >= threshold)[:, None]).sum(axis=(1, 2, 3)) for threshold in (0.25, 0.75)]
    assert np.allclose(found, np.mean(lost, axis=0), atol=1e-3)


def test_metrics_leave_the_model_unchanged(images):
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), network())
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = images.clone().requires_grad_()
    score = ROADCombined([30, 70])(x, distinct_maps(), TARGETS, model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert np.array_equal(score, ROADCombined([30, 70])(images, distinct_maps(), TARGETS, model.eval()))


def test_invalid_arguments_are_errors(images, model):
    cams = distinct_maps()
    with pytest.raises(ValueError, match="1 maps for 2 images"):
        ROADCombined()(images, cams[:1], TARGETS, model)
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        ROADCombined()(images, cams, TARGETS[:1], model)
    with pytest.raises(ValueError, match="not finite"):
        CamMultImageConfidenceChange()(images, cams * np.nan, TARGETS, model)
    with pytest.raises(ValueError, match="from 0 to 100"):
        ROADMostRelevantFirst(120)
    with pytest.raises(ValueError, match=r"map of shape \(10, 20\) for an image of shape \(20, 20\)"):
        ROADMostRelevantFirst()(images, cams[:, :10], TARGETS, model)
    with pytest.raises(ValueError, match="no chain of neighbours"):
        ROADMostRelevantFirst(0)(images, cams, TARGETS, model)
    mask = torch.ones(3, 5)
    mask[1] = 0  # between two rows that this weighting does not look at
    with pytest.raises(ValueError, match="no chain of neighbours"):
        NoisyLinearImputer(0, LEFT_RIGHT)(torch.ones(1, 3, 5), mask)


def test_pearson():
    line = np.float32([[1, 2], [3, 4]])
    pairs = [(line, 2 * line + 5, 1), (line, -line, -1), (line, 1e-12 * line, 1), (line, [[1, 4], [3, 2]], 0.2)]
    pairs += [(line, np.full((2, 2), 0.1), 0), (np.zeros((2, 2)), line, 0)]
    a, b, expected = (np.float32([pair[i] for pair in pairs]) for i in range(3))
    found = batch_pearson_coherency(a, b)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6)


def test_complexity():
    assert Complexity()(np.float32([[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0.5, -0.5]]])).tolist() == [0, 1, 0.5]


def test_coherency_by_hand():
    x = torch.tensor([[[[1.0, 2], [3, 4]]]])
    # 1 1 1 0 times the image is 1 2 3 0: correlated with the map by 0.7746.
    found = Coherency()(x, np.float32([[[1, 1], [1, 0]]]), [0], Sum(), brightness)
    assert found[0] == pytest.approx((1 + np.sqrt(0.6)) / 2, abs=1e-6)


def test_coherency_without_targets_explains_the_class_of_the_unmasked_image():
    x = torch.tensor([[[[5.0, -9], [0, 0]]]])  # class 1; what the map leaves of it is class 0
    asked = []

    def base_method(input_tensor, targets):
        asked.extend(target(torch.tensor([0.0, 1.0])).item() for target in targets)
        return input_tensor[:, 0].numpy()

    Coherency()(x, np.float32([[[1, 0], [0, 0]]]), None, Sum(), base_method)
    assert asked == [1]


def test_arcc_is_the_harmonic_mean():
    arcc = ARCC(brightness)
    assert arcc.road.percentiles == [20, 40, 60, 80]
    arcc.coherency = lambda *_: np.float32([0.5, 0.9, 1, 1])
    arcc.complexity = lambda *_: np.float32([0.75, 0.1, 0, 0.2])
    arcc.road = lambda *_: np.float32([0.25, -0.1, 0.7, 0.2])
    found = arcc(None, None, None, None)
    assert found.dtype == np.float32
    # 0.5, 0.25, 0.5; a part of 0; all 1; 1, 0.8, 0.4
    assert np.allclose(found, [3 / (2 + 4 + 2), 0, 1, 3 / (1 + 1.25 + 2.5)], atol=1e-6)
