"""The report of a training: its figures as inline SVG, its tables, and which mistakes it shows."""

import functools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.figure import Figure
from reports import EVIL, grey, peak, row, training_document

from crackcam.render import report
from crackcam.render.figures.training import CELL, ON_CELL
from crackcam.render.report import svg, tables, training
from crackcam.training.report_data import most_confident_mistakes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("examined_once")]

STYLE = (Path(report.__file__).parents[1] / "templates/report.css").read_text()


def page(folder, **more):
    rows = [row(f"{i}.jpg", "cat", "dog", 0.9 - i / 10) for i in range(3)]
    heatmaps = report.Heatmaps({"gradcam": [peak(0, 0)] * 3}, colormaps["inferno"])
    report.write_training(folder / "training.html", {**training_document(rows), **more}, grey(3), heatmaps)
    return (folder / "training.html").read_text()


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return page(tmp_path_factory.mktemp("training"))


@functools.cache
def drawn():
    return figures()


def figures(**more):
    document = {**training_document([]), **more}
    return {found.title: ElementTree.fromstring(found.svg) for found in training.training_figures(document)}


def texts(figure):
    return [element.text for element in figure.iter("text")]


def test_figures_stand_in_the_page_and_obey_its_policy(html):
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == [
        "Loss",
        "Accuracy",
        "Reliability",
        "Confusion matrix",
    ]
    assert not re.search(r"\son\w+=|\sstyle=|https?://|<metadata|xmlns", html)
    assert len(html) < 150_000


def test_figures_are_described_in_words():
    assert [found.get("aria-label") for found in drawn().values()] == [
        "loss over 2 epochs: validation ends at 0.75",
        "accuracy over 2 epochs: validation ends at 75.0 %",
        "accuracy by confidence: expected calibration error 25.0 %",
        "confusion matrix: cat: 4 of 5 correct; dog: 3 of 5 correct",
    ]


def test_all_colors_follow_the_theme_but_those_of_cells():
    colors = {
        element.get(name)
        for figure in drawn().values()
        for element in figure.iter()
        for name in ("fill", "stroke")
        if element.get(name) and not element.get(name).startswith("url(")
    }
    variables = {re.fullmatch(r"var\(--([\w-]+)\)", color)[1] for color in colors if color.startswith("var")}
    assert {"ink", "pale", "rule", "blue", "card"} <= variables
    assert all(f"--{name}: " in STYLE for name in variables)
    assert {color for color in colors if not color.startswith("var")} <= {"none", CELL, ON_CELL}


def test_ids_are_unique_on_a_page(html):
    ids = re.findall(r'\sid="([^"]*)"', html)
    referred = re.findall(r'url\(#([^)]*)\)|href="#(\w+)"', html)
    assert len(ids) == len(set(ids))
    assert {one or other for one, other in referred} <= {*ids}
    assert len(referred) > 10


def test_a_linear_probe_makes_no_curve():
    history = training_document([])["history"][:1]
    assert [*figures(history=history)] == ["Reliability", "Confusion matrix"]


def test_a_confusion_matrix_shows_counts_and_percentages():
    found = texts(drawn()["Confusion matrix"])
    assert [text for text in found if text.isdigit()] == ["4", "1", "2", "3"]
    assert [text for text in found if text.endswith("%")] == ["80.0 %", "20.0 %", "40.0 %", "60.0 %"]


@pytest.mark.parametrize(("classes", "wide"), [(2, False), (8, False), (9, True)])
def test_a_large_matrix_keeps_its_size(classes, wide):
    names = [f"class{i}" for i in range(classes)]
    document = {**training_document([]), "classes": names, "confusion": np.eye(classes, dtype=int).tolist()}
    (found,) = (figure for figure in training.training_figures(document) if figure.title == "Confusion matrix")
    assert found.wide == wide
    assert (ElementTree.fromstring(found.svg).get("width") is not None) == wide


def test_many_classes_are_listed_instead():
    classes = [f"class{i}" for i in range(21)]
    confusion = np.eye(21, dtype=int) * 9
    confusion[3, 5] = 2
    assert "Confusion matrix" not in figures(classes=classes, confusion=confusion.tolist())
    per_class = {name: {"precision": 1, "recall": 1, "f1": 1.0, "pictures": 9} for name in classes}
    many = {**training_document([]), "classes": classes, "confusion": confusion.tolist()}
    many["metrics"] = {**many["metrics"], "per_class": per_class}
    (found,) = (table for table in tables.training_tables(many) if table.caption == "Most frequent confusions")
    assert found.rows == [["class3", "class5", "2"]]


def test_reliability_is_drawn_where_there_are_predictions():
    """Two bins of three are empty; 3 predictions at 0.75, all of them correct."""
    bars = [path for path in drawn()["Reliability"].iter("path") if path.get("fill") == "var(--bar)"]
    assert len(bars) == 1
    assert "3" in texts(drawn()["Reliability"])


def test_names_of_classes_are_escaped(tmp_path):
    scores = training_document([])["metrics"]["per_class"]["cat"]
    metrics = {**training_document([])["metrics"], "per_class": {EVIL: scores, "dog": scores}}
    html = page(tmp_path, classes=[EVIL, "dog"], metrics=metrics)
    assert html.count("<script") == 2
    assert "&lt;script&gt;" in html or "&lt;scrip" in html


def test_a_page_without_mistakes_says_so(tmp_path):
    report.write_training(tmp_path / "page.html", {**training_document([]), "mistakes": 0, "methods": {}}, [], None)
    html = (tmp_path / "page.html").read_text()
    assert '<h2 id="shown">No mistakes</h2>' in html
    assert "Most frequent confusions" not in html


def test_inline_figures_have_no_background_and_keep_their_shape():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [0, 1], color="#222222")
    found = ElementTree.fromstring(svg.inline(figure, "A line", 'rising "steadily"').svg)
    assert (found.tag, found.get("role"), found.get("aria-label")) == ("svg", "img", 'rising "steadily"')
    assert [round(float(number)) for number in found.get("viewBox").split()] == [0, 0, 216, 144]
    assert {element.get("fill") for element in found.iter("path")} <= {None, "none", "var(--pale)"}


# -- which mistakes ----------------------------------------------------------------------------------------------------


def test_the_most_confident_mistakes_come_first():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    assert most_confident_mistakes(probabilities, np.array([1, 1, 1, 1])) == [1, 3, 0]
    assert most_confident_mistakes(probabilities, np.array([1, 1, 1, 1]), 2) == [1, 3]
    assert most_confident_mistakes(probabilities, np.array([0, 0, 1, 0])) == []


def test_a_page_of_a_thousand_classes_stays_small(tmp_path):
    classes = [f"class with a long name {i}" for i in range(1000)]
    confusion = np.eye(1000, dtype=int) * 1000
    scores = dict.fromkeys(classes, training_document([])["metrics"]["per_class"]["cat"])
    metrics = {**training_document([])["metrics"], "per_class": scores}
    html = page(tmp_path, classes=classes, confusion=confusion.tolist(), metrics=metrics)
    assert len(html) < 1e6
    assert "Confusion matrix" not in html
    assert '"confusion": [[' in page(tmp_path)
