"""xai.py --style mask: regions are drawn, measured and tabulated; --threshold and --refine."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xai
from crackcam.data.images import read_image
from crackcam.evaluation import regions
from crackcam.explain.refinement import refine_lines
from crackcam.models import checkpoint


def store_thresholds(thresholds):
    """Gives the checkpoint these thresholds."""
    path = Path("weights/model.safetensors")
    model, card = checkpoint.load(path, torch.device("cpu"))
    checkpoint.save(path, model, dataclasses.replace(card, thresholds=thresholds))


@pytest.fixture(autouse=True)
def small_images(request):
    """Regions are measured at the size of the image."""
    if "place" in request.fixturenames:
        request.getfixturevalue("place")
        for path in Path("data/test").rglob("*.jpg"):
            Image.open(path).resize((100, 90)).save(path)


def test_regions_are_drawn_measured_and_tabulated(place, capsys):
    flags = ["--style", "mask", "--layer", "layer2", "--num", "3", "--save-maps", "maps"]
    assert xai.main([*flags, "--method", "gradcam,guidedbackprop"]) == 0
    out, err = capsys.readouterr()
    names = [f"outputs/xai_Positive_compared{rest}" for rest in (".png", ".json", "_found.csv")]
    assert out == f"wrote {', '.join(names)}, and heatmaps in maps\n"
    assert all(Path(name).exists() for name in names)
    assert err.count("no detection threshold is known for these heatmaps of") == 2
    rows = json.loads(Path(names[1]).read_text())["pictures"]
    with Path(names[2]).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "file", "true", "predicted", "method", "threshold", "share", "length", "width", "boxes",
        "crack_width", "crack_width_mm", "width_class",
    ]  # fmt: skip
    entries = [(row, method, entry) for row in rows for method, entry in row["maps"].items()]
    assert len(lines) == len(entries) == 6
    otsu = {method: entry["threshold"] for _, method, entry in entries}  # one for all images of a method
    for line, (row, method, entry) in zip(lines, entries, strict=True):
        image = read_image(Path(row["file"]))
        found = regions.measure(np.load(entry["file"]), otsu[method], image)  # at the image's own size: 100 x 90
        assert {
            name: value for name, value in entry.items() if name not in ("max", "file", "threshold")
        } == found.as_row()
        assert [line[name] for name in ("file", "true", "predicted", "method")] == [
            row["file"], "Positive", row["predicted"], method,
        ]  # fmt: skip
        assert [float(line[name]) for name in ("threshold", "share", "length", "width")] == [
            entry[name] for name in ("threshold", "share", "length", "width")
        ]
        assert int(line["boxes"]) == len(entry["boxes"])
    assert any(entry["boxes"] for _, _, entry in entries)


def test_the_checkpoints_threshold_is_used(place, capsys):
    store_thresholds({"gradcam": {"Positive": 1e-30}})

    def found(*flags):
        assert xai.main(["--method", "gradcam", "--style", "mask", "--num", "2", *flags]) == 0
        rows = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())["pictures"]
        return [row["maps"]["gradcam"] for row in rows], capsys.readouterr().err

    low, err = found()
    assert {entry["threshold"] for entry in low} == {1e-30}
    assert "Otsu" not in err
    store_thresholds({"gradcam": {"Positive": 1e9}})
    high, _ = found()
    assert [(entry["threshold"], entry["share"], entry["boxes"]) for entry in high] == [(1e9, 0, [])] * 2
    named, err = found("--threshold", "0.5")
    assert {entry["threshold"] for entry in named} == {0.5}
    assert "Otsu" not in err
    for other in (["--layer", "layer3"], ["--aug-smooth"]):  # heatmaps of another unit
        entries, err = found(*other)
        assert "Otsu" in err
        assert not {entry["threshold"] for entry in entries} & {1e-30, 0.5}


def test_refined_heatmaps_are_those_that_are_saved(place, capsys):
    for folder, flags in (("plain", []), ("refined", ["--refine", "lines"])):
        assert xai.main(["--method", "gradcam", "--num", "2", "--layer", "layer3", "--save-maps", folder, *flags]) == 0
    document = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
    assert document["refine"] == "lines"
    for row in document["pictures"]:
        path = Path(row["maps"]["gradcam"]["file"])
        assert path.parent == Path("refined")
        plain, refined = np.load(Path("plain", path.name)), np.load(path)
        assert np.array_equal(refined, refine_lines(plain))
        assert not np.array_equal(plain, refined)
        assert row["maps"]["gradcam"]["max"] == refined.max()


@pytest.mark.parametrize("flags", [["--threshold", "-1", "--style", "mask"], ["--refine", "crf"]])
def test_values_that_are_refused(flags, capsys):
    assert xai.main(flags) == 2
    assert flags[1] in capsys.readouterr().err
