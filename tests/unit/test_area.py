"""The decision on large images is calibrated for their area, on mosaics that are never computed."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_models import bright_classifier, dark_lines, wall

from crackcam.data.pixels import PixelSplit, content_window
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.models.tiles import calibrated_for_area
from crackcam.preprocessing import pad_to
from crackcam.training import area
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow


def split_of(images, labels):
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return PixelSplit(pixels, torch.tensor(labels), [Path(f"{n}.png") for n in range(len(images))])


def walls(count, side=32):
    """Crack-free and cracked walls in turn, of some noise; padded to 32 px."""
    images = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(-60, 30, (side, side, 3))
        images.append(np.clip(wall(side, side, cracked=number % 2 == 1).astype(int) + noise, 1, 255).astype(np.uint8))
    return split_of([pad_to(image, 32, 32) for image in images], [number % 2 for number in range(count)])


def test_the_logit_of_a_mosaic_follows_from_its_images():
    network, split = dark_lines(), walls(6)
    with torch.no_grad():
        maps = network.model.evidence(network.to_inputs(split.pixels))
        found = area.pool_images(network, split, 4).logits([0, 3, 4], network.model)
        whole = network.model.pool(torch.cat([maps[0], maps[3], maps[4]], dim=2)[None])[0]
    torch.testing.assert_close(found.float(), whole)
    assert abs(whole[1] - network.model.pool(maps[:1])[0, 1]) > 1


def test_padding_is_no_part_of_a_mosaic():
    network, split = dark_lines(), walls(2, side=16)
    assert content_window(split.pixels[0]) == (slice(8, 24), slice(8, 24))
    pooled = area.pool_images(network, split, 2)
    assert pooled.frames.tolist() == [0.25, 0.25]
    with torch.no_grad():
        mirrored = torch.nn.functional.pad(split.pixels[:, :, 8:24, 8:24].float(), (8, 8, 8, 8), mode="reflect").byte()
        maps = network.model.evidence(network.to_inputs(mirrored))[:, :, 2:6, 2:6]
        torch.testing.assert_close(pooled.logits([1], network.model).float(), network.model.pool(maps)[1])


def test_mosaics_of_every_area_that_the_images_suffice_for():
    network = dark_lines()
    with torch.no_grad():
        pooled = area.pool_images(network, walls(60), 30)
        logits, frames, labels = area.draw_mosaics(pooled, network.model, np.random.default_rng(0))
    assert sorted(set(frames.tolist())) == [4, 9]  # 30 crack-free images: of 16, two mosaics would share one
    assert len(logits) == len(labels) == 2 * area.MOSAICS
    assert labels.float().mean() == 0.5
    assert logits[labels == 1, 1].min() > logits[labels == 0, 1].median()


def test_the_fit_finds_offset_and_temperature():
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor([4.0, 16.0, 64.0]).repeat(3000)
    true, mask = {"offset": -0.5, "log_temperature": 0.1}, torch.tensor([0.0, 1.0])
    logits = torch.stack([torch.zeros(9000), torch.randn(9000, generator=generator) * 4 + 1], dim=1)
    odds = calibrated_for_area(logits, frames, mask, true).softmax(1)[:, 1]
    labels = (torch.rand(9000, generator=generator) < odds).long()
    found = area.fit_area(logits, frames, labels, mask, 9000)
    assert found["offset"] == pytest.approx(-0.5, abs=0.05)
    assert found["log_temperature"] == pytest.approx(0.1, abs=0.04)


def test_few_images_change_less():
    """The prior: mosaics of a handful of images tell little."""
    logits, mask = torch.tensor([[0.0, 2.0], [0.0, 3.0], [0.0, 5.0]]), torch.tensor([0.0, 1.0])
    few, many = (
        area.fit_area(logits, torch.full((3,), 9.0), torch.tensor([0, 0, 1]), mask, number) for number in (1, 1000)
    )
    assert many["offset"] < few["offset"] - 0.3 < -0.3


def test_false_alarms_of_large_images_are_allowed_for(caplog):
    network, groups = dark_lines(), [walls(80), walls(80)]
    found = area.calibrate_area(network, groups, 40)
    assert found == area.calibrate_area(network, groups, 40)  # no chance in it
    assert found["offset"] < -0.1
    assert network.card.area == {}  # the caller's business
    with caplog.at_level(logging.INFO):
        assert area.calibrate_area(network, [walls(6)], 6) == {}
    assert "too few validation images" in caplog.text
    assert area.calibrate_area(bright_classifier(32), groups, 40) == {}


def test_a_checkpoint_keeps_it_and_older_ones_have_none(tmp_path):
    path = tmp_path / "model.safetensors"
    card = ModelCard("squeezenet1_1", ["a", "b"], 64, area={"offset": -0.5, "log_temperature": 0.1})
    assert checkpoint.parse_card(checkpoint.to_json(card), path).area == card.area
    document = json.loads(checkpoint.to_json(card))
    del document["area"]
    assert checkpoint.parse_card(json.dumps(document), path).area == {}
    for damaged in ({"offset": "x"}, {"offset": None}, {"other": 1.0}, [1], {"offset": 1e9}):
        with pytest.raises(UserError, match="invalid area"):
            checkpoint.parse_card(json.dumps({**document, "area": damaged}), path)


def test_the_bundled_network_is_calibrated():
    with safe_open(checkpoint.BUNDLED, framework="pt") as file:
        card = checkpoint.parse_card(file.metadata()["crackcam"], checkpoint.BUNDLED)
    assert set(card.area) == {"offset", "log_temperature"}
    assert -1 < card.area["offset"] < 0
