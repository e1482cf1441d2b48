"""The report of a training: which mistakes it shows, and the document that it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import colormaps

from crackcam import files
from crackcam.data import images, statistics
from crackcam.data.pixels import PixelSplit
from crackcam.explain import heatmaps
from crackcam.explain.methods import EVIDENCE
from crackcam.models import target_layers
from crackcam.models.multiscale import Multiscale
from crackcam.render import report
from crackcam.render.overlays import thumbnail
from crackcam.training.trainer import Epoch, Report

if TYPE_CHECKING:
    from crackcam.classifier import LoadedModel

SCHEMA = 1
MISTAKES = 24  # the most confident ones
CLASSES = 5  # of many, whose probabilities are written


def most_confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int = MISTAKES) -> list[int]:
    """Indices of incorrect predictions, the most confident first.

    Args:
        probabilities: (N, classes).
        labels: (N,) int.
        count: at most so many.

    Example:
        >>> most_confident_mistakes(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]), np.array([1, 1, 1]))
        [1, 0]
    """
    predicted = probabilities.argmax(axis=1)
    order = probabilities.max(axis=1).argsort(kind="stable")[::-1].tolist()
    return [i for i in order if predicted[i] != labels[i]][:count]


def mistake_row(path: Path, true: str, probabilities: dict[str, float], maxima: dict[str, float]) -> dict:
    """One row of the document's ``pictures``.

    Args:
        path: of the image.
        true: its class.
        probabilities: by class.
        maxima: of its heatmaps, by method, in raw units.
    """
    ranked = dict(sorted(probabilities.items(), key=lambda pair: -pair[1]))
    predicted = next(iter(ranked))
    shown = ranked if len(ranked) <= 100 else dict(list(ranked.items())[:CLASSES])
    return {
        "file": str(path),
        "true": true,
        "predicted": predicted,
        "probabilities": shown,
        "target": predicted,
        "maps": {method: {"max": maximum} for method, maximum in maxima.items()},
    }


def training_document(
    network: LoadedModel, splits: dict[str, PixelSplit], split: str, result: Report, history: Sequence[Epoch]
) -> dict:
    """The document of a training but for its mistakes: ``pictures`` is empty, ``methods`` too.

    Args:
        network: as it was kept.
        splits: all that training used or scored.
        split: which of them ``result`` is about.
        result: final evaluation of the network.
        history: its epochs.
    """
    card, scored = network.card, splits[split]
    predicted = result.probabilities.argmax(axis=1)
    return {
        "schema": SCHEMA,
        "command": card.training["command"],
        "split": split,
        "data": card.training["data"],
        "device": str(network.machine.device),
        "precision": "bf16" if network.machine.dtype == torch.bfloat16 else "fp32",
        "checkpoint": {
            "file": str(network.path),
            "sha256": files.file_hash(network.path) if network.path else None,
            "arch": card.arch,
        },
        "pretrained": card.pretrained,
        "classes": card.classes,
        "versions": card.versions,
        "history": [vars(epoch) for epoch in history],
        "best_epoch": card.metrics["best_epoch"],
        "metrics": result.metrics,
        "scored": len(scored),
        "mistakes": int((predicted != scored.labels.numpy()).sum()),
        "confusion": result.confusion.tolist(),
        "reliability": {name: values.tolist() for name, values in vars(result.reliability).items()},
        "summary": statistics.summarize(splits, card.classes),
        "near_duplicates": card.metrics["near_duplicates"],
        "methods": {},
        "target": "predicted",
        "pictures": [],
    }


def write(
    path: Path,
    network: LoadedModel,
    splits: dict[str, PixelSplit],
    split: str,
    result: Report,
    history: Sequence[Epoch],
) -> None:
    """Explain the most confident mistakes of a network and write the report of its training.

    Args:
        path: of the page.
        network, splits, split, result, history: see :func:`training_document`.
    """
    document, scored = training_document(network, splits, split, result, history), splits[split]
    worst = most_confident_mistakes(result.probabilities, scored.labels.numpy())
    if not worst:
        report.write_training(path, document, [], None)
        return
    probabilities, classes = result.probabilities[worst], network.card.classes
    method, layers, found = _explain(network, scored.pixels[worst], probabilities.argmax(axis=1).tolist())
    document["methods"] = {method: [layer.name for layer in layers]}
    document["pictures"] = [
        mistake_row(
            scored.paths[i],
            classes[scored.labels[i]],
            dict(zip(classes, row.tolist(), strict=True)),
            {method: float(heatmap.max())},
        )
        for i, row, heatmap in zip(worst, probabilities, found, strict=True)
    ]
    pictures, geometry = [images.read_image(scored.paths[i]) for i in worst], network.card.geometry
    small = [
        heatmaps.small_map(
            heatmaps.unframed(heatmap, image.shape, geometry),
            thumbnail(image, report.MAP_SIDE).shape[:2],
            geometry,
            method != EVIDENCE,
        )
        for heatmap, image in zip(found, pictures, strict=True)
    ]
    shown = report.Heatmaps({method: small}, colormaps["inferno"], frozenset({EVIDENCE}))
    report.write_training(path, document, pictures, shown)


def _explain(
    network: LoadedModel, pixels: torch.Tensor, targets: list[int]
) -> tuple[str, list[target_layers.TargetLayer], list[torch.Tensor]]:
    """Heatmaps of the targets: the evidence of a multiscale head, else Grad-CAM at the default layer."""
    evidence = isinstance(network.model, Multiscale)
    method = EVIDENCE if evidence else "gradcam"
    layers = target_layers.find_target_layers(network.model, network.card.image_size, None, evidence)
    return method, layers, list(heatmaps.heatmaps(network, method, layers, pixels, targets))
