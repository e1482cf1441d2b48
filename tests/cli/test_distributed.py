"""Several processes, as torchrun starts them, on gloo: what is exactly as in one process, and what is not.

Exact within rounding: which images make a batch, augmentation, losses, gradients, scores. Batch norm and dropout are not:
each process normalises by its own shard of the batch and draws its own random numbers.
"""

import csv
import logging
import os
import random
import subprocess
from pathlib import Path

import parallel_worker
import pytest
import torch
from conftest import ROOT, TINY_TRAINING, by_torchrun
from processes import rank_environments, start_python
from timm.layers import BatchNormAct2d

import train
from crackcam import distributed
from crackcam.cli import console
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.training import parallel

PLAIN = [*TINY_TRAINING, "--precision", "fp32", "--batch-size", "6"]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.torture)])
def together(request, tmp_path_factory):
    """What each of several processes ends with, see parallel_worker.py."""
    folder = tmp_path_factory.mktemp("together")
    started = []
    for rank, environment in enumerate(rank_environments(request.param)):
        log, environment = folder / f"{rank}.txt", {**os.environ, **environment}
        started.append(start_python(ROOT / "tests/parallel_worker.py", folder, err=log, env=environment))
    for rank, process in enumerate(started):
        process.join(900)
        assert process.exitcode == 0, (folder / f"{rank}.txt").read_text()
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", parallel_worker.MODELS)
def test_all_processes_end_alike_also_where_they_are_resumed(together, name):
    """Bit by bit, batch norm and dropout included."""
    main = together[0][name]["whole"]
    for each in together:
        for run in ("whole", "resumed"):
            assert each[name][run]["history"] == main["history"]
            assert torch.equal(each[name][run]["logits"], main["logits"])
            assert all(torch.equal(each[name][run]["model"][key], tensor) for key, tensor in main["model"].items())
        whole, resumed = each[name]["last"]  # of the last epoch, which need not be the best one
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


@pytest.mark.parametrize("name", ["rows", "frozen"])
def test_models_without_batch_statistics_train_as_in_one_process(together, name, tmp_path):
    """With augmentation, and batches that cannot be shared evenly."""
    alone, found = parallel_worker.train(tmp_path, name), together[0][name]["whole"]
    for mine, theirs in zip(alone["history"], found["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert mine["train_accuracy"] == theirs["train_accuracy"]
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)
    for key, tensor in alone["model"].items():
        torch.testing.assert_close(tensor, found["model"][key], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone["logits"], found["logits"], rtol=1e-3, atol=1e-3)


def test_batch_norm_and_dropout_differ_from_one_process_but_little(together, tmp_path):
    """Two epochs of Adam in large steps, on 23 images: 0.3 to 9 % were measured."""
    alone, found = parallel_worker.train(tmp_path, "batches"), together[0]["batches"]["whole"]
    differences = [
        abs(mine[key] - theirs[key]) / mine[key]
        for mine, theirs in zip(alone["history"], found["history"], strict=True)
        for key in ("train_loss", "val_loss")
    ]
    assert 1e-4 < max(differences) < 0.15, differences
    assert alone["model"]["norm.num_batches_tracked"] == found["model"]["norm.num_batches_tracked"]


def test_objects_travel_between_processes(together):
    for each in together:
        assert each["gathered"] == list(range(len(together)))
        assert each["from_main"] == random.Random(0).random()
        assert each["error"] == each["error of a machine"] == "of the main process"


def test_a_machine_has_one_copy_of_the_pixels_and_every_process_all_features(together):
    pixels = torch.cat([parallel_worker.split(3, 0).pixels, parallel_worker.split(4, 1).pixels])
    for rank, each in enumerate(together):
        shared = each["shared"]
        assert shared["one machine"]["made"] == [0] * (rank == 0)
        assert shared["several"]["made"] == [rank]
        assert shared["one machine"]["file"] == together[0]["shared"]["one machine"]["file"]
        for found in (shared["one machine"], shared["several"]):
            assert torch.equal(found["pixels"], pixels)
            assert found["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]
            torch.testing.assert_close(found["features"].float(), shared["expected"], rtol=2e-3, atol=1e-3)


def by_ranks(processes, script, *arguments):
    """As :func:`conftest.by_torchrun`, without the seconds that it takes; what all processes print."""
    started = [
        start_python(script, *arguments, out=f"{rank}.out", err=f"{rank}.err", env={**os.environ, **environment})
        for rank, environment in enumerate(rank_environments(processes))
    ]
    for process in started:
        process.join(600)
    out, err = ("".join(Path(f"{rank}.{kind}").read_text() for rank in range(processes)) for kind in ("out", "err"))
    failed = [process.exitcode for process in started if process.exitcode != 0]  # None: it did not end
    return subprocess.CompletedProcess([], failed[0] if failed else 0, out, err)


def both_ways(arguments, processes, launch):
    """train.py in one process and in several: rows of the log, and cards."""
    assert train.main([*arguments, "--output", "weights/one.safetensors"]) == 0
    alone = list(csv.DictReader(Path("outputs/training.csv").open()))
    done = launch(processes, ROOT / "train.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2:") == 1
    assert done.stdout.count("wrote weights/model.safetensors") == 1
    assert {path.name for path in Path("weights").iterdir()} == {"one.safetensors", "model.safetensors"}
    rows = list(csv.DictReader(Path("outputs/training.csv").open()))
    cards = [checkpoint.load(Path(f"weights/{name}.safetensors"), torch.device("cpu"))[1] for name in ("one", "model")]
    assert cards[0].classes == cards[1].classes
    assert cards[0].split == cards[1].split
    assert [(row["epoch"], row["size"], row["lr"]) for row in alone] == [
        (row["epoch"], row["size"], row["lr"]) for row in rows
    ]
    return alone, rows, cards


@pytest.mark.parametrize(
    ("processes", "launch"),
    [
        (2, by_ranks),
        pytest.param(2, by_torchrun, marks=pytest.mark.torture),
        pytest.param(3, by_torchrun, marks=pytest.mark.torture),
    ],
)
def test_training_in_several_processes(fresh, without_figures, processes, launch):
    """One writer, the losses and the predictions of a single process: ConvNeXt has layer norm and no dropout.

    In small steps: AdamW's first ones go by the signs of gradients, and where those are nothing but rounding, whole
    steps differ between runs.
    """
    alone, rows, cards = both_ways([*PLAIN, "--arch", "timm/test_convnext", "--lr", "1e-5"], processes, launch)
    for one, many in zip(alone, rows, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(many["train_loss"]), rel=1e-3)
        assert float(one["val_loss"]) == pytest.approx(float(many["val_loss"]), rel=1e-3)
        assert (one["train_accuracy"], one["val_accuracy"]) == (many["train_accuracy"], many["val_accuracy"])
    assert cards[0].metrics["test"]["accuracy"] == cards[1].metrics["test"]["accuracy"]


@pytest.mark.torture
def test_batch_norm_by_torchrun(fresh):
    """ResNet-18: 6 images normalised together, or 3 and 3."""
    alone, rows, _ = both_ways([*PLAIN, "--lr", "1e-5"], 2, by_torchrun)
    for one, many in zip(alone, rows, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(many["train_loss"]), rel=0.2)
        assert float(one["val_loss"]) == pytest.approx(float(many["val_loss"]), rel=0.2)


def test_shards_are_all_of_it_and_alike(monkeypatch):
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
def test_sync_batch_norm_is_the_layer_with_all_that_it_contains(kind):
    layer = kind(4).eval()
    with torch.no_grad():
        layer.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    synchronised = parallel.to_sync_batch_norm(layer)
    assert isinstance(synchronised, torch.nn.SyncBatchNorm)
    assert torch.equal(synchronised(x), layer(x))
    tensors = synchronised.state_dict(keep_vars=True)
    assert all(tensors[name] is tensor for name, tensor in layer.state_dict(keep_vars=True).items())


@pytest.mark.parametrize(
    ("name", "other"), [("files", "35 files, 0"), ("images", [20, 3, 12]), ("weights", "imagenet")]
)
def test_processes_that_have_other_data_or_weights_do_not_start(fresh, monkeypatch, capsys, name, other):
    monkeypatch.setattr(distributed, "all_gather", lambda found: [found, {**found, name: other}])
    assert train.main([*PLAIN, "--arch", "squeezenet1_1"]) == 2
    assert f"not all processes have the same {name}: each needs" in capsys.readouterr().err
    assert not list(Path("weights").iterdir())


def test_processes_that_end_well_leave_the_others(monkeypatch):
    """On GPUs the others would have to leave too, which wait for the one that failed."""
    stopped = []
    monkeypatch.setattr(distributed, "stop", lambda: stopped.append(True))

    @console.command
    def main(argv):
        if argv:
            raise UserError("failed")
        return 0

    assert main(["fail"]) == 2
    assert not stopped
    assert main([]) == 0
    assert stopped == [True]


def test_dropout_draws_other_numbers_in_each_process(monkeypatch):
    drawn = []
    for rank in ("0", "1"):
        for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "here", "RANK": rank}.items():
            monkeypatch.setenv(name, value)
        parallel.seed_process(7)
        drawn.append(torch.rand(3))
    assert not torch.equal(*drawn)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn[0])


def test_more_processes_than_images_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "MASTER_ADDR": "here", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    parallel.check_batch(4, 100)
    with pytest.raises(UserError, match="4 processes cannot share batches of 3: start fewer processes"):
        parallel.check_batch(32, 3)


def test_messages_come_from_the_main_process_and_errors_from_any(capsys, monkeypatch):
    logger = logging.getLogger("crackcam.tests")

    @console.command
    def main(argv):
        logger.info("a message")
        return 0

    monkeypatch.setenv("RANK", "1")  # without the rest: not torchrun's
    assert main([]) == 0
    assert capsys.readouterr().err == "a message\n"
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    assert capsys.readouterr().err == ""
    assert train.main(["--epochs", "-1"]) == 2
    assert capsys.readouterr().err.startswith("error in process 1: argument --epochs: ")
