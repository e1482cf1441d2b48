"""The top of a report: its title, the key figures, how the run was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from os.path import commonpath
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crackcam.render import captions
from crackcam.render.figures.layout import model_label
from crackcam.render.report.cards import confidence, is_incorrect
from crackcam.render.report.svg import InlineFigure
from crackcam.render.report.tables import Table, result_tables, training_tables
from crackcam.render.report.training import training_figures, training_key_figures
from crackcam.text import confidence_text, percent

NAMED_CLASSES = 3  # of the predicted ones, in the key figures


class Content(NamedTuple):
    """All of a report but its images.

    Attributes:
        title: of the page.
        model: what made the predictions.
        key_figures: the few numbers to see first: name, value, remark.
        facts: how the run was made: name and value.
        tables: of numbers.
        figures: of a training; none elsewhere.
    """

    title: str
    model: str
    key_figures: list[tuple[str, str, str]]
    facts: list[tuple[str, str]]
    tables: list[Table]
    figures: Sequence[InlineFigure] = ()


def describe(document: dict, date: datetime) -> Content:
    """Describe a document for people.

    Args:
        document: as the scripts write it, with all rows.
        date: when the run ended.
    """
    checkpoint, facts = document["checkpoint"], _facts(document, date)
    model = model_label(checkpoint["arch"], checkpoint["file"])
    if is_training(document):
        title, tables = f"Training of {checkpoint['arch']}", training_tables(document)
        return Content(title, model, training_key_figures(document), facts, tables, training_figures(document))
    return Content(_title(document), model, key_figures(document), facts, result_tables(document))


def is_training(document: dict) -> bool:
    """Whether a document is about a training, not about predictions or heatmaps."""
    return "history" in document


def _title(document: dict) -> str:
    if "methods" not in document:
        return f"Predictions: {document['type'] or 'images'}"
    target = "the predicted class" if document["target"] == "predicted" else document["target"]
    found = captions.describe(dict.fromkeys(document["methods"], ()), target)
    return found[0].upper() + found[1:]


def key_figures(document: dict) -> list[tuple[str, str, str]]:
    """Of predictions and heatmaps: name, value, remark."""
    rows = document["pictures"]
    known = [row for row in rows if row["true"] is not None]
    correct = len(known) - sum(map(is_incorrect, known))
    found = [("images", f"{len(rows):,}", _count_predicted([row["predicted"] for row in rows]))]
    if known:
        found.append(("correct", percent(correct / len(known)), f"{correct:,} of {len(known):,}"))
    if rows:
        values = [confidence(row) for row in rows]
        mean, minimum = confidence_text(float(np.mean(values))), confidence_text(min(values))
        found.append(("mean confidence", mean, f"minimum {minimum}"))
    if document.get("unreadable"):
        found.append(("unreadable", f"{len(document['unreadable']):,}", "listed below"))
    scores = document.get("scores", [])  # the best ones first
    best, baseline = (next((row for row in scores if row["baseline"] is kind), None) for kind in (False, True))
    if best:
        rival = f"; model-free baseline {baseline['method']}: {baseline['ap']:.3f}" if baseline else ""
        found.append(("best average precision", f"{best['ap']:.3f}", best["method"] + rival))
    return found


def _count_predicted(predicted: list[str]) -> str:
    counts = sorted(Counter(predicted).items(), key=lambda item: (-item[1], item[0]))
    more = len(counts) - NAMED_CLASSES
    rest = f", {more} other class{'es' if more > 1 else ''}" if more > 0 else ""
    return "predicted " + ", ".join(f"{name} {count:,}" for name, count in counts[:NAMED_CLASSES]) + rest


def _facts(document: dict, date: datetime) -> list[tuple[str, str]]:
    checkpoint = document["checkpoint"]
    digest = checkpoint["sha256"] and f"SHA-256 {checkpoint['sha256'][:16]}…"
    found = [
        ("command", document["command"]),
        ("model", ", ".join(filter(None, [model_label(checkpoint["arch"], checkpoint["file"]), digest]))),
        ("initial weights", document.get("pretrained", "")),
        ("images", document.get("data") or _origin(document)),
        ("large images", _tiled(document)),
        ("heatmaps", _methods(document)),
        ("options", ", ".join(f"{key} {document[key]}" for key in ("stride", "fuse", "refine") if document.get(key))),
        ("device", f"{document['device']}, {document['precision']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items())),
        ("created", f"{date.day} {date:%B %Y, %H:%M}"),
    ]
    return [(name, value) for name, value in found if value]


def _origin(document: dict) -> str:
    """Folder, split and seed of the images."""
    folders = {str(Path(row["file"]).parent) for row in document["pictures"]}
    try:
        where = commonpath(folders)
    except ValueError:  # some relative; on Windows, several drives
        where = ""
    split = document.get("split")
    chosen = (f"{split} split", f"seed {document['seed']}") if split else ()
    return ", ".join(filter(None, [where, *chosen]))


def _tiled(document: dict) -> str:
    """How many images were read in tiles, and how their numbers are to be read."""
    tiles = [row["tiles"] for row in document["pictures"] if row.get("tiles", 1) > 1]
    if not tiles:
        return ""
    count = f"{len(tiles):,} of {len(document['pictures']):,}"
    return (
        f"{count} read in tiles at their own resolution, up to {max(tiles)} tiles each. The probability "
        "is that of the whole image, calibrated for its area: of one crack somewhere in it, not of each part; the "
        "heatmap shows where, and is the map that the decision is made from"
    )


def _methods(document: dict) -> str:
    seconds = document.get("seconds", {})
    return "; ".join(
        name + (f" at {', '.join(layers)}" if layers else "") + (f", {seconds[name]:.1f} s" if name in seconds else "")
        for name, layers in document.get("methods", {}).items()
    )
