"""The report as text: what it says, that all text is escaped, that nothing in it loads or runs but its own."""

import base64
import hashlib
import ntpath
import re
from datetime import datetime
from pathlib import PureWindowsPath

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from reports import EVIL, decoded, document, grey, peak, row, run_of, written

from crackcam.errors import UserError
from crackcam.models.checkpoint import BUNDLED
from crackcam.render import report
from crackcam.render.report import cards, content, numbers, page, tables


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


# -- heatmaps ----------------------------------------------------------------------------------------------------------


def test_a_heatmap_is_drawn_as_in_the_figures():
    """Half of the maximum: half of inferno, covering 0.5 ** 0.7 of the image."""
    heatmap = np.array([[0, 128, 255]], np.uint8)
    layer = cards.make_layer("gradcam", heatmap, cards.color_table(colormaps["inferno"]), {})
    pixels = np.asarray(decoded(layer.uri).convert("RGBA")).astype(int)[0]
    assert pixels[:, 3].tolist() == pytest.approx([0, 255 * 0.5**0.7, 255], abs=4)
    for pixel, value in zip(pixels, (0.0, 0.5, 1.0), strict=True):
        expected = [round(255 * channel) for channel in colormaps["inferno"](value)[:3]]
        assert pixel[:3].tolist() == pytest.approx(expected, abs=5)


def test_legends_say_what_the_colors_mean(tmp_path):
    rows, zero = [row("a.jpg", "cat", "cat", 0.9)], np.zeros((20, 30, 3), np.uint8)
    maps = {"evidence": [peak(0, 0)], "gradcam": [peak(0, 0)], "guidedbackprop": [zero]}
    html = written(tmp_path, rows, maps, probabilities=["evidence"]).read_text()
    legends = re.findall(r'<p class="legend" data-method="(\w+)"( hidden)?>(.*?)</p>', html)
    texts = [(method, hidden, re.sub(r"<b>.*?</b> |<img[^>]*>", "", text)) for method, hidden, text in legends]
    assert texts == [
        ("evidence", "", "0 %  100 %: probability of the class at each position"),
        ("gradcam", " hidden", "low  high, relative to the maximum of each image"),
        ("guidedbackprop", " hidden", "Signed image in its own colors, not a heatmap; grey is zero."),
    ]
    assert ["<img" in text for *_, text in legends] == [True, True, False]


@pytest.mark.parametrize(
    ("y", "x", "place"), [(1, 28, "upper right"), (10, 15, "middle"), (19, 0, "lower left"), (10, 2, "left")]
)
def test_heatmaps_are_described_for_screen_readers(y, x, place):
    assert cards.describe_peak(peak(y, x)) == f"maximum at the {place}"
    assert cards.describe_peak(peak(0, 0) * 0) == "zero everywhere"


def test_an_empty_heatmap_is_explained_where_it_is_shown(tmp_path):
    """Of the method that is shown, whatever others show."""
    rows = [row("a.jpg", "cat", "cat", 0.9, maps={"gradcam": {"max": 0.0}, "eigencam": {"max": 1.0}})]
    html = written(tmp_path, rows, {"gradcam": [peak(0, 0) * 0], "eigencam": [peak(0, 0)]}).read_text()
    notes = re.findall(r'<p class="remark" data-method="(\w+)"( hidden)?>(.*?)</p>', html)
    assert notes == [("gradcam", "", "no evidence for cat")]


def test_the_outline_of_a_mask_lies_over_the_image(tmp_path):
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:30] = True
    html = written(tmp_path, [row("a.jpg", "cat", "cat", 0.9)], {"gradcam": [peak(0, 0)]}, masks=[mask]).read_text()
    drawn = np.asarray(decoded(re.search(r'class="outline" src="([^"]*)"', html)[1]).convert("RGBA"))
    rows, columns = np.nonzero(drawn[..., 3])
    assert drawn.shape == (360, 480, 4)
    edges = (rows.min() / 12, rows.max() / 12, columns.min() / 12, columns.max() / 12)
    assert edges == pytest.approx((10, 20, 10, 30), abs=0.4)


# -- numbers and tables ------------------------------------------------------------------------------------------------


def test_numbers_are_shown_under_their_own_names(tmp_path):
    found = {"max": 0.5, "threshold": 0.1, "share": 0.034, "length": 1234.6, "boxes": [[1, 2, 3, 4]], "file": "m.npy"}
    rows = [row("a.jpg", "cat", "cat", 0.9, width_px=3, nothing=None, maps={"gradcam": found})]
    html = written(tmp_path, rows, {"gradcam": [peak(0, 0)]}).read_text()
    pairs = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd></div>", html)
    assert pairs[-4:] == [("width px", "3"), ("threshold", "0.1"), ("area fraction", "3.4 %"), ("length", "1,235")]


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (0.25, "share", "25.0 %"),
        (0.25, "covered_share", "25.0 %"),
        (0.25, "ap", "0.250"),
        (12000, "", "12,000"),
        (1234.6, "", "1,235"),
        (0.012345, "", "0.0123"),
    ],
)
def test_numbers_are_written_for_people(value, name, text):
    assert numbers.number_text(value, name) == text


def test_finite_numbers_are_found_at_any_depth():
    values = {"a": 1, "b": {"c": 2.5, "d": float("nan")}, "e": True, "f": "text", "g": [3], "h": 4}
    assert numbers.finite_numbers(values, ("h",)) == {"a": 1, "c": 2.5}


def test_scores_that_no_method_has_are_left_out():
    none = dict.fromkeys(numbers.MASK_SCORES)
    scores = [
        {"method": "layercam", "baseline": False, **none, "ap": 0.25, "iou": 0.125},
        {"method": "random", "baseline": True, **none, "ap": 0.5},
    ]
    metrics = [{"method": "layercam", "baseline": False, "insertion": 0.75, "deletion": 0.125}]
    assert tables.result_tables({"scores": scores, "metrics": metrics}) == [
        tables.Table(
            "Agreement with masks",
            ["method", "AP", "IoU"],
            [["layercam", "0.250", "0.125"], ["random (model-free baseline)", "0.500", "-"]],
            frozenset({1}),
        ),
        tables.Table(
            "Faithfulness to the model",
            ["method", "deletion (lower is better)", "insertion (higher)"],
            [["layercam", "0.125", "0.750"]],
        ),
    ]


def test_the_best_method_stands_beside_the_best_baseline():
    scores = [{"method": name, "baseline": name == "dark", "ap": ap} for name, ap in [("gradcam", 0.25), ("dark", 0.5)]]
    found = content.key_figures(document([row("a.jpg", "cat", "cat", 0.9)], scores=scores))
    assert found[-1] == ("best average precision", "0.250", "gradcam; model-free baseline dark: 0.500")


def test_what_is_not_a_number_is_null(tmp_path):
    scores = [
        {"method": "gradcam", "baseline": False, "cover_empty": float("nan"), **dict.fromkeys(numbers.MASK_SCORES, 0.5)}
    ]
    html = written(tmp_path, [row("a.jpg", None, "cat", 0.9)], {"gradcam": [peak(0, 0)]}, scores=scores).read_text()
    assert run_of(html)["scores"][0]["cover_empty"] is None


# -- the top -----------------------------------------------------------------------------------------------------------


def test_the_top_says_how_the_run_was_made():
    rows = [row("a.jpg", "cat", "cat", 0.9), row("b.jpg", "cat", "dog", 0.7)]
    found = content.describe(document(rows), datetime(2026, 3, 9, 8, 5))
    assert (found.title, found.model) == ("Predictions: cat", "resnet18, weights/model.safetensors")
    assert dict(found.facts) == {
        "command": "python xai.py --report",
        "model": "resnet18, weights/model.safetensors, SHA-256 abababababababab…",
        "images": "data, test split, seed 0",
        "device": "cpu, fp32",
        "versions": "torch 2.6",
        "created": "9 March 2026, 08:05",
    }
    assert found.key_figures == [
        ("images", "2", "predicted cat 1, dog 1"),
        ("correct", "50.0 %", "1 of 2"),
        ("mean confidence", "80.0 %", "minimum 70.0 %"),
    ]


@pytest.mark.parametrize(
    ("target", "title"), [("cat", "Evidence for cat"), ("predicted", "Evidence for the predicted class")]
)
def test_the_title_names_the_target(target, title):
    named = document([], methods={"gradcam": ["layer4"]}, target=target)
    assert content.describe(named, datetime(2026, 1, 1)).title == title


def test_every_page_names_its_model(tmp_path):
    checkpoint = {"file": str(BUNDLED), "sha256": "ab" * 32, "arch": "resnet18"}
    html = written(tmp_path, [row("a.jpg", "cat", "cat", 0.9)], checkpoint=checkpoint).read_text()
    assert f"Model: resnet18, bundled network ({BUNDLED.name})" in html


# -- pages -------------------------------------------------------------------------------------------------------------


def test_incorrect_images_come_first_then_the_least_confident(tmp_path):
    rows = [row("a.jpg", "cat", "cat", 0.9), row("b.jpg", "cat", "cat", 0.6), row("c.jpg", "cat", "dog", 0.99)]
    html = written(tmp_path, rows).read_text()
    assert re.findall(r"<h3[^>]*>(.)\.jpg", html) == ["c", "b", "a"]
    named = written(tmp_path, [{**r, "true": None} for r in rows]).read_text()
    assert re.findall(r"<h3[^>]*>(.)\.jpg", named) == ["a", "b", "c"]


def test_many_images_make_several_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", 2)
    rows = [row(f"{i}.jpg", "cat", "cat", 0.5 + i / 100) for i in range(5)]
    written(tmp_path, rows, name="my report.html")
    names = ["my report.html", "my report-2.html", "my report-3.html"]
    assert {p.name for p in tmp_path.iterdir()} == {*names}
    for number, name in enumerate(names):
        html = (tmp_path / name).read_text()
        here = range(2 * number, min(2 * number + 2, 5))
        assert re.findall(r"<h3[^>]*>(\d)\.jpg", html) == [str(i) for i in here]
        assert re.findall(r'<li><a href="([^"]*)"( aria-current="page")?', html) == [
            (other.replace(" ", "%20"), ' aria-current="page"' if other == name else "") for other in names
        ]
        assert [r["file"] for r in run_of(html)["pictures"]] == [rows[i]["file"] for i in here]
        assert "predicted cat 5" in html  # the top is about all pages


def test_many_images_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "FEW", 1)
    rows = [row(f"{i}.jpg", "cat", "cat", 0.9) for i in range(2)]
    maps = {"gradcam": [np.full((120, 160), 7, np.uint8)] * 2}
    html = written(tmp_path, rows, maps, images=grey(2, 600, 800)).read_text()
    sizes = [decoded(uri).size for uri in re.findall(r'<img class="(?:photo|heatmap)"[^>]*src="([^"]*)"', html)]
    assert sizes == [(256, 192), (96, 72)] * 2


def test_files_are_read_again_where_no_images_are_given(tmp_path):
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "red.png")
    rows = [{**row("a.jpg", "cat", "cat", 0.9), "file": str(tmp_path / "red.png")}]
    report.write(tmp_path / "page.html", document(rows))
    (uri,) = re.findall(r'class="photo" src="([^"]*)"', (tmp_path / "page.html").read_text())
    assert np.asarray(decoded(uri).convert("RGB")).mean(axis=(0, 1)) == pytest.approx((200, 10, 10), abs=4)
    (tmp_path / "red.png").unlink()
    with pytest.raises(UserError, match="red.png was readable when the run started"):
        report.write(tmp_path / "page.html", document(rows))


def test_names_that_are_no_text_do_not_stop_a_report(tmp_path):
    html = written(tmp_path, [row("\udcff.jpg", "cat", "cat", 0.9)]).read_text()
    assert "\\udcff.jpg" in html


@pytest.mark.parametrize(("size", "shape"), [((30, 20), "wide"), ((20, 30), "tall"), ((20, 21), "square")])
def test_the_shape_of_most_images_is_that_of_all(size, shape):
    assert cards.stage([size, size, (25, 25)]) == shape


def test_images_on_several_drives_have_no_common_folder(tmp_path, monkeypatch):
    """On Windows."""
    monkeypatch.setattr(content, "commonpath", ntpath.commonpath)
    monkeypatch.setattr(content, "Path", PureWindowsPath)
    one, other = ({"file": name} for name in ("C:\\a\\1.jpg", "D:\\b\\2.jpg"))
    assert content._origin({"pictures": [one, other]}) == ""
    assert content._origin({"pictures": [one], "split": "val", "seed": 7}) == "C:\\a, val split, seed 7"
    assert content._origin({"pictures": [one, {"file": "b\\3.jpg"}]}) == ""


def test_the_day_of_a_date_is_written_without_extensions_of_libc(monkeypatch):
    class Date(datetime):
        def __format__(self, form):
            assert "%-" not in form
            return super().__format__(form)

    facts = dict(content._facts(document([row("a.jpg", "cat", "cat", 0.9)]), Date(2026, 3, 5, 14, 7)))
    assert facts["created"] == "5 March 2026, 14:07"
