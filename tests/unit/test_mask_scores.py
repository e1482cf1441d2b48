"""Scores against masks, and model-free baselines: tiny cases by hand, and heatmaps whose quality is known."""

import math
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from crackcam.data.images import DecodedImage
from crackcam.data.masks import read_masks
from crackcam.errors import UserError
from crackcam.evaluation import baselines, mask_scores

HEATMAP = np.array([[0.9, 0.8], [0.7, 0.1]], np.float32)
MASK = np.array([[True, False], [True, False]])


def test_masks_by_hand():
    found = mask_scores.score_masks([HEATMAP], [MASK], threshold=0.75)
    assert found.images == 1
    assert found.ap == found.ap_each == pytest.approx(1 * 0.5 + 2 / 3 * 0.5)
    assert found.auroc == found.auroc_each == pytest.approx(3 / 4)  # of 4 pairs, 0.7 < 0.8 is wrong
    assert found.energy == pytest.approx(1.6 / 2.5)
    assert found.peak == 1
    assert (found.f1, found.iou) == (pytest.approx(0.5), pytest.approx(1 / 3))  # one hit, one wrong, one missed
    assert (found.best_f1, found.best_threshold) == (pytest.approx(0.8), pytest.approx(0.7))
    assert np.isnan(found.cover_empty)
    assert np.isnan(found.ap_error)


def test_images_with_empty_masks_count_in_the_pooled_scores_only():
    empty, other = np.array([[0.95, 0.0], [0.0, 0.0]], np.float32), np.array([[0.2, 0.1], [0.9, 0.3]], np.float32)
    masks = [MASK, np.zeros((2, 2), bool), MASK]
    found = mask_scores.score_masks([HEATMAP, empty, other], masks, threshold=0.75)
    assert found.images == 2
    each = [5 / 6, 1 * 0.5 + 2 / 3 * 0.5]
    assert found.ap_each == pytest.approx(np.mean(each))
    assert found.ap_error == pytest.approx(np.std(each, ddof=1) / 2**0.5)
    # highest first: 0.95 none, 0.9 twice (both cracks), 0.8 none, 0.7 crack, 0.3 none, 0.2 crack, ...
    assert found.ap == pytest.approx(2 / 3 * 0.5 + 3 / 5 * 0.25 + 4 / 7 * 0.25)
    assert found.cover_empty == pytest.approx(0.25)
    with pytest.raises(ValueError, match="all masks are empty or full"):
        mask_scores.score_masks([empty, empty], [np.zeros((2, 2), bool), np.ones((2, 2), bool)])
    with pytest.raises(ValueError, match=r"a heatmap of \(2, 2\) does not match a mask of \(3, 3\)"):
        mask_scores.score_masks([HEATMAP], [np.ones((3, 3), bool)])


def test_thresholds_of_their_own_and_none():
    heatmaps, masks = [HEATMAP, 10 * HEATMAP, HEATMAP], [MASK, MASK, np.zeros((2, 2), bool)]
    one = mask_scores.score_masks([HEATMAP, HEATMAP, HEATMAP], masks, 0.75)
    each = mask_scores.score_masks(heatmaps, masks, [0.75, 7.5, 0.75])
    assert (one.f1, one.iou, one.cover_empty) == (each.f1, each.iou, each.cover_empty)
    assert one.cover_empty == 0.5
    assert mask_scores.score_masks([HEATMAP], [MASK], 0.7).iou == 1 / 3  # values at the threshold are not above it
    for unknown in ((), (float("nan"),), ([0.75, float("nan"), 0.75],)):
        none = mask_scores.score_masks(heatmaps, masks, *unknown)
        assert np.isnan([none.f1, none.iou, none.cover_empty]).all()
        assert none.ap == each.ap


def test_scores_do_not_depend_on_the_unit():
    rng = np.random.default_rng(0)
    heatmaps = [rng.random((20, 30), np.float32) for _ in range(3)]
    masks = [rng.random((20, 30)) < 0.3 for _ in range(3)]
    one = mask_scores.score_masks(heatmaps, masks, 0.5)
    other = mask_scores.score_masks([1e-9 * heatmap for heatmap in heatmaps], masks, 0.5e-9)
    for name, value in asdict(one).items():
        if name != "best_threshold":
            assert getattr(other, name) == pytest.approx(value, nan_ok=True), name
    assert 0.25 < one.ap < 0.36  # a random heatmap scores the mask's fraction
    assert abs(one.auroc - 0.5) < 0.05


def test_the_pointing_game_allows_a_tolerance():
    mask, heatmap = np.zeros((100, 60), bool), np.zeros((100, 60), np.float32)
    mask[50, 10:20] = True
    heatmap[53, 15] = 1
    assert mask_scores.peak_hits(heatmap, mask, tolerance=0.03)
    assert not mask_scores.peak_hits(heatmap, mask, tolerance=0.029)
    assert not mask_scores.peak_hits(np.ones((100, 60), np.float32), mask)  # a constant heatmap points nowhere


def test_baselines_see_what_their_names_say():
    image = np.full((120, 200, 3), 180, np.uint8)
    image[:, :60] = 90  # a shadow
    cv2.line(image, (120, 0), (150, 119), (60, 60, 60), 2)
    line = image[..., 0] == 60
    shadow = image[..., 0] == 90
    made = {name: baseline(image) for name, baseline in baselines.BASELINES.items()}
    for heatmap in made.values():
        assert heatmap.shape == (120, 200)
        assert heatmap.min() >= 0
        assert heatmap.dtype == np.float32
    assert made["dark"][shadow].min() > 0
    assert made["dark"][~shadow & ~line].max() == 0
    assert mask_scores.peak_hits(made["local darkness"], line)
    assert made["local darkness"][:, 20].max() < 0.02  # within the shadow nothing is locally dark
    assert np.unravel_index(made["centre"].argmax(), (120, 200)) in [(59, 99), (59, 100), (60, 99), (60, 100)]
    assert np.array_equal(made["random"], baselines.random_heatmap(image))


def test_scores_as_json():
    row = mask_scores.score_masks([HEATMAP], [MASK]).as_row()
    assert list(row) == [
        "pictures",
        "ap",
        "auroc",
        "ap_each",
        "auroc_each",
        "ap_error",
        "peak",
        "energy",
        "best_f1",
        "best_threshold",
        "f1",
        "iou",
        "cover_empty",
    ]
    assert row["pictures"] == 1
    assert {name for name, value in row.items() if value is None} == {"ap_error", "f1", "iou", "cover_empty"}


def test_average_precision_of_one_image():
    assert mask_scores.average_precision(HEATMAP, MASK) == pytest.approx(5 / 6)
    assert mask_scores.average_precision_caption(HEATMAP, MASK) == "AP 0.83"
    empty = np.zeros((2, 2), bool)
    assert math.isnan(mask_scores.average_precision(HEATMAP, empty))
    assert mask_scores.average_precision_caption(HEATMAP, empty) == "empty mask"


def scene():
    """Two images with dark lines, and masks of these."""
    images = [np.full((60, 80, 3), 200, np.uint8) for _ in range(2)]
    for i, image in enumerate(images):
        cv2.line(image, (10, 10 + 20 * i), (70, 50 - 20 * i), (90, 90, 90), 2)
    return images, [image[..., 0] == 90 for image in images]


def test_methods_and_baselines_are_ranked():
    images, masks = scene()
    exact = [mask.astype(np.float32) for mask in masks]
    heatmaps = {"wrong": [1 - heatmap for heatmap in exact], "exact": exact}
    rows = mask_scores.compare_masks(images, masks, heatmaps, {"exact": [0.5, 0.5]})
    assert [row.method for row in rows[:2]] == ["exact", "wrong"]
    assert [row.baseline for row in rows] == [False] * 2 + [True] * 4
    assert {row.method for row in rows[2:]} == set(baselines.BASELINES)
    assert rows[2].scores.ap >= rows[3].scores.ap >= rows[4].scores.ap >= rows[5].scores.ap
    assert (rows[0].scores.ap, rows[0].scores.f1, rows[0].scores.iou) == (pytest.approx(1), 1, 1)
    assert math.isnan(rows[1].scores.f1)
    (dark,) = (row.scores for row in rows if row.method == "dark")
    assert dark == mask_scores.score_masks([baselines.dark_heatmap(image) for image in images], masks)
    row = rows[0].as_row()
    assert list(row)[:4] == ["method", "baseline", "pictures", "ap"]
    assert (row["method"], row["baseline"], row["f1"]) == ("exact", False, 1)

    lines = mask_scores.mask_table(rows).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["exact", "wrong"]
    assert lines[3] == "-- model-free baselines"
    assert len(lines) == 8
    assert len({len(line) for line in lines if line is not lines[3]}) == 1
    assert "IoU" in lines[0]
    assert "IoU" not in mask_scores.mask_table(mask_scores.compare_masks(images, masks, heatmaps, {}))


@pytest.fixture
def labelled(tmp_path):
    """Two images, and a folder with their masks."""
    images, masks = scene()
    for name, mask in zip(("a.png", "deeper/b.bmp"), masks, strict=True):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    decoded = [DecodedImage(Path(f"photos/{stem}.jpg"), image) for stem, image in zip("ab", images, strict=True)]
    return tmp_path / "masks", decoded, masks


def test_masks_are_found_by_name(labelled):
    folder, images, masks = labelled
    for found, mask in zip(read_masks(folder, images), masks, strict=True):
        assert found.dtype == bool
        assert np.array_equal(found, mask)


def test_masks_that_do_not_fit(labelled, tmp_path):
    folder, images, _ = labelled

    def refused(message):
        with pytest.raises(UserError, match=message):
            read_masks(folder, images)

    with pytest.raises(UserError, match="no folder"):
        read_masks(tmp_path / "none", images)
    images.append(DecodedImage(Path("c.jpg"), np.zeros((5, 5, 3), np.uint8)))
    refused("no mask in .* for 1 image, the first is c.jpg")
    Image.new("L", (6, 5)).save(folder / "c.png")
    refused("c.png is 6 x 5, its image 5 x 5")
    (folder / "c.png").write_bytes(b"x")
    refused("cannot read the mask .*c.png")
    Image.new("L", (5, 5)).save(folder / "c.png")
    Image.new("L", (5, 5)).save(folder / "c.bmp")
    refused("c.bmp and .*c.png are both masks of c.jpg: keep one in")
    del images[:2]
    (folder / "c.bmp").unlink()
    refused(r"the masks of 1 image are empty or full: nothing to locate; masks must be white \(255\)")
