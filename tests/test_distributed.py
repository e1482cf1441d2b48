"""Several processes do what one does: torchrun on gloo."""

import csv
import random
import subprocess
import sys
from pathlib import Path

import parallel_worker
import pytest
import torch
from conftest import ROOT, TINY_TRAINING

import train
from crackcam import checkpoint, distributed, parallel
from crackcam.console import UserError

PLAIN = [*TINY_TRAINING, "--precision", "fp32", "--batch-size", "6"]


def torchrun(processes, *command):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *command]
    return subprocess.run(list(map(str, run)), capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.torture)])
def test_processes_train_as_one(tmp_path, processes):
    """With batch norm, dropout, stochastic depth, augmentation, and batches that cannot be shared evenly."""
    done = torchrun(processes, ROOT / "tests/parallel_worker.py", tmp_path)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    (tmp_path / "one").mkdir()
    alone = parallel_worker.train(tmp_path / "one")
    for each in found:
        assert each["history"] == found[0]["history"]
        assert all(torch.equal(each["model"][name], tensor) for name, tensor in found[0]["model"].items())
        assert torch.equal(each["logits"], found[0]["logits"])
        assert each["gathered"] == list(range(processes))
        assert each["from_main"] == random.Random(0).random()
        assert each["error"] == "of the main process"
    for mine, theirs in zip(alone["history"], found[0]["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert mine["train_accuracy"] == theirs["train_accuracy"]
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)
    for name, tensor in alone["model"].items():
        torch.testing.assert_close(tensor, found[0]["model"][name], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone["logits"], found[0]["logits"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.torture)])
def test_training_by_torchrun(fresh, processes):
    """One writer, the losses and the predictions of a single process."""
    assert train.main([*PLAIN, "--output", "weights/one.safetensors"]) == 0
    alone = list(csv.DictReader(Path("outputs/training.csv").open()))
    done = torchrun(processes, ROOT / "train.py", *PLAIN)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2:") == 1
    assert done.stdout.count("wrote weights/model.safetensors") == 1
    assert {path.name for path in Path("weights").iterdir()} == {"one.safetensors", "model.safetensors"}
    rows = list(csv.DictReader(Path("outputs/training.csv").open()))
    for one, many in zip(alone, rows, strict=True):
        # A single process with another number of threads differs by 0.0016, and by a validation picture of the four:
        # AdamW's first steps go by signs. test_processes_train_as_one is the strict one.
        assert float(one["train_loss"]) == pytest.approx(float(many["train_loss"]), rel=2e-2)
        assert (one["epoch"], one["size"], one["lr"]) == (many["epoch"], many["size"], many["lr"])
    cards = [checkpoint.load(Path(f"weights/{name}.safetensors"), torch.device("cpu"))[1] for name in ("one", "model")]
    assert cards[0].classes == cards[1].classes
    assert cards[0].split == cards[1].split


def test_shares_are_all_of_it_and_alike(monkeypatch):
    for world in (1, 2, 3, 5):
        for name, value in {"WORLD_SIZE": world, "MASTER_ADDR": "here", "RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        taken = []
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            taken.append(list(range(11))[distributed.share(11)])
        assert [index for part in taken for index in part] == list(range(11))
        assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_more_processes_than_rows_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "MASTER_ADDR": "here", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    parallel.check_batch(4, 100)
    with pytest.raises(UserError, match="4 processes share each batch of 3: start fewer"):
        parallel.check_batch(32, 3)


def test_one_process_is_told_nothing_of_others(capsys, monkeypatch):
    from crackcam.console import note

    monkeypatch.setenv("RANK", "1")  # without the rest: not torchrun's
    note("said")
    assert capsys.readouterr().err == "said\n"
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    note("not said")
    assert capsys.readouterr().err == ""
    assert train.main(["--epochs", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error in process 1: argument --epochs: ")
