"""Names in any script in figures: installed fonts, one message where there is none, no warning of matplotlib."""

import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from crackcam.render import figures
from crackcam.render.figures import fonts
from crackcam.render.report.svg import inline

pytestmark = pytest.mark.slow

CAT, DOG = "\u732b", "\u72ac"  # Chinese
EMOJI, ARABIC = "\U0001f9a9", "\u0642\u0637\u0629"


def font_with(path, characters, family):
    """A font file whose characters are solid squares as high as a line."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000)
    names = [f"glyph{i}" for i in range(len(characters))]
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(c): name for c, name in zip(characters, names, strict=True)})
    square = pen.glyph()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), **dict.fromkeys(names, square)})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs fonts in addition to those of matplotlib; none of the machine's is seen."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    paths = []
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(paths))
    monkeypatch.setattr(fonts, "_reported", set())
    fonts._families.cache_clear()

    def install(characters, family):
        paths.append(font_with(tmp_path / f"{family}.ttf", characters, family))
        fonts._families.cache_clear()

    yield install
    fonts._families.cache_clear()


def darkness(tmp_path, text):
    figure = Figure(figsize=(2, 1), dpi=100)
    figure.text(0.1, 0.3, text, fontsize=40)
    with fonts.fonts_for(figure):
        figure.savefig(tmp_path / "x.png")
    from PIL import Image

    return float((np.asarray(Image.open(tmp_path / "x.png").convert("L")) < 60).sum())


def test_an_installed_font_is_found_for_each_character(tmp_path, installed, caplog):
    installed(CAT, "Cats")
    installed(DOG, "Dogs")
    square = (0.9 * 40 / 72 * 100) ** 2  # pixels: nine tenths of 40 points, at 100 to the inch
    assert darkness(tmp_path, CAT) == pytest.approx(square, rel=0.1)
    assert darkness(tmp_path, CAT + DOG) == pytest.approx(2 * square, rel=0.1)
    assert not caplog.messages


@pytest.mark.filterwarnings("error")
def test_one_message_where_no_font_is_installed(tmp_path, installed, caplog):
    caplog.set_level(logging.INFO)
    names = [CAT, DOG, EMOJI]
    tile = figures.Tile(np.zeros((9, 9, 3), np.uint8), f"{CAT}.jpg", {CAT: 0.9, DOG: 0.1}, DOG)
    figures.prediction_grid(tmp_path / "grid.png", f"{CAT}: 1 of 1", [tile])
    figures.confusion_matrix(tmp_path / "matrix.png", np.eye(2, dtype=int), [CAT, DOG], "title")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"no installed font has 2 characters ({DOG} {CAT}): figures show boxes")
    figures.confusion_matrix(tmp_path / "matrix.png", np.eye(3, dtype=int), names, "title")
    assert len(caplog.messages) == 2
    assert f"1 character ({EMOJI})" in caplog.messages[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [CAT, ARABIC, EMOJI, "Br\u00fcche", "e\u0301", "$\u732b$"])
def test_class_names_of_any_script_in_every_figure(tmp_path, installed, name):
    classes = [name, "plain"]
    history = [
        {"epoch": e, "best": e == 1, "train_loss": 1.0, "val_loss": 1.0, "train_accuracy": 0.5, "val_accuracy": 0.5}
        for e in (1, 2)
    ]
    figures.training_curves(tmp_path / "curves.png", history, name, name)
    figures.confusion_matrix(tmp_path / "matrix.png", np.eye(2, dtype=int), classes, name, name)
    assert (tmp_path / "matrix.png").stat().st_size > 5000


@pytest.mark.filterwarnings("error")
def test_names_in_a_page_stay_text_for_the_browsers_fonts(installed, caplog):
    figure = Figure(figsize=(2, 1))
    figure.subplots().set_xticks([0, 1], [CAT, DOG])
    found = inline(figure, "Title", "description")
    assert CAT in found.svg
    assert DOG in found.svg
    assert not caplog.messages
