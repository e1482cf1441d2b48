"""Large images are read in tiles: geometry, the assembled map, and the decision on it."""

import logging

import numpy as np
import pytest
import torch
from small_models import bright_classifier, dark_lines, wall

import crackcam
from crackcam.models import tiles
from crackcam.models.tile_layout import Axis, Layout
from crackcam.models.tiles import calibrated_for_area, read_evidence

pytestmark = pytest.mark.slow

# -- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [96, 256, 288, 1504, 3008, 4000, 10016])
@pytest.mark.parametrize("overlap", [64, 192, 448])
def test_tiles_cover_a_side_and_overlap_enough(length, overlap):
    axis = Axis(length, 896, overlap, 32)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.tile == length
    assert axis.tile <= 896
    assert all(start % 32 == 0 for start in [*axis.starts, axis.tile])
    steps = np.diff(axis.starts)
    assert (steps <= axis.tile - overlap).all()
    total = np.zeros(length // 4)
    for number, start in enumerate(axis.starts):
        total[start // 4 : (start + axis.tile) // 4] += axis.weights(number, 4).numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_edges_of_a_tile_do_not_count_but_those_of_the_image():
    axis = Axis(160, 64, 24)
    first, second = axis.weights(0), axis.weights(1)
    overlap = axis.starts[0] + axis.tile - axis.starts[1]
    assert first[0] == 1
    assert not first[-overlap // 4 :].any()
    assert not second[: overlap // 4].any()
    assert axis.weights(len(axis.starts) - 1)[-1] == 1


def test_few_tiles_are_shorter_rather_than_overlapping_more():
    assert Axis(900, 896, 192, 32).tile < 600
    assert Axis(896, 896, 192, 32).starts == [0]


def test_grey_fills_what_no_tile_divides():
    layout, seen = Layout.of(100, 300, 64), []

    def reader(top, left, height, width):
        seen.append((top, left, height, width))
        return np.full((height, width, 3), 7, np.uint8)

    tile = layout.read(reader, 0, len(layout.columns.starts) - 1)
    assert tile.shape == (layout.rows.tile, layout.columns.tile, 3) == (128, 128, 3)
    assert seen == [(0, 192, 100, 108)]
    assert (tile[:100, :108] == 7).all()
    assert (tile[100:] == crackcam.preprocessing.GREY).all()
    assert (tile[:, 108:] == crackcam.preprocessing.GREY).all()


def test_a_narrow_image_lies_in_the_middle():
    layout = Layout.of(20, 400, 128)
    assert (layout.rows.length, layout.top) == (128, 32)
    assert read_evidence(dark_lines(128), wall(20, 400)).map.shape == (2, 5, 100)


# -- the map ---------------------------------------------------------------------------------------------------------


def in_one_piece(network, image):
    with torch.inference_mode():
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        return network.model.evidence(network.to_inputs(pixels))[0]


@pytest.mark.parametrize(("height", "width"), [(320, 320), (96, 512), (224, 288)])
def test_the_assembled_map_is_that_of_one_piece(height, width):
    network, image = dark_lines(), wall(height, width)
    evidence, whole = read_evidence(network, image), in_one_piece(network, image)
    assert evidence.tiles == Layout.of(height, width, 32).tiles > 1
    assert evidence.map.shape == whole.shape == (2, height // 4, width // 4)
    # this network sees 16 px of an edge, of which the outer 8 do not count
    assert (evidence.map - whole).abs().max() < 0.01
    assert whole[1].max() - whole[1].min() > 5


@pytest.mark.slow
def test_the_map_of_the_bundled_network_is_that_of_one_piece():
    """An overlap of 192 px: measured, 0.1 % of the places differ by more than 0.065 in probability, in brickwork."""
    network = crackcam.load(device="cpu")
    image = np.random.default_rng(0).normal(150, 12, (928, 960, 3)).clip(0, 255).astype(np.uint8)
    image[300:303, 100:900] = 40
    evidence, whole = read_evidence(network, image), in_one_piece(network, image)
    assert evidence.tiles == 4
    difference = (evidence.map[1].sigmoid() - whole[1].sigmoid()).abs()
    assert difference.flatten().quantile(0.999) < 0.05
    assert difference.mean() < 0.005


def test_strips_of_a_reader_are_the_map_of_the_array():
    network, image = dark_lines(), wall(330, 250)
    strips = list(tiles.evidence_strips(network, lambda y, x, h, w: image[y : y + h, x : x + w], 330, 250))
    assert len(strips) == len(Layout.of(330, 250, 32).rows.starts)
    assert torch.equal(torch.cat(strips, dim=1), read_evidence(network, image).map)
    assert torch.cat(strips, dim=1).shape == (2, 83, 63)


def test_a_map_that_ends_behind_the_image_is_moved_to_end_with_it():
    ramp = (torch.arange(25) + 0.5).repeat(10, 1)  # place 0 to 25, of 4 px each
    fitted = tiles.fit(ramp, 40, 98, 4)
    torch.testing.assert_close(fitted[0, 1:-1], ramp[0, 1:-1] * 98 / 100)
    assert tiles.fit(ramp, 40, 100, 4) is ramp


def test_the_heatmap_lies_on_the_crack_in_any_size():
    image = wall(317, 339)
    explanation = dark_lines().explain(image, target="Positive")
    assert explanation.map.shape == (80, 85)
    heatmap = explanation.heatmap
    assert heatmap.shape == (317, 339)
    assert (heatmap[105:107, 60:280] > 0.55).all()
    assert heatmap[120:310, :330].max() < 0.3  # the edge fades into grey padding
    assert heatmap[:95].max() < 0.5


# -- which images ----------------------------------------------------------------------------------------------------


def test_only_images_that_would_be_reduced_more_than_twice_are_large():
    network = dark_lines()
    assert [tiles.tile_count(network, side, 20) for side in (32, 64)] == [1, 1]
    assert tiles.tile_count(network, 65, 20) == 2
    assert tiles.tile_count(network, 20, 65) == 2
    assert tiles.tile_count(network.without_tiles(), 500, 500) == 1


def test_other_networks_are_not_read_in_tiles():
    network = dark_lines()
    network.card.classes = ["cat", "dog"]
    assert not tiles.reads_tiles(network)
    assert network.predict(wall()).tiles == 1
    assert bright_classifier().predict(wall()).tiles == 1


# -- the decision ----------------------------------------------------------------------------------------------------


def test_a_thin_crack_in_a_large_image_is_found_in_tiles_and_lost_by_resizing():
    network, image = dark_lines(), wall()
    found, lost = network.predict(image), network.predict(image, resize=True)
    assert (found.label, found.tiles) == ("Positive", Layout.of(320, 320, 32).tiles)
    assert (lost.label, lost.tiles) == ("Negative", 1)
    assert network.predict(wall(cracked=False)).label == "Negative"
    assert found.to_dict()["tiles"] == found.tiles


def test_prediction_and_heatmap_come_from_the_same_map():
    network, image = dark_lines(), wall()
    predicted, explanation = network.predict(image), network.explain(image, target="Positive")
    assert explanation.prediction == predicted
    evidence = read_evidence(network, image)
    expected = network.model.pool(evidence.map[None])[0].softmax(0)
    assert predicted.probabilities["Positive"] == pytest.approx(expected[1].item(), abs=1e-6)
    torch.testing.assert_close(explanation.map, evidence.map[1].sigmoid())
    assert explanation.peak() > 0.9
    resized = network.explain(image, target="Positive", resize=True)
    assert resized.prediction == network.predict(image, resize=True)
    assert resized.map.shape == (32, 32)


def test_small_images_beside_large_ones_are_as_without_them():
    network = dark_lines()
    images = [wall(40, 40), wall(), wall(50, 60, cracked=False), wall(96, 33)]
    together = list(network.predict(images))
    alone = [network.predict(image) for image in images]
    assert [each.tiles for each in together] == [1, alone[1].tiles, 1, alone[3].tiles]
    for one, other in zip(together, alone, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    explained = list(network.explain(images, target="Positive"))
    for one, image in zip(explained, images, strict=True):
        other = network.explain(image, target="Positive")
        assert one.prediction.tiles == other.prediction.tiles
        torch.testing.assert_close(one.map, other.map)


def test_other_methods_explain_in_tiles_where_they_can(caplog):
    network, image = dark_lines(), wall()
    in_tiles = network.explain(image, method="hirescam", target="Positive", layer="backbone.fine")
    assert in_tiles.map.shape == (320, 320)
    assert in_tiles.prediction == network.predict(image)
    settings = {"scales": "own", "layer": "backbone.fine", "resize": True}
    own = network.explain(image, method="hirescam", target="Positive", **settings)
    torch.testing.assert_close(in_tiles.map, own.map)
    with caplog.at_level(logging.INFO):
        whole = network.explain(image, method="refinecam", target="Positive", layer="backbone.fine")
    assert whole.map.shape == (32, 32)
    assert whole.prediction == network.predict(image)
    assert "refinecam cannot be computed in tiles: its heatmaps of large images are of the whole image" in caplog.text


# -- area ------------------------------------------------------------------------------------------------------------


def test_calibration_is_continuous_at_one_frame():
    logits, mask, area = torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0]), {"offset": -0.7, "log_temperature": 0.2}
    for frames in (0.2, 1.0):
        assert torch.equal(calibrated_for_area(logits, frames, mask, area), logits)
    near = calibrated_for_area(logits, 1.001, mask, area)
    assert not torch.equal(near, logits)
    torch.testing.assert_close(near, logits, atol=2e-3, rtol=0)
    at_e = calibrated_for_area(logits, float(np.e), mask, area)
    torch.testing.assert_close(at_e, torch.tensor([0.5, 1.3]) / np.exp(0.2).astype(np.float32))
    assert torch.equal(calibrated_for_area(logits, 64.0, mask, {}), logits)


def test_the_decision_allows_for_the_area(caplog):
    image = wall()
    tiles._log_uncalibrated.cache_clear()
    with caplog.at_level(logging.INFO):
        plain = dark_lines().predict(image).probabilities
        dark_lines().predict(image)
        calibrated = dark_lines(tiled_area={"offset": -1.0, "log_temperature": 0.0}).predict(image).probabilities
    odds = [np.log(p["Positive"] / p["Negative"]) for p in (plain, calibrated)]
    assert odds[0] - odds[1] == pytest.approx(np.log(320 * 320 / 32**2), abs=1e-3)
    assert caplog.text.count("is not calibrated for large images") == 1
