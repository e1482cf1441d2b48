"""Fine-tuning a multiscale head: what learns when, and which weights are kept."""

import pytest
import torch
from torch import nn

from crackcam.data.pixels import PixelSplit
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.training.loop import AVERAGED_OVER, FineTuning, copy_tensors
from crackcam.training.resume import StateFile, read_state
from crackcam.training.schedule import Schedule
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow

IMAGES, BATCH = 64, 2


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, images):
        return self.coarse(self.fine(images))


def split(images=IMAGES):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(images) % 2
    pixels[labels == 1, :, 10:14] = 0
    return PixelSplit(pixels, labels, [])


def tuning(tmp_path, images=IMAGES, **settings):
    torch.manual_seed(0)
    model = Multiscale(Backbone(), {"fine": 4, "coarse": 6}, 2, decoder=8)
    loaded = LoadedModel(model, ModelCard("any", ["a", "b"], 32))
    schedule = Schedule(lr=1e-2, batch_size=BATCH, frozen_statistics=True, **settings)
    return FineTuning(loaded, schedule, split(images), split(images)), StateFile(tmp_path / "m.resume", {})


def changed(before, after, prefix):
    return {name for name in before if name.startswith(prefix) and not torch.equal(before[name], after[name])}


def test_the_head_learns_first_and_the_backbone_keeps_its_statistics(tmp_path):
    fine_tuning, state = tuning(tmp_path, sizes=(32, 32), frozen_epochs=1, backbone_lr=1e-3)
    states = [copy_tensors(fine_tuning.loaded.model)]
    fine_tuning.run([], state, on_epoch=lambda epoch: states.append(copy_tensors(fine_tuning.loaded.model)))
    initial, first, second = states
    assert not changed(initial, first, "backbone.")
    assert {"maps.0.1.weight", "decoder.lateral.0.1.weight", "scale", "bias"} <= changed(initial, first, "")
    parameters = {f"backbone.{name}" for name, _ in fine_tuning.loaded.model.backbone.named_parameters()}
    assert changed(first, second, "backbone.") == parameters


def test_the_model_ends_halfway_between_its_head_only_and_its_best_weights(tmp_path):
    fine_tuning, state = tuning(tmp_path, sizes=(32,) * 3, frozen_epochs=2, backbone_lr=1e-3, averaged=True)
    states = []
    best = fine_tuning.run([], state, on_epoch=lambda epoch: states.append(copy_tensors(fine_tuning.loaded.model)))
    final = copy_tensors(fine_tuning.loaded.model)
    for name, tensor in final.items():
        if best.epoch <= 2:
            expected = states[best.epoch - 1][name]
        else:
            expected = (states[1][name].double() + states[2][name].double()) / 2
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected.to(tensor.dtype), msg=name)
    assert best.epoch == 3  # else this test shows nothing


def test_the_backbone_learns_at_a_rate_of_its_own(tmp_path):
    fine_tuning, _ = tuning(tmp_path, sizes=(32,), backbone_lr=1e-3)
    head, backbone = fine_tuning.optimizer.param_groups
    assert (head["max_lr"], backbone["max_lr"]) == (1e-2, 1e-3)
    own = {id(parameter) for parameter in fine_tuning.loaded.model.backbone.parameters()}
    assert {id(parameter) for parameter in backbone["params"]} == own
    assert not own & {id(parameter) for parameter in head["params"]}


def test_the_kept_weights_are_the_moving_average(tmp_path):
    fine_tuning, state = tuning(tmp_path, sizes=(32,), averaged=True)
    steps = IMAGES // BATCH
    decay, average = 1 - AVERAGED_OVER / steps, None

    def follow(optimizer, *_):
        nonlocal average
        now = [parameter.detach().clone() for parameter in fine_tuning.loaded.model.parameters()]
        # The first step is where the average starts.
        average = now if average is None else [decay * a + (1 - decay) * b for a, b in zip(average, now, strict=True)]

    fine_tuning.optimizer.register_step_post_hook(follow)
    fine_tuning.run([], state)
    for (name, kept), expected in zip(fine_tuning.loaded.model.named_parameters(), average, strict=True):
        torch.testing.assert_close(kept.detach(), expected, msg=name)


def test_few_steps_are_not_averaged(tmp_path):
    """An average over them would be little else than the weights that training started from."""
    results = []
    for averaged in (True, False):
        fine_tuning, state = tuning(tmp_path, sizes=(32,), averaged=averaged, images=8)
        fine_tuning.run([], state)
        results.append(copy_tensors(fine_tuning.loaded.model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("averaged", [False, True])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, averaged):
    def kill(epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    images = IMAGES if averaged else 8  # few steps are not averaged
    settings = {"images": images, "sizes": (32,) * 3, "frozen_epochs": 1, "backbone_lr": 1e-3, "averaged": averaged}
    whole, state = tuning(tmp_path / "whole", **settings)
    (tmp_path / "whole").mkdir()
    whole.run([], state)
    (tmp_path / "killed").mkdir()
    first, state = tuning(tmp_path / "killed", **settings)
    with pytest.raises(KeyboardInterrupt):
        first.run([], state, on_epoch=kill)
    second, state = tuning(tmp_path / "killed", **settings)
    second.run([], state, read_state(state.path))
    expected, found = copy_tensors(whole.loaded.model), copy_tensors(second.loaded.model)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
