"""Scores of heatmaps against masks of what they should locate, with scikit-learn's curves.

    average precision   area under precision over recall of the pixels; a random heatmap scores the mask's fraction
    AUROC               probability that a pixel of the mask has a higher value than one beside it; random: 0.5
    peak                pointing game: does the maximum lie on the mask, or within a tolerance of it?
                        Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016 (arXiv:1608.00507)
    energy              fraction of the heatmap's sum on the mask. Wang et al., Score-CAM, CVPRW 2020 (arXiv:1910.01279)
    F1, IoU             of the pixels above a threshold that was chosen without these masks

:mod:`crackcam.evaluation.baselines` puts them into perspective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from crackcam.evaluation.baselines import BASELINES
from crackcam.evaluation.scores import ScoredMethod, Scores, score_table, score_text

TOLERANCE = 15 / 448  # of the pointing game, as a fraction of the longer side; the paper's 15 pixels at our masks' size
MAX_POOLED_PIXELS = 2_000_000  # with more, the pooled curves use every k-th pixel


@dataclass(frozen=True)
class MaskScores(Scores):
    """Heatmaps against masks. All but the pooled scores are means over images whose mask is neither empty nor full.

    Attributes:
        images: how many those are.
        ap, auroc: average precision and area under the ROC curve, pooled over all pixels of all images, also of those
            with empty masks.
        ap_each, auroc_each: means over the images.
        ap_error: standard error of ``ap_each``; nan for one image.
        peak, energy: see the module; in [0, 1].
        best_f1, best_threshold: pooled, at the threshold that is best for these very images: an upper bound.
        f1, iou: pooled, above the given thresholds; nan without.
        cover_empty: fraction of the pixels above them in images with empty masks; nan without such.
    """

    images: int
    ap: float
    auroc: float
    ap_each: float
    auroc_each: float
    ap_error: float
    peak: float
    energy: float
    best_f1: float
    best_threshold: float
    f1: float
    iou: float
    cover_empty: float

    def as_row(self) -> dict:
        row = super().as_row()
        return {"pictures": row.pop("images"), **row}


def score_masks(
    heatmaps: Sequence[np.ndarray], masks: Sequence[np.ndarray], threshold: float | Sequence[float] = math.nan
) -> MaskScores:
    """Score heatmaps against masks.

    Args:
        heatmaps: (H, W) float32, >= 0, one for each image; in one unit for all, for the pooled scores.
        masks: (H, W) bool, of the same sizes.
        threshold: chosen without these masks, in the unit of the heatmaps, for all or for each; nan: none.

    Raises:
        ValueError: all masks are empty or full, or a heatmap and its mask differ in size.

    Examples:
        >>> import numpy as np
        >>> heatmap = np.array([[0.9, 0.8], [0.7, 0.1]], np.float32)
        >>> mask = np.array([[True, False], [True, False]])
        >>> score_masks([heatmap], [mask], threshold=0.75).auroc
        0.75
    """
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        if heatmap.shape != mask.shape:
            raise ValueError(f"a heatmap of {heatmap.shape} does not match a mask of {mask.shape}")
    pairs = [(heatmap, mask) for heatmap, mask in zip(heatmaps, masks, strict=True) if mask.any() and not mask.all()]
    if not pairs:
        raise ValueError("all masks are empty or full: nothing to locate")
    return MaskScores(
        images=len(pairs),
        **_image_means(pairs),
        **_pooled_curves(heatmaps, masks),
        **_above_thresholds(heatmaps, masks, threshold),
    )


def _image_means(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores of each heatmap and mask, averaged over the images."""
    from sklearn.metrics import roc_auc_score

    precisions = [average_precision(heatmap, mask) for heatmap, mask in pairs]
    return {
        "ap_each": float(np.mean(precisions)),
        "auroc_each": float(np.mean([roc_auc_score(mask.ravel(), heatmap.ravel()) for heatmap, mask in pairs])),
        "ap_error": float(np.std(precisions, ddof=1) / len(pairs) ** 0.5) if len(pairs) > 1 else math.nan,
        "peak": float(np.mean([peak_hits(heatmap, mask) for heatmap, mask in pairs])),
        "energy": float(np.mean([h[mask].sum() / h.sum() if h.sum() > 0 else 0.0 for h, mask in pairs])),
    }


def _pooled_curves(heatmaps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Scores of the pixels of all images together, at all thresholds."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    values = np.concatenate([heatmap.ravel() for heatmap in heatmaps])
    step = max(1, round(len(values) / MAX_POOLED_PIXELS))
    values, truth = values[::step], np.concatenate([mask.ravel() for mask in masks])[::step]
    precision, recall, thresholds = precision_recall_curve(truth, values, drop_intermediate=True)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    return {
        "ap": float(average_precision_score(truth, values)),
        "auroc": float(roc_auc_score(truth, values)),
        "best_f1": float(f1[best]),
        "best_threshold": float(thresholds[best]),
    }


def _above_thresholds(
    heatmaps: Sequence[np.ndarray], masks: Sequence[np.ndarray], threshold: float | Sequence[float]
) -> dict[str, float]:
    """Scores of the pixels of all images together, above one threshold for all or for each; nan without."""
    limits = np.broadcast_to(np.asarray(threshold, np.float32), len(heatmaps))
    if np.isnan(limits).any():
        return dict.fromkeys(("f1", "iou", "cover_empty"), math.nan)
    detected = [heatmap > limit for heatmap, limit in zip(heatmaps, limits, strict=True)]
    hits = sum(int((a & b).sum()) for a, b in zip(detected, masks, strict=True))
    errors = sum(int((a ^ b).sum()) for a, b in zip(detected, masks, strict=True))
    empty = [part.mean() for part, mask in zip(detected, masks, strict=True) if not mask.any()]
    return {
        "f1": 2 * hits / max(2 * hits + errors, 1),
        "iou": hits / max(hits + errors, 1),
        "cover_empty": float(np.mean(empty)) if empty else math.nan,
    }


def average_precision(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Average precision of one heatmap (H, W), in [0, 1]; nan where the mask (H, W) bool is empty."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(mask.ravel(), heatmap.ravel())) if mask.any() else math.nan


def average_precision_caption(heatmap: np.ndarray, mask: np.ndarray) -> str:
    """'AP 0.53' or 'empty mask', for figures."""
    precision = average_precision(heatmap, mask)
    return "empty mask" if math.isnan(precision) else f"AP {precision:.2f}"


def peak_hits(heatmap: np.ndarray, mask: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    """Whether the maximum lies on the mask, or within a fraction of its longer side; of several maxima, their mean."""
    if not heatmap.max() > heatmap.min():
        return False
    rows, columns = np.nonzero(heatmap == heatmap.max())
    y, x = round(rows.mean()), round(columns.mean())
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(distance[y, x] <= tolerance * max(mask.shape))


def compare_masks(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    heatmaps: Mapping[str, Sequence[np.ndarray]],
    thresholds: Mapping[str, float | Sequence[float]],
) -> list[ScoredMethod[MaskScores]]:
    """Score methods and all baselines against the same masks.

    Args:
        images: (H, W, 3) uint8 each.
        masks: (H, W) bool of each image.
        heatmaps: by method, (H, W) float32 of each image.
        thresholds: by method, for all images or for each; nan where unknown.

    Returns:
        The methods, highest average precision first, then the baselines likewise.
    """
    baselines = {name: [heatmap_of(image) for image in images] for name, heatmap_of in BASELINES.items()}
    rows = [
        *(
            ScoredMethod(m, False, score_masks(maps, masks, thresholds.get(m, math.nan)))
            for m, maps in heatmaps.items()
        ),
        *(ScoredMethod(name, True, score_masks(maps, masks)) for name, maps in baselines.items()),
    ]
    return sorted(rows, key=lambda row: (row.baseline, -row.scores.ap))


def mask_table(rows: Sequence[ScoredMethod[MaskScores]]) -> str:
    """The comparison, for a terminal; F1 and IoU only where a threshold is known."""
    known = any(not math.isnan(row.scores.f1) for row in rows)
    more = f"{'F1':>8}{'IoU':>8}" if known else ""
    header = f"{'':<20}{'AP':>7}{'AUROC':>8}{'peak':>8}{'energy':>8}{'best F1':>9}{more}{'AP per image':>20}"

    def line(row: ScoredMethod[MaskScores]) -> str:
        scores = row.scores
        each = f"{scores.ap_each:.3f} +- {score_text(scores.ap_error)}"
        more = f"{score_text(scores.f1):>8}{score_text(scores.iou):>8}" if known else ""
        return (
            f"{row.method:<20}{scores.ap:>7.3f}{scores.auroc:>8.3f}{100 * scores.peak:>6.0f} %{scores.energy:>8.3f}"
            f"{scores.best_f1:>9.3f}{more}{each:>20}"
        )

    return score_table(header, rows, line)
