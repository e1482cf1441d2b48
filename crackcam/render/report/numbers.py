"""Numbers of a document: found, named and written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from crackcam.text import percent

MASK_SCORES = {
    "ap": "AP",
    "auroc": "AUROC",
    "peak": "peak",
    "energy": "energy",
    "best_f1": "best F1",
    "f1": "F1",
    "iou": "IoU",
    "ap_each": "AP per image",
}
FAITHFULNESS = {
    "deletion": "deletion (lower is better)",
    "insertion": "insertion (higher)",
    "road": "ROAD (higher)",
    "drop": "average drop (lower)",
    "increase": "increase (higher)",
    "randomised": "randomized model (near 0)",
    "instability": "instability (lower)",
}


def finite_numbers(values: dict, exclude: Iterable[str] = ()) -> dict[str, float]:
    """The finite numbers of a dictionary and of those nested in it, but for some keys."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if name in exclude or isinstance(value, bool):
            continue
        if isinstance(value, dict):
            found |= finite_numbers(value)
        elif isinstance(value, int | float) and math.isfinite(value):
            found[name] = value
    return found


def number_text(value: float, name: str = "") -> str:
    """A number for people: a fraction as percent, a whole number whole, others with three digits.

    Args:
        value: to be written.
        name: its key in the document.
    """
    if name == "share" or name.endswith("_share"):
        return percent(value)
    if name in MASK_SCORES:
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def label(name: str) -> str:
    """A key of the document for people: 'length_px' -> 'length px'; 'ap' -> 'AP'; 'share' -> 'area fraction'."""
    return {**MASK_SCORES, "share": "area fraction"}.get(name, name.replace("_", " "))


def without_nan(value: Any) -> Any:
    """The same with None for what is not a finite number, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
