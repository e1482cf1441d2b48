"""Defective data sets: reported, counted, or refused in one line."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_TRAINING
from PIL import Image

import inference
import train
from crackcam.data import duplicates, listing, pixels, splits
from crackcam.models import checkpoint
from crackcam.preprocessing import Preprocessing
from crackcam.training import loop, trainer

QUICK = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--epochs", "1"]


def write_images(folder, *shades):
    """One of each shade, all of one colour."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    for i, shade in enumerate(shades):
        Image.new("RGB", (64, 64), (shade, shade // 2, 9)).save(folder / f"{i}.png")


def test_classes_that_numbers_sort_otherwise(fresh, capsys):
    """'10' comes before '9' among names, behind it among numbers; '1' is left out, and only in val there are two."""
    for split in ("train", "test"):
        Path(f"data/{split}/Negative").rename(f"data/{split}/10")
        Path(f"data/{split}/Positive").rename(f"data/{split}/9")
    shutil.copytree("data/test", "data/val")
    shutil.copytree("data/test/9", "data/val/1")
    shutil.rmtree("data/test/10")
    assert train.main([*QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["classes"] == ["10", "9"]
    assert {name: row["pictures"] for name, row in found["test"]["per_class"].items()} == {"10": 0, "9": 6}
    assert "warning: val/1 is not a class of the training split: ignored" in err
    assert "warning: no images of 10 in the test split" in err
    assert inference.main(["--type", "10", "--split", "val", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["true"] for row in document["pictures"]} == {"10"}
    _, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    assert card.classes == ["10", "9"]


def test_one_image_a_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images("data/train/a", 10)
    write_images("data/train/b", 200)
    assert train.main(QUICK) == 2
    assert "class a has too few images to hold out a val split" in capsys.readouterr().err
    write_images("data/val/a", 20)
    write_images("data/val/b", 220)
    assert train.main(QUICK) == 0
    assert Path("weights/model.safetensors").exists()


def test_a_validation_split_of_which_nothing_can_be_read(fresh, capsys):
    shutil.copytree("data/test", "data/val")
    for path in Path("data/val").rglob("*.jpg"):
        path.write_bytes(b"torn")
    assert train.main(QUICK) == 2
    err = capsys.readouterr().err
    assert "warning: 12 files of the val split could not be read" in err
    assert (
        err.splitlines()[-1] == "error: no image in the val split can be read: training selects its best epoch on them"
    )


def test_a_test_split_of_which_nothing_can_be_read_is_not_scored(fresh, capsys):
    for path in Path("data/test").rglob("*.jpg"):
        path.write_bytes(b"torn")
    assert train.main([*QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["split"] == "val"
    assert "warning: 12 files of the test split could not be read" in err


def test_a_data_set_of_one_colour(tmp_path, monkeypatch, capsys):
    """All images are identical: nothing can be learned, and warnings say so."""
    monkeypatch.chdir(tmp_path)
    for split, number in (("train", 8), ("val", 3), ("test", 2)):
        for name in "ab":
            write_images(f"data/{split}/{name}", *[77] * number)
    assert train.main([*QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["near_duplicates"] == {"val": 6, "test": 4}
    assert found["test"]["accuracy"] == 0.5
    assert math.isfinite(found["test"]["loss"])
    assert "warning: identical images in different classes, one label must be wrong: 1 group" in err


def loaded(files):
    return {
        split: pixels.load_split(split, ["a", "b"], of_split, Preprocessing(32), 2) for split, of_split in files.items()
    }


def test_equal_files_across_splits_and_classes_are_counted(tmp_path, caplog):
    """By hand: shades 1, 2, 3 of a and 4, 2 of b; in test 3 and 9 of a, 4 and 8 of b."""
    files = {}
    for split, of_split in {"train": {"a": (1, 2, 3), "b": (4, 2)}, "test": {"a": (3, 9), "b": (4, 8)}}.items():
        files[split] = {}
        for name, shades in of_split.items():
            write_images(tmp_path / split / name, *(20 * shade for shade in shades))
            files[split][name] = listing.list_files(tmp_path / split / name)
    assert duplicates.warn_of_duplicates(loaded(files)) == {"test": 2}
    err = "\n".join(caplog.messages)
    torn = f"{tmp_path}/train/a/1.png and {tmp_path}/train/b/1.png"
    assert f"identical images in different classes, one label must be wrong: 1 group, the first {torn}" in err
    assert f"in the test split: 2, the first {tmp_path}/test/a/0.png of {tmp_path}/train/a/2.png" in err


@pytest.mark.parametrize("spoilt", ["training", "validation"])
def test_a_loss_of_nan_keeps_the_last_good_weights(fresh, monkeypatch, capsys, spoilt):
    """In the second epoch; the weights may be spoilt by the very last step, which no training loss shows."""
    validated, evaluate, train_epoch = [], loop.evaluate, loop.FineTuning.train_epoch

    def spoil_and_evaluate(loaded, *others):
        validated.append(1)
        if len(validated) == 2:
            with torch.no_grad():
                next(loaded.model.parameters()).fill_(math.nan)
        return evaluate(loaded, *others)

    def train_or_spoil(tuning, number):
        return (math.nan, 0.5) if number == 2 else train_epoch(tuning, number)

    if spoilt == "validation":
        monkeypatch.setattr(loop, "evaluate", spoil_and_evaluate)
    else:
        monkeypatch.setattr(loop.FineTuning, "train_epoch", train_or_spoil)
    assert train.main([*QUICK, "--epochs", "2"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: the loss is NaN or infinite in epoch 2: try a lower --lr than 0.001, or --precision fp32"
    network, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    assert card.metrics["best_epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_files_that_go_after_they_were_listed(fresh, without_figures, monkeypatch, capsys):
    plan = splits.plan_splits

    def planned(*given):
        found = plan(*given)
        found.files["train"]["Positive"][0].unlink()
        found.files["test"]["Negative"][0].write_bytes(np.random.default_rng(0).bytes(999))
        return found

    Path("data/train/Negative/link.jpg").symlink_to("nowhere.jpg")
    monkeypatch.setattr(trainer, "plan_splits", planned)
    assert train.main(QUICK) == 0
    err = capsys.readouterr().err
    assert err.count(": no such file or directory") == 2
    assert "warning: 1 file of the test split could not be read" in err
