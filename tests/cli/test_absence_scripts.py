"""xai.py --style mask: of what is there, never of its absence; and what it calls a width."""

import csv
import json
import re
from pathlib import Path

import pytest

import xai
from crackcam.evaluation import regions

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = ["--method", "gradcam", "--device", "cpu", "--style", "mask", "--num", "2"]


def rows_of(path):
    return json.loads(Path(path).read_text())["pictures"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--image", "data/test/Negative"], "images"),
        (["--type", "Negative"], "Negative"),
        (["--type", "Positive"], "Positive"),
    ],
)
def test_positive_is_outlined_whatever_is_predicted(place, flags, name):
    assert xai.main([*QUICK, *flags]) == 0
    rows = rows_of(f"outputs/xai_{name}_gradcam.json")
    assert [row["target"] for row in rows] == ["Positive", "Positive"]


def test_of_a_folder_too(place, capsys):
    flags = ["--image", "data/test", "--all", "--method", "gradcam", "--style", "mask", "--threshold", "0.9"]
    assert xai.main(flags) == 0
    with Path("outputs/xai_images_gradcam.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["target"] for line in lines} == {"Positive"}
    assert len(lines) == 12


def test_an_absence_that_is_asked_for_is_refused(place, capsys):
    assert xai.main([*QUICK, "--target", "Negative"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert error == (
        "error: Negative is the absence of the other classes, so it has no regions: leave --target out, or --style mask"
    )


def test_where_an_absence_is_predicted_nothing_is_outlined(place):
    assert xai.main([*QUICK, "--target", "predicted", "--image", "data/test", "--num", "12"]) == 0
    rows = rows_of("outputs/xai_images_gradcam.json")
    absent = [row["maps"]["gradcam"] for row in rows if row["predicted"] == "Negative"]
    assert absent
    assert all(entry["boxes"] == [] and entry["threshold"] is None for entry in absent)
    assert any(row["maps"]["gradcam"]["boxes"] for row in rows if row["predicted"] == "Positive")


def test_the_width_is_that_of_the_crack_where_it_is_measured(place, monkeypatch):
    drawn = []
    original = regions.Measurement.description

    def description(self, short=False):
        drawn.append(original(self, short))
        return drawn[-1]

    monkeypatch.setattr(regions.Measurement, "description", description)
    assert xai.main([*QUICK, "--threshold", "1e-9"]) == 0
    line = r"\d: [\d,.]+ px long, width (below 2 px|not measurable|[\d.]+ px)"
    assert all(re.fullmatch(rf"{line}(\n{line})*(\nand [\d,]+ smaller regions?)?", text) for text in drawn)
    assert len(drawn) == 2
