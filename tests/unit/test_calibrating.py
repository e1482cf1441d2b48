"""Calibration: errors by hand, temperatures that are known, and heads that take them in."""

import numpy as np
import pytest
import torch
from networks import Small, small_pictures
from PIL import Image
from sklearn.calibration import calibration_curve
from torch import nn

from crackcam.models import heads, pretrained
from crackcam.render import figures
from crackcam.training.calibration import (
    TEMPERATURES,
    expected_calibration_error,
    fit_offset,
    fit_temperature,
    reliability,
)

pytestmark = pytest.mark.slow


def drawn(count, classes, seed=0):
    """Logits, and labels drawn from their own softmax: calibrated as they are."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=rng)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=rng)[:, 0]


# -- calibration error ---------------------------------------------------------------------------------------------


def test_error_by_hand():
    """Of bins (0.6, 0.8] and (0.8, 1]: gaps |1/2 - 0.7| over 2 and |2/3 - 0.9| over 3 of 5 predictions."""
    probabilities = np.array([[0.65, 0.35], [0.25, 0.75], [0.85, 0.15], [0.95, 0.05], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1, 1])
    found = reliability(probabilities, labels, bins=5)
    assert found.count.tolist() == [0, 0, 0, 2, 3]
    assert found.accuracy[3:] == pytest.approx([1 / 2, 2 / 3])
    assert found.confidence[3:] == pytest.approx([0.7, 0.9])
    assert np.isnan(found.accuracy[:3]).all()
    error = expected_calibration_error(probabilities, labels, bins=5)
    assert error == found.error == pytest.approx((2 * 0.2 + 3 * (0.9 - 2 / 3)) / 5)


def test_right_edges_belong_in():
    """As in the paper, (m-1)/M < confidence <= m/M; a certain prediction falls into the last bin."""
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.76, 0.24]])
    assert reliability(probabilities, np.zeros(4, int), bins=4).count.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_error_equals_a_plain_loop(classes):
    logits, labels = drawn(700, classes)
    probabilities = (1.7 * logits).softmax(dim=1).numpy()
    wanted = 0.0
    for m_ in range(15):
        members = [i for i, p in enumerate(probabilities) if m_ / 15 < max(p) <= (m_ + 1) / 15]
        sure = sum(float(max(probabilities[i])) for i in members)
        right = sum(int(np.argmax(probabilities[i]) == labels[i]) for i in members)
        wanted += abs(right - sure) / len(labels)
    assert expected_calibration_error(probabilities, labels.numpy()) == pytest.approx(wanted)


def test_bins_are_those_of_scikit_learn():
    """Of 'the prediction is right', an event of which the confidence is the probability."""
    logits, labels = drawn(900, 3)
    probabilities = logits.softmax(dim=1).numpy()
    right = probabilities.argmax(axis=1) == labels.numpy()
    shares, means = calibration_curve(right, probabilities.max(axis=1), n_bins=15)
    found = reliability(probabilities, labels.numpy())
    filled = found.count > 0
    assert found.accuracy[filled] == pytest.approx(shares)
    assert found.confidence[filled] == pytest.approx(means)


# -- temperature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(classes, scale):
    logits, labels = drawn(20_000, classes)
    assert fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.03)


def test_temperature_calibrates_and_changes_no_prediction():
    logits, labels = drawn(4000, 3)
    val, test = slice(0, 2000), slice(2000, None)
    temperature = fit_temperature(3 * logits[val], labels[val])
    before, after = ((3 * logits[test] / t).softmax(dim=1) for t in (1, temperature))
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    errors = [expected_calibration_error(p.numpy(), labels[test].numpy()) for p in (before, after)]
    assert errors[0] > 0.1
    assert errors[1] < 0.03


def test_temperature_is_the_best_one_on_a_grid():
    logits, labels = drawn(300, 4)
    labels[:60] = torch.randint(4, (60,), generator=torch.Generator().manual_seed(1))
    grid = np.exp(np.linspace(-1, 1, 2001))
    losses = [
        -(logits / t).log_softmax(dim=1)[range(300), labels].sum() + (np.log(t) / np.log(1.5)) ** 2 / 2 for t in grid
    ]
    assert fit_temperature(logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=2e-3)


@pytest.mark.parametrize(("count", "margin"), [(500, 30.0), (500, 10.0), (20, 6.0), (20, 3.0), (500, 3.0)])
def test_all_right_is_no_call_for_certainty(count, margin):
    """The slope by log T of N log(1 + exp(-margin / T)) + (log T / log 1.5)^2 / 2 is 0; without the latter T would be 0."""
    labels = torch.arange(count) % 2
    found = fit_temperature(margin * torch.nn.functional.one_hot(labels).float(), labels)
    slope = count * margin / found / (1 + np.exp(margin / found)) + np.log(found) / np.log(1.5) ** 2
    assert slope == pytest.approx(0, abs=0.01)
    assert (0.9 if margin >= 10 else 0.35) < found < 1


def test_temperatures_stay_within_bounds():
    labels = torch.arange(10_000) % 2
    right = torch.nn.functional.one_hot(labels).float()
    assert fit_temperature(0.01 * right, labels) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_temperature(-50 * right, labels) == pytest.approx(TEMPERATURES[1], rel=1e-3)


# -- offset ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("rare", [0.1, 0.5])
def test_a_known_offset_is_found_whatever_the_number_of_images(offset, rare):
    """Two normal distributions of equal width, at -2 and 2: the boundary of equal errors is in the middle."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(20_000, generator=generator) < rare).long()
    difference = torch.randn(20_000, generator=generator) + 4 * labels - 2 - offset
    logits = torch.stack([torch.zeros_like(difference), difference], dim=1)
    assert fit_offset(logits, labels) == pytest.approx(offset, abs=0.1)
    assert fit_offset(logits + 5, labels) == pytest.approx(offset, abs=0.1)


# -- head --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1"])
def test_the_head_takes_the_temperature_in(arch):
    torch.manual_seed(0)
    model = pretrained.build_classifier(arch, 3).eval()
    head = model.get_submodule(heads.head_name(model))
    nn.init.normal_(head.bias)
    pictures = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        before = model(pictures)
        heads.apply_temperature(model, 2.5)
        after = model(pictures)
    assert torch.allclose(after, before / 2.5, atol=1e-6)
    assert head.bias.requires_grad


def test_the_rest_of_the_network_stays():
    model = Small().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(small_pictures())
    heads.apply_temperature(model, 0.5)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert torch.allclose(model(small_pictures()), 2 * logits, atol=1e-5)


# -- figure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (200, 2), (500, 12)])
def test_diagram_of_any_number(tmp_path, count, classes):
    logits, labels = drawn(count, classes)
    found = reliability((2 * logits).softmax(dim=1).numpy(), labels.numpy())
    figures.reliability(tmp_path / "reliability.png", vars(found), classes, "test split")
    assert Image.open(tmp_path / "reliability.png").size == (672, 720)
