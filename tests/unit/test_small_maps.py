"""The heatmaps that a report shows, made small."""

import numpy as np
import pytest
import torch

from crackcam.cli.sheet import report_map
from crackcam.explain.explanation import Explanation
from crackcam.preprocessing import Preprocessing
from crackcam.types import Prediction


def explanation(heatmap, size, method="gradcam"):
    image, prediction = np.zeros((*size, 3), np.uint8), Prediction("a", 1.0, {"a": 1.0})
    return Explanation(image, prediction, "a", method, [], heatmap, Preprocessing(8))


def test_heatmaps_are_relative_to_their_maximum_and_lie_where_the_map_is():
    heatmap = torch.zeros(8, 8)
    heatmap[1, 6] = 1e-6
    heatmap[0, 0] = 5e-7
    small = report_map(explanation(heatmap, (20, 80)), (20, 80))
    assert (small.shape, small.dtype) == ((20, 80), np.uint8)
    assert np.unravel_index(small.argmax(), small.shape)[1] in range(60, 70)
    assert small.max() > 200
    assert small[0, 0] == pytest.approx(128, abs=1)


def test_signed_images_keep_their_colors():
    signed = torch.zeros(3, 8, 8)
    signed[0, 2, 2] = 1
    small = report_map(explanation(signed, (8, 8), "guidedbackprop"), (8, 8))
    assert (small.shape, small.dtype) == ((8, 8, 3), np.uint8)
    assert small[2, 2, 0] == small.max() > small[2, 2, 1] == small[5, 5, 0]


def test_probabilities_stay_as_they_are():
    heatmap = torch.full((8, 8), 0.2)
    heatmap[1, 6] = 0.6
    assert np.unique(report_map(explanation(heatmap, (8, 8), "evidence"), (8, 8))).tolist() == [51, 153]
