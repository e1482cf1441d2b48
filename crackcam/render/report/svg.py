"""Figures of matplotlib as inline SVG that takes on the colors of the page it stands in, light or dark.

matplotlib writes styles as ``style`` attributes, which the page's Content-Security-Policy forbids; here they become
attributes of their own, and its colors become the variables of the style sheet.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from crackcam.render.figures.fonts import fonts_for
from crackcam.render.figures.layout import CORRECT, GREY, GRID, INCORRECT, INK, PALE
from crackcam.render.figures.training import OVER, TRAIN, UNDER
from crackcam.text import visible

VARIABLES = {  # colors of the figures, and variables of the style sheet
    INK: "ink",
    PALE: "pale",
    GRID: "rule",
    GREY: "bar",
    TRAIN: "pale",
    CORRECT: "blue",
    INCORRECT: "red",
    OVER: "red-wash",
    UNDER: "blue-wash",
    "#cccccc": "rule",
    "#000000": "pale",  # axes
}
WIDEST = 5.0  # inches of a figure that fits a card
PIXELS = 90  # of the page, to the inch of a wide figure
DROPPED = {"metadata", "style"}  # elements
UNUSED = {"font", "font-family", "stroke-dashoffset", "stroke-linejoin", "stroke-miterlimit"}  # properties
_DECIMALS = re.compile(r"-?\d+\.\d+")


class InlineFigure(NamedTuple):
    """A figure of a page.

    Attributes:
        title: above it.
        svg: an element with a description for screen readers.
        wide: it keeps its size and is scrolled; others fit their card.
    """

    title: str
    svg: Markup
    wide: bool


def inline(figure: Figure, title: str, description: str) -> InlineFigure:
    """Turn a figure into markup.

    Args:
        figure: drawn in the colors of :data:`VARIABLES`; its background is left out.
        title: what stands above it.
        description: what it shows, in words.
    """
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    file = io.BytesIO()
    # browsers have fonts of their own
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}), fonts_for(figure, report=False):
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())  # noqa: S314 - written above
    _simplify(root, title.split()[0].lower())
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": visible(description)}
    width = figure.get_figwidth()
    if wide := width > WIDEST:
        root.attrib["width"] = f"{width * PIXELS:.0f}"
    return InlineFigure(title, Markup(ElementTree.tostring(root, "unicode")), wide)  # noqa: S704 - escaped by ElementTree


def _simplify(element: ElementTree.Element, prefix: str) -> None:
    """Rewrite an element and those in it as HTML takes them.

    Args:
        element: changed in place.
        prefix: of ids, which are unique on a page.
    """
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    for declaration in filter(None, attributes.pop("style", "").split(";")):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name not in UNUSED:
            attributes[name] = value
    for name, value in attributes.items():
        if name == "id":
            attributes[name] = prefix + value
        elif name == "href" and value.startswith("#"):
            attributes[name] = f"#{prefix}{value[1:]}"
        elif value.startswith("url(#"):
            attributes[name] = f"url(#{prefix}{value[5:]}"
        elif name in ("fill", "stroke"):
            variable = "card" if (name, value) == ("stroke", "#ffffff") else VARIABLES.get(value)  # gaps between cells
            attributes[name] = f"var(--{variable})" if variable else value
        elif name in ("d", "x", "y", "points", "transform"):
            attributes[name] = (
                _DECIMALS.sub(lambda number: f"{round(float(number[0]), 2):g}", value).replace("\n", " ").strip()
            )
    if element.tag == "g":
        attributes.pop("id", None)  # nothing refers to it
    element.attrib = attributes
    element.text, element.tail = (text if text and text.strip() else None for text in (element.text, element.tail))
    for child in list(element):
        if _local(child.tag) in DROPPED:
            element.remove(child)
        else:
            _simplify(child, prefix)


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]
