"""Linear probe: logistic regression on the features of a pretrained model, which becomes its head.

The model, as ImageNet left it, turns every image into features once. Logistic regression (L-BFGS) on them takes about a
second; the strength of its regularisation is the one with the lowest validation loss. Fine-tuning from such a head
changes the pretrained features less than from a random one (Kumar et al., ICLR 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from crackcam import distributed
from crackcam.data.pixels import PixelSplit
from crackcam.data.storage import Rows
from crackcam.models.heads import set_linear_head
from crackcam.models.loaded import LoadedModel
from crackcam.training.evaluate import score
from crackcam.training.features import cached_features
from crackcam.training.history import Epoch
from crackcam.training.streamed_probe import BLOCK, fit_streamed

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, inverse strength


def linear_probe(
    loaded: LoadedModel, train: PixelSplit, val: PixelSplit, batch_size: int, cache: Path | None = None
) -> Epoch:
    """Fit the head of a model by logistic regression on features computed once; epoch 0 of the history.

    Classes have equal weight, whatever their sizes.

    Args:
        loaded: the model; its linear head is replaced in place.
        train: what the head is fitted on.
        val: what the regularisation is chosen by.
        batch_size: images at a time.
        cache: file of features, see :mod:`crackcam.training.features`; None: always computed.
    """
    found = cached_features(loaded, {"train": train, "val": val}, batch_size, cache)
    x, x_val = found["train"], found["val"]
    # One process fits: others, on other processors, might round otherwise.
    weight, bias = distributed.broadcast_object(lambda: _fit(x, train.labels, x_val, val.labels))
    set_linear_head(loaded.model, weight, bias)
    blocks = [x_val] if isinstance(x_val, torch.Tensor) else x_val.split(BLOCK)
    logits = torch.cat([F.linear(block.float(), weight, bias) for block in blocks])
    scores = score(logits, val.labels)
    return Epoch(0, None, None, *scores[1:], lr=0.0, size=val.pixels.shape[-1], best=True)


def _fit(x: Rows, labels: torch.Tensor, x_val: Rows, val_labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit in memory, or block by block where the features of a split are in a file."""
    if isinstance(x, torch.Tensor) and isinstance(x_val, torch.Tensor) and x.dtype == x_val.dtype == torch.float32:
        return _logistic_regression(x, labels, x_val, val_labels)
    return fit_streamed((x, labels), (x_val, val_labels), REGULARISATION)


def _logistic_regression(
    x: torch.Tensor, labels: torch.Tensor, x_val: torch.Tensor, val_labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(classes, features) weights and (classes,) biases, float32, for features that are not standardised."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x.numpy())
    scaled, scaled_val = scaler.transform(x.numpy()), scaler.transform(x_val.numpy())
    probes = [LogisticRegression(C=strength, class_weight="balanced", max_iter=1000) for strength in REGULARISATION]
    for probe in probes:
        probe.fit(scaled, labels.numpy())
    best = min(
        probes, key=lambda probe: log_loss(val_labels.numpy(), probe.predict_proba(scaled_val), labels=probe.classes_)
    )
    weight, bias = best.coef_, best.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
