"""How fine-tuning proceeds: number of epochs, image sizes, learning rate, augmentation.

Three cases, by where the weights come from:

* *ImageNet weights, or those of a file*: two epochs with a small learning rate, weak augmentation, at the full size.
* *Random weights*: the number of epochs falls as the root of the number of images (510 images: 12, 3,000: 5), so that
  time grows as that root; strong augmentation; three fifths of the epochs see images of 4/7 the size, a fifth 5/7.
* *A new multiscale head on pretrained weights*: the head alone learns, for as many epochs as from random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crackcam.config import TrainConfig
from crackcam.models.checks import accepts_size
from crackcam.training.initial import InitialModel

DEFAULT_EPOCHS = 2  # from pretrained weights
LR_FINE_TUNING, LR_RANDOM, LR_HEAD = 1e-4, 1e-3, 4e-3  # peak learning rates
BACKBONE_LR = 0.05  # peak learning rate of a pretrained backbone below a new head, as a fraction of the head's
FROZEN = 0.3  # fraction of the epochs in which such a head learns alone
MASK_WEIGHT = 8.0  # of the loss per cell of the map beside the loss per image


@dataclass(frozen=True)
class Schedule:
    """How to train after the linear probe.

    Attributes:
        sizes: side of the training images in each epoch; small ones cost less and come first.
        lr: peak learning rate of AdamW; it rises to it, then falls to nothing (one cycle).
        batch_size: images per step.
        strong: strong augmentation, see :func:`crackcam.data.pixels.augmentation`.
        patience: epochs without improvement after which training stops; 0: never.
        seed: of shuffling and augmentation.
        workers: processes that augment.
        frozen_epochs: in the first ones the head alone learns.
        backbone_lr: peak learning rate of the backbone's layers; None: that of the head.
        frozen_statistics: the backbone keeps the batch statistics that it came with.
        averaged: the weights that are kept are moving averages over the last steps.
        mix: fraction of synthetic images in each epoch; see :mod:`crackcam.data.synthetic`.
        mask_weight: loss weight of the masks of synthetic cracks, for a multiscale head.
    """

    sizes: tuple[int, ...]
    lr: float
    batch_size: int = 32
    strong: bool = False
    patience: int = 0
    seed: int = 0
    workers: int = 0
    frozen_epochs: int = 0
    backbone_lr: float | None = None
    frozen_statistics: bool = False
    averaged: bool = False
    mix: float = 0.0
    mask_weight: float = MASK_WEIGHT

    @classmethod
    def of(cls, config: TrainConfig, initial: InitialModel, images: int, size: int) -> Schedule:
        """The schedule for a model, changed where ``epochs`` or ``lr`` is given.

        Args:
            config: settings of the run.
            initial: the model, and where its weights come from.
            images: number of training images.
            size: side of the training images in pixels.
        """
        from_random = initial.origin.random
        new_head = config.multiscale and initial.new_head and not from_random
        default = epochs_from_random(images) if from_random or new_head else DEFAULT_EPOCHS
        epochs = default if config.epochs is None else config.epochs
        sizes: tuple[int, ...] = (size,) * epochs
        if from_random:
            sizes = progressive_sizes(epochs, size, lambda side: accepts_size(initial.loaded.model, side))
        lr = config.lr or (LR_RANDOM if from_random else LR_HEAD if new_head else LR_FINE_TUNING)
        return cls(
            sizes=sizes,
            lr=lr,
            batch_size=config.batch_size,
            strong=from_random,
            patience=config.patience,
            seed=config.seed,
            workers=config.workers,
            frozen_epochs=round(epochs * FROZEN) if new_head else 0,
            backbone_lr=lr * BACKBONE_LR if new_head else None,
            frozen_statistics=config.multiscale and not from_random,
            averaged=config.multiscale,
            mix=initial.mix,
            mask_weight=config.mask_weight,
        )


def epochs_from_random(images: int) -> int:
    """Number of epochs from random weights, 3 to 30, for a number of training images."""
    return min(30, max(3, round(280 / images**0.5)))


def progressive_sizes(epochs: int, size: int, accepts: Callable[[int], bool] = lambda side: True) -> tuple[int, ...]:
    """Side of the training images in each epoch: 4/7 of ``size`` at first, then 5/7, then all of it.

    Args:
        epochs: how many.
        size: the full size in pixels.
        accepts: whether the model accepts a size; those that it does not are replaced by the full size.
    """
    small, medium = round(size * 4 / 7), round(size * 5 / 7)
    first, second = round(epochs * 0.6), round(epochs * 0.8)
    sizes = [small if e < first else medium if e < second else size for e in range(epochs)]
    accepted = {side: side if accepts(side) else size for side in set(sizes)}
    return tuple(accepted[side] for side in sizes)
