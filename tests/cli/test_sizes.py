"""Sizes of cracks from the scripts: in pixels and millimetres, in figures, JSON and tables; settings that are refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

import xai
from crackcam.data.synthetic.paths import band_coverage

WIDTH, LENGTH = 5, 399  # pixels, of the crack in each image
UPRIGHT, TURNED, BARE = "a.jpg", "b.jpg", "c.jpg"
FLIGHT = ["--distance", "1", "--sensor-width", "36"]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Three photographs of a crack: with EXIF; taken with the camera on its side; and without EXIF. Working directory."""
    monkeypatch.chdir(tmp_path)
    x = np.arange(40.0, 400)
    path = np.stack([x, 200 + 14 * np.sin(x / 35) + 4 * np.sin(x / 7)], axis=1)
    half = np.full(len(x), WIDTH / 2)
    wall = (
        np.random.default_rng(0).normal(165, 4, (448, 448, 3)) - 100 * band_coverage(448, path, half, half)[..., None]
    )
    wall = np.clip(np.rint(wall), 0, 255).astype(np.uint8)[:436]
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif).update({Base.FocalLength: 50.0, Base.DateTimeOriginal: "2026:05:01 10:11:12"})
    exif.get_ifd(IFD.GPSInfo).update({
        GPS.GPSLatitudeRef: "S", GPS.GPSLatitude: (33.0, 30.0, 0.0),
        GPS.GPSLongitudeRef: "W", GPS.GPSLongitude: (70.0, 15.0, 0.0),
    })  # fmt: skip
    Path("flight").mkdir()
    Image.fromarray(wall).save(f"flight/{UPRIGHT}", exif=exif, quality=95)
    exif[Base.Orientation] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(wall)).save(f"flight/{TURNED}", exif=exif, quality=95)
    Image.fromarray(wall).save(f"flight/{BARE}", quality=95)
    return Path("flight")


def check_crack(region):
    """The largest region holds the crack."""
    crack = region["crack"]
    assert region["number"] == 1
    assert crack["mean"] == pytest.approx(WIDTH, abs=0.5)
    assert crack["p95"] == pytest.approx(WIDTH, abs=0.8)
    assert crack["length"] == pytest.approx(LENGTH, rel=0.05)
    assert crack["place"][1] == pytest.approx(200, abs=24)
    assert min(crack["orientation"], 180 - crack["orientation"]) < 10
    x, y, width, height = region["box"]
    assert (x, x + width, y, y + height) == pytest.approx((40, 400, 180, 220), abs=10)


def test_sizes_of_a_few_images(photographs, capsys):
    flags = ["--style", "mask", "--mm-per-pixel", "0.1", "--width-limits", "0.3,0.6"]
    assert xai.main(["--image", f"flight/{UPRIGHT}", f"flight/{TURNED}", *flags]) == 0
    assert "focal length" not in capsys.readouterr().err
    document = json.loads(Path("outputs/xai_images_best.json").read_text())
    assert (document["mm_per_pixel"], document["width_limits"], document["distance"]) == (0.1, [0.3, 0.6], None)
    with Path("outputs/xai_images_best_found.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for row, line in zip(document["pictures"], lines, strict=True):
        entry = row["maps"]["evidence"]
        region = entry["regions"][0]
        check_crack(region)
        for name, value in region["mm"].items():
            assert value == pytest.approx(0.1 * region["crack"][name], abs=0.001)
        assert region["width_class"] == entry["width_class"] == line["width_class"] == "0.3 to 0.6 mm"
        assert region["peak"] > 0.9
        assert [each["number"] for each in entry["regions"]] == list(range(1, len(entry["boxes"]) + 1))
        assert entry["crack_width"] == max(each["crack"]["p95"] or 0 for each in entry["regions"])
        assert float(line["crack_width"]) == entry["crack_width"]
        assert float(line["crack_width_mm"]) == pytest.approx(entry["crack_width"] / 10, abs=0.001)
        assert (row["size"], row["mm_per_pixel"]) == ([448, 436], 0.1)
        assert row["capture"]["time"] == "2026-05-01T10:11:12"
        assert (row["capture"]["latitude"], row["capture"]["longitude"]) == (-33.5, -70.25)
        assert row["capture"]["altitude"] is None


def test_sizes_of_a_folder(photographs, capsys):
    """Images of different scales: pixels always, millimetres where the focal length is known; said once."""
    flags = ["--image", "flight", "--all", "--style", "mask", *FLIGHT, "--width-limits", "3.0"]
    assert xai.main([*flags, "--output", "rows.jsonl"]) == 0
    err = capsys.readouterr().err
    assert err.count("1 of 3 images has no focal length in EXIF: sizes in pixels") == 1
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == [UPRIGHT, TURNED, BARE]
    scale = 1000 * 36 / (50 * 448)
    for row in rows[:2]:  # the sensor's width lies along the longer side, upright or turned
        assert row["mm_per_pixel"] == pytest.approx(scale)
        region = row["regions"][0]
        check_crack(region)
        assert region["mm"]["p95"] == pytest.approx(scale * region["crack"]["p95"], abs=0.01)
        assert region["width_class"] == "from 3 mm"
        assert row["size"] == [448, 436]
        assert row["capture"]["latitude"] == -33.5
    bare = rows[2]
    check_crack(bare["regions"][0])
    assert bare["regions"][0]["mm"] is bare["regions"][0]["width_class"] is bare["mm_per_pixel"] is None
    assert set(bare["capture"].values()) == {None}
    for row in rows:
        x, y = np.array(row["regions"][0]["polygons"][0]).reshape(-1, 2).T
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        assert area == pytest.approx(row["regions"][0]["area"], rel=0.03)
    assert xai.main([*flags, "--output", "rows.csv"]) == 0
    with Path("rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, rows, strict=True):
        assert float(line["crack_width"]) == row["crack_width"]
        assert line["crack_width_mm"] == ("" if row["crack_width_mm"] is None else str(row["crack_width_mm"]))
        assert line["width_class"] == (row["width_class"] or "")
    document = json.loads(Path("rows.json").read_text())
    assert (document["without_scale"], document["distance"], document["width-limits"]) == (1, 1, [3])
    assert xai.main([*flags[:-1], "2.0", "--output", "rows.csv", "--resume"]) == 2  # another limit is another run
    assert "width-limits was [3.0], is [2.0]" in capsys.readouterr().err


MASK = ["--style", "mask"]
REFUSED = [
    ([*MASK, "--distance", "0", "--sensor-width", "13.2"], "argument --distance: '0' is not a number of metres"),
    ([*MASK, "--distance", "nan", "--sensor-width", "13.2"], "argument --distance: 'nan' is not a number of metres"),
    ([*MASK, "--mm-per-pixel", "-0.2"], "argument --mm-per-pixel: "),
    ([*MASK, "--mm-per-pixel", "5000"], "argument --mm-per-pixel: '5000' is not a number of millimetres"),
    ([*MASK, "--distance", "5"], "a scale needs --distance and --sensor-width, and the focal length from EXIF"),
    ([*MASK, "--sensor-width", "13.2"], "a scale needs --distance and --sensor-width, and the focal length from EXIF"),
    ([*MASK, "--mm-per-pixel", "1", *FLIGHT], "--mm-per-pixel is the scale: leave --distance and --sensor-width out"),
    ([*MASK, "--width-limits", "0.2,0.3"], "--width-limits are in mm: add --mm-per-pixel, or --distance and --sensor-width"),
    ([*MASK, "--mm-per-pixel", "1", "--width-limits", "0.3,0.2"], "argument --width-limits: '0.3,0.2' are not ascending"),
    ([*MASK, "--mm-per-pixel", "1", "--width-limits", "0.2,0.2"], "argument --width-limits: '0.2,0.2' are not ascending"),
    ([*MASK, "--mm-per-pixel", "1", "--width-limits", "0,1"], "argument --width-limits: '0,1' is not a number above 0"),
    ([*MASK, "--mm-per-pixel", "1", "--width-limits", "wide"], "argument --width-limits: 'wide' is not a number above 0"),
    (["--mm-per-pixel", "0.2"], "--mm-per-pixel is for the sizes of regions: add --style mask"),
    (["--style", "contours", *FLIGHT], "--distance is for the sizes of regions: add --style mask"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=lambda value: " ".join(value)[-40:])
def test_settings_that_are_refused(flags, message, capsys):
    assert xai.main(flags) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {message}")


def test_a_scale_that_no_camera_has_ends_the_run(photographs, capsys):
    flags = ["--image", "flight", *MASK, "--distance", "9000", "--sensor-width", "36"]
    assert xai.main([*flags, "--all"]) == 2
    assert "mm_per_pixel: 14464.3 is not between 0.0001 and 1000: check its unit" in capsys.readouterr().err
