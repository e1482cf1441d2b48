"""Refined heatmaps: lines close, specks fade, unit and range are kept."""

import cv2
import numpy as np

from crackcam.explain import refinement
from crackcam.explain.refinement import RADIUS, refine_lines


def test_lines_close_gaps_and_fade_specks():
    heatmap = np.zeros((448, 448), np.float32)
    heatmap[199:202, 40:400] = 1
    heatmap[199:202, 218:224] = 0  # a gap
    heatmap[100:103, 100:103] = 1  # a speck
    refined = refine_lines(heatmap)
    assert (refined.shape, refined.dtype) == (heatmap.shape, np.float32)
    assert refined[200, 220] > 0.3
    assert refined[101, 101] < 0.5 * refined[200, 120]
    assert refined[200, 120] > 0.5
    assert not refined[300:].any()
    assert not refine_lines(np.zeros_like(heatmap)).any()
    np.testing.assert_allclose(refine_lines(heatmap.T.copy()), refined.T, atol=1e-5)  # in all directions
    np.testing.assert_allclose(refine_lines(1e-6 * heatmap), 1e-6 * refined, atol=1e-11)  # in any unit


def test_each_pixel_stays_within_the_range_of_its_neighbourhood():
    line = np.zeros((60, 84), np.float32)
    line[:, 40:44] = 1
    heatmap = cv2.GaussianBlur(line, (0, 0), 5) + 0.2 * np.random.default_rng(0).random((60, 84), np.float32)
    refined, reach = refine_lines(heatmap), 2 * RADIUS
    assert not np.allclose(refined, heatmap, atol=0.02)
    for y, x in np.random.default_rng(1).integers(0, (60, 84), (50, 2)):
        near = heatmap[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        assert near.min() <= refined[y, x] <= near.max()


def test_each_pixel_is_the_largest_of_the_averages_along_lines(monkeypatch):
    heatmap = np.random.default_rng(2).random((40, 56), np.float32)
    monkeypatch.setattr(refinement, "RADIUS", 2)
    refined, radius = refine_lines(heatmap), 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    averages = []
    for angle in np.arange(16) * np.pi / 16:
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        weights = np.exp(-((along / 1) ** 2 + (across / 0.7) ** 2) / 2)
        averages.append((weights / weights.sum() * heatmap[18:23, 28:33]).sum())
    assert abs(refined[20, 30] - max(averages)) < 1e-6


def test_a_crack_of_3_px_survives_in_an_image_of_4000():
    """What helps at 448 px helps in a large image: the line is as wide in both."""
    refined = {}
    for width in (448, 4000):
        heatmap = np.zeros((120, width), np.float32)
        heatmap[60:63, 40 : width - 40] = 1
        refined[width] = refine_lines(heatmap)
        assert (refined[width][61, 60 : width - 60] > 0.6).all()
    np.testing.assert_allclose(refined[4000][:, :224], refined[448][:, :224], atol=1e-5)
