"""--report of the three scripts: what gets into the page."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import TINY_TRAINING
from reports import decoded, run_of
from sklearn.metrics import average_precision_score

import inference
import train
import xai
from crackcam.data import images
from crackcam.render import report
from crackcam.render.overlays import PROBABILITY
from crackcam.render.report import cards

SMALL_TRAINING = [*TINY_TRAINING, "--arch", "squeezenet1_1"]


def test_xai_writes_a_report(place, capsys):
    flags = ["--method", "gradcam,eigencam,guidedbackprop", "--masks", "data/masks", "--num", "3", "--report", "--json"]
    assert xai.main(flags) == 0
    printed = json.loads(capsys.readouterr().out)
    html = Path("outputs/report.html").read_text()
    assert printed["report"] == "outputs/report.html"
    in_page = run_of(html)
    assert len(in_page["pictures"]) == 3
    assert {r["file"] for r in in_page["pictures"]} == {r["file"] for r in printed["pictures"]}
    assert html.count('class="heatmap"') == 9
    assert html.count('class="outline"') == 3
    masks = [images.read_image(Path("data/masks") / f"{Path(r['file']).stem}.png").any() for r in printed["pictures"]]
    assert all(masks)
    assert xai.main(["--method", "gradcam", "--num", "3", "--save-maps", "maps"]) == 0
    for r in printed["pictures"]:
        stem = Path(r["file"]).stem
        mask, heat = images.read_image(Path(f"data/masks/{stem}.png")).mean(axis=2) > 127, np.load(f"maps/{stem}.npy")
        assert r["maps"]["gradcam"]["ap"] == pytest.approx(
            average_precision_score(mask.ravel(), heat.ravel()), abs=1e-4
        )
        assert f"<dt>AP</dt><dd>{r['maps']['gradcam']['ap']:.3f}</dd>" in html


def test_the_report_shows_maps_as_they_are_drawn(place, capsys, monkeypatch):
    """Refined heatmaps, and the regions in them."""
    shown = []
    monkeypatch.setattr(
        report,
        "write",
        lambda path, document, images, heatmaps, *rest: shown.append((document, images, heatmaps.by_method)),
    )
    flags = ["--method", "gradcam", "--num", "1", "--refine", "lines", "--style", "mask"]
    assert xai.main([*flags, "--save-maps", "maps", "--report"]) == 0
    ((document, (image,), maps),) = shown
    (saved,) = (np.load(path) for path in Path("maps").iterdir())
    ((small,),) = maps.values()
    assert (image.shape[:2], small.shape) == (saved.shape, (160, 160))
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
    assert 'class="heatmap"' not in html


def test_a_report_of_every_image(place, capsys):
    (Path("data/test/Positive") / "cut.jpg").write_bytes(b"\xff\xd8 broken")
    assert inference.main(["--all", "--report"]) == 0
    html = Path("outputs/report.html").read_text()
    assert html.count('class="photo"') == 12
    assert "cut.jpg" in html.split("<caption>Unreadable files")[1]
    with Path("outputs/predictions_all.csv").open() as file:
        table = {r["file"]: r["predicted"] for r in csv.DictReader(file) if not r["error"]}
    assert {r["file"]: r["predicted"] for r in run_of(html)["pictures"]} == table


def test_training_writes_a_report(fresh, capsys):
    copied = sorted(Path("data/train/Positive").iterdir())[0]
    shutil.copy(copied, Path("data/test/Positive/copied.jpg"))
    assert train.main([*SMALL_TRAINING, "--report"]) == 0
    assert "outputs/report.html" in capsys.readouterr().out.splitlines()[-1]
    html = Path("outputs/report.html").read_text()
    run = run_of(html)
    assert sum(map(sum, run["confusion"])) == run["scored"] == 13
    wrong = run["scored"] - np.trace(np.array(run["confusion"]))
    assert run["mistakes"] == len(run["pictures"]) == html.count('class="photo"') == wrong
    assert wrong > 0
    assert html.count('class="heatmap"') == wrong
    sure = [r["probabilities"][r["predicted"]] for r in run["pictures"]]
    assert sure == sorted(sure, reverse=True)
    assert all(r["predicted"] != r["true"] and r["target"] == r["predicted"] for r in run["pictures"])
    assert "in different splits: the model is scored on an image that it was trained on" in html
    assert run["summary"]["duplicates"][0]["files"] == [str(copied), "data/test/Positive/copied.jpg"]
    assert html.count('role="img"') == 4
    assert run["near_duplicates"] == {"val": 0, "test": 1}
    rows = html.split("<caption>Near-duplicates of training images")[1].split("</table>")[0]
    assert {*re.findall(r'<th scope="row">(\w+)</th><td>(\d+)</td>', rows)} == {("val", "0"), ("test", "1")}
    assert sum(run["reliability"]["count"]) == 13


def test_a_multiscale_network_is_reported_by_its_evidence(fresh, capsys):
    assert train.main([*SMALL_TRAINING, "--head", "multiscale", "--report"]) == 0
    run = run_of(Path("outputs/report.html").read_text())
    assert run["mistakes"] > 0
    assert [*run["methods"]] == ["evidence"]
    assert xai.main(["--num", "1", "--report", "--save-maps", "maps"]) == 0
    html = Path("outputs/report.html").read_text()
    (heat,) = (np.load(path) for path in Path("maps").iterdir())
    drawn = decoded(re.search(r'class="heatmap"[^>]*src="([^"]*)"', html)[1])
    levels = np.asarray(drawn).astype(float) / (cards.LEVELS - 1)
    assert (levels.min(), levels.max()) == pytest.approx((heat.min(), heat.max()), abs=0.02)
    assert f"100 %: {PROBABILITY}" in html


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
