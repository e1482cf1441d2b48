"""Scores of a model on a split: per epoch, and finally class by class."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from crackcam.data.pixels import PixelSplit
from crackcam.models.heads import apply_temperature
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.training.calibration import Reliability, fit_offset, fit_temperature, reliability
from crackcam.training.features import compute_logits


class Scores(NamedTuple):
    """Scores of a model on a split.

    Attributes:
        probabilities: (N, classes) float32.
        loss: mean cross entropy.
        accuracy: fraction of correct predictions, 0..1.
        balanced: mean recall over the classes, 0..1, which choosing the best epoch goes by.
    """

    probabilities: np.ndarray
    loss: float
    accuracy: float
    balanced: float


def score(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    """Score logits (N, classes) against labels (N,) int64."""
    from sklearn.metrics import recall_score

    predicted = logits.argmax(dim=1)
    present = labels.unique().tolist()
    return Scores(
        logits.softmax(dim=1).numpy(),
        F.cross_entropy(logits, labels).item(),
        (predicted == labels).float().mean().item(),
        float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    )


def evaluate(loaded: LoadedModel, split: PixelSplit, batch_size: int) -> Scores:
    """Score a model on a split."""
    return score(compute_logits(loaded, split, batch_size, "scoring"), split.labels)


def calibrate(loaded: LoadedModel, val: PixelSplit, batch_size: int) -> float:
    """Fit a temperature on the validation split, apply it to the head and return it.

    Where one of two classes is the absence of the other, and so has no map, the boundary between them is fitted too:
    it is a level of evidence that training met on its own images, and other surfaces need another one.
    """
    logits = compute_logits(loaded, val, batch_size, "calibrating")
    if isinstance(loaded.model, Multiscale) and loaded.model.class_mask.tolist() == [0, 1]:
        offset = fit_offset(logits, val.labels)
        logits[:, 1] += offset
        with torch.no_grad():
            loaded.model.bias[1] += offset
    temperature = fit_temperature(logits, val.labels)
    apply_temperature(loaded.model, temperature)
    return temperature


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The final evaluation of a model on a split.

    Attributes:
        metrics: accuracy, balanced accuracy, loss, expected calibration error (``ece``, and ``ece_before``
            calibration); ``per_class``: precision, recall, F1 and number of images.
        confusion: (classes, classes) int counts, rows are true classes.
        text: the scores per class as a table.
        reliability: confidence and accuracy of the predictions, binned.
        probabilities: (N, classes) float32, of the images of the split.
    """

    metrics: dict[str, Any]
    confusion: np.ndarray
    text: str
    reliability: Reliability
    probabilities: np.ndarray


def evaluate_classes(loaded: LoadedModel, split: PixelSplit, batch_size: int, temperature: float) -> Evaluation:
    """Evaluate a calibrated model on a split, class by class.

    Args:
        loaded: the model.
        split: what to score.
        batch_size: images at a time.
        temperature: what :func:`calibrate` has divided the logits by.
    """
    from sklearn.metrics import classification_report, confusion_matrix

    classes = loaded.card.classes
    logits, labels = compute_logits(loaded, split, batch_size, "scoring"), split.labels.numpy()
    scores = score(logits, split.labels)
    after = reliability(scores.probabilities, labels)
    predicted = scores.probabilities.argmax(axis=1)
    indices = list(range(len(classes)))
    report = functools.partial(
        classification_report, labels, predicted, labels=indices, target_names=classes, zero_division=0
    )
    per_class = report(output_dict=True)
    metrics = {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced,
        "loss": scores.loss,
        "ece": after.error,
        "ece_before": reliability((logits * temperature).softmax(dim=1).numpy(), labels).error,
        "per_class": {name: _row(per_class[name]) for name in classes},
    }
    confusion = confusion_matrix(labels, predicted, labels=indices)
    return Evaluation(metrics, confusion, report(digits=4), after, scores.probabilities)


def _row(found: dict[str, float]) -> dict[str, float]:
    """One class of scikit-learn's report under the keys of a checkpoint."""
    return {
        "precision": found["precision"],
        "recall": found["recall"],
        "f1": found["f1-score"],
        "pictures": int(found["support"]),
    }
