"""Detection thresholds: calibrated without masks, set, from a checkpoint, or by Otsu's method."""

import logging
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from crackcam.config import ExplainConfig
from crackcam.explain import thresholds
from crackcam.methods import EVIDENCE
from crackcam.models.multiscale import Multiscale
from crackcam.types import ModelCard


def test_calibration_leaves_half_a_hundredth():
    heatmaps = torch.arange(10_000, dtype=torch.float32).reshape(4, 50, 50)
    assert thresholds.calibrate(heatmaps) == pytest.approx(9949.005)
    assert thresholds.calibrate(heatmaps.numpy()) == pytest.approx(9949.005)
    assert (heatmaps > thresholds.calibrate(heatmaps)).sum() == 50


class Recorder:
    """Heatmaps that are the pixels, 1000 higher for each class; it records what it is asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, pixels, targets):
        self.calls.append((len(pixels), set(targets)))
        assert len(targets) == len(pixels)
        return pixels[:, 0].float() + 1000 * targets[0]


def labelled():
    labels = torch.tensor([0] * 300 + [1] * 200)
    return labels[:, None, None, None].expand(-1, 3, 4, 4).to(torch.uint8) * 7, labels


def test_thresholds_come_from_images_of_other_classes():
    explain, (pixels, labels) = Recorder(), labelled()
    limits = thresholds.class_thresholds(explain, ["a", "b", "c"], pixels, labels)
    assert limits == {"a": 7.0, "b": 1000.0, "c": 2007.0}  # "c" has no images: all are of others
    assert explain.calls == [(thresholds.CALIBRATION_IMAGES // 3, {index}) for index in range(3)]
    alone = thresholds.class_thresholds(explain, ["a", "b", "c"], pixels[:300], labels[:300])
    assert set(alone) == {"b", "c"}


def test_many_classes_get_a_minimum_of_images_and_few_images_are_all_used():
    explain, (pixels, labels) = Recorder(), labelled()
    thresholds.class_thresholds(explain, [str(i) for i in range(50)], pixels, labels)
    assert {number for number, _ in explain.calls} == {thresholds.MIN_IMAGES}
    few = Recorder()
    thresholds.class_thresholds(few, ["a", "b"], pixels[298:302], labels[298:302])
    assert few.calls == [(2, {0}), (2, {1})]


def test_only_multiscale_heads_have_thresholds_of_their_evidence(monkeypatch):
    heatmaps, recorder, sizes = ModuleType("heatmaps"), Recorder(), []

    def evidence_maps(network, pixels, targets, batch_size):
        sizes.append((network, batch_size))
        return recorder(pixels, targets)

    heatmaps.evidence_maps = evidence_maps
    monkeypatch.setitem(sys.modules, "crackcam.explain.heatmaps", heatmaps)
    monkeypatch.setattr("crackcam.explain.heatmaps", heatmaps, raising=False)
    pixels, labels = labelled()
    card = ModelCard("resnet18", ["a", "b"], 8)
    linear = SimpleNamespace(model=nn.Linear(2, 2), card=card)
    assert thresholds.evidence_thresholds(linear, pixels, labels, 5) == {}
    head = Multiscale(nn.Sequential(nn.Conv2d(3, 4, 1)), {"0": 4}, 2)
    network = SimpleNamespace(model=head, card=card)
    assert thresholds.evidence_thresholds(network, pixels, labels, 5) == {EVIDENCE: {"a": 7.0, "b": 1000.0}}
    assert sizes == [(network, 5)] * 2


def test_where_thresholds_come_from():
    card = ModelCard("resnet18", ["a", "b"], 8, thresholds={"gradcam": {"a": 0.25}})
    assert thresholds.known_threshold(ExplainConfig(), card, "gradcam", "a") == 0.25
    assert math.isnan(thresholds.known_threshold(ExplainConfig(), card, "gradcam", "b"))
    assert math.isnan(thresholds.known_threshold(ExplainConfig(), card, "layercam", "a"))
    assert thresholds.known_threshold(ExplainConfig(threshold=3.0), card, "gradcam", "a") == 3.0
    assert thresholds.known_threshold(ExplainConfig(threshold=0), card, "gradcam", "a") == 0
    assert thresholds.known_threshold(ExplainConfig(threshold=3.0, stride=8), card, "layercam", "b") == 3.0


@pytest.mark.parametrize(
    "other", [{"layer": ["x"]}, {"stride": 8}, {"fuse": "mean"}, {"aug_smooth": True}, {"eigen_smooth": True}]
)
def test_thresholds_of_a_checkpoint_do_not_hold_in_another_unit(other):
    card = ModelCard("resnet18", ["a", "b"], 8, thresholds={"gradcam": {"a": 0.25}})
    assert math.isnan(thresholds.known_threshold(ExplainConfig(**other), card, "gradcam", "a"))


def test_unknown_thresholds_are_otsus(caplog):
    caplog.set_level(logging.INFO)
    two_levels = torch.tensor([[0.1, 0.1], [0.1, 0.9]])
    assert thresholds.complete_thresholds([0.25, 0.25], "gradcam", [two_levels, two_levels]) == [0.25, 0.25]
    assert not caplog.records
    first, second = thresholds.complete_thresholds([0.25, math.nan], "gradcam", [1000 * two_levels, two_levels])
    assert first == 0.25
    assert 0.1 <= second < 0.9
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("no detection threshold is known for these heatmaps of gradcam: using 0.1")
    arrays = [two_levels.numpy()] * 2
    assert thresholds.complete_thresholds([math.nan] * 2, "gradcam", arrays) == [second] * 2
