"""Scores of maps: tiny cases by hand, loops in plain numpy, and maps whose worth is known."""

import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from crackcam.evaluation import baselines, faithfulness, mask_scores
from crackcam.runtime import Runtime

HEAT = np.array([[0.9, 0.8], [0.7, 0.1]], np.float32)
MASK = np.array([[True, False], [True, False]])


def test_masks_by_hand():
    found = mask_scores.score_masks([HEAT], [MASK], threshold=0.75)
    assert found.pictures == 1
    assert found.ap == found.ap_each == pytest.approx(1 * 0.5 + 2 / 3 * 0.5)
    assert found.auroc == found.auroc_each == pytest.approx(3 / 4)  # of 4 pairs, 0.7 < 0.8 is wrong
    assert found.energy == pytest.approx(1.6 / 2.5)
    assert found.peak == 1
    assert (found.f1, found.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))  # one hit, one wrong, one missed
    assert (found.best_f1, found.best_threshold) == (pytest.approx(0.8), pytest.approx(0.7))
    assert np.isnan(found.cover_empty)
    assert np.isnan(found.ap_error)


def test_pictures_without_cracks_count_in_the_pooled_figures_alone():
    empty, other = np.array([[0.95, 0.0], [0.0, 0.0]], np.float32), np.array([[0.2, 0.1], [0.9, 0.3]], np.float32)
    masks = [MASK, np.zeros((2, 2), bool), MASK]
    found = mask_scores.score_masks([HEAT, empty, other], masks, threshold=0.75)
    assert found.pictures == 2
    each = [5 / 6, 1 * 0.5 + 2 / 3 * 0.5]
    assert found.ap_each == pytest.approx(np.mean(each))
    assert found.ap_error == pytest.approx(np.std(each, ddof=1) / 2**0.5)
    # hottest first: 0.95 none, 0.9 twice (both cracks), 0.8 none, 0.7 crack, 0.3 none, 0.2 crack, ...
    assert found.ap == pytest.approx(2 / 3 * 0.5 + 3 / 5 * 0.25 + 4 / 7 * 0.25)
    assert found.cover_empty == pytest.approx(0.25)
    with pytest.raises(ValueError, match="all masks are empty or full"):
        mask_scores.score_masks([empty, empty], [np.zeros((2, 2), bool), np.ones((2, 2), bool)])
    with pytest.raises(ValueError, match=r"a map of \(2, 2\) against a mask of \(3, 3\)"):
        mask_scores.score_masks([HEAT], [np.ones((3, 3), bool)])


def test_thresholds_of_their_own_and_none():
    heats, masks = [HEAT, 10 * HEAT, HEAT], [MASK, MASK, np.zeros((2, 2), bool)]
    one = mask_scores.score_masks([HEAT, HEAT, HEAT], masks, 0.75)
    each = mask_scores.score_masks(heats, masks, [0.75, 7.5, 0.75])
    assert (one.f1, one.iou, one.cover_empty) == (each.f1, each.iou, each.cover_empty)
    assert one.cover_empty == 0.5
    assert mask_scores.score_masks([HEAT], [MASK], 0.7).iou == 1 / 3  # what is as hot as the threshold was not found
    for unknown in ((), (float("nan"),), ([0.75, float("nan"), 0.75],)):
        none = mask_scores.score_masks(heats, masks, *unknown)
        assert np.isnan([none.f1, none.iou, none.cover_empty]).all()
        assert none.ap == each.ap


def test_figures_do_not_depend_on_the_unit():
    rng = np.random.default_rng(0)
    heats = [rng.random((20, 30), np.float32) for _ in range(3)]
    masks = [rng.random((20, 30)) < 0.3 for _ in range(3)]
    one = mask_scores.score_masks(heats, masks, 0.5)
    other = mask_scores.score_masks([1e-9 * heat for heat in heats], masks, 0.5e-9)
    for name, value in one._asdict().items():
        if name != "best_threshold":
            assert getattr(other, name) == pytest.approx(value, nan_ok=True), name
    assert 0.25 < one.ap < 0.36  # a random map scores the share of the mask
    assert abs(one.auroc - 0.5) < 0.05


def test_the_pointing_game_allows_a_tolerance():
    mask, heat = np.zeros((100, 60), bool), np.zeros((100, 60), np.float32)
    mask[50, 10:20] = True
    heat[53, 15] = 1
    assert mask_scores.peak_hits(heat, mask, tolerance=0.03)
    assert not mask_scores.peak_hits(heat, mask, tolerance=0.029)
    assert not mask_scores.peak_hits(np.ones((100, 60), np.float32), mask)  # a constant map points nowhere


def test_baselines_see_what_their_names_say():
    picture = np.full((120, 200, 3), 180, np.uint8)
    picture[:, :60] = 90  # a shadow
    cv2.line(picture, (120, 0), (150, 119), (60, 60, 60), 2)
    line = picture[..., 0] == 60
    shadow = picture[..., 0] == 90
    maps = {name: baseline(picture) for name, baseline in baselines.BASELINES.items()}
    for heat in maps.values():
        assert heat.shape == (120, 200)
        assert heat.min() >= 0
        assert heat.dtype == np.float32
    assert maps["dark"][shadow].min() > 0
    assert maps["dark"][~shadow & ~line].max() == 0
    assert mask_scores.peak_hits(maps["local darkness"], line)
    assert maps["local darkness"][:, 20].max() < 0.02  # within the shadow nothing is locally dark
    assert np.unravel_index(maps["centre"].argmax(), (120, 200)) in [(59, 99), (59, 100), (60, 99), (60, 100)]
    assert np.array_equal(maps["random"], baselines.random_map(picture))


class Corner(nn.Module):
    """Class 1 is brightness in the top left quarter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)
        nn.init.constant_(self.scale.weight, 4.0)
        nn.init.zeros_(self.scale.bias)

    def forward(self, x):
        score = self.scale(x[:, :, :8, :8].mean((1, 2, 3))[:, None])
        return torch.cat([-score, score], dim=1)


def corner_map(model, inputs, targets):
    heats = torch.zeros(len(inputs), 16, 16)
    heats[:, :8, :8] = 1 + torch.arange(64).reshape(8, 8) / 64
    return heats


@pytest.mark.parametrize("insert", [False, True])
def test_curves_equal_a_plain_loop(insert):
    torch.manual_seed(0)
    model, inputs = Corner(), torch.rand(2, 3, 16, 16)
    heats = torch.rand(2, 16, 16)
    found = faithfulness.perturbation_curve(model, inputs, heats, [1, 0], insert, batch_size=5)
    assert found.shape == (2, faithfulness.STEPS)
    for picture, heat, target, curve in zip(inputs, heats, [1, 0], found, strict=True):
        soft = cv2.GaussianBlur(picture.permute(1, 2, 0).numpy(), (0, 0), 0.8, borderType=cv2.BORDER_REFLECT)
        now = torch.from_numpy(soft).permute(2, 0, 1).clone() if insert else picture.clone()
        order, points = np.argsort(-heat.flatten().numpy()), []
        for step in range(faithfulness.STEPS + 1):
            for place in order[: 8 * step]:
                now[:, place // 16, place % 16] = picture[:, place // 16, place % 16] if insert else 0
            points.append(model(now[None]).softmax(1)[0, target].item())
        assert np.allclose(curve, [(a + b) / 2 for a, b in itertools.pairwise(points)], atol=1e-5)


def test_a_true_map_beats_a_false_one():
    torch.manual_seed(1)
    model, inputs, targets = Corner(), 0.5 + torch.rand(6, 3, 16, 16), [1] * 6
    true = faithfulness.score_faithfulness(model, inputs, targets, corner_map)
    false = faithfulness.score_faithfulness(model, inputs, targets, lambda *given: corner_map(*given).flip(1, 2))
    assert true.deletion < false.deletion - 0.1
    assert true.insertion > false.insertion
    assert true.road > 0 > false.road
    assert true.drop < false.drop
    # Neither looks at the network or at the pixels: both survive random weights, and noise, unchanged.
    assert true.randomised == pytest.approx(1)
    assert true.instability == 0


def test_baselines_are_scored_as_methods_are():
    torch.manual_seed(2)
    machine = Runtime(torch.device("cpu"), torch.float32)
    network = SimpleNamespace(model=Corner(), machine=machine)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(machine.pixels(machine.input(pixels)), pixels)

    def dark(model, inputs, targets):
        pictures = machine.pixels(inputs).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(np.stack([baselines.dark_map(picture) for picture in pictures]))

    rows = faithfulness.compare_faithfulness(network, {"mine": dark, "corner": corner_map}, pixels, [1, 1])
    assert [row["baseline"] for row in rows] == [False] * 2 + [True] * 4
    assert rows[0]["insertion"] >= rows[1]["insertion"]
    of = {row["method"]: row for row in rows}
    assert set(of) == {"mine", "corner", *baselines.BASELINES}
    for name in faithfulness.FaithfulnessScores._fields:
        assert of["mine"][name] == pytest.approx(of["dark"][name]), name
    lines = faithfulness.faithfulness_table(rows).splitlines()
    assert lines[3] == "-- maps that know no network"
    assert len(lines) == 8
    assert {len(line) for line in lines if not line.startswith("--")} == {20 + 7 * 15}


def test_a_gradient_does_not_survive_random_weights():
    from pytorch_grad_cam import GradCAM

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 2)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    torch.manual_seed(0)
    model = Small().eval()
    before = [p.clone() for p in model.parameters()]
    inputs = torch.rand(8, 3, 16, 16)

    def explain(network, pictures, targets):
        return GradCAM(network, ["conv"]).maps(pictures, targets, normalize=False)

    found = faithfulness.score_faithfulness(model, inputs, [0, 1] * 4, explain)
    assert abs(found.randomised) < 0.9
    assert 0 < found.instability < 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    other = faithfulness.randomised(model, seed=3)
    assert not torch.equal(other.conv.weight, model.conv.weight)
    assert torch.equal(other.conv.weight, faithfulness.randomised(model, seed=3).conv.weight)


def test_no_weight_survives():
    """Not the projections and embeddings of a transformer either, which no layer of it resets."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    for parameter in model.parameters():  # as if trained: no longer what it began as
        nn.init.normal_(parameter)
    other = dict(faithfulness.randomised(model).named_parameters())
    alike = [name for name, parameter in model.named_parameters() if torch.equal(parameter, other[name])]
    assert not alike
    embeddings = [model.encoder.pos_embedding, other["encoder.pos_embedding"]]
    assert torch.equal(*(embedding.flatten().sort().values for embedding in embeddings))
