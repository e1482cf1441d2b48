"""Detection thresholds of heatmaps."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crackcam.explain import heatmaps
from crackcam.methods import EVIDENCE
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.target_layers import TargetLayer
from crackcam.types import ModelCard

logger = logging.getLogger(__name__)

QUANTILE = 0.995  # of the pixels where there is nothing to find lie below the threshold
LOOKED_AT = 200  # maps that a calibration makes in all, shared among the classes, but at least
AT_LEAST = 20  # of each


# -- thresholds ------------------------------------------------------------------------------------------------------


def calibrate(heats: torch.Tensor | np.ndarray) -> float:
    """The threshold of a class, without any mask: where there is nothing to find, 0.5 % of the pixels exceed it.

    Args:
        heats: (N, H, W) maps of the class, in their raw unit, over pictures of other classes.
    """
    return float(np.quantile(torch.as_tensor(heats).cpu().numpy(), QUANTILE))


def class_thresholds(
    network: LoadedModel, method: str, layers: list[TargetLayer], pixels: torch.Tensor, labels: torch.Tensor,
    **settings: Any,
) -> dict[str, float]:  # fmt: skip
    """:func:`calibrate` each class over validation pictures of the others, for :attr:`Card.thresholds`.

    Args:
        method: a name in :data:`crackcam.methods.NAMED`.
        layers: target layers.
        pixels: (N, 3, size, size) uint8; some of them, spread evenly, are looked at.
        labels: (N,) class index of each.
        settings: of :func:`crackcam.explaining.heat_maps`.

    Returns:
        The threshold of each class by name, in the method's raw unit; without classes that have no pictures of others.
    """
    classes = network.card.classes
    number = max(LOOKED_AT // len(classes), AT_LEAST)
    found = {}
    for index, name in enumerate(classes):
        others = torch.nonzero(labels != index)[:, 0]
        if not len(others):
            continue
        some = others[torch.linspace(0, len(others) - 1, min(number, len(others))).round().long()]
        heats = heatmaps.heatmaps(network, method, layers, pixels[some], [index] * len(some), **settings)
        found[name] = calibrate(torch.stack([heatmaps.as_map(heat) for heat in heats]))
    return found


def evidence_thresholds(
    network: LoadedModel, pixels: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> dict[str, dict]:
    """:func:`thresholds` of a multiscale head's own maps, for :attr:`Card.thresholds`; of other heads nothing.

    Their best maps are stretched before they are multiplied, so that no threshold holds for many pictures.
    """
    if not isinstance(network.model, Multiscale):
        return {}
    return {EVIDENCE: class_thresholds(network, EVIDENCE, [], pixels, labels, batch_size=batch_size)}


def known_thresholds(args: argparse.Namespace, card: ModelCard, method: str, targets: list[int]) -> list[float]:
    """The threshold for each picture: ``--threshold``, or the checkpoint's for the class explained; nan without one.

    The checkpoint's are in the unit of maps as the method makes them by itself: another layer or smoothing has others.
    """
    if args.threshold is not None:
        return [args.threshold] * len(targets)
    as_calibrated = not (args.layer or args.stride or args.fuse or args.aug_smooth or args.eigen_smooth)
    known = card.thresholds.get(method, {}) if as_calibrated else {}
    return [known.get(card.classes[target], math.nan) for target in targets]


def complete_thresholds(thresholds: list[float], method: str, heats: Sequence[torch.Tensor]) -> list[float]:
    """Thresholds, those that are not known replaced by Otsu's over the maps without one; says so.

    Args:
        thresholds: from :func:`known_thresholds`.
        method: whose maps they are.
        heats: maps or signed pictures in their raw unit, one for each.
    """
    from skimage.filters import threshold_otsu

    lacking = [heatmaps.as_map(heat) for heat, limit in zip(heats, thresholds, strict=True) if math.isnan(limit)]
    if not lacking:
        return thresholds
    otsu = float(threshold_otsu(np.concatenate([heat.cpu().numpy().ravel() for heat in lacking])))
    logger.info(
        f"no threshold is known for these maps of {method}: cut at {otsu:.4g}, which parts the pixels of the "
        "pictures shown best (Otsu); --threshold names another"
    )
    return [otsu if math.isnan(limit) else limit for limit in thresholds]
