"""Detection thresholds of heatmaps: calibrated for each class without masks, or by Otsu's method."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from crackcam.config import ExplainConfig
from crackcam.data.storage import Rows
from crackcam.methods import EVIDENCE
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)

QUANTILE = 0.995  # of the pixels of images without the class lie below the threshold
CALIBRATION_IMAGES = 200  # for all classes together, but at least
MIN_IMAGES = 20  # for each

# Pixels (N, 3, size, size) uint8 and the class index of each -> heatmaps (N, H, W) in their raw unit.
HeatmapFunction = Callable[[torch.Tensor, list[int]], torch.Tensor]


def calibrate(heatmaps: torch.Tensor | np.ndarray) -> float:
    """The threshold of a class, without any mask: 0.5 % of the pixels of images without the class exceed it.

    Args:
        heatmaps: (N, H, W) of the class, in their raw unit, over images of other classes.
    """
    return float(np.quantile(torch.as_tensor(heatmaps).cpu().numpy(), QUANTILE))


def class_thresholds(
    explain: HeatmapFunction, classes: Sequence[str], pixels: Rows, labels: torch.Tensor
) -> dict[str, float]:
    """:func:`calibrate` each class over validation images of the other classes.

    Args:
        explain: makes the heatmaps of one method; called once for each class.
        classes: names in index order.
        pixels: (N, 3, size, size) uint8; evenly spaced ones of them are used.
        labels: (N,) class index of each.

    Returns:
        The threshold of each class by name, in the method's raw unit; none for a class that has all images.
    """
    number = max(CALIBRATION_IMAGES // len(classes), MIN_IMAGES)
    thresholds = {}
    for index, name in enumerate(classes):
        others = torch.nonzero(labels != index)[:, 0]
        if len(others):
            chosen = others[torch.linspace(0, len(others) - 1, min(number, len(others))).round().long()]
            thresholds[name] = calibrate(explain(pixels[chosen], [index] * len(chosen)))
    return thresholds


def evidence_thresholds(
    network: LoadedModel, pixels: Rows, labels: torch.Tensor, batch_size: int
) -> dict[str, dict[str, float]]:
    """:attr:`crackcam.types.ModelCard.thresholds` for the evidence maps of a multiscale head; of other heads none.

    The best heatmaps of other heads are normalised before they are multiplied: no threshold holds for many images.

    Args:
        network: the model; its card names the classes.
        pixels: (N, 3, size, size) uint8 of the validation split.
        labels: (N,) class index of each.
        batch_size: images at a time.
    """
    if not isinstance(network.model, Multiscale):
        return {}
    from crackcam.explain import heatmaps

    def explain(pixels: torch.Tensor, targets: list[int]) -> torch.Tensor:
        return heatmaps.evidence_maps(network, pixels, targets, batch_size)

    return {EVIDENCE: class_thresholds(explain, network.card.classes, pixels, labels)}


def known_threshold(explain: ExplainConfig, card: ModelCard, method: str, target: str) -> float:
    """The threshold that is set, or that of the checkpoint for the target class; nan where neither is known.

    Infinite for a class that is the absence of others: nothing is outlined, see
    :attr:`crackcam.types.ModelCard.absences`.

    Thresholds of a checkpoint have the unit of the method's default heatmaps: other layers or smoothing change it.
    """
    if target in card.absences:
        return math.inf
    if explain.threshold is not None:
        return explain.threshold
    if not explain.as_calibrated:
        return math.nan
    return card.thresholds.get(method, {}).get(target, math.nan)


def complete_thresholds(
    thresholds: Sequence[float], method: str, heatmaps: Sequence[torch.Tensor | np.ndarray]
) -> list[float]:
    """Replace unknown thresholds by Otsu's over all heatmaps without one, and log it.

    Otsu, A Threshold Selection Method from Gray-Level Histograms, IEEE Transactions on Systems, Man, and Cybernetics,
    1979.

    Args:
        thresholds: one for each heatmap; nan where unknown.
        method: that made the heatmaps.
        heatmaps: (H, W) each, >= 0, in their raw unit.
    """
    from skimage.filters import threshold_otsu

    unknown = [heatmap for heatmap, limit in zip(heatmaps, thresholds, strict=True) if math.isnan(limit)]
    if not unknown:
        return list(thresholds)
    pixels = np.concatenate([torch.as_tensor(heatmap).cpu().numpy().ravel() for heatmap in unknown])
    otsu = float(threshold_otsu(pixels))
    logger.info(
        "no detection threshold is known for these heatmaps of %s: using %.4g, by Otsu's method over the images shown; "
        "set another with --threshold",
        method,
        otsu,
    )
    return [otsu if math.isnan(limit) else limit for limit in thresholds]
