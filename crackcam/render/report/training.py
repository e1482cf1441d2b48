"""The parts that only the report of a training has: its key figures, and figures of its course and result."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from crackcam.render.figures.training import draw_confusion, draw_curve, draw_reliability
from crackcam.render.report.numbers import number_text
from crackcam.render.report.svg import InlineFigure, inline
from crackcam.text import counted, percent

WIDTH, HEIGHT = 3.6, 2.8  # inches; the page enlarges them, so that text of 8 pt is legible on a phone
MATRIX = 20  # classes; above, the most frequent confusions are listed only
DESCRIBED = 10  # classes of a matrix that are described in words


def training_key_figures(document: dict) -> list[tuple[str, str, str]]:
    """The few numbers to see first: name, value, remark."""
    metrics = document["metrics"]
    epochs = len([epoch for epoch in document["history"] if epoch["epoch"]])
    best = str(document["best_epoch"]) if document["best_epoch"] else "linear probe"
    return [
        ("accuracy", percent(metrics["accuracy"]), f"{document['split']} split, {document['scored']:,} images"),
        ("balanced accuracy", percent(metrics["balanced_accuracy"]), "mean over the classes"),
        ("calibration error", percent(metrics["ece"]), f"{percent(metrics['ece_before'])} before calibration"),
        ("best epoch", best, f"of {epochs}" if epochs else "no fine-tuning"),
    ]


def training_figures(document: dict) -> list[InlineFigure]:
    """Loss and accuracy over the epochs, reliability diagram, confusion matrix."""
    curves = ("loss", "accuracy") if len(document["history"]) > 1 else ()  # a linear probe alone makes no curve
    found = [_curve(document["history"], measure) for measure in curves]
    found.append(_reliability(document))
    if len(document["classes"]) <= MATRIX:  # last: it may be wide
        found.append(_confusion(np.array(document["confusion"]), document["classes"]))
    return found


def _curve(history: list[dict], measure: str) -> InlineFigure:
    figure = _figure(WIDTH, HEIGHT)
    draw_curve(figure.subplots(), history, measure)
    last = history[-1][f"val_{measure}"]
    value = percent(last) if measure == "accuracy" else number_text(last)
    text = f"{measure} over {counted(len(history), 'epoch')}: validation ends at {value}"
    return inline(figure, measure.capitalize(), text)


def _confusion(counts: np.ndarray, classes: list[str]) -> InlineFigure:
    side = max(HEIGHT, 0.42 * len(classes) + 1)
    figure = _figure(max(WIDTH, side + 0.6), side)
    draw_confusion(figure.subplots(), counts, classes)
    rows = list(zip(classes, counts.diagonal(), counts.sum(axis=1), strict=True))[:DESCRIBED]
    correct = "; ".join(f"{name}: {right:,} of {total:,} correct" for name, right, total in rows)
    return inline(figure, "Confusion matrix", f"confusion matrix: {correct}")


def _reliability(document: dict) -> InlineFigure:
    figure = _figure(WIDTH, 1.15 * HEIGHT)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    draw_reliability(axes, document["reliability"], len(document["classes"]), legend_columns=3)
    error = percent(document["metrics"]["ece"])
    return inline(figure, "Reliability", f"accuracy by confidence: expected calibration error {error}")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
