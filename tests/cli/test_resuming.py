"""A killed run goes on as if nothing had happened, whenever the kill came."""

import csv
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
from conftest import ROOT, TINY_TRAINING

import train
from crackcam.data import splits
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.render import figures
from crackcam.training import resume

ARGUMENTS = [*TINY_TRAINING, "--epochs", "3"]
CSV = Path("outputs/training.csv")


class Killed(SystemExit):
    """Raised where a kill would come; nothing of ours catches it."""


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


def test_kills_between_two_files_lose_and_double_nothing(fresh, monkeypatch):
    """Three in one run: before a state is written, while it is, and after the calibrated network was."""
    assert train.main([*ARGUMENTS, "--output", "weights/whole.safetensors"]) == 0
    curve = list(csv.reader(CSV.open()))

    with monkeypatch.context() as patched:  # the first epoch's checkpoint is there, its state is not
        patched.setattr(resume.StateFile, "write", die)
        assert train.main(ARGUMENTS) == 9
    assert not Path("weights/model.resume").exists()

    with monkeypatch.context() as patched:  # the old state has become the previous one; the new one is not there yet
        replace = Path.replace

        def replace_and_die(path, target):
            replace(path, target)
            if str(target).endswith(".previous"):
                raise Killed(9)

        patched.setattr(Path, "replace", replace_and_die)
        assert train.main([*ARGUMENTS, "--resume"]) == 9
    assert not Path("weights/model.resume").exists()
    assert len(resume.read_state(Path("weights/model.resume"))["history"]) == 1

    with monkeypatch.context() as patched:
        patched.setattr(figures, "training_curves", die)
        assert train.main([*ARGUMENTS, "--resume"]) == 9
    assert train.main([*ARGUMENTS, "--resume"]) == 0
    assert_equal_runs(curve)


def test_a_damaged_state_gives_way_to_the_previous_one(tmp_path, capsys):
    path = tmp_path / "model.resume"
    state = resume.StateFile(path, {})
    parts = {"model": torch.nn.Linear(1, 1), "optimizer": torch.nn.Linear(1, 1), "schedule": torch.nn.Linear(1, 1)}
    for number in (1, 2):
        state.write(parts, [{"epoch": number}], {})
    assert resume.read_state(path)["history"] == [{"epoch": 2}]
    path.write_bytes(path.read_bytes()[:1000])
    assert resume.read_state(path)["history"] == [{"epoch": 1}]
    assert f"the state in {path} is damaged" in capsys.readouterr().err
    state.previous.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged: train without --resume"):
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


def test_other_files_are_refused(fresh, monkeypatch, capsys):
    state = resume.StateFile(Path("state"), {"files": resume.fingerprint(splits.plan_splits(Path("data"), 0.15, 0))})
    same = {"run": dict(state.run)}
    state.check(same)
    changed = Path("data/train/Positive/00003.jpg")
    changed.write_bytes(changed.read_bytes() + b" ")
    other = resume.fingerprint(splits.plan_splits(Path("data"), 0.15, 0))
    with pytest.raises(UserError, match="belongs to a run with files 36 files, .*: give the same arguments"):
        resume.StateFile(Path("state"), {"files": other}).check(same)


@pytest.mark.torture
def test_twenty_kills_at_random_moments(fresh):
    """kill -9, from the start of the process to past its end; a run that ends before is begun anew."""
    assert train.main([*ARGUMENTS, "--output", "weights/whole.safetensors"]) == 0
    curve = list(csv.reader(CSV.open()))
    command = [sys.executable, str(ROOT / "train.py"), *ARGUMENTS, "--resume"]
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    takes = time.perf_counter() - start
    assert_equal_runs(curve)
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
            state = resume.read_state(Path("weights/model.resume"))
            after.add(len(state["history"]) if state else 0)
            continue
        assert code == 0
        assert_equal_runs(curve)
        shutil.rmtree("outputs")
        Path("weights/model.safetensors").unlink()
    assert len(after) > 1
    subprocess.run(command, capture_output=True, check=True)
    assert_equal_runs(curve)
