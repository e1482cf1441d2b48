"""Write the pages of a report from its document, its images and its templates.

How templates become pages, and what these may load: :mod:`crackcam.render.report.templates`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crackcam.files import write_atomically
from crackcam.render.report.cards import (
    Card,
    Heatmaps,
    Sources,
    confidence,
    is_incorrect,
    legend_bar,
    sortable,
    stage,
)
from crackcam.render.report.content import Content, describe, is_training
from crackcam.render.report.numbers import without_nan
from crackcam.render.report.training import MATRIX
from crackcam.text import counted

logger = logging.getLogger(__name__)

PAGE = 2000  # images on a page; more make report-2.html and so on
OPACITY = 75  # percent, as in the figures
BARS = 3  # classes whose probability a card shows
SWITCHES = 5  # more methods are a list


class Pages(NamedTuple):
    """The pages of a report: the file names of all, and which of them this is, from 0."""

    names: Sequence[str]
    number: int


def write(
    path: Path,
    document: dict,
    images: Sequence[np.ndarray] | None = None,
    heatmaps: Heatmaps | None = None,
    masks: Sequence[np.ndarray] = (),
) -> None:
    """Write a report, atomically: ``path``, and pages beside it where there are many images.

    Args:
        path: ends in .html.
        document: as the scripts write it beside their figures.
        images: (H, W, 3) uint8, one for each row of ``document["pictures"]``; None: their files are read again.
        heatmaps: of the images.
        masks: (H, W) bool, one for each image; or none.

    Raises:
        UserError: a file that has to be read again cannot be read any more.
    """
    rows, date = document["pictures"], datetime.now()
    order = list(range(len(rows)))
    if not is_training(document) and any(row["true"] is not None for row in rows):
        order.sort(key=lambda i: (not is_incorrect(rows[i]), confidence(rows[i])))
    parts = [order[start : start + PAGE] for start in range(0, len(order), PAGE)] or [[]]
    names = [path.name, *(f"{path.stem}-{number}{path.suffix}" for number in range(2, len(parts) + 1))]
    sources, content, written = Sources(rows, images, heatmaps, masks), describe(document, date), 0
    for number, chosen in reversed(list(enumerate(parts))):  # the first one last: what it links to is there
        part = {**document, "pictures": [rows[i] for i in chosen]}
        html = _render(part, content, sources, sources.cards(chosen), Pages(names, number))
        page = html.encode("utf-8", "backslashreplace")  # names of files need not be text
        write_atomically(path.with_name(names[number]), functools.partial(Path.write_bytes, data=page))
        written += len(page)
    size = counted(len(parts), "page") if len(parts) > 1 else counted(len(rows), "image")
    logger.info(f"report: {path}, {size}, {written / 1e6:.1f} MB")


def write_training(path: Path, document: dict, images: Sequence[np.ndarray], heatmaps: Heatmaps | None) -> None:
    """Write the report of a training: curves, confusion matrix, calibration, its most confident mistakes, the data.

    Args:
        path: ends in .html.
        document: from :func:`crackcam.training.report_data.training_document`.
        images: (H, W, 3) uint8, of the mistakes, in the order of the document's rows.
        heatmaps: of the mistakes, if there are any.
    """
    write(path, document, images, heatmaps)


def _render(document: dict, content: Content, sources: Sources, cards: list[Card], pages: Pages) -> str:
    """One page; the document's ``pictures`` are those of this page."""
    from crackcam.render.report.templates import assets, environment  # slow to import, and only of use here

    template = environment().get_template("report.html")
    return template.render(
        **assets(["report.css"], ["base.js", "report.js"]),
        **content._asdict(),
        **_controls(document, sources.heatmaps, cards),
        document=without_nan(_embedded(document)),
        training=is_training(document),
        cards=cards,
        bars=BARS,
        names=pages.names,
        page=pages.number,
        sides=sources.sides,
    )


def _embedded(document: dict) -> dict:
    """The document as the page holds it: without a confusion matrix that would be larger than all the rest."""
    large = len(document.get("confusion", ())) > MATRIX
    return {name: value for name, value in document.items() if not (large and name == "confusion")}


def _controls(document: dict, heatmaps: Heatmaps | None, cards: list[Card]) -> dict[str, Any]:
    """What images can be shown, sorted and filtered by."""
    rows, methods = document["pictures"], list(document.get("methods", {}))
    return {
        "methods": methods,
        "switches": SWITCHES,
        "opacity": OPACITY,
        "legends": {name: heatmaps.legend(name) for name in methods} if heatmaps else {},
        "legend_bar": legend_bar(heatmaps.colormap) if heatmaps else "",
        "classes": sorted({name for row in rows for name in (row["true"], row["predicted"]) if name}),
        "known": any(row["true"] is not None for row in rows),
        "sortable": sortable(cards),
        "stage": stage(card.size for card in cards),
    }
