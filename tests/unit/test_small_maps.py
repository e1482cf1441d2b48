"""The heatmaps that a report shows, made small."""

import numpy as np
import pytest
import torch

from crackcam.explain import heatmaps
from crackcam.preprocessing import Geometry


def test_small_maps_are_stretched_and_lie_where_the_map_is():
    heat = torch.zeros(8, 8)
    heat[1, 6] = 1e-6
    heat[0, 0] = 5e-7
    small = heatmaps.small_map(heat, (20, 80), Geometry(8))
    assert (small.shape, small.dtype) == ((20, 80), np.uint8)
    assert np.unravel_index(small.argmax(), small.shape)[1] in range(60, 70)
    assert small.max() > 200
    assert small[0, 0] == pytest.approx(128, abs=1)
    assert heatmaps.small_map(torch.zeros(3, 8, 8), (8, 8), Geometry(8)).shape == (8, 8, 3)


def test_probabilities_are_not_stretched():
    heat = torch.full((8, 8), 0.2)
    heat[1, 6] = 0.6
    assert np.unique(heatmaps.small_map(heat, (8, 8), Geometry(8), stretch=False)).tolist() == [51, 153]
