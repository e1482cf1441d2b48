"""The report of a training run: the document that it is made from, and the most confident mistakes under heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crackcam.config import ExplainConfig
from crackcam.data.images import read_image
from crackcam.data.statistics import summarize
from crackcam.explain.explainer import Explainer
from crackcam.explain.explanation import Explanation
from crackcam.files import file_hash
from crackcam.methods import EVIDENCE
from crackcam.models.multiscale import Multiscale
from crackcam.render import report
from crackcam.render.overlays import thumbnail
from crackcam.training.trainer import TrainResult
from crackcam.types import Prediction

SCHEMA = 1
MISTAKES = 24  # the most confident ones
COLORMAP = "inferno"


def most_confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int = MISTAKES) -> list[int]:
    """Indices of incorrect predictions, the most confident first.

    Args:
        probabilities: (N, classes) float.
        labels: (N,) int.
        count: at most so many.

    Examples:
        >>> import numpy as np
        >>> from crackcam.training.report_data import most_confident_mistakes
        >>> most_confident_mistakes(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]), np.array([1, 1, 1]))
        [1, 0]
    """
    predicted = probabilities.argmax(axis=1)
    order = probabilities.max(axis=1).argsort(kind="stable")[::-1].tolist()
    return [i for i in order if predicted[i] != labels[i]][:count]


def training_document(result: TrainResult) -> dict[str, Any]:
    """The document of a training run without its mistakes: ``pictures`` and ``methods`` are empty."""
    model, scored = result.classifier, result.splits[result.split]
    card = model.card
    return {
        "schema": SCHEMA,
        "command": card.training.get("command", ""),
        "split": result.split,
        "data": card.training["data"],
        "device": str(model.runtime.device),
        "precision": model.runtime.precision,
        "checkpoint": {"file": str(result.checkpoint), "sha256": file_hash(result.checkpoint), "arch": card.arch},
        "pretrained": card.pretrained,
        "classes": card.classes,
        "versions": card.versions,
        "history": [vars(epoch) for epoch in result.history],
        "best_epoch": result.metrics["best_epoch"],
        "metrics": result.metrics[result.split],
        "scored": len(scored),
        "mistakes": int((result.probabilities.argmax(axis=1) != scored.labels.numpy()).sum()),
        "confusion": result.confusion.tolist(),
        "reliability": {name: values.tolist() for name, values in vars(result.reliability).items()},
        "summary": summarize(result.splits, card.classes),
        "near_duplicates": result.metrics["near_duplicates"],
        "methods": {},
        "target": "predicted",
        "pictures": [],
    }


def explain_mistakes(result: TrainResult) -> list[Explanation]:
    """Explain the predicted classes of the most confident mistakes: evidence of a multiscale head, else Grad-CAM."""
    model, scored = result.classifier, result.splits[result.split]
    worst = most_confident_mistakes(result.probabilities, scored.labels.numpy())
    if not worst:
        return []
    method = EVIDENCE if isinstance(model.model, Multiscale) else "gradcam"
    (explainer,) = Explainer.of(model, ExplainConfig(method=(method,)))
    images, targets = [read_image(scored.paths[i]) for i in worst], result.probabilities[worst].argmax(axis=1).tolist()
    classes = model.card.classes
    predictions = [
        Prediction.of(classes, result.probabilities[i].tolist(), scored.paths[i], classes[int(scored.labels[i])])
        for i in worst
    ]
    maps = explainer.explain(scored.pixels[worst], images, targets)
    return list(map(explainer.explanation, images, predictions, targets, maps))


def write(path: Path, result: TrainResult) -> None:
    """Write the HTML report of a training run.

    Args:
        path: ends in .html.
        result: the run.
    """
    from matplotlib import colormaps

    document, explanations = training_document(result), explain_mistakes(result)
    if not explanations:
        report.write_training(path, document, [], None)
        return
    method = explanations[0].method
    document["methods"] = {method: list(explanations[0].layers)}
    document["pictures"] = [
        {**each.prediction.to_dict(), "target": each.target, "maps": {method: {"max": each.peak()}}}
        for each in explanations
    ]
    small = [np.rint(255 * each.resized(_shown_size(each.image))).astype(np.uint8) for each in explanations]
    heatmaps = report.Heatmaps({method: small}, colormaps[COLORMAP], frozenset({EVIDENCE}))
    report.write_training(path, document, [each.image for each in explanations], heatmaps)


def _shown_size(image: np.ndarray) -> tuple[int, int]:
    height, width = thumbnail(image, report.MAP_SIDE).shape[:2]
    return height, width
