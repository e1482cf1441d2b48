"""Explanations: heatmaps at the image's size, overlays, regions, files."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.filters import threshold_otsu
from small_models import bright_classifier, bright_corner

import crackcam
from crackcam.errors import UserError
from crackcam.evaluation.regions import measure
from crackcam.explain.explanation import Explanation
from crackcam.explain.refinement import refine_lines
from crackcam.methods import STYLES
from crackcam.preprocessing import Preprocessing
from crackcam.render import overlays
from crackcam.types import Prediction

PREDICTION = Prediction.of(["no", "yes"], [0.25, 0.75], Path("wall.jpg"))


def explanation(heatmap, image=None, **others):
    """Of a grey image, as large as the heatmap where it is not given."""
    heatmap = torch.as_tensor(heatmap, dtype=torch.float32)
    image = np.full((*heatmap.shape[-2:], 3), 100, np.uint8) if image is None else image
    given = {"target": "yes", "method": "gradcam", "layers": ["layer4"], **others}
    return Explanation(image, PREDICTION, map=heatmap, **given)


def bar(height=100, width=120, value=2.0):
    """A map with a bar of 4 x 80 pixels."""
    heatmap = torch.zeros(height, width)
    heatmap[40:44, 10:90] = value
    return heatmap


# -- the heatmap -----------------------------------------------------------------------------------------------------


def test_a_heatmap_has_the_size_of_its_image_and_its_own_unit():
    found = explanation([[0, 1], [2, 3]], np.zeros((4, 6, 3), np.uint8)).heatmap
    assert (found.shape, found.dtype) == ((4, 6), np.float32)
    assert found[0, 0] == 0
    assert found[3, 5] == 3
    assert found.mean() == pytest.approx(1.5, abs=1e-6)
    same = bar()
    assert np.array_equal(explanation(same).heatmap, same.numpy())


def test_a_heatmap_of_a_wide_image():
    """Put back on an image twice as wide as high, the highest cell is where it was."""
    heatmap = torch.zeros(4, 4)
    heatmap[1, 3] = 1
    whole = explanation(heatmap, np.zeros((40, 80, 3), np.uint8), preprocessing=Preprocessing(4)).heatmap
    assert whole.shape == (40, 80)
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert 10 <= row < 20
    assert 60 <= column < 80


def test_a_heatmap_is_zero_where_the_image_was_cropped_away():
    heatmap = torch.tensor([[0.0], [0], [1], [1]]).expand(4, 4)
    found = explanation(heatmap, np.zeros((40, 80, 3), np.uint8), preprocessing=Preprocessing(4, resize=4))
    assert found.heatmap[25:, 20:60].min() > 0.999
    assert (found.heatmap[:, :20] == 0).all()
    assert (found.heatmap[:, 60:] == 0).all()
    assert (found.resized((20, 40))[13:, 10:30] > 0.99).all()
    assert (found.resized((20, 40))[:, :10] == 0).all()


def test_a_signed_image_gives_the_magnitude_of_its_strongest_channel():
    signed = torch.zeros(3, 4, 4)
    signed[0, 1, 1], signed[1, 1, 1], signed[2, 3, 3] = 1, -5, 2
    found = explanation(signed, method="guidedbackprop")
    assert found.heatmap[1, 1] == 5
    assert found.heatmap[3, 3] == 2
    shown = found.resized((4, 4))
    assert (shown.shape, shown.dtype) == ((4, 4, 3), np.uint8)
    assert shown[1, 1, 1] < shown[0, 0, 1] < shown[3, 3, 2]
    assert np.array_equal(np.asarray(found.overlay()), shown)


def test_what_is_shown_is_relative_to_the_maximum_except_probabilities():
    heatmap = [[0.1, 0.2], [0.3, 0.5]]
    assert explanation(heatmap).resized((2, 2)).tolist() == pytest.approx(np.array([[0, 0.25], [0.5, 1]]))
    evidence = explanation(heatmap, method="evidence")
    assert evidence.is_probability
    assert evidence.resized((2, 2)).tolist() == pytest.approx(np.array(heatmap))
    assert (explanation(torch.zeros(2, 2)).resized((2, 2)) == 0).all()


def test_a_refined_heatmap_follows_lines():
    plain = explanation(bar())
    refined = replace(plain, refine=True)
    assert np.array_equal(refined.heatmap, refine_lines(plain.heatmap))
    assert not np.array_equal(refined.heatmap, plain.heatmap)
    assert plain.peak() == 2
    assert refined.peak() == refined.heatmap.max() == refined.peak(refined.heatmap)
    assert refined.resized((50, 60)).max() == pytest.approx(1)
    evidence = replace(refined, method="evidence", map=bar(value=0.5))
    assert evidence.resized((50, 60)).max() < 0.5  # as it is


# -- regions -----------------------------------------------------------------------------------------------------------


def test_regions_above_a_threshold():
    heatmap = bar()
    heatmap[70:90, 10:20] = 1
    found = explanation(heatmap)
    assert [region.box for region in found.regions(0.5)] == [(10, 40, 80, 4), (10, 70, 10, 20)]
    (region,) = found.regions(1.5)
    assert (region.box, region.area) == ((10, 40, 80, 4), 320)
    assert region.length == pytest.approx(80, abs=2)
    assert region.width == pytest.approx(4, abs=0.2)
    assert found.regions(2) == []


def test_the_checkpoints_threshold_comes_before_otsus(caplog):
    caplog.set_level(logging.INFO, "crackcam")
    rng = np.random.default_rng(0)
    heatmap = rng.random((50, 60)).astype(np.float32) * 0.1
    heatmap[10:30, 10:40] += 1
    found = explanation(heatmap)
    otsu = measure(heatmap, threshold_otsu(heatmap), found.image)
    assert found.regions() == otsu.regions != []
    assert "no detection threshold is known for these heatmaps of gradcam: using " in caplog.text
    caplog.clear()
    known = replace(found, threshold=1.05)
    assert known.regions() == measure(heatmap, 1.05, known.image).regions != otsu.regions
    assert known.regions(0.5) == measure(heatmap, 0.5, known.image).regions
    assert caplog.text == ""


# -- drawings ----------------------------------------------------------------------------------------------------------


def test_an_overlay_has_the_size_of_the_image():
    found = explanation(bar(600, 900))
    drawn = np.asarray(found.overlay())
    assert drawn.shape == (600, 900, 3)
    assert (drawn[100:] == 100).all()  # nothing where the heatmap is 0
    expected = overlays.draw_heatmap(found.image, found.heatmap / 2, overlays.choose_style("overlay", None))
    assert np.array_equal(drawn, expected)
    assert found.overlay(side=90).size == (90, 60)
    assert found.overlay(side=4000).size == (900, 600)  # not enlarged


def test_style_and_colormap():
    found, drawn = explanation(bar(60, 90)), {}
    for style in STYLES:
        drawn[style] = np.asarray(found.overlay(style, "viridis" if style == "mask" else None))
        assert drawn[style].dtype == np.uint8
    assert {style: image.shape[1] > 150 for style, image in drawn.items()} == {
        "overlay": False, "edges": True, "sidebyside": True, "contours": False, "mask": False,
    }  # fmt: skip
    assert (drawn["sidebyside"][:, :90] == 100).all()
    assert not np.array_equal(found.overlay("sidebyside", "viridis"), drawn["sidebyside"])
    with pytest.raises(UserError, match="matplotlib has no colormap 'infernal'; close to it: inferno"):
        found.overlay(colormap="infernal")
    with pytest.raises(UserError, match="no style 'shiny'; available: overlay, edges, sidebyside, contours, mask"):
        found.overlay("shiny")


def test_a_mask_shows_the_regions():
    found = explanation(bar(60, 100), threshold=1.0)
    drawn = np.asarray(found.overlay("mask"))
    assert drawn.shape == (60, 100, 3)
    assert (drawn[:30, 40:] == 100).all()  # the number of the region is on the left
    assert (drawn[38:46, 8:92] != 100).any()
    (box,) = [region.box for region in found.regions()]
    assert box == (10, 40, 80, 4)


# -- files and JSON ----------------------------------------------------------------------------------------------------


def test_saved_heatmaps_and_overlays(tmp_path):
    found = explanation(bar(30, 100))
    assert found.save(tmp_path / "new" / "wall.npy") == tmp_path / "new" / "wall.npy"
    assert np.array_equal(np.load(tmp_path / "new" / "wall.npy"), found.heatmap)
    found.save(str(tmp_path / "wall.PNG"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "wall.PNG")), np.asarray(found.overlay()))
    found.save(tmp_path / "wall.jpeg")
    assert Image.open(tmp_path / "wall.jpeg").format == "JPEG"
    with pytest.raises(UserError, match=r"wall\.tif must end in \.npy, \.png or \.jpg"):
        found.save(tmp_path / "wall.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "wall.PNG", "wall.jpeg"]


def test_as_json_has_it():
    found = explanation(bar(), threshold=0.5)
    document = json.loads(json.dumps(found.to_dict()))
    (region,) = found.regions()
    assert document == {
        "file": "wall.jpg", "true": None, "predicted": "yes", "probabilities": {"yes": 0.75, "no": 0.25},
        "target": "yes", "method": "gradcam", "layers": ["layer4"], "max": 2.0, "threshold": 0.5, "tiles": 1,
        "regions": [region.to_dict()],
    }  # fmt: skip
    unknown = replace(found, threshold=math.nan).to_dict()
    assert unknown["threshold"] is None
    assert unknown["regions"] == [region.to_dict()]
    refined = replace(found, refine=True)
    assert refined.to_dict()["max"] == refined.peak()


def test_a_loop_over_one_explanation():
    found = explanation(bar())
    assert [each is found for each in found] == [True]
    assert found.path == Path("wall.jpg")


# -- of a model whose heatmaps can be told by hand ---------------------------------------------------------------------


def test_an_explanation_of_a_model_by_hand():
    """Grad-CAM of the mean of one feature: the feature, over the number of places; here the red channel."""
    found = bright_classifier().explain(bright_corner(), "gradcam", target="bright", layer=["stage"])
    assert found.target == "bright"
    assert found.map.shape == (16, 16)
    assert found.map[:7, :7].numpy() == pytest.approx(1 / 256, rel=1e-5)
    assert found.map[9:].abs().max() == 0
    assert found.heatmap[:12, :18] == pytest.approx(1 / 256, rel=1e-5)
    (region,) = found.regions(0.5 / 256)
    assert region.box == (0, 0, 24, 16)
    against = bright_classifier().explain(bright_corner(), "gradcam", target="dark")
    assert against.peak() == 0
    assert isinstance(found, crackcam.Explanation)
