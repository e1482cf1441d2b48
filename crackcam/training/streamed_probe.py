"""Logistic regression on features that are read block by block, for :mod:`crackcam.training.probe`.

The objective is scikit-learn's, and so is its minimum. Each evaluation reads all features once: memory does not depend
on the number of images, only the time of a pass does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from crackcam.data.storage import Rows

BLOCK = 4096  # images at a time: 8 MB of 512 features
MOST_STEPS = 1000
GRADIENT = 1e-4  # where a fit ends, as scikit-learn's ``tol``


@dataclass(frozen=True)
class Features:
    """Features of a split, standardised as they are read.

    Attributes:
        rows: (N, features) of any floating type.
        labels: (N,) int64 class indices.
        mean: (features,) float32, subtracted.
        scale: (features,) float32, divided by.
    """

    rows: Rows
    labels: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Standardised features (n, features) float32, and labels (n,)."""
        for start in range(0, len(self.labels), BLOCK):
            rows = self.rows[start : start + BLOCK].float()
            yield (rows - self.mean) / self.scale, self.labels[start : start + BLOCK]


def standardisation(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature, (features,) float32; 1 instead of a standard deviation of 0."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for start in range(0, len(rows), BLOCK):
        scaler.partial_fit(rows[start : start + BLOCK].double().numpy())
    return torch.from_numpy(scaler.mean_).float(), torch.from_numpy(scaler.scale_).float()


def fit_streamed(
    train: tuple[Rows, torch.Tensor], val: tuple[Rows, torch.Tensor], strengths: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logistic regression with classes of equal weight; its regularisation has the lowest validation loss.

    Args:
        train: features (N, features) and labels (N,) that it is fitted on.
        val: the same of the images that choose.
        strengths: scikit-learn's C, from strong to weak regularisation; each fit starts from the one before.

    Returns:
        (classes, features) weights and (classes,) biases, float32, for features that are not standardised.
    """
    mean, scale = standardisation(train[0])
    fitted, chosen = Features(*train, mean, scale), Features(*val, mean, scale)
    counts = torch.bincount(train[1])
    weights = len(train[1]) / (len(counts) * counts.clamp(min=1).double())
    parameters = np.zeros((1 if len(counts) == 2 else len(counts), len(mean) + 1))
    best, lowest = parameters, np.inf
    for strength in strengths:
        parameters = _fit(fitted, weights, strength, parameters)
        loss = _loss_and_gradient(chosen, torch.ones(len(counts), dtype=torch.float64), parameters)[0]
        if loss < lowest:
            best, lowest = parameters, loss
    both = _per_class(torch.from_numpy(best)) / torch.cat([scale, torch.ones(1)])
    weight, bias = both[:, :-1], both[:, -1]
    return weight.float(), (bias - weight @ mean.double()).float()


def _fit(features: Features, weights: torch.Tensor, strength: float, start: np.ndarray) -> np.ndarray:
    """Parameters (1 or classes, features + 1), the bias last, from those of another fit."""

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(start.shape)
        loss, gradient = _loss_and_gradient(features, weights, parameters)
        slopes = parameters.copy()
        slopes[:, -1] = 0  # the bias is not regularised
        factor = 1 / (strength * len(features.labels))  # the weights of all images add up to their number
        return loss + factor * float((slopes**2).sum()) / 2, (gradient + factor * slopes).ravel()

    options = {"maxiter": MOST_STEPS, "gtol": GRADIENT, "ftol": 64 * np.finfo(float).eps}
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(start.shape)


def _loss_and_gradient(features: Features, weights: torch.Tensor, parameters: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross entropy, weighted by class, and its gradient by the parameters; in one pass over the features."""
    own = torch.from_numpy(parameters)
    per_class = _per_class(own).float()
    loss, gradient = 0.0, torch.zeros(per_class.shape, dtype=torch.float64)
    for rows, labels in features.blocks():
        logits = (rows @ per_class[:, :-1].T + per_class[:, -1]).double()
        of_image = weights[labels]
        loss += float((of_image * F.cross_entropy(logits, labels, reduction="none")).sum())
        error = ((logits.softmax(1) - F.one_hot(labels, len(weights))) * of_image[:, None]).float()
        gradient += torch.cat([error.T @ rows, error.sum(0)[:, None]], dim=1).double()
    if len(own) == 1:
        gradient = (gradient[1] - gradient[0])[None] / 2
    return loss / len(features.labels), (gradient / len(features.labels)).numpy()


def _per_class(parameters: torch.Tensor) -> torch.Tensor:
    """Parameters of each class; of two classes, the difference of their logits is what is fitted."""
    return torch.cat([-parameters, parameters]) / 2 if len(parameters) == 1 else parameters
