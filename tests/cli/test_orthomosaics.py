"""The scripts on orthomosaics: alone, among photographs, too large for Pillow, without rasterio, killed and resumed."""

import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from orthomosaics import cracked_wall, write_tiff
from PIL import Image
from processes import start_python
from small_models import dark_lines, wall

import inference
import xai
from crackcam.classifier import Loader
from crackcam.data import images, windows

MASK = ["--style", "mask", "--threshold", "0.5"]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An orthomosaic and two photographs, one with a crack; the network finds thin dark lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Loader, "load", lambda self, layers=False: dark_lines(tiled_area={"offset": 0.0}))
    Path("site").mkdir()
    write_tiff("site/1_ortho.tif", cracked_wall(160))
    Image.fromarray(wall(100, 120)).save("site/2_photo.png")
    Image.fromarray(wall(100, 120, cracked=False)).save("site/3_clean.png")


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def files(folder):
    """All files below, with their content; documents without the command."""
    found = {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    for name in [name for name in found if name.endswith(".json")]:
        found[name] = {key: value for key, value in json.loads(found[name]).items() if key != "command"}
    return found


def test_regions_of_one_orthomosaic(site, capsys):
    assert xai.main(["--image", "site/1_ortho.tif", *MASK, "--width-limits", "5,50"]) == 0
    out = capsys.readouterr().out
    assert "site/1_ortho.tif  Positive" in out
    assert "2 regions" in out
    names = {"png", "json", "geojson"}
    stem = "xai_1_ortho_evidence"
    assert {p.name for p in Path("outputs").iterdir()} == {*(f"{stem}.{n}" for n in names), f"{stem}_crs.geojson"}
    document = json.loads(Path(f"outputs/{stem}.json").read_text())
    (row,) = document["pictures"]
    assert (row["predicted"], row["mm_per_pixel"], row["size"]) == ("Positive", 2.0, [160, 160])
    assert [region["number"] for region in row["regions"]] == [1, 2]
    assert json.loads(Path(f"outputs/{stem}.geojson").read_text())["features"][0]["properties"]["number"] == 1
    assert xai.main(["--image", "outputs", *MASK]) == 2  # nothing but results
    assert "no files in outputs" in capsys.readouterr().err


def test_among_photographs(site, capsys):
    assert xai.main(["--image", "site", "--all", *MASK, "--output", "out/t.jsonl"]) == 0
    ortho, photo, clean = lines("out/t.jsonl")
    assert [row["predicted"] for row in (ortho, photo, clean)] == ["Positive", "Positive", "Negative"]
    assert [len(row["regions"]) for row in (ortho, photo, clean)] == [2, 1, 0]
    assert [Path(name).name for name in ortho["geojson"]] == ["0000000_1_ortho.geojson", "0000000_1_ortho_crs.geojson"]
    assert Path(ortho["overlay"]).exists()
    assert ortho["capture"]["latitude"] == pytest.approx(48.75, abs=0.01)
    assert not list(Path("out").rglob("*.part"))
    assert xai.main(["--image", "site", *MASK]) == 2
    assert "name them in two runs, or add --all" in capsys.readouterr().err


def test_rejected_regions_are_left_out_of_polygons_and_the_page(site, capsys, monkeypatch):
    def read_whole(path, whole=windows.read_image):
        assert path.suffix != ".tif"
        return whole(path)

    monkeypatch.setattr(windows, "read_image", read_whole)
    call = ["--image", "site", "--all", *MASK, "--output", "out/t.jsonl", "--report", "out/r.html"]
    assert xai.main(call) == 0
    before = lines("out/t.jsonl")[0]
    page, drawn = Path("out/r.html").read_text(), Image.open(before["overlay"]).tobytes()
    assert page.count('data-verdict=""') == 3
    assert "160 x 160 px" in page
    large, small = (region["box"] for region in before["regions"])
    Path("v.csv").write_text(
        "image,x,y,width,height,verdict\n"
        + "".join(
            f"1_ortho.tif,{','.join(map(str, box))},{verdict}\n"
            for box, verdict in ((large, "reject"), (small, "accept"))
        )
    )
    assert xai.main([*call, "--verdicts", "v.csv"]) == 0
    ortho, photo, _ = lines("out/t.jsonl")
    assert [region["verdict"] for region in ortho["regions"]] == ["reject", "accept"]
    for name in ortho["geojson"]:
        (kept,) = json.loads(Path(name).read_text())["features"]
        assert kept["properties"]["number"] == 2
    assert Image.open(ortho["overlay"]).tobytes() != drawn
    document = json.loads(Path("out/t.json").read_text())
    assert [document["findings"][name] for name in ("regions", "accepted", "rejected")] == [2, 1, 1]
    table = list(csv.DictReader(Path("out/t_findings.csv").open(encoding="utf-8-sig")))
    assert [(line["image"], line["region"], line["verdict"]) for line in table] == [
        ("1_ortho.tif", "2", "accept"),
        ("2_photo.png", "1", ""),
    ]
    page = Path("out/r.html").read_text()
    assert (page.count('data-verdict="accept">'), page.count('data-verdict="">')) == (1, 1)
    assert "verdicts" not in capsys.readouterr().err


def test_predictions_of_what_pillow_refuses(site, capsys, monkeypatch):
    monkeypatch.setattr(windows, "MAX_PIXELS", 20_000)
    monkeypatch.setattr(images, "MAX_PIXELS", 20_000)
    assert inference.main(["--image", "site", "--all", "--output", "t.jsonl"]) == 0
    ortho, photo, clean = lines("t.jsonl")
    assert [row["predicted"] for row in (ortho, photo, clean)] == ["Positive", "Positive", "Negative"]
    assert ortho["tiles"] > photo["tiles"] > 1
    capsys.readouterr()
    assert inference.main(["--image", "site/1_ortho.tif", "--json", "--report", "r.html"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["pictures"]
    assert row["probabilities"]["Positive"] == pytest.approx(ortho["probabilities"]["Positive"], abs=1e-5)
    assert inference.main(["--image", "site/1_ortho.tif", "--resize"]) == 2
    assert "megapixels" in capsys.readouterr().err


def test_without_rasterio(site, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr(windows, "find_spec", lambda name: None)
    assert xai.main(["--image", "site/1_ortho.tif", *MASK]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith("error: site/1_ortho.tif cannot be read: an orthomosaic, which rasterio reads: pip install")
    assert xai.main(["--image", "site", "--all", *MASK, "--output", "t.jsonl"]) == 0
    assert "pip install rasterio" in lines("t.jsonl")[0]["error"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image", "site/2_photo.png", *MASK, "--resume"], "--resume continues a run of --all: add it"),
        (["--image", "site/2_photo.png", *MASK, "--width-limits", "1,2"], "--width-limits are in mm"),
        (["--image", "site/1_ortho.tif", *MASK, "--metrics"], "--metrics is for images that fit in memory"),
        (["--image", "site/1_ortho.tif", "site/1_ortho.tif", *MASK, "--output", "a.png"], "--output names one figure"),
        (["--image", "site/1_ortho.tif", "site/1_ortho.tif", *MASK], "have the same name"),
        (["--image", "site/1_ortho.tif", *MASK, "--refine", "lines"], "--method evidence as it is"),
    ],
)
def test_usage_errors(site, capsys, flags, message):
    assert xai.main(flags) == 2
    assert message in capsys.readouterr().err


CHILD = """
import sys, time
from small_models import dark_lines
import xai
from crackcam.classifier import Loader
from crackcam.models import tiles

real = tiles._row_of_tiles
def slow(*args):
    time.sleep(0.2)
    return real(*args)

tiles._row_of_tiles = slow
Loader.load = lambda self, layers=False: dark_lines(tiled_area={"offset": 0.0})
sys.exit(xai.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed(site, capsys):
    call = ["--image", "site/1_ortho.tif", *MASK, "--output", "out/o.png"]
    assert xai.main(call) == 0
    whole = files("out")
    for path in Path("out").iterdir():
        path.unlink()
    child = start_python(CHILD, *call, path=[ROOT / "tests", ROOT])
    journal, deadline = Path("out/o.png.part/evidence.f32"), time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size > 40 * 4) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.join()
    kept = journal.stat().st_size
    assert 0 < kept < 40 * 40 * 4
    assert xai.main([*call, "--resume"]) == 0
    assert "resuming site/1_ortho.tif" in capsys.readouterr().err
    assert files("out") == whole
    assert not np.any([path.name.endswith(".part") for path in Path("out").iterdir()])
