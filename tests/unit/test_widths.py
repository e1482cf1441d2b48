"""Crack widths: bars of known width at known angles, blurred, noisy, bright, forked, faint; scales and classes."""

import doctest
import math

import cv2
import numpy as np
import pytest

from crackcam.errors import UserError
from crackcam.evaluation import widths
from crackcam.evaluation.centre_lines import trace_crack
from crackcam.evaluation.skeletons import skeleton_length
from crackcam.evaluation.widths import measure_width
from crackcam.sizes import CrackWidth, Scale, metric_text, width_class

pytestmark = pytest.mark.slow

SIDE = 160  # pixels


def bar(width, angle=0.0, length=100.0, centre=(80.0, 80.0)):
    """Coverage (H, H) of a bar, counter-clockwise from the x axis; exact to the slope of its edges across a pixel."""
    y, x = np.mgrid[:SIDE, :SIDE] - np.array(centre[::-1])[:, None, None]
    along = x * math.cos(math.radians(angle)) - y * math.sin(math.radians(angle))
    across = x * math.sin(math.radians(angle)) + y * math.cos(math.radians(angle))
    return np.clip((width + 1) / 2 - abs(across), 0, min(1, width)) * np.clip((length + 1) / 2 - abs(along), 0, 1)


def photo(coverage, contrast=0.5, blur=0.0, noise=0.0, surface=160, seed=0):
    """An image (H, W, 3) of a surface that is darker, or brighter with negative contrast, where it is covered."""
    values = surface * (1 - contrast * coverage)
    values = cv2.GaussianBlur(values, (0, 0), blur) if blur else values
    values = values + np.random.default_rng(seed).normal(0, noise, values.shape)
    return np.repeat(np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def marking(coverage, radius=4):
    """A region around what is covered, as a heatmap marks it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate((coverage > 0.3).astype(np.uint8), disc) > 0


def measured(coverage, radius=4, **how):
    return measure_width(photo(coverage, **how), marking(coverage, radius))


def apart(one, other):
    """Degrees between two orientations."""
    return abs((one - other + 90) % 180 - 90)


def test_the_examples():
    assert doctest.testmod(widths).failed == 0


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
def test_a_dark_bar_of_5_px(angle):
    it = measured(bar(5, angle))
    assert it.measurable
    assert it.mean == pytest.approx(5, abs=0.15)
    assert it.p95 == pytest.approx(5, abs=0.3)
    assert it.maximum == pytest.approx(5, abs=0.5)
    assert it.length == pytest.approx(100, abs=2)
    assert apart(it.orientation, angle) <= 1
    assert 0 <= it.orientation < 180
    assert 90 <= it.measured <= 104


@pytest.mark.parametrize("width", [2.5, 3, 8, 14, 24])
def test_other_widths(width):
    assert measured(bar(width, 20)).mean == pytest.approx(width, abs=0.25)


@pytest.mark.parametrize(("width", "blur"), [(3, 1), (4, 1.5), (5, 1), (5, 2), (12, 2)])
def test_blur_does_not_widen(width, blur):
    """Half depth would give 3.3 px for the first, and 6.0 px for 5 px under a blur of 2 px."""
    assert measured(bar(width, 30), blur=blur).mean == pytest.approx(width, abs=0.4)


@pytest.mark.parametrize("seed", range(3))
def test_noise(seed):
    it = measured(bar(5, 30), blur=1, noise=8, contrast=0.4, seed=seed)
    assert it.mean == pytest.approx(5, abs=0.6)
    assert it.length == pytest.approx(100, abs=4)


def test_a_bright_crack():
    it = measured(bar(5, 60), contrast=-0.4)
    assert it.mean == pytest.approx(5, abs=0.15)
    assert apart(it.orientation, 60) <= 1


@pytest.mark.parametrize("radius", [2, 4, 8, 12])
def test_the_marking_does_not_matter(radius):
    it = measured(bar(5, 30), radius, noise=3)
    assert it.mean == pytest.approx(5, abs=0.3)
    assert it.length == pytest.approx(100, abs=4)


def test_two_bars_with_a_region_each():
    narrow, wide = bar(4, centre=(80, 60)), bar(9, centre=(80, 84))
    image = photo(np.maximum(narrow, wide))
    assert measure_width(image, marking(narrow)).mean == pytest.approx(4, abs=0.15)
    assert measure_width(image, marking(wide)).mean == pytest.approx(9, abs=0.15)


def test_of_two_bars_in_one_region_the_clearer_one():
    faint, clear = bar(5, centre=(80, 70)), bar(5, centre=(80, 88))
    region = marking(np.maximum(faint, clear), 8)
    it = measure_width(photo(0.4 * faint + clear), region)
    assert it.mean == pytest.approx(5, abs=0.5)
    assert it.place[1] == pytest.approx(88, abs=1)


def test_the_widest_place():
    """A wedge, 3 px wide on the left and 13 px on the right."""
    y, x = np.mgrid[:SIDE, :SIDE]
    wedge = np.clip((3 + (x - 30) / 10 + 1) / 2 - abs(y - 80), 0, 1) * (abs(x - 80) <= 50)
    it = measured(wedge)
    assert it.mean == pytest.approx(8, abs=0.3)
    assert it.p95 == pytest.approx(12.5, abs=0.5)
    assert it.maximum == pytest.approx(13, abs=0.6)
    assert it.place[0] > 120
    assert it.place[1] == pytest.approx(80, abs=1)


def test_a_crack_across_the_image():
    it = measured(bar(6, length=400))
    assert it.mean == pytest.approx(6, abs=0.15)
    assert it.length == pytest.approx(SIDE, abs=1)


@pytest.mark.parametrize("centre", [(80, 1), (80, 4), (80, 155), (4, 80), (155, 80)])
def test_a_crack_beside_the_border_is_left_out(centre):
    """The surface on its other side is not in the image."""
    it = measured(bar(6, 90 if centre[1] == 80 else 0, length=400, centre=centre))
    assert (it.measured, it.mean) == (0, None)


def test_a_crack_close_to_the_border():
    """Its marking touches the border."""
    it = measured(bar(6, length=400, centre=(80, 10)), 8)
    assert it.mean == pytest.approx(6, abs=0.15)
    assert it.length == pytest.approx(SIDE, abs=1)


def test_an_edge_is_no_crack():
    step = np.zeros((SIDE, SIDE))
    step[80:] = 1
    region = np.zeros((SIDE, SIDE), bool)
    region[74:87, 20:140] = True
    assert measure_width(photo(step, blur=1), region).measured == 0


@pytest.mark.parametrize(("contrast", "surface", "room"), [(0.95, 160, 160), (-0.55, 160, 95)])
def test_no_crack_is_darker_than_black_or_brighter_than_white(contrast, surface, room):
    coverage = bar(2.5, 30)
    trace = trace_crack(photo(coverage, contrast, blur=2, noise=6, surface=surface), marking(coverage))
    depths = widths._fit_boxes(trace, [trace.profiles(line) for line in trace.lines])[0].depths
    assert depths.max() <= room + 6  # the surface has noise


def test_a_chip_is_not_the_maximum():
    y, x = np.mgrid[:SIDE, :SIDE]
    chipped = np.maximum(bar(5), (abs(x - 80) <= 1) & (abs(y - 80) <= 7))
    it = measured(chipped)
    assert it.maximum < 6


@pytest.mark.parametrize("angles", [(0, 120, 240), (0, 150, 210), (90, 200, 250), (-30, 10, 190)])
def test_forks_do_not_widen(angles):
    fork = np.zeros((SIDE, SIDE))
    for angle in angles:
        x, y = 30 * math.cos(math.radians(angle)), 30 * math.sin(math.radians(angle))
        fork = np.maximum(fork, bar(5, angle, 60, (80 + x, 80 - y)))
    it = measured(fork, 2)
    assert it.mean == pytest.approx(5, abs=0.3)
    assert it.maximum < 6.5
    assert it.length == pytest.approx(180, rel=0.1)


def test_a_ring():
    y, x = np.mgrid[:SIDE, :SIDE]
    ring = np.clip(3.0 - abs(np.hypot(x - 80, y - 80) - 40), 0, 1)
    it = measured(ring)
    assert it.mean == pytest.approx(5, abs=0.2)
    assert it.length == pytest.approx(2 * math.pi * 40, rel=0.05)


@pytest.mark.parametrize(("width", "blur"), [(0.6, 0.5), (1, 0.6), (1.5, 0.5)])
def test_below_2_px_there_is_no_number(width, blur):
    it = measured(bar(width, 30), blur=blur)
    assert it.measured > 50
    assert not it.measurable
    assert (it.mean, it.maximum) == (None, None)
    assert it.description() == "below 2 px"
    assert it.description(Scale(0.2)) == "below 2 px (0.4 mm)"
    assert it.length == pytest.approx(100, abs=4)


@pytest.mark.parametrize(("noise", "surface"), [(0, 160), (6, 160), (0, 0), (0, 255)])
def test_without_contrast_there_is_no_number(noise, surface):
    region = marking(bar(5, 30))
    it = measure_width(photo(bar(5, 30), contrast=0, noise=noise, surface=surface), region)
    assert (it.mean, it.p95, it.maximum, it.place, it.measured) == (None, None, None, None, 0)
    assert not it.measurable
    assert it.description() == it.description(Scale(0.2)) == "width not measurable"
    assert it.length == skeleton_length(region)
    assert apart(it.orientation, 30) <= 10


def test_contrast_below_the_noise():
    assert measured(bar(3), contrast=0.02, noise=20).measured == 0


def test_a_short_stretch_of_contrast_may_be_chance():
    coverage = bar(5)
    faded = coverage.copy()
    faded[:, 60:] = 0
    assert measure_width(photo(faded, noise=3), marking(coverage)).measured == 0


def test_a_part_without_contrast_is_left_out():
    coverage = bar(5)
    faded = coverage.copy()
    faded[:, 100:] = 0
    it = measure_width(photo(faded, noise=3), marking(coverage))
    assert it.mean == pytest.approx(5, abs=0.3)
    assert it.measured == pytest.approx(70, abs=4)
    assert it.length == pytest.approx(70, abs=4)


@pytest.mark.parametrize("size", [1, 3, 12])
def test_spots_and_small_images(size):
    region = np.zeros((12, 12), bool)
    region[:size, :size] = True
    it = measure_width(np.full((12, 12, 3), 99, np.uint8), region)
    assert (it.measured, it.mean) == (0, None)
    assert it.length >= 1


def test_the_arguments_stay_as_they_are():
    coverage = bar(5, 30)
    image, region = photo(coverage), marking(coverage)
    before = image.copy(), region.copy()
    assert measure_width(image, region) == measure_width(image, region)
    assert np.array_equal(image, before[0])
    assert np.array_equal(region, before[1])


@pytest.mark.parametrize(
    ("image", "region", "message"),
    [
        (np.zeros((9, 9), np.uint8), np.ones((9, 9), bool), r"image: shape \(9, 9\), uint8; .* \(H, W, 3\) uint8"),
        (np.zeros((9, 9, 3)), np.ones((9, 9), bool), r"image: shape \(9, 9, 3\), float64"),
        (np.zeros((9, 9, 3), np.uint8), np.ones((9, 8), bool), r"region: shape \(9, 8\), bool; .* needs \(9, 9\) bool"),
        (np.zeros((9, 9, 3), np.uint8), np.ones((9, 9)), r"region: shape \(9, 9\), float64"),
        (np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool), "region: no pixel is true"),
    ],
)
def test_what_cannot_be_measured(image, region, message):
    with pytest.raises(UserError, match=message):
        measure_width(image, region)


def found(mean, maximum):
    return CrackWidth(mean, None, maximum, (31, 40), 0.0, 100.0, 90)


@pytest.mark.parametrize(
    ("mm", "text"),
    [
        (0.004, "0.00 mm"),
        (9.994, "9.99 mm"),
        (9.996, "10.0 mm"),
        (99.96, "100 mm"),
        (999.4, "999 mm"),
        (999.6, "1.00 m"),
        (12_345, "12.3 m"),
        (247_499, "247 m"),
        (1_234_000, "1.23 km"),
    ],
)
def test_lengths_have_three_digits_at_most(mm, text):
    assert metric_text(mm) == text


def test_descriptions():
    assert found(4.24, 6.0).description() == "4.2 px wide, at most 6.0 px at (31, 40)"
    assert found(4.24, 6.0).description(Scale(0.5)) == "2.12 mm wide, at most 3.00 mm at (31, 40)"
    assert found(None, 2.5).description() == "below 2 px, at most 2.5 px at (31, 40)"


def test_scale_from_the_distance():
    """2 m, 50 mm, 36 mm on 6000 px: 1440 mm of surface on 6000 px."""
    scale = Scale.from_distance(2, 50, 36, 6000)
    assert scale.mm_per_pixel == pytest.approx(0.24)
    assert scale.millimetres(10) == pytest.approx(2.4)
    assert Scale.from_distance(4, 50, 36, 6000).mm_per_pixel == pytest.approx(0.48)
    assert Scale(0.5) == Scale(mm_per_pixel=0.5)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, None, "2"])
@pytest.mark.parametrize("name", ["distance_m", "focal_length_mm", "sensor_width_mm", "image_width_px", "mm_per_pixel"])
def test_scales_without_meaning(name, value):
    camera = {"distance_m": 2, "focal_length_mm": 50, "sensor_width_mm": 36, "image_width_px": 6000, name: value}
    with pytest.raises(UserError, match=f"{name}: {value!r} is not a number above 0"):
        Scale(value) if name == "mm_per_pixel" else Scale.from_distance(**camera)


@pytest.mark.parametrize(
    ("name", "value"),
    [("distance_m", 2e6), ("focal_length_mm", 5e4), ("sensor_width_mm", 3600), ("image_width_px", 6)],
)
def test_scales_that_no_camera_has(name, value):
    camera = {"distance_m": 2, "focal_length_mm": 50, "sensor_width_mm": 36, "image_width_px": 6000, name: value}
    with pytest.raises(UserError, match=f"{name}: .* is not between .* and .*: check its unit"):
        Scale.from_distance(**camera)
    with pytest.raises(UserError, match=r"mm_per_pixel: 5000 is not between 0.0001 and 1000"):
        Scale(5000)


def test_classes():
    limits = (0.1, 0.2, 0.4)
    names = ["below 0.1 mm", "0.1 to 0.2 mm", "0.2 to 0.4 mm", "from 0.4 mm"]
    found = [width_class(width, limits) for width in (0, 0.09, 0.1, 0.19, 0.2, 0.4, 9)]
    assert found == [names[number] for number in (0, 0, 1, 1, 2, 3, 3)]
    assert width_class(0.3, [0.3]) == "from 0.3 mm"


@pytest.mark.parametrize("limits", [(), (0.2, 0.1), (0.1, 0.1), (0, 0.1), (-1, 1), (0.1, math.nan), (0.1, math.inf)])
def test_limits_that_are_none(limits):
    with pytest.raises(UserError, match="width_limits: .* are not ascending numbers above 0, as in"):
        width_class(0.3, limits)


@pytest.mark.parametrize("width", [-0.1, math.nan, math.inf, None])
def test_widths_that_are_none(width):
    with pytest.raises(UserError, match=f"width_mm: {width} is not a number of 0 or more"):
        width_class(width, (0.1,))
