"""What scores of heatmaps have in common: rows of a JSON file, tables with baselines below, rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Base of all scores: a dataclass of numbers, nan where unknown."""

    def as_row(self) -> dict:
        """By name, as in JSON, which has no nan: None where unknown."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


S = TypeVar("S", bound=Scores)
M = TypeVar("M", bound="ScoredMethod")


@dataclass(frozen=True)
class ScoredMethod(Generic[S]):
    """The scores of one method, or of one of :data:`crackcam.evaluation.baselines.BASELINES`."""

    method: str
    baseline: bool
    scores: S

    def as_row(self) -> dict:
        """As in JSON and CSV: method, baseline, and the scores by name."""
        return {"method": self.method, "baseline": self.baseline, **self.scores.as_row()}


def score_table(header: str, rows: Sequence[M], line: Callable[[M], str]) -> str:
    """A table for a terminal: the methods, then the baselines."""
    methods, baselines = ([line(row) for row in rows if row.baseline is kind] for kind in (False, True))
    return "\n".join([header, *methods, "-- model-free baselines", *baselines])


def score_text(score: float) -> str:
    """'0.123', or '-' where it is nan."""
    return "-" if math.isnan(score) else f"{score:.3f}"


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two heatmaps of one shape, in [-1, 1]; nan where one is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(a.ravel(), b.ravel()).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else math.nan
