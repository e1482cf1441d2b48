"""--report: what the page says, that nothing in it runs or loads, and how it behaves in a real browser."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_TRAINING
from matplotlib import colormaps
from PIL import Image

import inference
import train
import xai
from crackcam.data import images, pixels, statistics
from crackcam.data.pixels import PixelSplit
from crackcam.data.splits import plan_splits
from crackcam.explain import heatmaps
from crackcam.preprocessing import Preprocessing
from crackcam.render import report

EVIL = '<script>alert("x")</script>'
CHROMIUM = shutil.which("chromium")


def row(name, true, predicted, confidence, **more):
    other = "cat" if predicted != "cat" else "dog"
    return {"file": f"data/{name}", "true": true, "predicted": predicted, "target": predicted,
            "probabilities": {predicted: confidence, other: 1 - confidence}, **more}  # fmt: skip


def document(rows, **more):
    return {
        "schema": 1, "command": "python xai.py --report", "type": "cat", "split": "test", "seed": 0, "device": "cpu",
        "precision": "fp32", "classes": ["cat", "dog"], "versions": {"torch": "2.6"}, "pictures": rows,
        "checkpoint": {"file": "weights/model.safetensors", "sha256": "ab" * 32, "arch": "resnet18"}, **more,
    }  # fmt: skip


def grey(count, height=30, width=40):
    return [np.full((height, width, 3), 40 * i % 256, np.uint8) for i in range(count)]


def peak(y, x):
    heat = np.zeros((20, 30), np.uint8)
    heat[y, x] = 255
    return heat


def blob(y, x):
    heat = np.zeros((20, 30), np.uint8)
    heat[y : y + 8, x : x + 8] = 255
    return heat


def written(tmp_path, rows, maps=None, name="report.html", masks=None, pictures=None, **more):
    path = tmp_path / name
    if maps:
        more = {"methods": {method: ["layer4"] for method in maps}, "target": "predicted", **more}
    pictures = grey(len(rows)) if pictures is None else pictures
    report.write(path, document(rows, **more), pictures, maps, colormaps["inferno"], masks)
    return path


def decoded(uri):
    kind, data = uri.split(",")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def run_of(html):
    """The JSON in the page."""
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', html, re.DOTALL)[1])


# -- the page as text --------------------------------------------------------------------------------------------------


def test_text_is_escaped_wherever_it_comes_from(tmp_path):
    rows = [
        row(f'a"{EVIL[:8]}.jpg', EVIL, "</script><script>1", 0.9, maps={EVIL: {"max": 1.0, EVIL: 2.0}}, **{EVIL: 3})
    ]
    html = written(tmp_path, rows, {EVIL: [peak(0, 0)]}, type=EVIL, command=EVIL).read_text()
    assert html.count("<script") == 2  # the data and our own
    assert html.count("</script>") == 2
    assert EVIL not in html
    assert run_of(html)["pictures"] == rows


def test_the_policy_allows_only_what_came_with_the_page(tmp_path):
    html = written(tmp_path, [row("a.jpg", "cat", "cat", 0.9)]).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=|https?://", html)


def test_a_map_is_drawn_as_in_the_figures():
    """Half heat: half of inferno, covering 0.5 ** 0.7 of the picture."""
    heat = np.array([[0, 128, 255]], np.uint8)
    layer = report._layer("gradcam", heat, report._palette(colormaps["inferno"]), {})
    pixels = np.asarray(decoded(layer.image).convert("RGBA")).astype(int)[0]
    assert pixels[:, 3].tolist() == pytest.approx([0, 255 * 0.5**0.7, 255], abs=4)
    for pixel, share in zip(pixels, (0.0, 0.5, 1.0), strict=True):
        expected = [round(255 * value) for value in colormaps["inferno"](share)[:3]]
        assert pixel[:3].tolist() == pytest.approx(expected, abs=5)


def test_small_maps_are_stretched_and_lie_where_the_map_is():
    heat = torch.zeros(8, 8)
    heat[1, 6] = 1e-6
    heat[0, 0] = 5e-7
    small = heatmaps.small_map(heat, (20, 80), Preprocessing(8))
    assert (small.shape, small.dtype) == ((20, 80), np.uint8)
    assert np.unravel_index(small.argmax(), small.shape)[1] in range(60, 70)
    assert small.max() > 200
    assert small[0, 0] == pytest.approx(128, abs=1)
    assert heatmaps.small_map(torch.zeros(3, 8, 8), (8, 8), Preprocessing(8)).shape == (8, 8, 3)


def test_probabilities_are_not_stretched(tmp_path):
    heat = torch.full((8, 8), 0.2)
    heat[1, 6] = 0.6
    assert np.unique(heatmaps.small_map(heat, (8, 8), Preprocessing(8), stretch=False)).tolist() == [51, 153]
    html = written(tmp_path, [row("a.jpg", "cat", "cat", 0.9)], {"evidence": [peak(0, 0)], "gradcam": [peak(0, 0)]})
    legends = re.findall(
        r'<p class="legend" data-method="(\w+)"( hidden)?>.*?</b> (.*?) <img[^>]*> (.*?)</p>', html.read_text()
    )
    page = written(tmp_path, [row("a.jpg", "cat", "cat", 0.9)], {"guidedbackprop": [np.zeros((20, 30, 3), np.uint8)]})
    assert "grey: none. A picture of its own, not a heat map." in page.read_text()
    assert "cold" not in page.read_text()
    assert legends == [
        ("evidence", "", "0 %", "100 %: how probably a place is of that class"),
        ("gradcam", " hidden", "cold", "hot, relative to each picture’s own maximum"),
    ]


@pytest.mark.parametrize(
    ("y", "x", "says"), [(1, 28, "upper right"), (10, 15, "middle"), (19, 0, "lower left"), (10, 2, "left")]
)
def test_maps_are_described_for_who_cannot_see_them(y, x, says):
    assert report.hottest(peak(y, x)) == f"hottest at the {says}"
    assert report.hottest(peak(0, 0) * 0) == "empty"


def test_numbers_are_shown_under_their_own_names(tmp_path):
    found = {"max": 0.5, "threshold": 0.1, "share": 0.034, "length": 1234.6, "boxes": [[1, 2, 3, 4]], "file": "m.npy"}
    rows = [row("a.jpg", "cat", "cat", 0.9, width_px=3, nothing=None, maps={"gradcam": found})]
    html = written(tmp_path, rows, {"gradcam": [peak(0, 0)]}).read_text()
    pairs = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd></div>", html)
    assert {("width px", "3"), ("threshold", "0.1"), ("share", "3.4 %"), ("length", "1,235")} <= {*pairs}
    assert not {"boxes", "nothing", "max", "file"} & {name for name, _ in pairs}


def test_scores_that_nobody_has_are_left_out():
    none = dict.fromkeys(report.SCORES)
    scores = [
        {"method": "layercam", "baseline": False, **none, "ap": 0.25, "iou": 0.125},
        {"method": "random", "baseline": True, **none, "ap": 0.5},
    ]
    metrics = [{"method": "layercam", "baseline": False, "insertion": 0.75, "deletion": 0.125}]
    assert report.tables({"scores": scores, "metrics": metrics}) == [
        report.Table(
            "Maps against masks",
            ["method", "AP", "IoU"],
            [["layercam", "0.250", "0.125"], ["random (knows no network)", "0.500", "-"]],
            frozenset({1}),
        ),
        report.Table(
            "Maps against the network",
            ["method", "deletion, low", "insertion, high"],
            [["layercam", "0.125", "0.750"]],
        ),
    ]


def test_a_method_that_loses_to_no_network_is_said_to(tmp_path):
    scores = [{"method": name, "baseline": name == "dark", "ap": ap} for name, ap in [("gradcam", 0.25), ("dark", 0.5)]]
    rows = [row("a.jpg", "cat", "cat", 0.9)]
    assert report.key_figures(document(rows, scores=scores), rows)[-1] == (
        "best average precision", "0.250", "gradcam; dark, which knows no network, 0.500",
    )  # fmt: skip


def test_an_empty_map_is_explained_where_it_is_shown(tmp_path):
    """Of the method that is shown, whatever others found."""
    rows = [row("a.jpg", "cat", "cat", 0.9, maps={"gradcam": {"max": 0.0}, "eigencam": {"max": 1.0}})]
    html = written(tmp_path, rows, {"gradcam": [peak(0, 0) * 0], "eigencam": [peak(0, 0)]}).read_text()
    notes = re.findall(r'<p class="remark" data-method="(\w+)"( hidden)?>(.*?)</p>', html)
    assert notes == [("gradcam", "", "nothing speaks for cat here")]


def test_what_is_not_a_number_is_null(tmp_path):
    scores = [
        {"method": "gradcam", "baseline": False, "cover_empty": float("nan"), **dict.fromkeys(report.SCORES, 0.5)}
    ]
    html = written(tmp_path, [row("a.jpg", None, "cat", 0.9)], {"gradcam": [peak(0, 0)]}, scores=scores).read_text()
    assert run_of(html)["scores"][0]["cover_empty"] is None


def test_the_top_says_what_was_asked(tmp_path):
    rows = [row("a.jpg", "cat", "cat", 0.9), row("b.jpg", "cat", "dog", 0.7)]
    facts = dict(report.facts(document(rows), rows, datetime(2026, 3, 9, 8, 5)))
    assert facts == {
        "asked": "python xai.py --report", "model": "resnet18, weights/model.safetensors, SHA-256 abababababababab…",
        "pictures": "data, test split, seed 0", "machine": "cpu, fp32", "versions": "torch 2.6",
        "made": "9 March 2026, 08:05",
    }  # fmt: skip
    assert report.key_figures(document(rows), rows) == [
        ("pictures", "2", "predicted cat 1, dog 1"), ("right", "50.0 %", "1 of 2"),
        ("mean confidence", "80.0 %", "least 70.0 %"),
    ]  # fmt: skip


def test_wrong_pictures_come_first_then_the_least_confident(tmp_path):
    rows = [row("a.jpg", "cat", "cat", 0.9), row("b.jpg", "cat", "cat", 0.6), row("c.jpg", "cat", "dog", 0.99)]
    html = written(tmp_path, rows).read_text()
    assert re.findall(r"<h3[^>]*>(.)\.jpg", html) == ["c", "b", "a"]
    named = written(tmp_path, [{**r, "true": None} for r in rows]).read_text()
    assert re.findall(r"<h3[^>]*>(.)\.jpg", named) == ["a", "b", "c"]


def test_many_pictures_make_several_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PAGE", 2)
    rows = [row(f"{i}.jpg", "cat", "cat", 0.5 + i / 100) for i in range(5)]
    written(tmp_path, rows, name="my report.html")
    names = ["my report.html", "my report-2.html", "my report-3.html"]
    assert {p.name for p in tmp_path.iterdir()} == {*names}
    for number, name in enumerate(names):
        html = (tmp_path / name).read_text()
        assert re.findall(r"<h3[^>]*>(\d)\.jpg", html) == [str(i) for i in range(2 * number, min(2 * number + 2, 5))]
        assert re.findall(r'<li><a href="([^"]*)"( aria-current="page")?', html) == [
            (other.replace(" ", "%20"), ' aria-current="page"' if other == name else "") for other in names
        ]
        assert [r["file"] for r in run_of(html)["pictures"]] == [
            rows[i]["file"] for i in range(2 * number, min(2 * number + 2, 5))
        ]
        assert "predicted cat 5" in html  # the top is about all pages


def test_many_pictures_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FEW", 1)
    rows = [row(f"{i}.jpg", "cat", "cat", 0.9) for i in range(2)]
    maps = {"gradcam": [np.full((120, 160), 7, np.uint8)] * 2}
    html = written(tmp_path, rows, maps, pictures=grey(2, 600, 800)).read_text()
    sizes = [decoded(uri).size for uri in re.findall(r'<img class="(?:photo|heat)"[^>]*src="([^"]*)"', html)]
    assert sizes == [(256, 192), (96, 72)] * 2


def test_the_outline_of_a_mask_lies_over_the_picture(tmp_path):
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:30] = True
    html = written(tmp_path, [row("a.jpg", "cat", "cat", 0.9)], {"gradcam": [peak(0, 0)]}, masks=[mask]).read_text()
    drawn = np.asarray(decoded(re.search(r'class="outline" src="([^"]*)"', html)[1]).convert("RGBA"))
    rows, columns = np.nonzero(drawn[..., 3])
    assert drawn.shape == (360, 480, 4)
    assert (rows.min() / 12, rows.max() / 12, columns.min() / 12, columns.max() / 12) == pytest.approx(
        (10, 20, 10, 30), abs=0.4
    )


# -- numbers of a training ---------------------------------------------------------------------------------------------


def test_reliability_is_drawn_where_there_are_predictions():
    """Two bins of three are empty; 3 predictions at 0.75, all of which are right at the top of the plot: 8 below 0."""
    nan = float("nan")
    found = {"confidence": [nan, nan, 0.75], "accuracy": [nan, nan, 1.0], "count": [0, 0, 3]}
    chart = report._reliability_chart(found, 0.25)
    assert chart.says == "share right by confidence: expected calibration error 25.0 %"
    assert chart.bars == [(219, 8, 88, 144, 1.0, "3 pictures with a confidence of about 75.0 %: 100.0 % right")]
    assert [(line.name, line.points) for line in chart.lines] == [
        ("perfect", [(38, 152), (308, 8)]), ("observed", [(240.5, 8)]),
    ]  # fmt: skip


def test_data_is_summed_up(tmp_path):
    for i, size in enumerate([(40, 30), (40, 30), (20, 10)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    pixels = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a, b, c = (tmp_path / f"{i}.jpg" for i in range(3))
    turned = tmp_path / "turned.jpg"
    splits = {
        "train": PixelSplit(
            torch.stack([pixels[0], pixels[1], pixels[2], pixels[2]]), torch.tensor([0, 1, 1, 1]), [a, b, c, turned]
        ),
        "test": PixelSplit(torch.stack([pixels[0], pixels[1]]), torch.tensor([0, 0]), [a, a]),
    }
    found = statistics.summarize(splits, ["cat", "dog"])
    assert found["pictures"] == {"train": {"cat": 1, "dog": 3}, "test": {"cat": 2, "dog": 0}}
    assert {*found["sizes"]} == {(40, 30, 4), (20, 10, 1), (30, 40, 1)}
    assert found["other_sizes"] == 0
    assert [(group["files"], group["why"]) for group in found["duplicates"]] == [
        ([str(b), str(a)], "of different classes: one label is wrong"),
        ([str(a), str(a)], "in different splits: what is scored was trained on"),
        ([str(c), str(turned)], "counts double"),
    ]
    assert found["duplicated"] == 3


# -- the scripts -------------------------------------------------------------------------------------------------------


def test_xai_writes_a_report(place, capsys):
    flags = ["--method", "gradcam,eigencam,guidedbackprop", "--masks", "data/masks", "--num", "3", "--report", "--json"]
    assert xai.main(flags) == 0
    printed = json.loads(capsys.readouterr().out)
    html = Path("outputs/report.html").read_text()
    assert printed["report"] == "outputs/report.html"
    in_page = run_of(html)
    assert [r["file"] for r in in_page["pictures"]] != []
    assert {r["file"] for r in in_page["pictures"]} == {r["file"] for r in printed["pictures"]}
    assert html.count('class="heat"') == 9
    assert html.count('class="outline"') == 3
    masks = [images.read_image(Path("data/masks") / f"{Path(r['file']).stem}.png").any() for r in printed["pictures"]]
    assert all(masks)
    from sklearn.metrics import average_precision_score

    assert xai.main(["--method", "gradcam", "--num", "3", "--save-maps", "maps"]) == 0
    for r in printed["pictures"]:
        stem = Path(r["file"]).stem
        mask, heat = images.read_image(Path(f"data/masks/{stem}.png")).mean(axis=2) > 127, np.load(f"maps/{stem}.npy")
        assert r["maps"]["gradcam"]["ap"] == pytest.approx(
            average_precision_score(mask.ravel(), heat.ravel()), abs=1e-4
        )
        assert f"<dt>AP</dt><dd>{r['maps']['gradcam']['ap']:.3f}</dd>" in html


def test_the_report_shows_maps_as_they_are_drawn(place, capsys, monkeypatch):
    """Refined maps, and what was found in them."""
    shown = []
    monkeypatch.setattr(
        report, "write", lambda path, document, pictures, maps, *rest: shown.append((document, pictures, maps))
    )
    flags = ["--method", "gradcam", "--num", "1", "--refine", "lines", "--style", "mask"]
    assert xai.main([*flags, "--save-maps", "maps", "--report"]) == 0
    ((document, (picture,), maps),) = shown
    (saved,) = (np.load(path) for path in Path("maps").iterdir())
    ((small,),) = maps.values()
    assert (picture.shape[:2], small.shape) == (saved.shape, (160, 160))
    expected = cv2.resize(saved, (160, 160), interpolation=cv2.INTER_AREA)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.abs(small / 255 - expected).max() < 0.01
    (found,) = (r["maps"]["gradcam"] for r in document["pictures"])
    assert {"max", "threshold", "share", "length", "width"} <= {*found}
    assert document["refine"] == "lines"


def test_inference_writes_a_report(place, capsys):
    assert inference.main(["--num", "4", "--report", "mail/me.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(", mail/me.html")
    html = Path("mail/me.html").read_text()
    assert "Predictions: Positive" in html
    assert html.count('class="photo"') == 4
    assert 'class="heat"' not in html


def test_a_report_of_every_picture(place, capsys):
    (Path("data/test/Positive") / "cut.jpg").write_bytes(b"\xff\xd8 broken")
    assert inference.main(["--all", "--report"]) == 0
    html = Path("outputs/report.html").read_text()
    assert html.count('class="photo"') == 12
    assert "cut.jpg" in html.split("<caption>Not readable")[1]
    with Path("outputs/predictions_all.csv").open() as file:
        table = {r["file"]: r["predicted"] for r in csv.DictReader(file) if not r["error"]}
    assert {r["file"]: r["predicted"] for r in run_of(html)["pictures"]} == table


def test_training_writes_a_report(fresh, capsys):
    copied = sorted(Path("data/train/Positive").iterdir())[0]
    shutil.copy(copied, Path("data/test/Positive/copied.jpg"))
    assert train.main([*TINY_TRAINING, "--report"]) == 0
    assert "outputs/report.html" in capsys.readouterr().out.splitlines()[-1]
    html = Path("outputs/report.html").read_text()
    run = run_of(html)
    assert sum(map(sum, run["confusion"])) == run["scored"] == 13
    wrong = run["scored"] - np.trace(np.array(run["confusion"]))
    assert run["mistakes"] == len(run["pictures"]) == html.count('class="photo"') == wrong
    assert wrong > 0
    assert html.count('class="heat"') == wrong
    sure = [r["probabilities"][r["predicted"]] for r in run["pictures"]]
    assert sure == sorted(sure, reverse=True)
    assert all(r["predicted"] != r["true"] and r["target"] == r["predicted"] for r in run["pictures"])
    assert "in different splits: what is scored was trained on" in html
    assert run["summary"]["duplicates"][0]["files"] == [str(copied), "data/test/Positive/copied.jpg"]
    assert html.count('<svg viewBox="0 0 320 190"') == 3
    assert run["near_duplicates"] == {"val": 0, "test": 1}
    rows = html.split("<caption>Near-duplicates of training pictures")[1].split("</table>")[0]
    assert {*re.findall(r'<th scope="row">(\w+)</th><td>(\d+)</td>', rows)} == {("val", "0"), ("test", "1")}
    assert sum(run["reliability"]["count"]) == 13


def test_a_multiscale_network_is_reported_by_its_evidence(fresh, capsys):
    assert train.main([*TINY_TRAINING, "--head", "multiscale", "--report"]) == 0
    run = run_of(Path("outputs/report.html").read_text())
    assert run["mistakes"] > 0
    assert [*run["methods"]] == ["evidence"]
    assert xai.main(["--num", "1", "--report", "--save-maps", "maps"]) == 0
    html = Path("outputs/report.html").read_text()
    (heat,) = (np.load(path) for path in Path("maps").iterdir())
    drawn = decoded(re.search(r'class="heat"[^>]*src="([^"]*)"', html)[1])
    levels = np.asarray(drawn).astype(float) / (report.LEVELS - 1)
    assert (levels.min(), levels.max()) == pytest.approx((heat.min(), heat.max()), abs=0.02)
    assert "100 %: how probably a place is of that class" in html


@pytest.mark.parametrize(
    ("script", "flags", "says"),
    [
        (xai, ["--report", "page.pdf"], "'page.pdf' must end in .html"),
        (train, ["--report", "page"], "'page' must end in .html"),
        (
            xai,
            ["--anatomy", "--report"],
            "leave --method, --masks, --metrics, --scales, --fuse, --report and --style mask out",
        ),
        (xai, ["--report", "blocked/r.html"], "cannot write blocked/r.html"),
        (
            inference,
            ["--image", "a.jpg", "--arch", "ssd300_vgg16", "--report"],
            "--report is for classifiers; ssd300_vgg16 is a detector",
        ),
        (
            xai,
            ["--image", "a.jpg", "--arch", "ssd300_vgg16", "--report"],
            "--report is for classifiers; ssd300_vgg16 is a detector",
        ),
    ],
)
def test_what_cannot_be_reported(place, capsys, script, flags, says):
    Path("blocked").write_text("a file where a folder should be")
    assert script.main(flags) == 2
    assert says in capsys.readouterr().err


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a page; afterwards it must have asked nothing of a network, and complained of nothing."""
    asked, complaints, contexts = [], [], []

    def open_(path, **settings):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.absolute().as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def page_file(tmp_path):
    """Three pictures under two maps each: cat 0.9, cat 0.6, and a dog taken for a cat."""
    rows = [
        row("sure.jpg", "cat", "cat", 0.9, maps={"gradcam": {"max": 1.0, "width": 2.5}, "eigencam": {"max": 1.0, "width": 1}}),
        row("wrong.jpg", "cat", "dog", 0.8, maps={"gradcam": {"max": 1.0, "width": 1.5}, "eigencam": {"max": 1.0, "width": 2}}),
        row("unsure10.jpg", "cat", "cat", 0.6, maps={"gradcam": {"max": 1.0, "width": 3.5}, "eigencam": {"max": 1.0, "width": 3}}),
    ]  # fmt: skip
    maps = {"gradcam": [blob(1, 1), blob(2, 20), blob(9, 3)], "eigencam": [blob(9, 20), blob(2, 2), blob(9, 9)]}
    mask = np.zeros((30, 40), bool)
    mask[5:20, 5:9] = True
    return written(tmp_path, rows, maps, masks=[mask] * 3)


def seen(page):
    """The first picture, as it is painted."""
    image = Image.open(io.BytesIO(page.locator(".card .stage").first.screenshot())).convert("RGB")
    return np.asarray(image).astype(int)


def changed(before, after):
    return float(np.abs(before - after).mean())


def shown(page):
    return page.locator(".card:visible h3").all_text_contents()


def test_slider_and_switches(opened, page_file):
    page = opened(page_file, viewport={"width": 1200, "height": 2000})
    heat = page.locator(".card .heat").first
    slider = page.get_by_label("Opacity of the heat map", exact=True)
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "0.75"
    before = seen(page)
    slider.focus()
    page.keyboard.press("Home")
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "0"
    assert page.locator("#controls output").text_content() == "0 %"
    assert changed(before, seen(page)) > 1
    slider.fill("75")
    assert changed(before, seen(page)) < 0.1
    visible = page.locator(".card .heat:visible")
    assert {i.get_attribute("data-method") for i in visible.all()} == {"gradcam"}
    page.get_by_role("radio", name="eigencam").check()
    assert {i.get_attribute("data-method") for i in visible.all()} == {"eigencam"}
    assert changed(before, seen(page)) > 1
    assert page.locator(".card .numbers:visible").all_text_contents() == ["width2", "width3", "width1"]
    assert page.locator(".legend:visible b").all_text_contents() == ["eigencam"]
    outlined = seen(page)
    page.get_by_label("Mask").uncheck()
    assert changed(outlined, seen(page)) > 0.3


def test_sorting_and_filters(opened, page_file):
    page = opened(page_file)
    assert shown(page) == ["wrong.jpg", "unsure10.jpg", "sure.jpg"]
    for order, names in {
        "most confident first": ["sure.jpg", "wrong.jpg", "unsure10.jpg"],
        "least confident first": ["unsure10.jpg", "wrong.jpg", "sure.jpg"],
        "file name": ["sure.jpg", "unsure10.jpg", "wrong.jpg"],
        "largest width": ["unsure10.jpg", "sure.jpg", "wrong.jpg"],
    }.items():
        page.get_by_label("Sort").select_option(order)
        assert shown(page) == names
    page.get_by_role("radio", name="eigencam").check()  # sorted by the widths that are shown
    assert shown(page) == ["unsure10.jpg", "wrong.jpg", "sure.jpg"]
    page.get_by_label("Result").select_option("wrong")
    assert shown(page) == ["wrong.jpg"]
    assert page.locator("#count").text_content() == "1 shown"
    page.get_by_label("Result").select_option("right")
    assert shown(page) == ["unsure10.jpg", "sure.jpg"]
    page.get_by_label("Class").select_option("dog")
    assert shown(page) == []
    assert page.locator("#none").is_visible()
    page.get_by_label("Result").select_option("all")
    assert shown(page) == ["wrong.jpg"]


def test_enlarged_by_keyboard(opened, page_file):
    from playwright.sync_api import expect

    page = opened(page_file)
    page.locator(".card .stage").first.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog")
    assert large.locator("h2").text_content() == "data/wrong.jpg"
    assert large.locator("figcaption").all_text_contents() == ["picture", "gradcam", "eigencam"]
    assert large.locator(".heat:visible").count() == 2
    page.keyboard.press("ArrowRight")
    assert large.locator("h2").text_content() == "data/unsure10.jpg"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert large.locator("h2").text_content() == "data/sure.jpg"
    page.keyboard.press("Escape")
    assert not large.is_visible()
    # The browser tells of a closed dialog a little later.
    expect(page.locator(".card").nth(2).locator(".stage")).to_be_focused()


def test_markup_in_names_stays_text(opened, tmp_path):
    name = "<b>.jpg"
    rows = [row(name, EVIL, "cat", 0.9, maps={"gradcam": {"max": 1.0, EVIL: 1.0}})] * 2
    page = opened(written(tmp_path, rows, {"gradcam": [peak(0, 0)] * 2}))
    assert shown(page) == [name, name]
    page.get_by_label("Class").select_option(EVIL)
    assert page.locator(".card .verdict").first.text_content() == f"✗ cat, is {EVIL}"
    page.locator(".card .stage").first.click()
    assert page.get_by_role("dialog").locator("h2").text_content() == f"data/{name}"
    assert page.locator("script").count() == 2


def test_light_and_dark(opened, page_file):
    def ground(page):
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    dark, light = (opened(page_file, color_scheme=scheme) for scheme in ("dark", "light"))
    assert ground(dark) != ground(light)
    dark.get_by_role("button", name="Light or dark").click()
    assert ground(dark) == ground(light)
    dark.reload()
    assert ground(dark) == ground(light)  # kept


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_every_width_is_usable(opened, page_file, width):
    page = opened(page_file, viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card .stage").first.click()
    assert page.get_by_role("dialog").evaluate("d => d.scrollWidth <= d.clientWidth && d.offsetWidth <= innerWidth")


def test_print_shows_every_picture_on_a4(opened, page_file, tmp_path):
    page = opened(page_file, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible()
    pdf = page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert {tuple(round(float(side) / 72 * 25.4) for side in box) for box in boxes} == {(210, 297)}
    assert len(re.findall(rb"/Subtype /Image", pdf)) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barriers(opened, page_file, trained_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    for path in (page_file, trained_page):
        page = opened(path, color_scheme=scheme)
        for enlarged in (False, True):
            if enlarged:
                page.locator(".card .stage").first.click()
            found = Axe().run(page).response["violations"]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.fixture(scope="module")
def trained_page(trained, tmp_path_factory):
    """A report of a training that is not run again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained.root)
        return report_of_training(tmp_path_factory.mktemp("report") / "training.html")


def report_of_training(page):
    from crackcam.models import checkpoint
    from crackcam.models.loaded import LoadedModel
    from crackcam.runtime import Runtime
    from crackcam.training import trainer

    path = Path("weights/model.safetensors")
    model, card = checkpoint.load(path, torch.device("cpu"))
    plan = plan_splits(Path("data"), 0.15, 0)
    splits = {
        name: pixels.load_split(name, plan.classes, files, Preprocessing(64), 2) for name, files in plan.files.items()
    }
    machine = Runtime(torch.device("cpu"), torch.float32, card.mean, card.std)
    result = trainer.final_report(model, machine, splits["test"], plan.classes, 8, 1.0)
    with Path("outputs/training.csv").open() as file:
        log = [{k: json.loads(v.lower()) if v else None for k, v in r.items()} for r in csv.DictReader(file)]
    history = [trainer.Epoch(**epoch) for epoch in log]
    report.write_training(page, LoadedModel(model, card, machine, path), splits, "test", result, history)
    return page


def test_charts_of_a_training_are_seen(opened, trained_page):
    page = opened(trained_page)
    charts = page.get_by_role("img", name=re.compile("epochs?: validation ends|share right by confidence"))
    assert charts.count() == 3
    cells = page.locator("table.matrix td b").all_text_contents()
    assert sum(map(int, cells)) == 12
    assert page.locator(".card").count() == 12 - int(cells[0]) - int(cells[3])
