"""The history of a training run: one :class:`Epoch` after another, and which of them is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Epoch:
    """One row of the training log. Epoch 0 is the linear probe.

    Attributes:
        epoch: its number.
        train_loss, train_accuracy: over the augmented images of the epoch; None for the linear probe.
        val_loss, val_accuracy, val_balanced_accuracy: on the validation split, after it.
        lr: learning rate of its last step.
        size: side of its training images in pixels.
        best: whether it was better than all epochs before it.

    Examples:
        >>> from crackcam.training.history import Epoch
        >>> Epoch(1, 0.41, 0.8, 0.35, 0.9, 0.9, lr=1e-4, size=224, best=True).summary(2)
        'epoch 1/2: train loss 0.4100 accuracy 0.8000, val loss 0.3500 accuracy 0.9000 *'
    """

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    lr: float
    size: int
    best: bool

    def summary(self, epochs: int) -> str:
        """One line of ``epochs`` lines; the best one so far ends with a star."""
        name, trained = "linear probe", ""
        if self.train_loss is not None:
            name = f"epoch {self.epoch}/{epochs}"
            trained = f"train loss {self.train_loss:.4f} accuracy {self.train_accuracy:.4f}, "
        star = " *" if self.best else ""
        return f"{name}: {trained}val loss {self.val_loss:.4f} accuracy {self.val_accuracy:.4f}{star}"

    def as_metrics(self) -> dict[str, Any]:
        """What the metrics of a checkpoint of this epoch hold."""
        return {"best_epoch": self.epoch, "val": {"accuracy": self.val_accuracy, "loss": self.val_loss}}


def is_better(candidate: Epoch, history: Sequence[Epoch], by_loss: bool = False) -> bool:
    """Whether an epoch beats all before it: higher balanced accuracy, then lower loss, on the validation split.

    Args:
        candidate: the epoch.
        history: those before it.
        by_loss: compare the loss alone, where half the validation images are synthetic and hard by design, so that
            accuracy depends on few of them.
    """

    def merit(epoch: Epoch) -> tuple[float, ...]:
        return (-epoch.val_loss,) if by_loss else (epoch.val_balanced_accuracy, -epoch.val_loss)

    return all(merit(candidate) > merit(epoch) for epoch in history)


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights are kept: the last that was better than all before it."""
    return [epoch for epoch in history if epoch.best][-1]
