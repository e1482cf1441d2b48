"""A killed run goes on as if nothing had happened, whenever the kill came."""

import csv
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_TRAINING, tiny_config

import crackcam
import train
from crackcam.data import splits
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.models.pretrained import WeightsOrigin
from crackcam.render import figures
from crackcam.training import resume
from crackcam.training.loop import FineTuning

ARGUMENTS = [*TINY_TRAINING, "--arch", "timm/test_resnet", "--epochs", "3"]
CSV, STATE = Path("outputs/training.csv"), Path("weights/model.resume")


class Killed(SystemExit):
    """Raised where a kill would come; the library does not catch it."""


def weights_of(name):
    return checkpoint.read_tensors(Path(f"weights/{name}.safetensors"))


def assert_equal_runs(curve):
    whole, resumed = weights_of("whole"), weights_of("model")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert list(csv.reader(CSV.open())) == curve
    cards = [
        checkpoint.load(Path(f"weights/{name}.safetensors"), torch.device("cpu"))[1] for name in ("whole", "model")
    ]
    assert cards[0].metrics == cards[1].metrics
    assert cards[0].thresholds == cards[1].thresholds
    assert {path.name for path in Path("weights").iterdir()} == {"whole.safetensors", "model.safetensors"}


def die(*_, **__):
    raise Killed(9)


def killed(number, config, monkeypatch):
    """A training that is killed in an epoch."""
    train_epoch = FineTuning.train_epoch

    def run_or_die(tuning, epoch):
        return die() if epoch == number else train_epoch(tuning, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(FineTuning, "train_epoch", run_or_die)
        with pytest.raises(Killed):
            crackcam.train(config)


def test_kills_between_two_files_lose_and_double_nothing(fresh, without_figures, monkeypatch):
    """Three in one run: before a state is written, while it is, and after the calibrated network was."""
    assert train.main([*ARGUMENTS, "--output", "weights/whole.safetensors"]) == 0
    curve = list(csv.reader(CSV.open()))

    with monkeypatch.context() as patched:  # the first epoch's checkpoint is there, its state is not
        patched.setattr(resume.StateFile, "write", die)
        assert train.main(ARGUMENTS) == 9
    assert not STATE.exists()

    with monkeypatch.context() as patched:  # the old state has become the previous one; the new one is not there yet
        replace = Path.replace

        def replace_and_die(path, target):
            replace(path, target)
            if str(target).endswith(".previous"):
                raise Killed(9)

        patched.setattr(Path, "replace", replace_and_die)
        assert train.main([*ARGUMENTS, "--resume"]) == 9
    assert not STATE.exists()
    assert len(resume.read_state(STATE)["history"]) == 1

    with monkeypatch.context() as patched:
        patched.setattr(figures, "training_curves", die)
        assert train.main([*ARGUMENTS, "--resume"]) == 9
    assert train.main([*ARGUMENTS, "--resume"]) == 0
    assert_equal_runs(curve)


@pytest.mark.parametrize(
    "own",
    [
        {"arch": "squeezenet1_1"},
        {"arch": "timm/test_resnet", "head": "multiscale", "mix_sample": 0.25},  # by default half: those take time
    ],
    ids=["linear", "multiscale"],
)
def test_a_resumed_run_ends_with_the_same_weights_as_an_uninterrupted_one(fresh, monkeypatch, caplog, own):
    """With dropout, and with the statistics of batch norm."""
    caplog.set_level(logging.INFO, "crackcam")
    settings = {"epochs": 4, **own}
    whole = crackcam.train(tiny_config(**settings, output="weights/whole.safetensors"))
    killed(3, tiny_config(**settings), monkeypatch)
    assert len(resume.read_state(STATE)["history"]) == 2
    caplog.clear()
    resumed = crackcam.train(tiny_config(**settings, resume=True, workers=1))
    assert [text.split(":")[0] for text in caplog.messages if text.startswith("epoch")] == ["epoch 3/4", "epoch 4/4"]
    assert not STATE.exists()
    assert resumed.history == whole.history
    assert resumed.metrics == whole.metrics
    assert resumed.classifier.card.thresholds == whole.classifier.card.thresholds
    assert resumed.origin == whole.origin
    before, after = weights_of("whole"), weights_of("model")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_with_nothing_to_resume_starts_from_the_beginning(fresh, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    assert len(crackcam.train(tiny_config(arch="squeezenet1_1", epochs=1, resume=True)).history) == 1
    assert "nothing to resume at weights/model.resume; starting from the beginning" in caplog.messages


def test_more_epochs_for_a_finished_run(fresh, caplog):
    """Nothing is trained anew in its place: the message says how to go on, and that works."""
    caplog.set_level(logging.INFO, "crackcam")
    settings = {"arch": "squeezenet1_1", "epochs": 1, "batch_size": 12}
    crackcam.train(tiny_config(**settings))
    before = Path("weights/model.safetensors").read_bytes()
    for more in ({"epochs": 20}, {}, {"epochs": 20, "lr": 1e-5}):
        with pytest.raises(UserError, match="is finished: nothing to resume; .* pretrained weights/model.safetensors"):
            crackcam.train(tiny_config(**{**settings, "resume": True, **more}))
    assert Path("weights/model.safetensors").read_bytes() == before
    caplog.clear()
    crackcam.train(tiny_config(**{**settings, "pretrained": "weights/model.safetensors"}))
    assert any("weights of weights/model.safetensors" in text for text in caplog.messages)
    Path("data").rename("other")
    assert len(crackcam.train(tiny_config(**settings, data="other", resume=True)).history) == 1


def test_resuming_with_other_settings_is_refused(fresh, monkeypatch):
    """Before anything is decoded or built; those that change no result may differ."""
    killed(2, tiny_config(arch="squeezenet1_1"), monkeypatch)
    monkeypatch.setattr("crackcam.training.trainer.build_model", die)
    for setting, value, before in (("lr", 0.5, None), ("pretrained", "auto", "none"), ("epochs", 3, 2)):
        message = f"belongs to a run with {setting} {before}, not {value}: give the same arguments"
        with pytest.raises(UserError, match=message):
            crackcam.train(tiny_config(**{"arch": "squeezenet1_1", "resume": True, setting: value}))
    with pytest.raises(Killed):
        crackcam.train(tiny_config(arch="squeezenet1_1", resume=True, workers=2, device="cpu", export="onnx"))


def test_a_damaged_state_is_refused(fresh):
    STATE.parent.mkdir()
    STATE.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(UserError, match="is damaged: train without resume"):
        crackcam.train(tiny_config(resume=True))


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_damaged_state_gives_way_to_the_previous_one(tmp_path, caplog):
    path = tmp_path / "model.resume"
    state = resume.StateFile(path, {})
    parts = {"model": torch.nn.Linear(1, 1), "optimizer": torch.nn.Linear(1, 1), "schedule": torch.nn.Linear(1, 1)}
    for number in (1, 2):
        state.write(parts, [{"epoch": number}], {})
    assert resume.read_state(path)["history"] == [{"epoch": 2}]
    path.write_bytes(path.read_bytes()[:1000])
    assert resume.read_state(path)["history"] == [{"epoch": 1}]
    assert caplog.messages == [f"the state in {path} is damaged"]
    state.previous.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged: train without resume"):
        resume.read_state(path)
    state.remove()
    assert resume.read_state(path) is None
    assert not list(tmp_path.iterdir())


def test_what_kills_left_half_written_goes_and_nothing_else(tmp_path):
    left = {".model.123.resume", ".model.123.safetensors", ".model.4.features", ".model.4.onnx"}
    others = {"other.resume", ".model.1st.safetensors", ".model.2026.txt", ".model.7.safetensors.swp"}
    for name in left | others:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (10**9, 10**9))
    state = resume.StateFile(tmp_path / "model.resume", {})
    now = tmp_path / ".model.8.safetensors"  # by another run into the same file, at this moment
    now.touch()
    os.utime(now, (state.begun + 1, state.begun + 1))
    state.remove()
    assert {file.name for file in tmp_path.iterdir()} == {*others, now.name}


def test_settings_that_a_state_does_not_know_had_their_defaults(tmp_path):
    state = resume.StateFile(tmp_path / "state", {"mask_weight": 8.0, "lr": None, "batch_size": 8})
    state.check({"run": {"batch_size": 8}})
    state.check({"run": {"batch_size": 8, "mask_weight": 8, "lr": None, "old": 1}})
    with pytest.raises(UserError, match=r"belongs to a run with mask_weight 4.0, not 8.0"):
        state.check({"run": {"batch_size": 8, "mask_weight": 4.0}})


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"run": {"weights": "random weights: asked for", "pretrained": "none"}}, "random"),
        ({"run": {"weights": "random weights: ImageNet's could not be had (x)", "pretrained": "auto"}}, "random"),
        ({"run": {"weights": "ImageNet weights of torchvision", "pretrained": "auto"}}, "imagenet"),
        ({"run": {"weights": "weights of w.pth", "pretrained": "w.pth"}}, "file"),
        ({"run": {"weights": "random walk", "pretrained": "w.pth"}, "origin": "file"}, "file"),
        ({"run": {"weights": "whatever", "pretrained": "auto"}, "origin": "imagenet"}, "imagenet"),
        ({"run": {"weights": "whatever", "pretrained": "auto"}, "origin": "of a stranger"}, "imagenet"),
    ],
)
def test_origin_of_the_weights_also_of_older_states(document, kind):
    assert resume.read_origin(document) == WeightsOrigin(kind, document["run"]["weights"])


def test_other_files_are_refused(fresh):
    state = resume.StateFile(STATE, {"files": resume.fingerprint(splits.plan_splits(Path("data"), 0.15, 0))})
    state.check({"run": dict(state.run)})
    changed = Path("data/train/Positive/00003.jpg")
    changed.write_bytes(changed.read_bytes() + b" ")
    other = resume.fingerprint(splits.plan_splits(Path("data"), 0.15, 0))
    with pytest.raises(UserError, match="belongs to a run with files 36 files, .*: give the same arguments"):
        resume.StateFile(STATE, {"files": other}).check({"run": state.run})


# -- real kills --------------------------------------------------------------------------------------------------------


@pytest.mark.torture
def test_kill_at_any_moment_leaves_whole_files(fresh):
    command = [sys.executable, str(ROOT / "train.py"), *TINY_TRAINING, "--epochs", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            break
    time.sleep(0.37)
    process.kill()
    process.communicate(timeout=60)
    assert len(resume.read_state(STATE)["history"]) >= 2  # the third is logged before it is written
    checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))


@pytest.mark.torture
def test_twenty_kills_at_random_moments(fresh):
    """kill -9, from the start of the process to past its end; a run that ends before is started again."""
    script = [sys.executable, str(ROOT / "train.py"), *ARGUMENTS]
    # a process too: another number of threads would round otherwise
    subprocess.run([*script, "--output", "weights/whole.safetensors"], capture_output=True, check=True)
    curve = list(csv.reader(CSV.open()))
    command = [*script, "--resume"]
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    takes = time.perf_counter() - start
    assert_equal_runs(curve)
    shutil.rmtree("outputs")
    Path("weights/model.safetensors").unlink()  # a finished run is not resumed
    moments, kills, after = random.Random(0), 0, set()
    while kills < 20:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # Half of the time goes into imports: kills there are all alike.
            code = process.wait(takes * moments.uniform(0.3, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            assert process.wait() == -signal.SIGKILL
            kills += 1
            state = resume.read_state(STATE)
            after.add(len(state["history"]) if state else 0)
            continue
        assert code in (0, 2)  # the one before was killed behind its end: a finished run is refused
        assert_equal_runs(curve)
        shutil.rmtree("outputs")
        Path("weights/model.safetensors").unlink()
    assert len(after) > 1
    subprocess.run(command, capture_output=True, check=True)
    assert_equal_runs(curve)
