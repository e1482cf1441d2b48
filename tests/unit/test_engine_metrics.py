"""Drop and increase in confidence, removal of pixels and imputation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from metric_cases import (
    LEFT_RIGHT,
    PERCENTILES,
    SIDE,
    TARGETS,
    Sum,
    distinct_maps,
    mask_of,
    metric_images,
    network,
    sparse_map,
)

from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.metrics.cam_mult_image import (
    CamMultImageConfidenceChange,
    DropInConfidence,
    IncreaseInConfidence,
)
from pytorch_grad_cam.metrics.perturbation_confidence import (
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import (
    NoisyLinearImputer,
)


@pytest.fixture
def model():
    return network()


@pytest.fixture
def images():
    return metric_images()


HALF = [[1.0, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("image", "cam", "category", "before", "after", "drop"),
    [
        ([[1, 1], [1, 1]], HALF, 0, 4, 1.5, 2.5 / 4),
        ([[1, 1], [1, 1]], HALF, 1, -4, -1.5, 0),
        ([[-5, 1], [1, 1]], [[1.0, 0], [0, 0]], 0, -2, -5, 1.5),  # a negative score that drops
        ([[-1, 1], [0, 0]], [[1.0, 0], [0, 0]], 0, 0, -1, 1),  # a score of 0: the absolute drop
        ([[1, 1], [1, 1]], [[1.0, 1], [1, 1]], 0, 4, 4, 0),
    ],
)
def test_confidence_change_drop_and_increase_by_hand(image, cam, category, before, after, drop):
    x, cams = torch.tensor([[image]], dtype=torch.float32), np.float32([cam])

    def value(metric, **options):
        return metric(x, cams, [category], Sum(), **options)

    assert value(CamMultImageConfidenceChange()).tolist() == [after - before]
    assert value(CamMultImageConfidenceChange(), return_diff=False).tolist() == [after]
    assert value(DropInConfidence()).tolist() == [drop]
    assert value(IncreaseInConfidence()).tolist() == [float(after > before)]
    for metric in (CamMultImageConfidenceChange(), DropInConfidence(), IncreaseInConfidence()):
        scores, visible = value(metric, return_visualization=True)
        assert scores.dtype == np.float32
        assert torch.equal(visible, x * torch.tensor(cam))


def test_maps_may_be_of_any_float_type_on_either_side(images, model):
    expected = CamMultImageConfidenceChange()(images, distinct_maps(), TARGETS, model)
    for maps in (distinct_maps().astype(np.float64), torch.from_numpy(distinct_maps()), list(distinct_maps())):
        assert np.array_equal(CamMultImageConfidenceChange()(images, maps, TARGETS, model), expected)
        average = AveragerAcrossThresholds(lambda percentile: CamMultImageConfidenceChange(), [50])
        assert np.allclose(average(images, maps, TARGETS, model), expected, atol=1e-6)


def test_a_perturbation_may_work_in_place(images, model):
    before = images.clone()
    metric = PerturbationConfidenceMetric(lambda image, cam: image.mul_(cam.mul_(0)))
    changed, black = metric(images, distinct_maps(), TARGETS, model, return_visualization=True)
    assert torch.equal(images, before)
    assert not black.any()
    expected = model(torch.zeros_like(images)).softmax(1) - model(images).softmax(1)
    assert np.allclose(changed, [expected[0, 0].item(), expected[1, 2].item()], atol=1e-6)


def test_default_target_is_the_class_predicted_for_the_original():
    x = torch.tensor([[[[5.0, -9], [0, 0]]], [[[5.0, 1], [0, 0]]]])  # class 1 by 4; class 0 by 6
    cams = np.float32([[[1, 0], [0, 0]]] * 2)  # leaves 5 of both
    assert CamMultImageConfidenceChange()(x, cams, None, Sum()).tolist() == [-9, -1]


@pytest.mark.parametrize("percentile", [0, 1, *PERCENTILES, 99, 100])
def test_ties_do_not_change_the_fraction_removed(percentile):
    cam = sparse_map()
    assert (cam == 0).sum() == 240
    for kind in (RemoveMostRelevantFirst, RemoveLeastRelevantFirst):
        mask = mask_of(kind, percentile, cam)
        assert mask.sum() == 4 * percentile
        assert mask.dtype == torch.float32
        if 0 < percentile < 100:
            low, high = (mask == 1, mask == 0) if kind is RemoveMostRelevantFirst else (mask == 0, mask == 1)
            assert cam[low].max() <= cam[high].min()


def test_removed_pixels_are_nested_and_complementary():
    cam = sparse_map()
    for kind in (RemoveMostRelevantFirst, RemoveLeastRelevantFirst):
        masks = [mask_of(kind, percentile, cam) for percentile in PERCENTILES]
        assert all((stricter <= wider).all() for stricter, wider in pairwise(masks))
    for percentile in PERCENTILES:
        most = mask_of(RemoveMostRelevantFirst, percentile, cam)
        least = mask_of(RemoveLeastRelevantFirst, 100 - percentile, cam)
        assert torch.equal(most, 1 - least)


def test_ties_are_broken_without_spatial_bias():
    mask = mask_of(RemoveMostRelevantFirst, 50, torch.zeros(40, 40))
    assert mask.sum() == 800
    for half in (mask[:20], mask[20:], mask[:, :20], mask[:, 20:]):
        assert 350 < half.sum() < 450  # 400 +- 10 at random; 0 or 800 in reading order
    assert torch.equal(mask, mask_of(RemoveMostRelevantFirst, 50, torch.zeros(40, 40)))


def test_auto_removes_the_relevant_part_by_otsu():
    cam = torch.full((SIDE, SIDE), 0.1)
    cam[3:8, 5:12] = 0.8
    cam[4, 6], cam[0, 0] = 1, 0
    relevant = cam > 0.5
    assert torch.equal(mask_of(RemoveMostRelevantFirst, "auto", cam) == 0, relevant)
    assert torch.equal(mask_of(RemoveLeastRelevantFirst, "auto", cam) == 0, ~relevant)


def dense_means(img, mask, weighting):
    """The same equations, assembled one by one and solved densely."""
    channels, height, width = img.shape
    holes = [(y, x) for y in range(height) for x in range(width) if mask[y, x] == 0]
    matrix, right = np.zeros((len(holes), len(holes))), np.zeros((len(holes), channels))
    for row, (y, x) in enumerate(holes):
        for (dy, dx), weight in weighting:
            there = (y + dy, x + dx)
            if not (0 <= there[0] < height and 0 <= there[1] < width):
                continue
            matrix[row, row] += weight
            if there in holes:
                matrix[row, holes.index(there)] -= weight
            else:
                right[row] += weight * img[:, *there]
    filled = img.copy()
    for (y, x), values in zip(holes, np.linalg.solve(matrix, right), strict=True):
        filled[:, y, x] = values
    return filled


@pytest.mark.parametrize(
    "weighting", [road.neighbors_weights, [((0, 1), 2.0), ((0, -1), 1.0), ((1, 0), 3.0), ((-1, 0), 0.5)]]
)
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_imputer_solves_the_linear_system(weighting, kept):
    rng = np.random.default_rng(2)
    img, mask = rng.normal(size=(3, 9, 7)), rng.random((9, 7)) < kept
    mask[:4, :3] = False  # a hole in a corner
    given = torch.from_numpy(img)
    found = NoisyLinearImputer(noise=0, weighting=weighting)(given, torch.from_numpy(mask))
    assert np.allclose(found, dense_means(img, mask, weighting), atol=1e-12)
    assert np.array_equal(found[:, mask], img[:, mask])
    assert np.array_equal(given, img)


def test_imputer_honours_its_weighting():
    img, mask = torch.tensor([[[0.0, 99.0, 6.0]]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert NoisyLinearImputer(0, LEFT_RIGHT)(img, mask)[0, 0, 1] == 3
    assert NoisyLinearImputer(0, [((0, -1), 1.0), ((0, 1), 2.0)])(img, mask)[0, 0, 1] == 4


def test_imputer_keeps_the_dtype_and_complete_images():
    img = torch.randn(3, 5, 5).half()
    assert torch.equal(NoisyLinearImputer()(img, torch.ones(5, 5)), img)
    mask = torch.ones(5, 5)
    mask[2, 2] = 0
    filled = NoisyLinearImputer(noise=0)(img, mask)
    expected = dense_means(img.double().numpy(), mask, road.neighbors_weights)
    assert filled.dtype == torch.float16
    assert np.allclose(filled, expected, atol=2e-3)


def test_noise_is_reproducible_and_does_not_use_the_global_generator():
    img, mask = torch.zeros(3, 40, 40), torch.zeros(40, 40)
    mask[0] = 1
    state = torch.get_rng_state()
    first, second = NoisyLinearImputer()(img, mask), NoisyLinearImputer()(img, mask)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, NoisyLinearImputer(seed=1)(img, mask))
    assert first[:, 1:].std().item() == pytest.approx(0.01, rel=0.05)
    # The noise depends on the position, not on which other pixels are removed.
    mask[1:20] = 1
    assert torch.equal(NoisyLinearImputer()(img, mask)[:, 20:], first[:, 20:])
