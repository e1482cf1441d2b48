"""Faithfulness: loops in plain numpy, and heatmaps whose quality is known."""

import itertools
from dataclasses import astuple

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from crackcam.evaluation import baselines, faithfulness
from crackcam.evaluation.scores import rank_correlation
from crackcam.models.loaded import LoadedModel
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow


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


def mean_scores(*given, **settings):
    """Of all images, as a method's row holds them."""
    images = faithfulness.score_faithfulness(*given, **settings)
    return faithfulness.ScoredHeatmaps.of("mine", False, images).scores


def corner_heatmap(model, inputs, targets):
    heatmaps = torch.zeros(len(inputs), 16, 16)
    heatmaps[:, :8, :8] = 1 + torch.arange(64).reshape(8, 8) / 64
    return heatmaps


@pytest.mark.parametrize("insert", [False, True])
def test_curves_equal_a_plain_loop(insert):
    torch.manual_seed(0)
    model, inputs = Corner(), torch.rand(2, 3, 16, 16)
    heatmaps = torch.rand(2, 16, 16)
    found = faithfulness.perturbation_curve(model, inputs, heatmaps, [1, 0], insert, batch_size=5)
    assert found.shape == (2, faithfulness.STEPS)
    for image, heatmap, target, curve in zip(inputs, heatmaps, [1, 0], found, strict=True):
        soft = cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), 0.8, borderType=cv2.BORDER_REFLECT)
        now = torch.from_numpy(soft).permute(2, 0, 1).clone() if insert else image.clone()
        order, points = np.argsort(-heatmap.flatten().numpy()), []
        for step in range(faithfulness.STEPS + 1):
            for place in order[: 8 * step]:
                now[:, place // 16, place % 16] = image[:, place // 16, place % 16] if insert else 0
            points.append(model(now[None]).softmax(1)[0, target].item())
        assert np.allclose(curve, [(a + b) / 2 for a, b in itertools.pairwise(points)], atol=1e-5)


def test_a_true_heatmap_beats_a_false_one():
    torch.manual_seed(1)
    model, inputs, targets = Corner(), 0.5 + torch.rand(6, 3, 16, 16), [1] * 6
    true = mean_scores(model, inputs, targets, corner_heatmap)
    false = mean_scores(model, inputs, targets, lambda *given: corner_heatmap(*given).flip(1, 2))
    assert true.deletion < false.deletion - 0.1
    assert true.insertion > false.insertion
    assert true.road > 0 > false.road
    assert true.drop < false.drop
    # Neither looks at the network or at the pixels: both survive random weights, and noise, unchanged.
    assert true.randomised == pytest.approx(1)
    assert true.instability == 0


def test_baselines_are_scored_as_methods_are():
    torch.manual_seed(2)
    network = LoadedModel(Corner(), ModelCard("corner", ["a", "b"], 16))
    preprocessing = network.preprocessing
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(preprocessing.denormalize(network.to_inputs(pixels)), pixels)

    def dark(model, inputs, targets):
        images = preprocessing.denormalize(inputs).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(np.stack([baselines.dark_heatmap(image) for image in images]))

    rows = faithfulness.compare_faithfulness(network, {"mine": dark, "corner": corner_heatmap}, pixels, [1, 1])
    assert [row.baseline for row in rows] == [False] * 2 + [True] * 4
    assert rows[0].scores.insertion >= rows[1].scores.insertion
    of = {row.method: row.scores for row in rows}
    assert set(of) == {"mine", "corner", *baselines.BASELINES}
    assert astuple(of["mine"]) == pytest.approx(astuple(of["dark"]))
    names = ["deletion", "insertion", "road", "drop", "increase", "randomised", "instability"]
    assert list(rows[0].as_row()) == ["method", "baseline", *names, *(f"{name}_standard_error" for name in names)]
    assert rows[0].scores.deletion == pytest.approx(np.mean([image.deletion for image in rows[0].images]))
    lines = faithfulness.faithfulness_table(rows).splitlines()
    assert lines[3] == "-- model-free baselines"
    assert len(lines) == 8
    assert {len(line) for line in lines if not line.startswith("--")} == {20 + 7 * 16}


def test_a_constant_heatmap_correlates_with_nothing():
    constant, slope = np.ones((4, 4)), np.arange(16.0).reshape(4, 4)
    assert np.isnan(rank_correlation(constant, slope))
    assert rank_correlation(slope, slope**3) == pytest.approx(1)
    assert rank_correlation(slope, -slope) == pytest.approx(-1)
    model, inputs = Corner(), torch.rand(2, 3, 16, 16)
    scores = mean_scores(model, inputs, [1, 0], lambda *given: torch.ones(2, 16, 16))
    # the same for every model, and under any noise: as good as can be, if these were numbers
    assert np.isnan(scores.randomised)
    assert np.isnan(scores.instability)
    assert 0 < scores.deletion < 1


def test_means_leave_unknown_scores_out():
    def image(first, last):
        return faithfulness.FaithfulnessScores(first, 0.5, 0.1, 0.2, 1.0, last, np.nan)

    images = [image(0.1, 0.3), image(0.2, np.nan), image(0.6, 0.5)]
    row = faithfulness.ScoredHeatmaps.of("mine", False, images).as_row()
    assert row["deletion"] == pytest.approx(0.3)
    assert row["deletion_standard_error"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5)
    assert row["randomised"] == pytest.approx(0.4)
    assert row["randomised_standard_error"] == pytest.approx(0.1)
    assert row["instability"] is None
    assert row["instability_standard_error"] is None
    single = faithfulness.ScoredHeatmaps.of("mine", False, images[:1])
    assert single.as_row()["deletion"] == pytest.approx(0.1)
    assert single.as_row()["deletion_standard_error"] is None
    assert single.image_rows(["a.png"])[0]["file"] == "a.png"
    assert "±" not in faithfulness.faithfulness_table([single])


def test_a_gradient_does_not_survive_random_weights():
    from pytorch_grad_cam import GradCAM

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 2)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    torch.manual_seed(1)  # not the seed of the random weights, which would be the model's own
    model = Small().eval()
    before = [p.clone() for p in model.parameters()]
    inputs = torch.rand(8, 3, 16, 16)

    def explain(network, pictures, targets):
        return GradCAM(network, ["conv"]).maps(pictures, targets, normalize=False)

    found = mean_scores(model, inputs, [0, 1] * 4, explain)
    assert abs(found.randomised) < 0.9
    assert 0 < found.instability < 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    other = faithfulness.with_random_weights(model, seed=3)
    assert not torch.equal(other.conv.weight, model.conv.weight)
    assert torch.equal(other.conv.weight, faithfulness.with_random_weights(model, seed=3).conv.weight)


def test_no_weight_survives():
    """Not the projections and embeddings of a transformer either, which no layer of it resets."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    for parameter in model.parameters():  # as if trained: no longer what it began as
        nn.init.normal_(parameter)
    other = dict(faithfulness.with_random_weights(model).named_parameters())
    alike = [name for name, parameter in model.named_parameters() if torch.equal(parameter, other[name])]
    assert not alike
    embeddings = [model.encoder.pos_embedding, other["encoder.pos_embedding"]]
    assert torch.equal(*(embedding.flatten().sort().values for embedding in embeddings))
