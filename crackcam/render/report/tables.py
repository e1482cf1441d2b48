"""The tables of a report: scores, comparisons, classes, data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crackcam.data.splits import SPLITS
from crackcam.render.report.numbers import FAITHFULNESS, MASK_SCORES, number_text
from crackcam.text import counted, percent

CONFUSIONS = 20  # the most frequent ones are listed


class Table(NamedTuple):
    """A table of texts; ``quiet`` rows are for comparison only."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    quiet: frozenset[int] = frozenset()


def result_tables(document: dict) -> list[Table]:
    """Of predictions and heatmaps: whatever the document has."""
    found = []
    if scores := document.get("scores"):
        found.append(_comparison("Agreement with masks", scores, MASK_SCORES))
    if metrics := document.get("metrics"):
        found.append(_comparison("Faithfulness to the model", metrics, FAITHFULNESS))
    if verified := document.get("verified"):
        head = ["method", "largest difference", "rank correlation", "speedup", "result"]
        rows = [[number_text(v) if isinstance(v, float) else str(v) for v in row.values()] for row in verified]
        found.append(Table("Comparison with the grad-cam package", head, rows))
    return found + _unreadable(document)


def training_tables(document: dict) -> list[Table]:
    """Of a training: classes, confusions, data, near-duplicates."""
    rows = [
        [name, *(percent(row[key]) for key in ("precision", "recall")), f"{row['f1']:.3f}", f"{row['pictures']:,}"]
        for name, row in document["metrics"]["per_class"].items()
    ]
    head = ["class", "precision", "recall", "F1", "images"]
    found = [Table(f"Metrics per class, {document['split']} split", head, rows)]
    if document["mistakes"]:
        found.append(_confusions(document["confusion"], document["classes"]))
    found += _data_tables(document["summary"])
    shared = document["near_duplicates"]
    rows = [[split, f"{shared[split]:,}"] for split in SPLITS if split in shared]
    found.append(Table("Near-duplicates of training images", ["split", "images"], rows))
    return found + _unreadable(document)


def _unreadable(document: dict) -> list[Table]:
    rows = [[row["file"], row["error"]] for row in document.get("unreadable") or ()]
    return [Table("Unreadable files", ["file", "reason"], rows)] if rows else []


def _comparison(caption: str, scores: list[dict], names: dict[str, str]) -> Table:
    """Methods and model-free baselines; scores that no method has are left out."""
    known = [key for key in names if any(row.get(key) is not None for row in scores)]
    rows = [
        [
            f"{row['method']} (model-free baseline)" if row["baseline"] else row["method"],
            *("-" if row.get(key) is None else f"{row[key]:.3f}" for key in known),
        ]
        for row in scores
    ]
    quiet = frozenset(i for i, row in enumerate(scores) if row["baseline"])
    return Table(caption, ["method", *(names[key] for key in known)], rows, quiet)


def _confusions(confusion: list[list[int]], classes: list[str]) -> Table:
    counts = np.array(confusion)
    np.fill_diagonal(counts, 0)
    pairs = [divmod(int(i), len(classes)) for i in counts.ravel().argsort(kind="stable")[::-1][:CONFUSIONS]]
    rows = [[classes[t], classes[p], f"{counts[t, p]:,}"] for t, p in pairs if counts[t, p]]
    return Table("Most frequent confusions", ["true class", "predicted class", "images"], rows)


def _data_tables(summary: dict) -> list[Table]:
    splits = sorted(summary["pictures"], key=SPLITS.index)
    names = list(next(iter(summary["pictures"].values())))
    counts = [[name, *(f"{summary['pictures'][split][name]:,}" for split in splits)] for name in names]
    sizes = [[f"{width} x {height}", f"{count:,}"] for width, height, count in summary["sizes"]]
    if summary["other_sizes"]:
        sizes.append(["other sizes", f"{summary['other_sizes']:,}"])
    found = [Table("Images", ["class", *splits], counts), Table("Image sizes", ["pixels", "images"], sizes)]
    if not summary["duplicates"]:
        return [*found, Table("Duplicate images", ["files"], [["none"]])]
    rows = [[", ".join(group["files"]), group["why"]] for group in summary["duplicates"]]
    more = summary["duplicated"] - len(rows)
    rows += [[f"and {counted(more, 'more group')}", ""]] if more > 0 else []
    return [*found, Table("Duplicate images", ["files", "consequence"], rows)]
