"""Schedules of training, and which epoch is the best."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from crackcam import TrainConfig
from crackcam.models.loaded import LoadedModel
from crackcam.models.pretrained import WeightsOrigin
from crackcam.training import schedule
from crackcam.training.history import Epoch, best_epoch, is_better
from crackcam.training.initial import InitialModel
from crackcam.training.schedule import Schedule, epochs_from_random, progressive_sizes
from crackcam.types import ModelCard

IMAGES = 3000


class OfOneSize(nn.Module):
    """Accepts inputs of one size, as models with position embeddings do."""

    def __init__(self, size):
        super().__init__()
        self.size, self.weight = size, nn.Parameter(torch.ones(1))

    def forward(self, x):
        if x.shape[-1] != self.size:
            raise RuntimeError("size")
        return x.mean(dim=(2, 3))[:, :2] * self.weight


def initial(kind, new_head=True, model=None, mix=0.0):
    loaded = LoadedModel(model or nn.Conv2d(3, 2, 1), ModelCard("any", ["a", "b"], 224))
    return InitialModel(loaded, WeightsOrigin(kind, "somewhere"), new_head, mix)


@pytest.mark.parametrize(("images", "epochs"), [(510, 12), (3000, 5), (40000, 3), (20, 30)])
def test_epochs_from_random_weights_fall_with_the_number_of_images(images, epochs):
    assert epochs_from_random(images) == epochs


def test_sizes_grow_to_the_full_one():
    assert progressive_sizes(5, 224) == (128, 128, 128, 160, 224)
    assert progressive_sizes(5, 224, lambda side: side != 128) == (224, 224, 224, 160, 224)
    assert progressive_sizes(0, 224) == ()


@pytest.mark.parametrize(
    ("kind", "head", "new_head", "epochs", "lr", "strong", "frozen_epochs"),
    [
        ("random", "linear", True, 5, 1e-3, True, 0),
        ("imagenet", "linear", True, 2, 1e-4, False, 0),
        ("file", "linear", True, 2, 1e-4, False, 0),
        ("random", "multiscale", True, 5, 1e-3, True, 0),
        ("imagenet", "multiscale", True, 5, 4e-3, False, 2),  # in those the new head alone learns
        ("file", "multiscale", False, 2, 1e-4, False, 0),
    ],
)
def test_defaults_by_the_origin_of_the_weights(kind, head, new_head, epochs, lr, strong, frozen_epochs):
    found = Schedule.of(TrainConfig(head=head), initial(kind, new_head), IMAGES, 224)
    assert (len(found.sizes), found.lr, found.strong, found.frozen_epochs) == (epochs, lr, strong, frozen_epochs)
    assert found.backbone_lr == (pytest.approx(0.05 * lr) if frozen_epochs else None)
    assert found.averaged == (head == "multiscale")
    assert found.frozen_statistics == (head == "multiscale" and kind != "random")
    assert found.sizes[0] == (128 if kind == "random" else 224)
    assert found.sizes[-1] == 224


def test_settings_are_followed():
    config = TrainConfig(epochs=7, lr=0.5, batch_size=3, patience=2, seed=9, workers=1, mask_weight=1.5)
    found = Schedule.of(config, initial("imagenet", mix=0.25), IMAGES, 64)
    assert found == Schedule(
        sizes=(64,) * 7, lr=0.5, batch_size=3, patience=2, seed=9, workers=1, mix=0.25, mask_weight=1.5
    )


def test_models_of_one_size_are_trained_at_it():
    found = Schedule.of(TrainConfig(epochs=5), initial("random", model=OfOneSize(224)), IMAGES, 224)
    assert found.sizes == (224,) * 5


def test_default_mask_weight_is_that_of_the_settings():
    assert TrainConfig().mask_weight == schedule.MASK_WEIGHT


# -- history -----------------------------------------------------------------------------------------------------------


def epoch(balanced, loss, best=False):
    return Epoch(1, 0.1, 0.9, loss, 0.5, balanced, 0.0, 64, best)


def test_better_is_balanced_accuracy_then_loss():
    assert is_better(epoch(0.5, 0.5), [])
    assert is_better(epoch(0.9, 0.6), [epoch(0.8, 0.1)])
    assert is_better(epoch(0.9, 0.4), [epoch(0.9, 0.5)])
    assert not is_better(epoch(0.9, 0.5), [epoch(0.9, 0.5)])
    assert is_better(epoch(0.8, 0.4), [epoch(0.9, 0.5)], by_loss=True)
    assert not is_better(epoch(0.9, 0.5), [epoch(0.8, 0.5)], by_loss=True)


def test_the_last_star_is_the_best_epoch():
    first, second, third = epoch(0.5, 0.5, best=True), epoch(0.6, 0.5, best=True), epoch(0.4, 0.5)
    assert best_epoch([first, second, third]) is second


def test_summary_of_an_epoch():
    done = epoch(0.5, 0.5, best=True)
    assert done.summary(3) == "epoch 1/3: train loss 0.1000 accuracy 0.9000, val loss 0.5000 accuracy 0.5000 *"
    probe = replace(done, epoch=0, train_loss=None, train_accuracy=None, best=False)
    assert probe.summary(3) == "linear probe: val loss 0.5000 accuracy 0.5000"
    assert done.as_metrics() == {"best_epoch": 1, "val": {"accuracy": 0.5, "loss": 0.5}}
