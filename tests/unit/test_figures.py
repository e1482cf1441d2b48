"""Figures: their layout, and that they show what they are given."""

import io

import numpy as np
import pytest
from PIL import Image

from crackcam.models.checkpoint import BUNDLED
from crackcam.render import figures
from crackcam.render.figures import comparison_table, grids, training
from crackcam.render.overlays import choose_style

GREY = np.full((60, 60, 3), 128, np.uint8)


def tile(true="cat", **more):
    return figures.Tile(GREY, "a.jpg", {"cat": 0.8, "dog": 0.2}, true, **more)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def drawn_texts(monkeypatch, module, draw):
    """All texts of the figure that a function saves."""
    kept = []
    monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
    draw()
    (figure,) = kept
    figure.savefig(io.BytesIO(), format="png")
    found = [*figure.texts, *(text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label))]
    return [text.get_text() for text in found]


def test_an_incorrect_tile_has_a_red_frame(tmp_path):
    def reds(true):
        figures.prediction_grid(tmp_path / "grid.png", "title", [tile(true)])
        found = pixels(tmp_path / "grid.png")
        return int(((found[..., 0] > 150) & (found[..., 1] < 90)).sum())

    assert reds("cat") == 0
    assert reds("dog") > 1000
    assert reds(None) == 0


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 3), (9, 3, 3), (12, 3, 4)]
)
def test_grid_shape(count, rows, columns):
    _, cells = grids._grid(count, "title", 0.4)
    lefts = {round(image.get_position().x0, 4) for image, _ in cells}
    tops = {round(image.get_position().y0, 4) for image, _ in cells}
    assert (len(tops), len(lefts), len(cells)) == (rows, columns, count)


@pytest.mark.parametrize("model", ["", "resnet18, weights/model.safetensors"])
def test_axes_do_not_overlap_and_stay_inside(model):
    figure, _ = grids._grid(6, "title", 0.4, model, choose_style("overlay", None))
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 and box.y1 <= 1 for box in boxes)
    for i, box in enumerate(boxes):
        for other in boxes[:i]:
            apart = (
                box.x0 > other.x1 - 1e-9
                or other.x0 > box.x1 - 1e-9
                or box.y0 > other.y1 - 1e-9
                or other.y0 > box.y1 - 1e-9
            )
            assert apart


@pytest.mark.parametrize(
    ("draw", "module"),
    [
        (lambda path, model: figures.prediction_grid(path, "title", [tile()], model=model), grids),
        (
            lambda path, model: figures.heatmap_grid(
                path, "title", [tile()], choose_style("overlay", None), model=model
            ),
            grids,
        ),
        (lambda path, model: figures.detection_grid(path, "title", [tile()], model=model), grids),
        (
            lambda path, model: figures.comparison(
                path,
                "title",
                ["prediction", "gradcam"],
                [figures.ComparisonRow(tile(), [GREY])],
                choose_style("overlay", None),
                model,
            ),
            comparison_table,
        ),
        (
            lambda path, model: figures.confusion_matrix(path, np.eye(2, dtype=int), ["a", "b"], "title", model),
            training,
        ),
    ],
)
def test_every_figure_names_its_model(tmp_path, monkeypatch, draw, module):
    def found(model):
        return [
            text
            for text in drawn_texts(monkeypatch, module, lambda: draw(tmp_path / "x.png", model))
            if "Model" in text
        ]

    if module is training:  # its model is a label of the whole figure
        draw(tmp_path / "with.png", "resnet18")
        draw(tmp_path / "without.png", "")
        assert Image.open(tmp_path / "with.png").height > Image.open(tmp_path / "without.png").height
        return
    assert found("resnet18, w.safetensors") == ["Model: resnet18, w.safetensors"]
    assert found("") == []


def test_a_color_bar_only_where_colors_have_a_unit():
    styles = choose_style("overlay", None), choose_style("mask", None)
    counts = [len(grids._grid(2, "title", 0.4, "", style)[0].axes) for style in styles]
    assert counts == [5, 4]


def test_a_comparison_captions_its_images(tmp_path, monkeypatch):
    rows = [figures.ComparisonRow(tile("dog"), [GREY, GREY], ["AP 0.50", "AP 0.25"])]
    columns = ["prediction, mask", "gradcam", "layercam"]
    style = choose_style("overlay", None)
    found = drawn_texts(
        monkeypatch, comparison_table, lambda: figures.comparison(tmp_path / "x.png", "title", columns, rows, style)
    )
    assert [text for text in found if text] == [
        "title",
        "cat 80.0 %",
        "prediction, mask",
        "AP 0.50",
        "gradcam",
        "AP 0.25",
        "layercam",
        style.unit,
    ]


def test_only_the_best_boxes_are_named():
    figure, cells = grids._grid(1, "title", 0.4)
    boxes = [figures.Box((i, i, i + 9, i + 9), f"box {i}", i) for i in range(15)]
    grids.draw_boxes(cells[0][0], boxes)
    assert {text.get_text() for text in cells[0][0].texts} == {f"box {i}" for i in range(12)}
    assert len(cells[0][0].patches) == 15


@pytest.mark.parametrize("count", [2, 12, 31, 1000])
def test_a_confusion_matrix_of_any_number_of_classes(tmp_path, count):
    counts = np.eye(count, dtype=int) * 7
    figures.confusion_matrix(tmp_path / "matrix.png", counts, [f"class {i}" for i in range(count)], "title")
    found = pixels(tmp_path / "matrix.png")
    assert max(found.shape) <= 2000
    blue = (found[..., 2] > found[..., 0] + 60).mean()
    assert blue > (0.1 if count == 2 else 0.0005)


def test_steps_name_the_channels_that_matter():
    weights = np.array([1, -1, 0.5, -0.5, 0.1, 0.2], np.float32)
    steps = figures.AnatomySteps(
        "cat",
        np.ones((6, 2, 3), np.float32),
        np.tile(weights[:, None, None], (1, 2, 3)),
        weights,
        np.zeros((2, 3)),
        GREY,
    )
    assert steps.contributions.tolist() == pytest.approx(weights.tolist())
    assert steps.extremes == [0, 2, 5, 3, 1]
    assert steps.uniform


@pytest.mark.parametrize("channels", [3, 40])
def test_anatomy_is_drawn_for_few_and_many_channels(tmp_path, channels):
    generator = np.random.default_rng(0)
    activations, gradients = generator.normal(size=(2, channels, 4, 5)).astype(np.float32)
    weights = gradients.mean(axis=(1, 2))
    total = np.einsum("c,chw->hw", weights, activations)
    steps = figures.AnatomySteps("cat", activations, gradients, weights, total, GREY)
    assert not steps.uniform
    figures.anatomy(tmp_path / "anatomy.png", "title", tile(), steps, "resnet18")
    assert Image.open(tmp_path / "anatomy.png").size == (1380, 1008)


def test_long_titles_are_shortened():
    figure, _ = grids._grid(1, "a" * 500, 0.4, "b" * 500)
    assert all(text.get_window_extent().width < figure.bbox.width for text in figure.texts)


def test_dollars_are_no_formulas(tmp_path):
    named = figures.Tile(GREY, "$x^2$.jpg", {"$cat$": 1.0}, None)
    figures.prediction_grid(tmp_path / "grid.png", "$\\frac$", [named], model="$resnet$")  # a formula that is none
    assert Image.open(tmp_path / "grid.png").width > 100


def test_the_bundled_network_is_named_as_such():
    assert figures.model_label("resnet18") == "resnet18"
    assert figures.model_label("resnet18", "ImageNet weights") == "resnet18, ImageNet weights"
    assert figures.model_label("resnet18", BUNDLED) == f"resnet18, bundled network ({BUNDLED.name})"
