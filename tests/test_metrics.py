"""The metrics against values by hand, a dense solver, and the installed package grad-cam in a process of its own."""

import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pytorch_grad_cam import metrics
from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity, batch_pearson_coherency
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
    ROADCombined,
    ROADLeastRelevantFirst,
    ROADLeastRelevantFirstAverage,
    ROADMostRelevantFirst,
    ROADMostRelevantFirstAverage,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

PERCENTILES = [10, 20, 30, 40, 50, 60, 70, 80, 90]
SIDE = 20


class Sum(nn.Module):
    """Class 0: the sum of the picture; class 1: its negative. Notes the size of each batch."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(len(x))
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], dim=1)


def network():
    """Weights large enough for probabilities to move."""
    torch.manual_seed(0)
    head = nn.Linear(8, 3)
    nn.init.normal_(head.weight, std=5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


@pytest.fixture
def model():
    return network()


def distinct_maps():
    """(2, 20, 20) without ties: the ranks are those of one permutation each."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(SIDE * SIDE).reshape(SIDE, SIDE) for _ in range(2)]).astype(np.float32) / 400


def sparse_map():
    """(20, 20), of which 60 % are exactly 0, as ReLU leaves a map."""
    values = np.random.default_rng(1).permutation(np.maximum(np.arange(400) - 239, 0)) / 160
    return torch.from_numpy(values.astype(np.float32).reshape(SIDE, SIDE))


@pytest.fixture
def pictures():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


TARGETS = [ClassifierOutputSoftmaxTarget(0), ClassifierOutputSoftmaxTarget(2)]


# -- the picture times its map --------------------------------------------------------------------------

HALF = [[1.0, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("picture", "cam", "category", "before", "after", "drop"),
    [
        ([[1, 1], [1, 1]], HALF, 0, 4, 1.5, 2.5 / 4),
        ([[1, 1], [1, 1]], HALF, 1, -4, -1.5, 0),
        ([[-5, 1], [1, 1]], [[1.0, 0], [0, 0]], 0, -2, -5, 1.5),  # a negative score that drops
        ([[-1, 1], [0, 0]], [[1.0, 0], [0, 0]], 0, 0, -1, 1),  # a score of 0: the absolute drop
        ([[1, 1], [1, 1]], [[1.0, 1], [1, 1]], 0, 4, 4, 0),
    ],
)
def test_confidence_change_drop_and_increase_by_hand(picture, cam, category, before, after, drop):
    x, cams = torch.tensor([[picture]], dtype=torch.float32), np.float32([cam])

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


def test_maps_may_be_of_any_float_type_on_either_side(pictures, model):
    expected = CamMultImageConfidenceChange()(pictures, distinct_maps(), TARGETS, model)
    for maps in (distinct_maps().astype(np.float64), torch.from_numpy(distinct_maps()), list(distinct_maps())):
        assert np.array_equal(CamMultImageConfidenceChange()(pictures, maps, TARGETS, model), expected)
        average = AveragerAcrossThresholds(lambda percentile: CamMultImageConfidenceChange(), [50])
        assert np.allclose(average(pictures, maps, TARGETS, model), expected, atol=1e-6)


def test_a_perturbation_may_work_in_place(pictures, model):
    before = pictures.clone()
    metric = PerturbationConfidenceMetric(lambda picture, cam: picture.mul_(cam.mul_(0)))
    changed, black = metric(pictures, distinct_maps(), TARGETS, model, return_visualization=True)
    assert torch.equal(pictures, before)
    assert not black.any()
    expected = model(torch.zeros_like(pictures)).softmax(1) - model(pictures).softmax(1)
    assert np.allclose(changed, [expected[0, 0].item(), expected[1, 2].item()], atol=1e-6)


def test_without_targets_it_is_the_class_predicted_for_the_original():
    x = torch.tensor([[[[5.0, -9], [0, 0]]], [[[5.0, 1], [0, 0]]]])  # class 1 by 4; class 0 by 6
    cams = np.float32([[[1, 0], [0, 0]]] * 2)  # leaves 5 of both
    assert CamMultImageConfidenceChange()(x, cams, None, Sum()).tolist() == [-9, -1]


# -- which pixels are removed ---------------------------------------------------------------------------


def mask_of(kind, percentile, cam):
    """What the imputer gets: 1 for kept, 0 for removed."""
    (mask,) = kind(percentile, lambda picture, mask: mask[None])(cam[None], cam)
    return mask


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


def test_removed_pixels_are_nested_and_the_two_ends_meet():
    cam = sparse_map()
    for kind in (RemoveMostRelevantFirst, RemoveLeastRelevantFirst):
        masks = [mask_of(kind, percentile, cam) for percentile in PERCENTILES]
        assert all((stricter <= wider).all() for stricter, wider in pairwise(masks))
    for percentile in PERCENTILES:
        most = mask_of(RemoveMostRelevantFirst, percentile, cam)
        least = mask_of(RemoveLeastRelevantFirst, 100 - percentile, cam)
        assert torch.equal(most, 1 - least)


def test_ties_are_broken_by_no_side_of_the_picture():
    mask = mask_of(RemoveMostRelevantFirst, 50, torch.zeros(40, 40))
    assert mask.sum() == 800
    for half in (mask[:20], mask[20:], mask[:, :20], mask[:, 20:]):
        assert 350 < half.sum() < 450  # 400 +- 10 by chance; 0 or 800 in reading order
    assert torch.equal(mask, mask_of(RemoveMostRelevantFirst, 50, torch.zeros(40, 40)))


def test_auto_removes_the_relevant_part_by_otsu():
    cam = torch.full((SIDE, SIDE), 0.1)
    cam[3:8, 5:12] = 0.8
    cam[4, 6], cam[0, 0] = 1, 0
    relevant = cam > 0.5
    assert torch.equal(mask_of(RemoveMostRelevantFirst, "auto", cam) == 0, relevant)
    assert torch.equal(mask_of(RemoveLeastRelevantFirst, "auto", cam) == 0, ~relevant)


# -- filling in -----------------------------------------------------------------------------------------

LEFT_RIGHT = [((0, -1), 1.0), ((0, 1), 1.0)]


def dense_means(img, mask, weighting):
    """The same equations, one by one, solved densely."""
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


def test_imputer_keeps_the_dtype_and_leaves_whole_pictures_alone():
    img = torch.randn(3, 5, 5).half()
    assert torch.equal(NoisyLinearImputer()(img, torch.ones(5, 5)), img)
    mask = torch.ones(5, 5)
    mask[2, 2] = 0
    filled = NoisyLinearImputer(noise=0)(img, mask)
    expected = dense_means(img.double().numpy(), mask, road.neighbors_weights)
    assert filled.dtype == torch.float16
    assert np.allclose(filled, expected, atol=2e-3)


def test_noise_is_reproducible_and_leaves_the_global_generator_alone():
    img, mask = torch.zeros(3, 40, 40), torch.zeros(40, 40)
    mask[0] = 1
    state = torch.get_rng_state()
    first, second = NoisyLinearImputer()(img, mask), NoisyLinearImputer()(img, mask)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, NoisyLinearImputer(seed=1)(img, mask))
    assert first[:, 1:].std().item() == pytest.approx(0.01, rel=0.05)
    # The field belongs to the place, whatever else is removed.
    mask[1:20] = 1
    assert torch.equal(NoisyLinearImputer()(img, mask)[:, 20:], first[:, 20:])


# -- ROAD -----------------------------------------------------------------------------------------------


def test_road_removes_what_its_percentile_says():
    """A blob of 5 % of the pixels on black: without it nothing is left; without 5 % of the rest, all."""
    x = torch.zeros(1, 1, SIDE, SIDE)
    x[..., 4:8, 5:10] = 1
    cams = x[0].numpy()
    most, blank = ROADMostRelevantFirst(95)(x, cams, [0], Sum(), return_visualization=True)
    assert most[0] == pytest.approx(-20, abs=0.2)
    assert blank.abs().max() < 0.06
    assert ROADLeastRelevantFirst(95)(x, cams, [0], Sum())[0] == pytest.approx(0, abs=0.2)
    assert ROADLeastRelevantFirst()(x, cams, [0], Sum())[0] > -0.5 * ROADMostRelevantFirst(20)(x, cams, [0], Sum())[0]


def test_averages_are_the_means_of_single_percentiles(pictures, model):
    cams = np.stack([sparse_map(), distinct_maps()[1]])

    def mean(kind):
        return np.mean([kind(percentile)(pictures, cams, TARGETS, model) for percentile in (30, 60)], axis=0)

    most, least = mean(ROADMostRelevantFirst), mean(ROADLeastRelevantFirst)
    assert abs(most - least).min() > 1e-2
    found = [
        kind([30, 60])(pictures, cams, TARGETS, model)
        for kind in (ROADMostRelevantFirstAverage, ROADLeastRelevantFirstAverage, ROADCombined)
    ]
    for one, expected in zip(found, [most, least, (least - most) / 2], strict=True):
        assert one.dtype == np.float32
        assert np.allclose(one, expected, atol=1e-6)


def test_the_opposite_map_has_the_opposite_score(pictures, model):
    score = ROADCombined()(pictures, distinct_maps(), TARGETS, model)
    assert abs(score).min() > 1e-2
    assert np.allclose(ROADCombined()(pictures, 1 - distinct_maps(), TARGETS, model), -score, atol=1e-6)


def test_a_score_depends_on_nothing_else_and_is_the_same_again(pictures, model):
    cams = np.stack([sparse_map(), distinct_maps()[1]])
    metric = ROADCombined([20, 40, 60, 80])
    together = metric(pictures, cams, TARGETS, model)
    assert np.array_equal(metric(pictures, cams, TARGETS, model), together)
    metric.batch_size = 3
    alone = [metric(pictures[i : i + 1], cams[i : i + 1], TARGETS[i : i + 1], model)[0] for i in range(2)]
    assert np.allclose(alone, together, atol=1e-6)


def test_the_original_is_scored_once_and_the_rest_in_batches(pictures):
    model = Sum().eval()
    ROADCombined()(pictures[:1], distinct_maps()[:1], [0], model)
    assert model.batches == [1, 18]
    model.batches.clear()
    average = ROADMostRelevantFirstAverage()
    average.batch_size = 8
    average(pictures, distinct_maps(), [0, 1], model)
    assert model.batches == [2, 8, 8, 2]


def test_averager_honours_a_metric_with_a_call_of_its_own(pictures, model):
    class Lost(ROADMostRelevantFirst):
        def __call__(self, *arguments):
            return np.maximum(-super().__call__(*arguments), 0)

    arguments = pictures, distinct_maps(), TARGETS, model
    expected = np.mean([np.maximum(-ROADMostRelevantFirst(p)(*arguments), 0) for p in (20, 80)], axis=0)
    found = AveragerAcrossThresholds(Lost, [20, 80])(*arguments)
    assert found.max() > 0
    assert np.allclose(found, expected, atol=1e-7)


def test_averager_takes_any_imputer(pictures):
    """Removing to 0 leaves the sum of the kept pixels."""

    def metric(percentile):
        return PerturbationConfidenceMetric(RemoveMostRelevantFirst(percentile, torch.mul))

    cams = distinct_maps()
    found = AveragerAcrossThresholds(metric, [25, 75])(pictures, cams, [0, 0], Sum())
    lost = [-(pictures.numpy() * (cams >= share)[:, None]).sum(axis=(1, 2, 3)) for share in (0.25, 0.75)]
    assert np.allclose(found, np.mean(lost, axis=0), atol=1e-3)


def test_the_model_is_left_as_it_was(pictures):
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), network())
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = pictures.clone().requires_grad_()
    score = ROADCombined([30, 70])(x, distinct_maps(), TARGETS, model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert np.array_equal(score, ROADCombined([30, 70])(pictures, distinct_maps(), TARGETS, model.eval()))


def test_what_makes_no_sense_is_an_error(pictures, model):
    cams = distinct_maps()
    with pytest.raises(ValueError, match="1 maps for 2 pictures"):
        ROADCombined()(pictures, cams[:1], TARGETS, model)
    with pytest.raises(ValueError, match="1 targets for 2 pictures"):
        ROADCombined()(pictures, cams, TARGETS[:1], model)
    with pytest.raises(ValueError, match="not finite"):
        CamMultImageConfidenceChange()(pictures, cams * np.nan, TARGETS, model)
    with pytest.raises(ValueError, match="from 0 to 100"):
        ROADMostRelevantFirst(120)
    with pytest.raises(ValueError, match=r"map of \(10, 20\) for a picture of \(20, 20\)"):
        ROADMostRelevantFirst()(pictures, cams[:, :10], TARGETS, model)
    with pytest.raises(ValueError, match="no chain of neighbours"):
        ROADMostRelevantFirst(0)(pictures, cams, TARGETS, model)
    mask = torch.ones(3, 5)
    mask[1] = 0  # between two rows that this weighting does not look at
    with pytest.raises(ValueError, match="no chain of neighbours"):
        NoisyLinearImputer(0, LEFT_RIGHT)(torch.ones(1, 3, 5), mask)


def test_modules_are_reached_as_attributes():
    assert metrics.__getattr__("road") is road
    assert {"arcc", "cam_mult_image", "perturbation_confidence", "road"} <= set(dir(metrics))
    with pytest.raises(AttributeError, match="no attribute 'ARCC'"):
        metrics.ARCC  # noqa: B018


# -- ARCC -----------------------------------------------------------------------------------------------


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


def brightness(input_tensor, targets):
    """A base method whose maps are the brightness, stretched."""
    assert len(targets) == len(input_tensor)
    bright = input_tensor.abs().mean(dim=1).numpy()
    return bright / bright.max(axis=(1, 2), keepdims=True)


def test_coherency_by_hand():
    x = torch.tensor([[[[1.0, 2], [3, 4]]]])
    # 1 1 1 0 times the picture is 1 2 3 0: correlated with the map by 0.7746.
    found = Coherency()(x, np.float32([[[1, 1], [1, 0]]]), [0], Sum(), brightness)
    assert found[0] == pytest.approx((1 + np.sqrt(0.6)) / 2, abs=1e-6)


def test_coherency_without_targets_explains_the_class_of_the_whole_picture():
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


# -- against grad-cam 1.5.7 -----------------------------------------------------------------------------

PEER = """
import sys
import numpy as np
import torch
from torch import nn
import pytorch_grad_cam
from pytorch_grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

assert "site-packages" in pytorch_grad_cam.__file__, pytorch_grad_cam.__file__
job = torch.load("job.pt", weights_only=True)
x, cams, sparse = job["pictures"], job["maps"].numpy(), job["sparse"]
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
)
model.load_state_dict(job["state"])
targets = [ClassifierOutputSoftmaxTarget(0), ClassifierOutputSoftmaxTarget(2)]

def brightness(input_tensor, targets):
    bright = input_tensor.abs().mean(dim=1).numpy()
    return bright / bright.max(axis=(1, 2), keepdims=True)

def mask(kind, percentile, cam):
    return kind(percentile, lambda picture, mask: mask)(None, cam).numpy()

most, least = perturbation_confidence.RemoveMostRelevantFirst, perturbation_confidence.RemoveLeastRelevantFirst
result = {
    kind.__name__: kind()(x, cams, targets, model)
    for kind in (
        cam_mult_image.CamMultImageConfidenceChange, cam_mult_image.DropInConfidence,
        cam_mult_image.IncreaseInConfidence,
    )
}
distinct = torch.from_numpy(cams[0])
result["most"] = [mask(most, p, distinct) for p in job["percentiles"]]
result["least"] = [mask(least, p, distinct) for p in job["percentiles"]]
result["sparse kept"] = [mask(most, p, sparse).sum() for p in job["percentiles"]]
result["auto"] = mask(most, "auto", sparse)
impute = road.NoisyLinearImputer(noise=0)
result["filled"] = np.stack([impute(x[0], torch.from_numpy(m)).numpy() for m in result["most"]])
result["weighting"] = road.NoisyLinearImputer(0, [((0, -1), 1.0)]).weighting == road.neighbors_weights
metric = road.ROADMostRelevantFirst()
result["noisy"] = [metric(x, cams, targets, model) for _ in range(2)]
forwards = []
model.register_forward_hook(lambda *_: forwards.append(1))
torch.randn_like = torch.zeros_like
for kind in (road.ROADMostRelevantFirstAverage, road.ROADLeastRelevantFirstAverage, road.ROADCombined):
    forwards.clear()
    result[kind.__name__] = kind()(x, cams, targets, model)
result["forwards"] = len(forwards)
result["pearson"] = arcc.batch_pearson_coherency(cams, cams[::-1])
result["small pearson"] = arcc.batch_pearson_coherency(1e-6 * cams, 1e-6 * cams)
result["Complexity"] = arcc.Complexity()(cams)
result["Coherency"] = arcc.Coherency()(x, cams, targets, model, brightness)
result["ARCC"] = arcc.ARCC(brightness)(x, job["good"].numpy(), targets, model)
np.savez("result.npz", **result)
"""


def good_maps(pictures, model):
    """Maps whose ROAD is positive, so that ARCC is not clipped: the better of a map and its opposite."""
    cams = distinct_maps()
    right = ROADCombined([20, 40, 60, 80])(pictures, cams, TARGETS, model) > 0
    return np.where(right[:, None, None], cams, 1 - cams).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    pictures = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    torch.save(
        {
            "pictures": pictures, "maps": torch.from_numpy(distinct_maps()), "sparse": sparse_map(),
            "good": torch.from_numpy(good_maps(pictures, network())), "percentiles": PERCENTILES,
            "state": network().state_dict(),
        },
        folder / "job.pt",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-P", "-c", PEER], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "result.npz"))


@pytest.fixture
def noiseless(monkeypatch):
    monkeypatch.setattr(road, "NoisyLinearImputer", partial(NoisyLinearImputer, noise=0))


def test_confidence_agrees(theirs, pictures, model):
    for metric in (CamMultImageConfidenceChange(), IncreaseInConfidence()):
        found, expected = metric(pictures, distinct_maps(), TARGETS, model), theirs[type(metric).__name__]
        assert found.dtype == expected.dtype
        assert np.allclose(found, expected, atol=1e-6)


def test_drop_is_relative_where_theirs_is_absolute(theirs, pictures, model):
    scores = model(pictures).softmax(1)[[0, 1], [0, 2]].detach().numpy()
    found, expected = DropInConfidence()(pictures, distinct_maps(), TARGETS, model), theirs["DropInConfidence"]
    assert found.dtype == expected.dtype
    assert expected.max() > 1e-2
    assert np.allclose(found, expected / scores, atol=1e-5)


def test_masks_and_filled_pictures_agree_where_nothing_ties(theirs, pictures):
    cam = torch.from_numpy(distinct_maps()[0])
    for kind, expected in ((RemoveMostRelevantFirst, theirs["most"]), (RemoveLeastRelevantFirst, theirs["least"])):
        assert np.array_equal([mask_of(kind, percentile, cam) for percentile in PERCENTILES], expected)
    for mask, expected in zip(theirs["most"], theirs["filled"], strict=True):
        assert np.allclose(NoisyLinearImputer(noise=0)(pictures[0], torch.from_numpy(mask)), expected, atol=1e-5)


def test_road_agrees_without_noise(theirs, pictures, model, noiseless):
    for kind in (ROADMostRelevantFirstAverage, ROADLeastRelevantFirstAverage, ROADCombined):
        found, expected = kind()(pictures, distinct_maps(), TARGETS, model), theirs[kind.__name__]
        assert found.dtype == expected.dtype
        assert abs(expected).min() > 1e-3
        assert np.allclose(found, expected, atol=2e-6)


def test_arcc_agrees(theirs, pictures, model, noiseless):
    cams = distinct_maps()
    arcc = ARCC(brightness)(pictures, good_maps(pictures, model), TARGETS, model)
    assert arcc.min() > 0
    for name, found in {
        "pearson": batch_pearson_coherency(cams, cams[::-1]),
        "Complexity": Complexity()(cams),
        "Coherency": Coherency()(pictures, cams, TARGETS, model, brightness),
        "ARCC": arcc,
    }.items():
        assert found.dtype == theirs[name].dtype
        assert np.allclose(found, theirs[name], atol=1e-4 if name == "ARCC" else 1e-6), name


def test_documented_departures_are_departures(theirs):
    """Where this fails, the package was mended: take the entry out of docs/differences.md."""
    assert theirs["sparse kept"].tolist() == [0] * 5 + [240, 280, 320, 360]  # ours: 40, 80, ..., 360
    assert theirs["auto"][sparse_map() == 1].all()  # the most relevant pixel is kept
    assert not mask_of(RemoveMostRelevantFirst, "auto", sparse_map())[sparse_map() == 1].any()
    assert theirs["weighting"]  # the argument is dropped
    assert not np.array_equal(*theirs["noisy"])
    assert theirs["forwards"] == 36
    assert (theirs["small pearson"] < 0.99).all()
