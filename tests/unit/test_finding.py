"""From map to finding: lengths and widths by hand, thresholds without masks, maps that follow the picture."""

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from crackcam.evaluation import regions
from crackcam.explain import heatmaps, thresholds
from crackcam.explain.refinement import RADIUS, guided, refine
from crackcam.render import overlays
from crackcam.types import ModelCard


def found(mask):
    return regions.measure(mask.astype(np.float32), 0.5)


# -- measures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 12, 20])
@pytest.mark.parametrize("upright", [False, True])
def test_a_straight_bar(width, upright):
    mask = np.zeros((140, 160), bool)
    mask[50 : 50 + width, 30:130] = True
    mask = mask.T if upright else mask
    it = found(mask)
    assert it.boxes == [(50, 30, width, 100) if upright else (30, 50, 100, width)]
    assert it.share == pytest.approx(100 * width / (140 * 160))
    assert np.array_equal(it.mask, mask)
    assert it.length == pytest.approx(100, abs=2.5)
    assert it.width == pytest.approx(width, rel=0.025)
    if width == 1:  # 99 steps, and half a pixel at each end
        assert (it.length, it.width) == (pytest.approx(100), pytest.approx(1))


def test_a_bar_across_the_whole_picture():
    mask = np.zeros((60, 100), bool)
    mask[20:29] = True
    it = found(mask)
    assert (it.length, it.width) == (pytest.approx(100, abs=2.5), pytest.approx(9, rel=0.025))


def test_a_diagonal_line():
    it = found(np.eye(50, dtype=bool))
    steps = 49 * 2**0.5
    # length = steps + width, width = 50 / length
    assert it.length == pytest.approx((steps + (steps**2 + 4 * 50) ** 0.5) / 2)
    assert it.length * it.width == pytest.approx(50)
    assert it.boxes == [(0, 0, 50, 50)]


def test_a_corner_is_not_cut_twice():
    mask = np.zeros((40, 40), bool)
    mask[5, 5:30] = mask[5:30, 29] = True
    steps = 48  # 24 and 24; or 23, a diagonal and 23, where the corner is thinned away
    assert found(mask).length == pytest.approx(steps + 1, abs=2 - 2**0.5 + 0.01)


def test_a_ring_has_no_ends():
    mask = np.zeros((150, 150), np.uint8)
    cv2.circle(mask, (75, 75), 60, 1, 5)
    it = found(mask > 0)
    assert it.length == pytest.approx(2 * math.pi * 60, rel=0.06)  # steps of a grid are longer than an arc
    assert it.width == pytest.approx(mask.sum() / it.length)
    assert len(it.boxes) == 1


def test_bumps_make_nothing_longer():
    mask = np.zeros((80, 220), bool)
    mask[30:50, 10:210] = True
    for x in range(20, 200, 30):  # teeth on both sides
        for i in range(8):
            mask[30 - i, x + i : x + 17 - i] = mask[49 + i, x + i : x + 17 - i] = True
    it = found(mask)
    assert it.length == pytest.approx(200, rel=0.04)
    line = regions.middle_line(mask)
    assert set(np.nonzero(line.any(axis=1))[0]) <= set(range(33, 50))


def test_true_branches_count():
    mask = np.zeros((120, 120), bool)
    mask[20:23, 10:110] = mask[20:110, 59:62] = True  # a T
    assert found(mask).length == pytest.approx(100 + 88, abs=4)


def test_a_spot_is_a_square():
    mask = np.zeros((100, 100), np.uint8)
    cv2.circle(mask, (50, 50), 20, 1, -1)
    it = found(mask > 0)
    assert it.length == pytest.approx(it.width) == pytest.approx(mask.sum() ** 0.5)


def test_a_full_and_an_empty_map():
    full = found(np.ones((60, 60), bool))
    assert (full.share, full.boxes) == (1, [(0, 0, 60, 60)])
    assert (full.length, full.width) == (pytest.approx(60, rel=0.03), pytest.approx(60, rel=0.03))
    for threshold in (0, 0.5):  # nothing is hotter than nothing
        empty = regions.measure(np.zeros((30, 40), np.float32), threshold)
        assert empty[1:] == ([], 0, 0, 0)
        assert not empty.mask.any()
        assert empty.says() == empty.says(short=True) == "nothing found"


def test_two_parts_and_a_speck():
    mask = np.zeros((200, 200), bool)
    mask[10, 10:60] = True
    mask[100:103, 20:180] = True
    mask[150:153, 100:102] = True  # 6 pixels; 0.02 % of 40,000 are 8
    it = found(mask)
    assert it.boxes == [(20, 100, 160, 3), (10, 10, 50, 1)]  # largest first
    assert not it.mask[150:153, 100:102].any()
    assert it.share == pytest.approx(530 / 40_000)
    assert it.length == pytest.approx(50 + 160, abs=2)
    assert it.width == pytest.approx(530 / it.length)
    assert it.as_row() == {
        "share": 0.01325, "length": round(it.length, 2), "width": round(it.width, 2),
        "boxes": [[20, 100, 160, 3], [10, 10, 50, 1]],
    }  # fmt: skip
    assert it.says() == f"1.3 % found, {it.length:.0f} px long, 2.5 px wide"
    assert it.says(short=True) == f"1.3 %, {it.length:.0f} x 2.5 px"


def test_what_touches_at_a_corner_is_one():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = mask[15:25, 15:25] = True
    assert found(mask).boxes == [(5, 5, 20, 20)]


def test_only_what_is_hotter_is_found():
    heat = np.zeros((20, 20), np.float32)
    heat[:, :10], heat[:, 10:] = 0.25, 0.5
    assert regions.measure(heat, 0.25).share == 0.5
    assert regions.measure(heat, 0.5).share == 0


# -- thresholds --------------------------------------------------------------------------------------------------------


def test_calibration_leaves_half_a_hundredth():
    heats = torch.arange(10_000, dtype=torch.float32).reshape(4, 50, 50)
    assert thresholds.calibrate(heats) == pytest.approx(9949.005)
    assert thresholds.calibrate(heats.numpy()) == pytest.approx(9949.005)
    assert (heats > thresholds.calibrate(heats)).sum() == 50


def test_thresholds_come_from_pictures_of_other_classes(monkeypatch):
    asked = []

    def heat_maps(network, method, layers, pixels, targets, **settings):
        asked.append((method, layers, len(pixels), set(targets), settings))
        return pixels[:, 0].float() + 1000 * targets[0]

    monkeypatch.setattr(heatmaps, "heatmaps", heat_maps)
    network = SimpleNamespace(card=ModelCard("resnet18", ["a", "b", "c"], 8))
    labels = torch.tensor([0] * 300 + [1] * 200)
    pixels = labels[:, None, None, None].expand(-1, 3, 4, 4).to(torch.uint8) * 7
    limits = thresholds.class_thresholds(network, "gradcam", ["layer"], pixels, labels, batch_size=5)
    assert limits == {"a": 7.0, "b": 1000.0, "c": 2007.0}  # "c" has no pictures: all are of others
    each = thresholds.LOOKED_AT // 3
    assert asked == [("gradcam", ["layer"], each, {index}, {"batch_size": 5}) for index in range(3)]
    alone = thresholds.class_thresholds(network, "gradcam", [], pixels[:300], labels[:300])
    assert set(alone) == {"b", "c"}


def flags(**others):
    unset = dict.fromkeys(("threshold", "layer", "stride", "fuse", "aug_smooth", "eigen_smooth"))
    return SimpleNamespace(**unset | others)


def test_where_thresholds_come_from(capsys):
    card = ModelCard("resnet18", ["a", "b"], 8, thresholds={"gradcam": {"a": 0.25}})
    assert thresholds.known_thresholds(flags(), card, "gradcam", [0, 0]) == [0.25, 0.25]
    assert thresholds.known_thresholds(flags(threshold=3.0), card, "gradcam", [0, 1]) == [3.0, 3.0]
    some = thresholds.known_thresholds(flags(), card, "gradcam", [0, 1])
    assert some[0] == 0.25
    assert math.isnan(some[1])
    for other in (
        {"layer": ["x"]},
        {"stride": 8},
        {"fuse": "mean"},
        {"aug_smooth": True},
        {"eigen_smooth": True},
    ):  # maps of another unit
        assert math.isnan(thresholds.known_thresholds(flags(**other), card, "gradcam", [0])[0])
    assert math.isnan(thresholds.known_thresholds(flags(), card, "layercam", [0])[0])

    two_levels = torch.tensor([[0.1, 0.1], [0.1, 0.9]])
    assert thresholds.complete_thresholds([0.25, 0.25], "gradcam", [two_levels, two_levels]) == [0.25, 0.25]
    assert capsys.readouterr().err == ""
    first, second = thresholds.complete_thresholds(some, "gradcam", [1000 * two_levels, two_levels])
    assert first == 0.25
    assert 0.1 <= second < 0.9
    assert "note: no threshold is known for these maps of gradcam: cut at 0.1" in capsys.readouterr().err


# -- refining ----------------------------------------------------------------------------------------------------------


def scene():
    picture = np.random.default_rng(0).integers(90, 110, (60, 84, 3), np.uint8)
    picture[:, 40:44] = 20  # a dark line
    heat = cv2.GaussianBlur((picture[..., 0] < 50).astype(np.float32), (0, 0), 5)
    return picture, heat


def test_a_refined_map_follows_the_picture():
    picture, heat = scene()
    refined = refine("guided", heat, picture)
    assert (refined.shape, refined.dtype) == (heat.shape, np.float32)
    jump, smooth = ((values[:, 43] - values[:, 44]).mean() for values in (refined, heat))
    assert jump > 3 * smooth > 0  # at the edge of the line


def test_a_refined_map_keeps_its_unit_and_its_range():
    picture, heat = scene()
    refined = refine("guided", heat, picture)
    assert np.allclose(refine("guided", 1e-6 * heat, picture), 1e-6 * refined, atol=1e-11)
    reach = 2 * round(RADIUS * 84)
    for y, x in np.random.default_rng(1).integers(0, (60, 84), (50, 2)):
        near = heat[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        assert near.min() <= refined[y, x] <= near.max()


def test_nothing_is_painted_where_nothing_was():
    picture, heat = scene()
    assert not refine("guided", np.zeros_like(heat), picture).any()
    heat[:, :42] = 0
    refined = refine("guided", heat, picture)
    assert not refined[:, : 42 - 2 * round(RADIUS * 84)].any()
    assert refined.min() >= 0


def test_the_guided_filter_equals_a_plain_loop():
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 256, (15, 17, 3), np.uint8)
    heat = rng.random((15, 17), np.float32)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(float) / 255
    radius = 2
    slope, offset = np.zeros((15, 17)), np.zeros((15, 17))

    def window(values, y, x):
        return values[y - radius : y + radius + 1, x - radius : x + radius + 1].ravel()

    for y in range(radius, 15 - radius):
        for x in range(radius, 17 - radius):
            i, p = window(grey, y, x), window(heat.astype(float), y, x)
            slope[y, x] = np.cov(i, p, bias=True)[0, 1] / (i.var() + 0.03**2)
            offset[y, x] = p.mean() - slope[y, x] * i.mean()
    refined = guided(heat, picture, radius)
    for y in range(2 * radius, 15 - 2 * radius):
        for x in range(2 * radius, 17 - 2 * radius):
            expected = window(slope, y, x).mean() * grey[y, x] + window(offset, y, x).mean()
            assert refined[y, x] == pytest.approx(expected, abs=1e-5)


# -- the drawing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 200), (960, 1920)])
def test_a_finding_is_tinted_outlined_and_boxed(size):
    picture = np.full((*size, 3), 100, np.uint8)
    mask = np.zeros(size, bool)
    mask[size[0] // 5 : size[0] * 3 // 5, size[1] // 4 : size[1] // 2] = True
    drawn = overlays.draw_regions(picture, found(mask), overlays.choose_style("mask", None).colormap, side=400)
    assert drawn.shape == (200, 400, 3)
    tint = 255 * np.array(overlays.choose_style("mask", None).colormap(0.75)[:3])
    assert np.abs(drawn[80, 150] - (0.65 * 100 + 0.35 * tint)).max() <= 1  # inside
    assert np.abs(drawn[80, 99:102].astype(float) - tint).max(axis=1).min() < 40  # its left edge
    assert (drawn == 255).all(axis=2).any()  # the box
    assert (drawn[150:] == 100).all()
    assert (drawn[:, 220:] == 100).all()
    nothing = overlays.draw_regions(
        picture, found(np.zeros(size, bool)), overlays.choose_style("mask", None).colormap, 400
    )
    assert (nothing == 100).all()


def test_lines_close_gaps_and_fade_specks():
    heat = np.zeros((448, 448), np.float32)
    heat[199:202, 40:400] = 1
    heat[199:202, 218:224] = 0  # a gap
    heat[100:103, 100:103] = 1  # a speck
    picture = np.full((448, 448, 3), 128, np.uint8)
    refined = refine("lines", heat, picture)
    assert refined[200, 220] > 0.3
    assert refined[101, 101] < 0.5 * refined[200, 120]
    assert refined[200, 120] > 0.5
    assert not refined[300:].any()
    assert not refine("lines", np.zeros_like(heat), picture).any()
    np.testing.assert_allclose(refine("lines", heat.T.copy(), picture), refined.T, atol=1e-5)  # of no direction
    np.testing.assert_allclose(refine("lines", 1e-6 * heat, picture), 1e-6 * refined, atol=1e-11)
