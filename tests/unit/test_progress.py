"""Progress off a terminal: messages with rate and time left, fewer and fewer; silence for what is quick."""

import logging
import types

import pytest
import torch

from crackcam import progress as module
from crackcam.explain import heatmaps
from crackcam.explain.heatmaps import Technique, show_progress
from crackcam.models.target_layers import Grid, TargetLayer
from crackcam.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move on; standard error is no terminal."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(module.sys, "stderr", types.SimpleNamespace(isatty=lambda: False))
    return now


def test_lines_name_rate_and_time_left(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in Progress("scorecam", 9).over(range(9)):
        clock.seconds += 12
    assert caplog.messages[0] == "scorecam: 1 of 9 images, 12 s each, about 2 min left"
    assert caplog.messages[-1] == "scorecam: 8 of 9 images, 12 s each, about 12 s left"


def test_rates_count_only_what_this_run_did(clock, caplog):
    caplog.set_level(logging.INFO)
    progress = Progress("predicting", 1000, done=500)
    clock.seconds = 20
    progress.update(100)
    assert caplog.messages == ["predicting: 600 of 1,000 images, 5 per second, about 80 s left"]


def test_what_is_quick_is_silent(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in Progress("reading", 9).over(range(9)):
        clock.seconds += 1
    assert not caplog.messages


def test_long_work_writes_fewer_and_fewer_lines(clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in Progress("predicting", 100_000).over(range(100_000)):
        clock.seconds += 1
    assert 50 < len(caplog.messages) < 250


def test_a_bar_at_a_terminal_and_no_lines(clock, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    made = []

    class Bar:
        def __init__(self, **settings):
            made.append(settings)
            self.count = 0

        def update(self, count):
            made.append(count)

        def close(self):
            made.append("closed")

    monkeypatch.setattr(module.sys, "stderr", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(module, "tqdm", Bar)
    for _ in Progress("reading", 2).over(range(2)):
        clock.seconds += 60
    assert made == [{"desc": "reading", "total": 2, "initial": 0, "unit": "image", "leave": False}, 1, 1, "closed"]
    assert not caplog.messages


def test_other_processes_are_silent(clock, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "is_main", lambda: False)
    for _ in Progress("reading", 9).over(range(9)):
        clock.seconds += 60
    assert not caplog.messages


@pytest.mark.parametrize(
    ("method", "total"), [("scorecam", 2 * 32), ("rise", 2 * 1000), ("smoothgrad", 2 * 25), ("gradcam", None)]
)
def test_methods_of_many_passes_show_what_the_model_has_seen(monkeypatch, method, total):
    seen = []

    class Recorder(Progress):
        def __init__(self, label, total, unit):
            super().__init__(label, total, unit)
            seen.append(self)

    monkeypatch.setattr(heatmaps, "Progress", Recorder)
    model = torch.nn.Conv2d(3, 32, 1)
    layers = [TargetLayer("", model, Grid(32, 4, 4))]
    with show_progress(model, Technique(method, layers), 2):
        model(torch.zeros(5, 3, 4, 4))
    model(torch.zeros(5, 3, 4, 4))
    assert [(bar.label, bar.total, bar.made) for bar in seen] == ([(method, total, 5)] if total else [])
