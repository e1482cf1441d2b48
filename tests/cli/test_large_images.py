"""The scripts on large images: tables, figures and pages, in tiles and resized."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import dark_lines, wall

import inference
import xai
from crackcam.classifier import Loader
from crackcam.models.tile_layout import Layout

TILES = Layout.of(320, 320, 32).tiles


@pytest.fixture
def flight(tmp_path, monkeypatch):
    """Two large images, one with a thin crack, a small one and a broken file; the network finds thin dark lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Loader, "load", lambda self, layers=False: dark_lines(tiled_area={"offset": 0.0}))
    Path("flight").mkdir()
    Path("flight/0_broken.jpg").write_text("no image")
    for name, image in (("1_crack", wall()), ("2_small", wall(40, 44)), ("3_clean", wall(cracked=False))):
        Image.fromarray(image).save(f"flight/{name}.png")


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_tables_of_predictions(flight, capsys):
    assert inference.main(["--image", "flight", "--all", "--output", "t.jsonl", "--batch-size", "3"]) == 0
    broken, crack, small, clean = lines("t.jsonl")
    assert broken["error"] == "not an image"
    assert [row["predicted"] for row in (crack, small, clean)] == ["Positive", "Positive", "Negative"]
    assert [row["tiles"] for row in (crack, small, clean)] == [TILES, 1, TILES]
    assert inference.main(["--image", "flight", "--all", "--output", "r.jsonl", "--resize"]) == 0
    _, resized, same, _ = lines("r.jsonl")
    assert (resized["predicted"], resized["tiles"]) == ("Negative", 1)
    assert same == small


def test_a_run_is_not_resumed_in_the_other_way(flight, capsys):
    calls = ["--image", "flight", "--all", "--output", "t.jsonl"]
    assert inference.main(calls) == 0
    assert inference.main([*calls, "--resume"]) == 0
    assert inference.main([*calls, "--resume", "--resize"]) == 2
    assert "resize was False, is True" in capsys.readouterr().err


def test_a_figure_and_its_document(flight, capsys):
    assert inference.main(["--image", "flight/1_crack.png", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["pictures"]
    assert (row["predicted"], row["tiles"]) == ("Positive", TILES)
    assert inference.main(["--image", "flight/1_crack.png", "--json", "--resize"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["pictures"]
    assert (row["predicted"], row["tiles"]) == ("Negative", 1)


def test_regions_of_a_whole_folder(flight, capsys):
    flags = ["--image", "flight", "--all", "--style", "mask", "--threshold", "0.5", "--save-maps", "maps"]
    assert xai.main([*flags, "--output", "t.jsonl"]) == 0
    _, crack, small, clean = lines("t.jsonl")
    assert [row["tiles"] for row in (crack, small, clean)] == [TILES, 1, TILES]
    assert [row["predicted"] for row in (crack, small, clean)] == ["Positive", "Positive", "Negative"]
    ((x, y, width, height),) = crack["boxes"]
    assert abs(x - 40) <= 4
    assert abs(y - 106) <= 4
    assert abs(width - 240) <= 8
    assert height <= 12
    assert clean["boxes"] == []
    heatmap = np.load(crack["map"])
    assert heatmap.shape == (320, 320)
    assert heatmap[106, 100] > 0.75


def test_the_report_says_how_the_numbers_are_to_be_read(flight, capsys):
    flags = ["--image", "flight/1_crack.png", "flight/2_small.png", "--target", "Positive", "--report", "page.html"]
    assert xai.main(flags) == 0
    page = Path("page.html").read_text()
    assert f"1 of 2 read in tiles at their own resolution, up to {TILES} tiles each" in page
    assert "The probability is that of the whole image" in page
    document = json.loads(Path("outputs/xai_images_best.json").read_text())
    assert [row["tiles"] for row in document["pictures"]] == [TILES, 1]
    assert xai.main([*flags, "--resize"]) == 0
    assert "read in tiles" not in Path("page.html").read_text().split("<script")[0]


def test_plain_heatmaps_are_of_images_in_one_piece(flight, capsys):
    assert xai.main(["--image", "flight/1_crack.png", "--anatomy", "--layer", "backbone.fine"]) == 0
    (row,) = json.loads(Path("outputs/xai_images_anatomy.json").read_text())["pictures"]
    assert row["tiles"] == 1
