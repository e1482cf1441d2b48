"""xai.py --style mask: findings as they are handed over, read back by other programs."""

import json
import os
import shutil
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flights import finish, lines_in, start, torchrun, written
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from pycocotools.coco import COCO
from shapely.geometry import shape

import xai
from crackcam.cli import findings
from crackcam.config import SizesConfig
from crackcam.data import listing
from crackcam.preprocessing import Preprocessing

CALL = ["--image", "site", "--all", "--batch-size", "2", "--method", "eigencam", "--style", "mask"]
NAME = "outputs/xai_images_eigencam"
CLASSES = ("below 0.5 mm", "0.5 to 1 mm", "from 1 mm", "not classified")  # of --width-limits 0.5,1
PLACES = {"a.jpg": (-33.8568, 151.2153, -3.5), "b.jpg": (52.5, -13.25, 40.0)}


def degrees(value):
    value = abs(value)
    return (int(value), int(value * 60 % 60), round(value * 3600 % 60, 6))


def exif(place, orientation=1):
    latitude, longitude, altitude = place
    found = Image.Exif()
    found[Base.Orientation] = orientation
    found[Base.Make] = "Maker"
    found.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = "2026:05:01 10:11:12"
    found.get_ifd(IFD.GPSInfo).update(
        {
            GPS.GPSLatitudeRef: "NS"[latitude < 0],
            GPS.GPSLatitude: degrees(latitude),
            GPS.GPSLongitudeRef: "EW"[longitude < 0],
            GPS.GPSLongitude: degrees(longitude),
            GPS.GPSAltitudeRef: b"\1" if altitude < 0 else b"\0",
            GPS.GPSAltitude: abs(altitude),
        }
    )
    return found


def draw(seed, height=120, width=160):
    """A wall with two dark lines."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(160, 8, (height, width, 1)).repeat(3, axis=2)
    pixels[40:44, 20:120] = 60
    pixels[70:110, 130:134] = 70
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def surveyed(tiny_checkpoint, tmp_path_factory):
    """site/: five photographs, one of them turned, two with a place, and a text; the threshold of half of them."""
    root = tmp_path_factory.mktemp("secret")
    (root / "site/north").mkdir(parents=True)
    (root / "site/south").mkdir()
    draw(1).save(root / "site/north/a.jpg", exif=exif(PLACES["a.jpg"]))
    draw(2).save(root / "site/north/b.jpg", exif=exif(PLACES["b.jpg"], orientation=6))
    draw(3).save(root / "site/south/c.png")
    draw(4).save(root / "site/=d.png")
    Image.new("RGB", (160, 120), (90, 90, 90)).save(root / "site/flat.png")
    (root / "site/readme.txt").write_text("no image")
    (root / "weights").mkdir()
    shutil.copy(tiny_checkpoint, root / "weights/model.safetensors")
    return root


@pytest.fixture(scope="module")
def limit(surveyed, tmp_path_factory):
    """A threshold that is exceeded in most of the images."""
    place = tmp_path_factory.mktemp("limit") / "place"
    shutil.copytree(surveyed, place)
    before = Path.cwd()
    os.chdir(place)
    try:
        assert xai.main([*CALL, "--threshold", "1e-9"]) == 0
        return f"{0.5 * pd.read_csv(f'{NAME}.csv')['max'].median():.6f}"
    finally:
        os.chdir(before)


@pytest.fixture
def site(surveyed, tmp_path, monkeypatch):
    shutil.copytree(surveyed, tmp_path / "secret")
    monkeypatch.chdir(tmp_path / "secret")
    return tmp_path / "secret"


@pytest.fixture
def threshold(limit, site):
    return ["--threshold", limit]


def lines(path=f"{NAME}.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def regions(rows):
    return [(row, region) for row in rows for region in row.get("regions", ())]


def test_findings_are_read_by_other_programs(site, threshold, capsys):
    flags = [*threshold, "--output", f"{NAME}.jsonl", "--mm-per-pixel", "0.25", "--width-limits", "0.5,1"]
    assert xai.main([*CALL, *flags, "--title", "Wall 3, north pier", "--report"]) == 0
    out, err = capsys.readouterr()
    beside = [f"{NAME}{end}" for end in (".jsonl", "", "_masks", "_findings.csv", ".geojson", "_coco.json")]
    assert out.splitlines()[1] == f"wrote {', '.join([*beside, 'outputs/report.html'])}"
    page = Path("outputs/report.html").read_text()
    assert "<title>Wall 3, north pier" in page
    assert ("north/a.jpg" in page, "site/" in page, "secret" in page) == (True, False, False)
    assert "3 images without a place in the EXIF data: not in xai_images_eigencam.geojson" in err
    rows = lines()
    readable = [row for row in rows if "error" not in row]
    check_table(regions(rows))
    check_places(rows)
    check_coco(readable)
    for row in readable:
        mask = np.asarray(Image.open(row["mask"]))
        assert mask.shape[::-1] == tuple(row["size"])
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask == 255).sum() == sum(region["area"] for region in row["regions"])
        assert Path(row["mask"]).parent == Path(f"{NAME}_masks/00000")
    document = json.loads(Path(f"{NAME}.json").read_text())
    found = document["findings"]
    assert document["title"] == "Wall 3, north pier"
    assert (found["images"], found["places"]) == (5, 2)
    assert found["regions"] == len(regions(rows)) > 3
    assert found["with_findings"] == sum(bool(row["regions"]) for row in readable)
    assert found["length_mm"] == pytest.approx(0.25 * found["length_px"], rel=1e-3)
    for name in ("_findings.csv", ".geojson", "_coco.json"):  # nothing tells where the images lie here
        assert not {"secret", "site", str(site)} & set(Path(f"{NAME}{name}").read_text().replace('"', "/").split("/"))


def check_table(found):
    table = pd.read_csv(f"{NAME}_findings.csv")
    assert len(table) == len(found)
    names = {"site/=d.png": "./=d.png"}
    for line, (row, region) in zip(table.to_dict("records"), found, strict=True):
        name = row["file"].removeprefix("site/")
        assert line["image"] == names.get(row["file"], name)
        assert (line["class"], line["region"]) == ("Positive", region["number"])
        assert [line[side] for side in ("x", "y", "width", "height")] == region["box"]
        assert (line["area"], line["peak"]) == (region["area"], region["peak"])
        place = PLACES.get(Path(name).name, (None, None, None))
        for column, value in zip(("latitude", "longitude", "altitude"), place, strict=True):
            assert pd.isna(line[column]) if value is None else line[column] == pytest.approx(value, abs=1e-6)
        assert pd.isna(line["time"]) if place[0] is None else line["time"] == "2026-05-01T10:11:12"
        crack = region["crack"]
        assert line["length_px"] == crack["length"]
        assert line["length_mm"] == pytest.approx(0.25 * crack["length"], abs=0.01)
        assert pd.isna(line["mean_width_px"]) == (crack["mean"] is None) == (not pd.isna(line["width_note"]))
        if crack["p95"] is not None:
            wide = 0.25 * crack["p95"]
            assert line["p95_width_mm"] == pytest.approx(wide, abs=0.01)
            assert line["width_class"] == ("below 0.5 mm" if wide < 0.5 else "0.5 to 1 mm" if wide < 1 else "from 1 mm")
        assert pd.isna(line["verdict"])
    for column in ("latitude", "mean_width_px", "max_width_mm", "orientation"):
        assert table[column].dtype == float


def check_places(rows):
    document = json.loads(Path(f"{NAME}.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    found = {feature["properties"]["image"]: feature for feature in document["features"]}
    for row in rows:
        name = row["file"].removeprefix("site/")
        place = PLACES.get(Path(name).name)
        if not place or not row["regions"]:
            assert name not in found
            continue
        point, properties = shape(found[name]["geometry"]), found[name]["properties"]
        assert (point.y, point.x, point.z) == pytest.approx(place, abs=1e-6)
        assert properties["regions"] == len(row["regions"])
        wide = [region for region in row["regions"] if region["crack"]["p95"]]
        widest = max(wide, key=lambda region: region["crack"]["p95"], default={"width_class": None})
        assert properties["width_class"] == widest["width_class"]
        classes = Counter(region["width_class"] or "not classified" for region in row["regions"])
        assert {name: properties[f"regions {name}"] for name in CLASSES} == {name: classes[name] for name in CLASSES}
        assert properties["time"] == "2026-05-01T10:11:12"
    assert found


def check_coco(readable):
    coco = COCO(f"{NAME}_coco.json")
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "Positive", "supercategory": ""}]
    found = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in found] == [
        {"=d.png": "./=d.png"}.get(name := row["file"].removeprefix("site/"), name) for row in readable
    ]
    for image, row in zip(found, readable, strict=True):
        assert [image["width"], image["height"]] == row["size"]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert [each["bbox"] for each in annotations] == [region["box"] for region in row["regions"]]
        union = np.zeros((image["height"], image["width"]), bool)
        for each, region in zip(annotations, row["regions"], strict=True):
            mask = coco.annToMask(each) > 0
            union |= mask
            assert each["area"] == region["area"]
            assert each["score"] == region["peak"]
            assert 0.8 * region["area"] - 4 < mask.sum()
        own = np.asarray(Image.open(row["mask"])) > 0
        assert (own & ~union).sum() <= 0.1 * own.sum()  # outlines are simplified; holes are filled


def test_overlays_keep_time_and_place_and_stand_upright(site, threshold):
    assert xai.main([*CALL, *threshold]) == 0
    rows = pd.read_csv(f"{NAME}.csv", index_col="file")
    for name, (latitude, *_) in PLACES.items():
        with Image.open(rows.loc[f"site/north/{name}", "overlay"]) as overlay:
            kept = overlay.getexif()
            assert kept.get(Base.Orientation, 1) == 1
            assert kept[Base.Make] == "Maker"
            assert kept.get_ifd(IFD.Exif)[Base.DateTimeOriginal] == "2026:05:01 10:11:12"
            assert kept.get_ifd(IFD.GPSInfo)[GPS.GPSLatitudeRef] == "NS"[latitude < 0]
            assert [float(part) for part in kept.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude]] == pytest.approx(
                degrees(latitude)
            )
            assert (overlay.height > overlay.width) == (name == "b.jpg")
    with Image.open(rows.loc["site/south/c.png", "overlay"]) as overlay:
        assert not overlay.getexif()


@pytest.fixture
def coarse(tmp_path):
    """Photographs of a camera 24 mm long, whose pixels are 0.5 mm from 1 m: the first without EXIF, two with it."""
    with_lens = Image.Exif()
    with_lens.get_ifd(IFD.Exif)[Base.FocalLength] = 24.0
    for name, more in {"a.jpg": {}, "b.jpg": {"exif": with_lens}, "c.jpg": {"exif": with_lens}}.items():
        draw(1).save(tmp_path / name, **more)
    return [tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")]


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (
            {"distance": 1.0, "sensor_width": 1.92, "width_limits": (0.1, 0.4, 2.0)},
            [
                "widths below 1.00 mm (2 px) cannot be measured; the limits of 0.1 and 0.4 mm are 0.2 and 0.8 px: "
                "fly closer, to 10.0 % of the distance (0.1 m)"
            ],
        ),
        ({"distance": 1.0, "sensor_width": 1.92, "width_limits": (1.0, 2.0)}, []),
        ({"distance": 1.0, "sensor_width": 1.92}, []),
    ],
)
def test_limits_that_cannot_be_measured_are_named_once(coarse, caplog, given, messages):
    with caplog.at_level("INFO"):
        findings.warn_of_scale(SizesConfig(**given), coarse)
    assert [record.getMessage() for record in caplog.records] == [
        "b.jpg: focal length 24 mm, 0.5 mm per pixel",
        *messages,
    ]
    caplog.clear()
    findings.warn_of_scale(SizesConfig(**given), [*coarse[:1], coarse[0].with_name("none.jpg")])  # no scale is known
    assert not caplog.records


@pytest.mark.parametrize(("sensor_width", "warned"), [(13.2, False), (36.0, False), (24.0, True)])
def test_a_sensor_that_does_not_fit_the_focal_lengths_is_named(tmp_path, caplog, sensor_width, warned):
    lens = Image.Exif()
    lens.get_ifd(IFD.Exif).update({Base.FocalLength: 8.8, Base.FocalLengthIn35mmFilm: 24})
    draw(1).save(tmp_path / "a.jpg", exif=lens)
    findings.warn_of_scale(SizesConfig(distance=1.0, sensor_width=sensor_width), [tmp_path / "a.jpg"])
    said = "EXIF of a.jpg gives a focal length of 8.8 mm that equals 24 mm on a sensor 36 mm wide: its sensor would be 13.2 mm wide, not 24 mm"
    assert (said in caplog.text) == warned


def test_limits_that_cannot_be_measured_are_named_before_the_work(site, threshold, capsys):
    assert xai.main([*CALL, *threshold, "--mm-per-pixel", "0.25", "--width-limits", "0.3,1"]) == 0
    err = capsys.readouterr().err
    warning = "warning: widths below 0.50 mm (2 px) cannot be measured; the limit of 0.3 mm is 1.2 px: fly closer, to 60.0 % of the distance\n"
    assert err.count("cannot be measured") == 1
    assert err.index(warning) < err.index("readme.txt")  # the file that is no image


def test_no_place_at_all(site, threshold, capsys):
    shutil.rmtree("site/north")
    Path("outputs").mkdir(exist_ok=True)
    Path(f"{NAME}.geojson").write_text("of an earlier run")
    assert xai.main([*CALL, *threshold, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "no image has a place in its EXIF data: no xai_images_eigencam.geojson" in err
    assert not Path(f"{NAME}.geojson").exists()
    document = json.loads(out)
    assert (document["geojson"], document["findings_table"]) == (None, f"{NAME}_findings.csv")
    assert document["findings"]["places"] == 0


# -- verdicts --------------------------------------------------------------------------------------------------------


def test_verdicts_come_back(site, threshold, capsys):
    flags = [*threshold, "--output", f"{NAME}.jsonl"]
    assert xai.main([*CALL, *flags]) == 0
    before = lines()
    overlays = [Path(row["overlay"]).read_bytes() for row in before if row.get("regions")]
    table = pd.read_csv(f"{NAME}_findings.csv")
    assert table["image"].nunique() > 1
    rejected, accepted = table.iloc[0], table.iloc[-1]
    table["verdict"] = ["reject", *[None] * (len(table) - 2), "accept"]
    table["region"] = 77  # numbers do not matter
    table.loc[len(table)] = {**rejected, "image": "north/other.jpg", "verdict": "reject"}
    table.loc[len(table)] = {**rejected, "x": 0, "y": 0, "width": 2, "height": 2, "verdict": "reject"}
    table.to_csv("checked.csv", index=False, sep=";", encoding="utf-8-sig")  # as a spreadsheet may write it
    capsys.readouterr()
    assert xai.main([*CALL, *flags, "--verdicts", "checked.csv", "--report"]) == 0
    messages = capsys.readouterr().err
    assert "warning: 2 of 4 verdicts in checked.csv match no region of these images" in messages
    assert f"findings: {len(table) - 3} regions in " in messages
    assert ", 1 more rejected; the widest: " in messages
    after = lines()
    redrawn = [Path(row["overlay"]).read_bytes() for row in after if row.get("regions")]
    assert [one == other for one, other in zip(overlays, redrawn, strict=True)] == [False] + [True] * (len(redrawn) - 1)
    verdicts = [region.pop("verdict") for _, region in regions(after)]
    assert (verdicts[0], verdicts[-1], set(verdicts[1:-1])) == ("reject", "accept", {None})
    assert [row.get("regions") for row in after] == [row.get("regions") for row in before]
    shown = pd.read_csv(f"{NAME}_findings.csv")
    assert len(shown) == len(verdicts) - 1
    assert shown["verdict"].tolist()[-1] == "accept"
    assert (shown["image"].iloc[-1], shown["region"].iloc[-1]) == (accepted["image"], accepted["region"])
    assert not ((shown["image"] == rejected["image"]) & (shown["region"] == rejected["region"])).any()
    assert len(COCO(f"{NAME}_coco.json").anns) == len(verdicts) - 1
    assert xai.main([*CALL, *flags, "--verdicts", "checked.csv"]) == 0
    assert not list(Path("outputs").glob("*.previous*"))  # what is accepted is in the file of verdicts
    page = Path("outputs/report.html").read_text()  # its file of verdicts will hold those of this round too
    assert "north/other.jpg" in page
    document = json.loads(Path(f"{NAME}.json").read_text())["findings"]
    assert (document["accepted"], document["rejected"], document["regions"]) == (1, 1, len(verdicts) - 1)
    row = next(row for row in after if row["regions"])
    x, y, width, height = row["regions"][0]["box"]
    mask = np.asarray(Image.open(row["mask"])) > 0
    assert mask.sum() == sum(region["area"] for region in row["regions"][1:])


def test_decisions_of_a_person_are_not_overwritten(site, threshold, capsys, monkeypatch):
    table = Path(f"{NAME}_findings.csv")
    assert xai.main([*CALL, *threshold]) == 0
    found = pd.read_csv(table)
    shutil.copyfile(table, "undecided.csv")
    found["verdict"] = ["reject", *[None] * (len(found) - 1)]
    found.to_csv(table, index=False)
    decided = table.read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patched:  # before seconds are spent on the network
        patched.setattr("crackcam.classifier.Loader.load", lambda *_, **__: pytest.fail("the network was loaded"))
        for flags in (["--verdicts", str(table)], ["--verdicts", str(table), "--output", str(table)]):
            assert xai.main([*CALL, *threshold, *flags]) == 2
            assert f"error: this run replaces {table}: save the verdicts as another file" in capsys.readouterr().err
            assert table.read_bytes() == decided
    assert xai.main([*CALL, *threshold, "--verdicts", "undecided.csv"]) == 0
    previous = table.with_name(f"{table.stem}.previous.csv")
    assert f"{table} has regions that were rejected: keeping it as {previous}" in (messages := capsys.readouterr().err)
    assert "warning: undecided.csv has no verdicts: its column verdict is empty" in messages
    assert previous.read_bytes() == decided
    assert len(pd.read_csv(table)) == len(found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--verdicts", "none.csv"], "error: cannot read none.csv: no such file or directory"),
        (["--verdicts", "bad.csv"], "error: bad.csv, line 2: verdict is 'perhaps', not accept or reject"),
        (["--style", "overlay", "--title", "Wall"], "error: --title is for the findings of --all --style mask"),
        (
            ["--style", "overlay", "--verdicts", "bad.csv"],
            "error: --verdicts is for the findings of --all --style mask",
        ),
        (["--style", "overlay", "--report"], "error: --report with --all is about regions: add --style mask"),
    ],
)
def test_what_is_refused(site, capsys, flags, message):
    Path("bad.csv").write_text("image,x,y,width,height,verdict\na.jpg,1,1,1,1,perhaps\n")
    threshold = [] if "overlay" in flags else ["--threshold", "1"]
    assert xai.main([*CALL, *threshold, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists() or not list(Path("outputs").rglob("*.csv"))


# -- interruptions, and what is no image -----------------------------------------------------------------------------


def test_a_run_that_is_interrupted_gives_the_same_files(site, threshold, capsys, monkeypatch):
    flags = [*threshold, "--title", "Wall"]
    assert xai.main([*CALL, *flags]) == 0
    whole = written()
    assert {name.removeprefix(NAME) for name in whole} > {"_findings.csv", ".geojson", "_coco.json", ".csv", ".json"}
    shutil.rmtree("outputs")
    calls, real = [], Preprocessing.apply

    def interrupted(self, image):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(Preprocessing, "apply", interrupted)
    assert xai.main([*CALL, *flags]) == 130
    monkeypatch.setattr(Preprocessing, "apply", real)
    with monkeypatch.context() as patched:
        patched.setattr("crackcam.render.handover.coco.write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert xai.main([*CALL, *flags, "--resume"]) == 130  # the table is there, and COCO is not
    assert not Path(f"{NAME}_coco.json").exists()
    Path("verdicts.csv").write_text("image,x,y,width,height,verdict\nc.png,1,1,9,9,reject\n")
    capsys.readouterr()
    assert xai.main([*CALL, *flags, "--resume", "--verdicts", "verdicts.csv"]) == 2
    assert "another verdicts" in capsys.readouterr().err
    assert xai.main([*CALL, *flags, "--resume"]) == 0
    assert written() == whole
    capsys.readouterr()
    assert xai.main([*CALL, *flags, "--resume", "--title", "Pier"]) == 2
    assert "is complete, without Pier: leave --resume or --title out" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_files_of_one(site, threshold):
    assert xai.main([*CALL, *threshold]) == 0
    whole = written()
    shutil.rmtree("outputs")
    for process in torchrun("xai.py", 2, *CALL, *threshold):
        finish(process)
    found = written()
    for document in (whole, found):
        document[f"{NAME}.json"] = {key: value for key, value in document[f"{NAME}.json"].items() if key != "run"}
    assert found == whole


@pytest.mark.slow
def test_a_killed_run_gives_the_same_files(site, threshold):
    assert xai.main([*CALL, *threshold]) == 0
    whole = written()
    shutil.rmtree("outputs")
    process = start("xai.py", *CALL, *threshold, slowly=True)
    while process.is_alive() and lines_in(Path(f"{NAME}.csv.part/0.jsonl")) < 2:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not Path(f"{NAME}_findings.csv").exists()
    assert xai.main([*CALL, *threshold, "--resume"]) == 0
    assert written() == whole


def test_what_was_written_is_no_image(site, threshold):
    assert xai.main([*CALL, *threshold, "--output", "site/found.csv"]) == 0
    assert {path.suffix for path in Path("site").rglob("*")} > {".geojson", ".csv", ".json"}
    assert len(list(Path("site/found_masks/00000").iterdir())) == 5
    assert [path.name for path in listing.list_files(Path("site"))] == [
        "=d.png",
        "flat.png",
        "a.jpg",
        "b.jpg",
        "readme.txt",
        "c.png",
    ]


def test_a_few_images_have_a_table_of_findings_too(site, threshold, capsys):
    files = [str(path) for path in chain(Path("site/north").iterdir(), [Path("site/south/c.png")])]
    few = ["--image", *files, "--method", "eigencam", "--style", "mask", *threshold]
    assert xai.main(few) == 0
    assert f"{NAME}_findings.csv" in capsys.readouterr().out
    found = pd.read_csv(f"{NAME}_findings.csv").set_index(["image", "region"]).sort_index()
    assert xai.main([*CALL, *threshold]) == 0
    of_all = pd.read_csv(f"{NAME}_findings.csv").set_index(["image", "region"]).sort_index()
    of_all = of_all.loc[of_all.index.isin(found.index)]
    for column in ("x", "y", "width", "height", "latitude", "length_px"):
        assert found[column].to_numpy() == pytest.approx(of_all[column].to_numpy(), nan_ok=True, abs=1.01)
    assert len(found) == len(of_all) > 0
    several = ["--image", files[0], "--style", "mask", "--method", "eigencam,gradcam"]
    assert xai.main(several) == 0  # regions of several methods are no list of findings
    assert not Path("outputs/xai_images_compared_findings.csv").exists()
