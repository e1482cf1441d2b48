"""Several processes do what one does: torchrun on gloo."""

import csv
import random
from pathlib import Path

import parallel_worker
import pytest
import torch
from conftest import ROOT, TINY_TRAINING, by_torchrun
from timm.layers import BatchNormAct2d

import train
from crackcam import distributed
from crackcam.cli import console
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.training import parallel

PLAIN = [*TINY_TRAINING, "--precision", "fp32", "--batch-size", "6"]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.torture)])
def test_processes_train_as_one(tmp_path, processes):
    """With batch norm, dropout, stochastic depth, augmentation, and batches that cannot be shared evenly."""
    done = by_torchrun(processes, ROOT / "tests/parallel_worker.py", tmp_path)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    (tmp_path / "one").mkdir()
    alone = parallel_worker.train(tmp_path / "one")
    for each in found:
        assert each["history"] == found[0]["history"]
        assert all(torch.equal(each["model"][name], tensor) for name, tensor in found[0]["model"].items())
        assert torch.equal(each["logits"], found[0]["logits"])
        assert each["resumed"]["history"] == found[0]["history"]
        assert torch.equal(each["resumed"]["logits"], found[0]["logits"])
        for name, tensor in each["last"][0].items():  # of the last epoch, which need not be the best one
            assert torch.equal(tensor, each["last"][1][name]), name
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
    """One writer, the losses and the predictions of a single process.

    In small steps: AdamW's first ones go by the signs of gradients, and where those are nothing but rounding, whole
    steps part runs: at the default rate one process of one thread and one of two differ by 0.16 %.
    """
    arguments = [*PLAIN, "--lr", "1e-5"]
    assert train.main([*arguments, "--output", "weights/one.safetensors"]) == 0
    alone = list(csv.DictReader(Path("outputs/training.csv").open()))
    done = by_torchrun(processes, ROOT / "train.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2:") == 1
    assert done.stdout.count("wrote weights/model.safetensors") == 1
    assert {path.name for path in Path("weights").iterdir()} == {"one.safetensors", "model.safetensors"}
    rows = list(csv.DictReader(Path("outputs/training.csv").open()))
    for one, many in zip(alone, rows, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(many["train_loss"]), rel=1e-3)
        assert float(one["val_loss"]) == pytest.approx(float(many["val_loss"]), rel=1e-3)
        same = ("epoch", "size", "lr", "train_accuracy", "val_accuracy")
        assert [one[name] for name in same] == [many[name] for name in same]
    cards = [checkpoint.load(Path(f"weights/{name}.safetensors"), torch.device("cpu"))[1] for name in ("one", "model")]
    assert cards[0].classes == cards[1].classes
    assert cards[0].split == cards[1].split
    assert cards[0].metrics["test"]["accuracy"] == cards[1].metrics["test"]["accuracy"]


def test_shares_are_all_of_it_and_alike(monkeypatch):
    for world in (1, 2, 3, 5):
        for name, value in {"WORLD_SIZE": world, "MASTER_ADDR": "here", "RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        taken = []
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            taken.append(list(range(11))[distributed.shard(11)])
        assert [index for part in taken for index in part] == list(range(11))
        assert max(map(len, taken)) - min(map(len, taken)) <= 1


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, BatchNormAct2d])
def test_batch_norm_of_gpus_is_the_layer_with_all_that_it_does(kind):
    layer = kind(4).eval()
    with torch.no_grad():
        layer.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    of_all = parallel.synchronised(layer)
    assert isinstance(of_all, torch.nn.SyncBatchNorm)
    assert torch.equal(of_all(x), layer(x))
    tensors = of_all.state_dict(keep_vars=True)
    assert all(tensors[name] is tensor for name, tensor in layer.state_dict(keep_vars=True).items())


@pytest.mark.parametrize(("name", "other"), [("files", "35 files, 0"), ("pictures", [20, 3, 12]), ("weights", False)])
def test_processes_that_have_other_data_or_weights_do_not_start(fresh, monkeypatch, capsys, name, other):
    monkeypatch.setattr(distributed, "all_gather", lambda found: [found, {**found, name: other}])
    assert train.main(PLAIN) == 2
    assert f"not all processes have the same {name}: each needs" in capsys.readouterr().err
    assert not list(Path("weights").iterdir())


def test_goodbye_is_said_by_those_that_end_well(monkeypatch):
    """On GPUs the others would have to say it too, which wait for the one that failed."""
    said = []
    monkeypatch.setattr(distributed, "stop", lambda: said.append("goodbye"))

    @console.command
    def main(argv):
        if argv:
            raise UserError("failed")
        return 0

    assert main(["fail"]) == 2
    assert not said
    assert main([]) == 0
    assert said == ["goodbye"]


def test_more_processes_than_rows_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "MASTER_ADDR": "here", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    parallel.check_batch(4, 100)
    with pytest.raises(UserError, match="4 processes share each batch of 3: start fewer"):
        parallel.check_batch(32, 3)


def test_one_process_is_told_nothing_of_others(capsys, monkeypatch):
    from crackcam.cli.console import say as note

    monkeypatch.setenv("RANK", "1")  # without the rest: not torchrun's
    note("said")
    assert capsys.readouterr().err == "said\n"
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    note("not said")
    assert capsys.readouterr().err == ""
    assert train.main(["--epochs", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error in process 1: argument --epochs: ")
