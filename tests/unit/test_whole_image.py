"""Heatmaps are of the whole image, also where the network predicts from its centre."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import Bright, bright_classifier

from crackcam.batch.streaming import Item
from crackcam.batch.tasks import ExplainTask
from crackcam.config import ExplainConfig
from crackcam.data.images import DecodedImage
from crackcam.explain.explainer import Explainer, compare


def red_ends(height=40, width=120):
    """Red at both ends, which a centre crop leaves out; a little red in the middle."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :30, 0] = image[:, -30:, 0] = 255
    image[:, 50:70, 0] = 40
    return image


@pytest.mark.parametrize(
    "settings", [{}, {"scales": "own"}, {"scales": "1,2"}, {"method": "layercam"}, {"aug_smooth": True}]
)
def test_the_heatmap_is_that_of_a_network_without_a_crop(settings):
    image, asked = red_ends(), {"method": "gradcam", "target": "bright", **settings}
    found = bright_classifier(16, resize=20).explain(image, **asked)
    expected = bright_classifier(16).explain(image, **asked)
    assert np.array_equal(found.heatmap, expected.heatmap)
    assert found.heatmap[:, :20].min() > found.heatmap[:, 45:75].max() > 0


def test_the_probability_is_that_of_the_crop():
    image, cropping = red_ends(), bright_classifier(16, resize=20)
    found = cropping.explain(image, "gradcam").prediction
    assert found.probabilities == cropping.predict(image).probabilities
    assert found.label == "dark"
    assert bright_classifier(16).predict(image).label == "bright"


@pytest.mark.parametrize("size", [(78, 125), (125, 78), (40, 400), (64, 64)])
def test_nothing_stays_empty_with_scales_own(size):
    image = np.full((*size, 3), 255, np.uint8)
    heatmap = bright_classifier(16, resize=20).explain(image, "gradcam", "bright", scales="own").heatmap
    assert heatmap.shape == size
    assert np.allclose(heatmap, 1 / 256, rtol=0.05)  # the gradient of a mean over 16 x 16, times 1


def test_comparisons_are_scored_on_what_is_explained(caplog):
    caplog.set_level(logging.INFO, "crackcam")
    cropping, image = bright_classifier(16, resize=20), red_ends()
    explainers = Explainer.of(cropping, ExplainConfig(method="gradcam,layercam"))
    compared = compare(explainers, [DecodedImage(Path("a.png"), image)], 1)
    assert torch.equal(compared.pixels, bright_classifier(16).to_pixels([image]))
    assert compared.predictions[0].probabilities == cropping.predict(image).probabilities
    assert "heatmaps are of the whole image, predictions of its centre, as the weights were scored" in caplog.messages


def test_a_folder_gets_the_heatmaps_and_the_probabilities_of_one_image(tmp_path):
    cropping, image = bright_classifier(16, resize=20), np.kron(red_ends(), np.ones((20, 20, 1), np.uint8))
    (explainer,) = Explainer.of(cropping, ExplainConfig(method="gradcam"))
    task = ExplainTask(explainer, 1, tmp_path / "overlays")
    seen = []
    object.__setattr__(task, "_written", lambda item, explanation: seen.append(explanation) or {})
    (row,) = [make() for make in task.work([Item(0, Path("a.png"), task.prepare(image))])]
    alone = cropping.explain(image, "gradcam", "bright")
    assert torch.equal(seen[0].map, alone.map)
    assert row["probabilities"] == {name: round(value, 6) for name, value in alone.prediction.probabilities.items()}


def test_a_network_that_sees_whole_images_still_runs_once():
    passes = []

    class Counted(Bright):
        def forward(self, x):
            passes.append(len(x))
            return super().forward(x)

    plain = bright_classifier(16)
    plain.model = Counted().eval()
    plain.explain(red_ends(), "gradcam", "bright")
    assert len(passes) == 2  # one to find the layer, one for prediction and heatmap together
    passes.clear()
    cropping = bright_classifier(16, resize=20)
    cropping.model = Counted().eval()
    cropping.explain(red_ends(), "gradcam", "bright")
    assert len(passes) == 3


def test_the_card_of_the_network_keeps_its_crop():
    cropping = bright_classifier(16, resize=20)
    assert cropping.without_crop().card == replace(cropping.card, resize=None)
    assert cropping.preprocessing.resize == 20
    whole = bright_classifier(16)
    assert whole.without_crop() is whole
    assert Image.fromarray(red_ends()).size == (120, 40)
