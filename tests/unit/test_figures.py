"""Figures: their layout, and that they show what they are given."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from PIL import Image

from crackcam.models.checkpoint import BUNDLED
from crackcam.render import figures
from crackcam.render.figures import comparison_table, grids, layout, training
from crackcam.render.figures.tiles import PlacedImage
from crackcam.render.overlays import choose_style

pytestmark = pytest.mark.slow

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
    lefts = {round(cell.image.x0, 4) for cell in cells}
    tops = {round(cell.image.y1, 4) for cell in cells}
    assert (len(tops), len(lefts), len(cells)) == (rows, columns, count)


@pytest.mark.parametrize("model", ["", "resnet18, weights/model.safetensors"])
def test_cells_do_not_overlap_and_stay_inside(model):
    figure, cells = grids._grid(6, "title", 0.4, model, choose_style("overlay", None))
    (bar,) = figure.axes
    boxes = [*itertools.chain(*cells), bar.get_window_extent().transformed(figure.dpi_scale_trans.inverted())]
    width, height = figure.get_size_inches()
    assert len(boxes) == 13
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
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
    assert counts == [1, 0]


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
    figure = Figure()
    boxes = [figures.Box((i, i, i + 9, i + 9), f"box {i}", i) for i in range(15)]
    PlacedImage(figure, GREY, Bbox.unit()).draw_boxes(boxes)
    assert {text.get_text() for text in figure.texts} == {f"box {i}" for i in range(12)}
    assert sum(isinstance(found, Rectangle) for found in figure.get_children()) == 15 + 1  # with the background


def test_a_box_lies_on_its_pixels(tmp_path):
    image = np.zeros((50, 100, 3), np.uint8)
    image[10:30, 20:60] = 255
    boxed = figures.Tile(image, "a.jpg", {"cat": 1.0}, None, boxes=[figures.Box((19.5, 9.5, 59.5, 29.5), "", 0)])
    figures.detection_grid(tmp_path / "boxed.png", "title", [boxed])
    figures.detection_grid(tmp_path / "plain.png", "title", [boxed._replace(boxes=())])
    plain, found = pixels(tmp_path / "plain.png"), pixels(tmp_path / "boxed.png")
    dark = (plain.max(axis=2) < 20).nonzero()
    inside = plain[dark[0].min() : dark[0].max(), dark[1].min() : dark[1].max()].min(axis=2) > 128
    colored = np.ptp(found[dark[0].min() : dark[0].max(), dark[1].min() : dark[1].max()], axis=2) > 100
    for white, line in zip(inside.nonzero(), colored.nonzero(), strict=True):
        assert abs(int(line.min()) - int(white.min())) <= 2
        assert abs(int(line.max()) - int(white.max())) <= 2


@pytest.mark.parametrize("count", [2, 12, 31])
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


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("title", ["gradcam: evidence for the predicted class, at features.12.conv", "a" * 200])
def test_titles_are_wrapped_and_never_cut(count, title):
    figure, cells = grids._grid(
        count, title, 0.4, "resnet18, a/long/path/of/weights_" + "b" * 150, choose_style("overlay", None)
    )
    texts = [(text.get_text(), text.get_window_extent()) for text in figure.texts]
    lines = [text for text, _ in texts]
    height = len(layout.heading(title, figure.get_figwidth()))
    assert "".join(lines[:height]).replace(" ", "") == title.replace(" ", "")
    assert "b" * 150 in "".join(reversed(lines[height:])).replace(" ", "")
    whole = figure.bbox
    assert all(box.x0 > 0 and box.x1 < whole.width and box.y0 > 0 and box.y1 < whole.height for _, box in texts)
    highest = max(cell.image.y1 for cell in cells) * figure.dpi
    assert min(box.y0 for _, box in texts[:height]) - highest > 0.2 * figure.dpi  # room for the names of the images
    places = [box.transformed(figure.dpi_scale_trans) for cell in cells for box in cell]
    boxes = [*(box for _, box in texts), *places, *(axes.get_window_extent() for axes in figure.axes)]
    for i, box in enumerate(boxes):
        beside = [box.x1 <= other.x0 or other.x1 <= box.x0 for other in boxes[:i]]
        above = [box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1 for other in boxes[:i]]
        assert all(a or b for a, b in zip(beside, above, strict=True))


def test_the_title_of_a_training_figure_is_wrapped(tmp_path, monkeypatch):
    title = "test split of a data set with a long name, accuracy 98.7 %, ECE 0.0123 (0.0456 before calibration)"
    kept = []
    monkeypatch.setattr(training, "save", lambda figure, path: kept.append(figure))
    figures.confusion_matrix(tmp_path / "x.png", np.eye(2, dtype=int), ["a", "b"], title, "resnet18")
    (figure,) = kept
    figure.canvas.draw()
    heading = figure._suptitle
    assert heading.get_text().replace("\n", " ") == title
    box = heading.get_window_extent()
    assert box.x0 > 0
    assert box.x1 < figure.bbox.width


def test_large_figures_get_a_lower_resolution():
    assert layout.resolution(9, 9) == figures.DPI
    for width, height in ((300, 280), (5, 900), (2000, 3)):
        dpi = layout.resolution(width, height)
        assert width * height * dpi**2 <= 64e6 * 1.001
        assert max(width, height) * dpi <= 30_001


def test_no_figure_grows_with_the_classes_that_are_asked_for():
    many = figures.Tile(GREY, "a.jpg", {f"class {i}": 0.001 for i in range(1000)}, None)
    heights = []
    for draw in (
        lambda count: figures.prediction_grid(None, "title", [many], count),
        lambda count: figures.heatmap_grid(None, "title", [many], choose_style("overlay", None), count),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grids, "save", lambda figure, path: heights.append(figure.get_figheight()))
            draw(10)
            draw(1000)
    assert heights[0] == heights[1] < 7
    assert heights[2] == heights[3] < 7


@pytest.mark.parametrize("count", [120, 1000])
def test_a_large_confusion_matrix_has_no_texts_in_its_cells(monkeypatch, count, tmp_path):
    names = [f"a class with a long name, number {i}" for i in range(count)]
    found = drawn_texts(
        monkeypatch,
        training,
        lambda: figures.confusion_matrix(tmp_path / "x.png", np.ones((count, count), int), names, "title"),
    )
    assert [text for text in found if text] == ["title", "predicted class"]


def test_dollars_are_no_formulas(tmp_path):
    named = figures.Tile(GREY, "$x^2$.jpg", {"$cat$": 1.0}, None)
    figures.prediction_grid(tmp_path / "grid.png", "$\\frac$", [named], model="$resnet$")  # a formula that is none
    assert Image.open(tmp_path / "grid.png").width > 100


def test_the_bundled_network_is_named_as_such():
    assert figures.model_label("resnet18") == "resnet18"
    assert figures.model_label("resnet18", "ImageNet weights") == "resnet18, ImageNet weights"
    assert figures.model_label("resnet18", BUNDLED) == f"resnet18, bundled network ({BUNDLED.name})"
