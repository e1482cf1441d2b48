"""Measured regions, drawn over their image."""

import numpy as np
import pytest
from matplotlib import colormaps

from crackcam.evaluation.regions import measure
from crackcam.render import overlays


@pytest.mark.parametrize("size", [(100, 200), (960, 1920)])
def test_a_region_is_tinted_outlined_and_boxed(size):
    image, colormap = np.full((*size, 3), 100, np.uint8), colormaps["inferno"]
    heatmap = np.zeros(size, np.float32)
    heatmap[size[0] // 5 : size[0] * 3 // 5, size[1] // 4 : size[1] // 2] = 1
    drawn = overlays.draw_regions(image, measure(heatmap, 0.5), colormap, side=400)
    assert drawn.shape == (200, 400, 3)
    tint = 255 * np.array(colormap(0.75)[:3])
    assert np.abs(drawn[80, 150] - (0.65 * 100 + 0.35 * tint)).max() <= 1  # inside
    assert np.abs(drawn[80, 99:102].astype(float) - tint).max(axis=1).min() < 40  # its left edge
    assert (drawn == 255).all(axis=2).any()  # the box
    assert (drawn[150:] == 100).all()
    assert (drawn[:, 220:] == 100).all()
    nothing = overlays.draw_regions(image, measure(np.zeros(size, np.float32), 0.5), colormap, 400)
    assert (nothing == 100).all()
