"""Measured regions: lengths and widths by hand, boxes, sentences, rows."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from crackcam.evaluation import regions, skeletons
from crackcam.evaluation.widths import measure_width
from crackcam.sizes import Scale

NO_CRACK = {"crack_width": None, "crack_width_mm": None, "width_class": None}


def measured(mask):
    return regions.measure(mask.astype(np.float32), 0.5)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 12, 20])
@pytest.mark.parametrize("upright", [False, True])
def test_a_straight_bar(width, upright):
    mask = np.zeros((140, 160), bool)
    mask[50 : 50 + width, 30:130] = True
    mask = mask.T if upright else mask
    it = measured(mask)
    assert it.boxes == [(50, 30, width, 100) if upright else (30, 50, 100, width)]
    assert it.fraction == pytest.approx(100 * width / (140 * 160))
    assert np.array_equal(it.mask, mask)
    assert it.length == pytest.approx(100, abs=2.5)
    assert it.width == pytest.approx(width, rel=0.025)
    if width == 1:  # 99 steps, and half a pixel at each end
        assert (it.length, it.width) == (pytest.approx(100), pytest.approx(1))


def test_a_bar_across_the_whole_image():
    mask = np.zeros((60, 100), bool)
    mask[20:29] = True
    it = measured(mask)
    assert (it.length, it.width) == (pytest.approx(100, abs=2.5), pytest.approx(9, rel=0.025))


def test_a_diagonal_line():
    it = measured(np.eye(50, dtype=bool))
    steps = 49 * 2**0.5
    # length = steps + width, width = 50 / length
    assert it.length == pytest.approx((steps + (steps**2 + 4 * 50) ** 0.5) / 2)
    assert it.length * it.width == pytest.approx(50)
    assert it.boxes == [(0, 0, 50, 50)]


def test_a_corner_is_not_cut_twice():
    mask = np.zeros((40, 40), bool)
    mask[5, 5:30] = mask[5:30, 29] = True
    steps = 48  # 24 and 24; or 23, a diagonal and 23, where the corner is thinned away
    assert measured(mask).length == pytest.approx(steps + 1, abs=2 - 2**0.5 + 0.01)


def test_a_ring_has_no_ends():
    mask = np.zeros((150, 150), np.uint8)
    cv2.circle(mask, (75, 75), 60, 1, 5)
    it = measured(mask > 0)
    assert it.length == pytest.approx(2 * math.pi * 60, rel=0.06)  # steps of a grid are longer than an arc
    assert it.width == pytest.approx(mask.sum() / it.length)
    assert len(it.boxes) == 1


def test_bumps_make_nothing_longer():
    mask = np.zeros((80, 220), bool)
    mask[30:50, 10:210] = True
    for x in range(20, 200, 30):  # teeth on both sides
        for i in range(8):
            mask[30 - i, x + i : x + 17 - i] = mask[49 + i, x + i : x + 17 - i] = True
    it = measured(mask)
    assert it.length == pytest.approx(200, rel=0.04)
    line = skeletons.pruned_skeleton(mask)
    assert set(np.nonzero(line.any(axis=1))[0]) <= set(range(33, 50))


def test_true_branches_count():
    mask = np.zeros((120, 120), bool)
    mask[20:23, 10:110] = mask[20:110, 59:62] = True  # a T
    assert measured(mask).length == pytest.approx(100 + 88, abs=4)


def test_a_spot_is_a_square():
    mask = np.zeros((100, 100), np.uint8)
    cv2.circle(mask, (50, 50), 20, 1, -1)
    it = measured(mask > 0)
    assert it.length == pytest.approx(it.width) == pytest.approx(mask.sum() ** 0.5)


def test_a_full_and_an_empty_heatmap():
    full = measured(np.ones((60, 60), bool))
    assert (full.fraction, full.boxes) == (1, [(0, 0, 60, 60)])
    assert (full.length, full.width) == (pytest.approx(60, rel=0.03), pytest.approx(60, rel=0.03))
    for threshold in (0, 0.5):  # nothing is above the maximum
        empty = regions.measure(np.zeros((30, 40), np.float32), threshold)
        assert (empty.regions, empty.boxes, empty.fraction, empty.length, empty.width) == ([], [], 0, 0, 0)
        assert not empty.mask.any()
        assert empty.description() == empty.description(short=True) == "nothing detected"
        assert empty.as_row() == {"share": 0, "length": 0, "width": 0, "boxes": [], **NO_CRACK, "regions": []}


def test_two_regions_and_a_speck():
    mask = np.zeros((200, 200), bool)
    mask[10, 10:60] = True
    mask[100:103, 20:180] = True
    mask[150:153, 100:102] = True  # 6 pixels
    it = measured(mask)
    assert it.boxes == [(20, 100, 160, 3), (10, 10, 50, 1)]  # largest first
    assert not it.mask[150:153, 100:102].any()
    assert it.fraction == pytest.approx(530 / 40_000)
    assert it.length == pytest.approx(50 + 160, abs=2)
    assert it.width == pytest.approx(530 / it.length)
    assert it.as_row() == {
        "share": 0.01325,
        "length": round(it.length, 2),
        "width": round(it.width, 2),
        "boxes": [[20, 100, 160, 3], [10, 10, 50, 1]],
        **NO_CRACK,
        "regions": [region.to_dict() for region in it.regions],
    }
    assert [region.number for region in it.regions] == [1, 2]
    assert it.description() == f"1.3 %, {it.length:.0f} px long, marking width 2.5 px"
    assert it.description(short=True) == f"1.3 %, {it.length:.0f} px long"


def test_each_region_has_its_own_measures():
    bar, spot = np.zeros((120, 200), bool), np.zeros((120, 200), np.uint8)
    bar[20:26, 30:150] = True
    cv2.circle(spot, (40, 80), 10, 1, -1)
    both = measured(bar | (spot > 0))
    assert [region.area for region in both.regions] == [720, spot.sum()]
    for region, alone in zip(both.regions, (measured(bar), measured(spot)), strict=True):
        (same,) = alone.regions
        assert replace(region, number=1) == same
        assert (region.length, region.width) == (alone.length, pytest.approx(alone.width))
        assert region.width == pytest.approx(region.area / region.length)
    assert both.regions[0].width == pytest.approx(6, rel=0.025)
    assert both.length == pytest.approx(sum(region.length for region in both.regions))
    assert both.width == pytest.approx((720 + spot.sum()) / both.length)


def test_regions_become_rows_of_a_table():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = mask[25:35, 25:30] = True
    maps = {
        name: {"max": 1.0, "threshold": 0.5, **measured(part).as_row()}
        for name, part in (("gradcam", mask), ("cam", np.zeros_like(mask)))
    }
    first, second = regions.regions_table([{"file": "a.jpg", "predicted": "crack", "maps": maps}])
    columns = ["file", "true", "predicted", "method", "threshold", "share", "length", "width", "boxes", *NO_CRACK]
    assert list(first) == columns
    assert (first["file"], first["true"], first["method"], first["boxes"]) == ("a.jpg", None, "gradcam", 2)
    assert first["share"] == 150 / 1600
    assert list(second.values()) == ["a.jpg", None, "crack", "cam", 0.5, 0, 0, 0, 0, None, None, None]


def test_what_touches_at_a_corner_is_one():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = mask[15:25, 15:25] = True
    assert measured(mask).boxes == [(5, 5, 20, 20)]


def test_only_values_above_the_threshold_are_detected():
    heatmap = np.zeros((20, 20), np.float32)
    heatmap[:, :10], heatmap[:, 10:] = 0.25, 0.5
    assert regions.measure(heatmap, 0.25).fraction == 0.5
    assert regions.measure(heatmap, 0.5).fraction == 0


@pytest.mark.parametrize("side", [448, 4000])
def test_a_speck_is_one_of_less_than_40_pixels_in_any_image(side):
    """A share of the image would be 3,200 pixels of 4000 x 4000: more than a crack of 3 px that is 800 long."""
    mask = np.zeros((300, side), bool)
    mask[10:13, 10:30] = True  # 60 pixels
    mask[100:103, 10:23] = True  # 39
    assert measured(mask).boxes == [(10, 10, 20, 3)]


# -- outlines and cracks -----------------------------------------------------------------------------------------------


def area_of(polygon):
    x, y = np.array(polygon, float).reshape(-1, 2).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def corners_of(polygon):
    return set(zip(polygon[::2], polygon[1::2], strict=True))


def test_outlines_run_along_the_edges_of_pixels(monkeypatch):
    monkeypatch.setattr(regions, "MIN_AREA", 1)
    mask = np.zeros((40, 60), bool)
    mask[10:13, 20:25] = mask[30, 5] = True
    mask[0, 0] = True
    with_specks = regions.measure(mask.astype(np.float32), 0.5)
    assert len(with_specks.regions) == 3
    (polygon,) = with_specks.regions[0].polygons
    assert corners_of(polygon) == {(20, 10), (25, 10), (25, 13), (20, 13)}
    assert area_of(polygon) == with_specks.regions[0].area == 15
    pixels = {frozenset(corners_of(region.polygons[0])) for region in with_specks.regions[1:]}
    assert frozenset({(0, 0), (1, 0), (1, 1), (0, 1)}) in pixels
    assert frozenset({(5, 30), (6, 30), (6, 31), (5, 31)}) in pixels


def test_the_outline_of_a_curve_has_the_area_of_its_region():
    mask = np.zeros((200, 200), np.uint8)
    cv2.ellipse(mask, (100, 100), (70, 40), 30, 0, 250, 1, 9)
    (region,) = measured(mask > 0).regions
    (polygon,) = region.polygons
    assert area_of(polygon) == pytest.approx(region.area, rel=0.01)
    assert len(polygon) / 2 < mask.sum() / 4


def test_pixels_that_touch_at_a_corner_have_one_outline():
    (region,) = measured(np.eye(50, dtype=bool)).regions
    assert area_of(region.polygons[0]) == pytest.approx(50, rel=0.05)


def test_of_many_regions_the_largest_are_measured(monkeypatch, caplog):
    monkeypatch.setattr(regions, "MEASURED", 2)
    image, heatmap = np.full((100, 200, 3), 180, np.uint8), np.zeros((100, 200), np.float32)
    for number in range(3):
        heatmap[20 + 25 * number : 28 + 25 * number, 10 : 150 - 30 * number] = 1
    found = regions.measure(heatmap, 0.5, image)
    assert [region.crack is None for region in found.regions] == [False, False, True]
    assert "cracks are measured in the 2 largest of 3 regions" in caplog.text
    assert found.regions[2].to_dict()["crack"] is None
    assert found.description().endswith("\n3: 82.2 px long")


def test_the_crack_in_each_region_has_sizes():
    """Two dark bars, 5 and 9 px wide, in wider regions; a scale of 0.1 mm; limits of 0.6 and 1 mm."""
    image, heatmap = np.full((200, 300, 3), 180, np.uint8), np.zeros((200, 300), np.float32)
    image[50:55, 20:280] = image[140:149, 20:220] = 60
    heatmap[43:62, 10:290], heatmap[134:155, 10:230] = 0.7, 0.9
    narrow, wide = regions.measure(heatmap, 0.5, image, Scale(0.1), (0.6, 1.0)).regions
    assert narrow.crack.mean == pytest.approx(5, abs=0.15)
    assert narrow.crack.p95 == pytest.approx(5, abs=0.15)
    assert wide.crack.p95 == pytest.approx(9, abs=0.15)
    assert (narrow.crack.length, wide.crack.length) == (pytest.approx(260, abs=2), pytest.approx(200, abs=2))
    assert (narrow.number, narrow.width_class, wide.number, wide.width_class) == (1, "below 0.6 mm", 2, "0.6 to 1 mm")
    assert (narrow.peak, wide.peak) == (pytest.approx(0.7), pytest.approx(0.9))
    assert narrow.crack.place[1] == 52
    assert wide.crack.place[1] == 144
    assert narrow.to_dict()["mm"]["p95"] == pytest.approx(0.5, abs=0.015)
    for region, box in ((narrow, np.s_[43:62, 10:290]), (wide, np.s_[134:155, 10:230])):  # as in the whole image
        alone = np.zeros((200, 300), bool)
        alone[box] = True
        assert measure_width(image, alone) == region.crack
    row = regions.measure(heatmap, 0.5, image, Scale(0.1), (0.6, 1.0)).as_row()
    assert (row["crack_width"], row["crack_width_mm"]) == (pytest.approx(9, abs=0.15), pytest.approx(0.9, abs=0.015))
    assert row["width_class"] == "0.6 to 1 mm"  # of the widest, though it is not the largest region
    unsized = regions.measure(heatmap, 0.5, image).regions[0]
    assert (unsized.scale, unsized.width_class, unsized.to_dict()["mm"]) == (None, None, None)


def test_regions_are_left_out_by_their_numbers():
    heatmap = np.zeros((100, 100), np.float32)
    heatmap[10:14, 10:90] = heatmap[30:34, 10:90] = heatmap[50:54, 10:60] = 1  # two are of one size
    heatmap[80:82, 80:82] = 1  # a speck
    measured = regions.measure(heatmap, 0.5)
    rest = measured.without({1, 3})
    assert [region.number for region in rest.regions] == [2]
    assert rest.boxes == [(10, 30, 80, 4)]
    assert np.array_equal(np.argwhere(rest.mask), np.argwhere(heatmap > 0)[320 : 2 * 320])
    assert (rest.fraction, rest.length) == (0.032, measured.regions[1].length)
    assert measured.without(()) is measured
    nothing = measured.without({1, 2, 3})
    assert (nothing.mask.any(), nothing.regions, nothing.length, nothing.width) == (False, [], 0, 0)
