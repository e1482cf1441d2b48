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
    assert np.abs(drawn[80, 101] - (0.65 * 100 + 0.35 * tint)).max() <= 1  # its left edge, on which nothing lies
    assert np.abs(drawn[80, 94:99].astype(float) - tint).max(axis=1).min() < 40  # but beside it
    assert (drawn == 255).all(axis=2).any()  # the box
    assert (drawn[150:] == 100).all()
    assert (drawn[:, 220:] == 100).all()
    nothing = overlays.draw_regions(image, measure(np.zeros(size, np.float32), 0.5), colormap, 400)
    assert (nothing == 100).all()


def test_an_overlay_leaves_low_values_alone_and_colors_high_ones():
    image = np.full((2, 2, 3), 100, np.uint8)
    heatmap = np.array([[0, 0], [0, 1]], np.float32)
    drawn = overlays.draw_heatmap(image, heatmap, overlays.choose_style("overlay", None))
    assert (drawn[0] == 100).all()
    assert drawn[1, 1, 0] > 200  # bright yellow
    assert drawn[1, 1, 2] < drawn[1, 1, 0]


def test_styles_by_hand():
    """A grey image with a bright square in the middle, and a heatmap that rises from left to right."""
    image = np.full((60, 60, 3), 80, np.uint8)
    image[20:40, 20:40] = 200
    heatmap = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (60, 1))

    def shown(name, colormap=None):
        return overlays.draw_heatmap(image, heatmap, overlays.choose_style(name, colormap))

    jet = shown("sidebyside", "jet")
    assert jet[0, 0].tolist() == [0, 0, 128]  # the tutorials' look
    assert jet[0, -1].tolist() == [128, 0, 0]
    edges = shown("edges").astype(int)
    flat = np.rint(0.4 * 255 + 0.6 * 255 * overlays.choose_style("edges", None).colormap(heatmap)[..., :3])
    darker = (flat - edges).max(axis=2) > 90  # lines of the square, at its rim and nowhere else
    assert darker[18:42, 18:42].any()
    darker[17:43, 17:43] = False
    assert not darker.any()
    lines = (shown("contours") != image).any(axis=2)
    for column in (15, 30, 45):  # values of a quarter, a half, three quarters
        assert lines[30, column - 2 : column + 3].any()
    assert not lines[30, [5, 22, 37, 53]].any()
