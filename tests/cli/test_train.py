"""train.py: what it writes and prints, what it refuses, how it ends."""

import csv
import json
import os
import shutil
import signal
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_TRAINING
from PIL import Image
from processes import start_python

import inference
import train
import xai
from crackcam.models import checkpoint

FIGURES = {"outputs/training_curves.png", "outputs/confusion_matrix.png", "outputs/reliability.png"}
OUTPUTS = {"outputs/training.csv", *FIGURES}
CPU = torch.device("cpu")
QUICK = [*TINY_TRAINING, "--arch", "timm/test_resnet", "--epochs", "1"]


def test_writes_exactly_its_files(trained):
    assert trained.files("weights") | trained.files("outputs") == {"weights/model.safetensors", *OUTPUTS}


def test_files_have_ordinary_permissions(trained):
    umask = os.umask(0)
    os.umask(umask)
    for name in ("weights/model.safetensors", *OUTPUTS):
        assert (trained.root / name).stat().st_mode & 0o777 == 0o666 & ~umask, name


def test_log_has_a_line_for_each_epoch(trained):
    rows = list(csv.DictReader((trained.root / "outputs/training.csv").open()))
    columns = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,val_balanced_accuracy,lr,size,best"
    assert list(rows[0]) == columns.split(",")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["best"] == "True"
    assert float(rows[1]["lr"]) < float(rows[0]["lr"]) <= 1e-3


def test_figures_are_legible(trained):
    for name in FIGURES:
        width, height = Image.open(trained.root / name).size
        assert 350 < width < 1200
        assert 350 < height < 1200


def test_checkpoint_carries_all_that_inference_needs(trained):
    _, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    assert (card.arch, card.classes, card.image_size) == ("resnet18", ["Negative", "Positive"], 64)
    assert (card.mean, card.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert card.output_stride == 32
    assert card.pretrained.startswith("random weights: ")
    assert card.training["epochs"] == 2
    assert card.training["command"].endswith("--workers 0")
    assert set(card.metrics) == {"best_epoch", "val", "test", "temperature", "near_duplicates"}
    assert card.metrics["near_duplicates"] == {"val": 0, "test": 0}
    assert card.metrics["test"]["per_class"]["Positive"]["pictures"] == 6
    assert card.versions["torch"] == version("torch")


def test_the_default_network_is_predicted_with_and_explained(trained, tmp_path, monkeypatch, capsys):
    """The one of other tests is smaller."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "weights"):
        Path(name).symlink_to(trained.root / name)
    for script in (inference, xai):
        assert script.main(["--num", "1"]) == 0
        err = capsys.readouterr().err
        assert "network: resnet18, Negative, Positive, 64 px, from weights/model.safetensors" in err
    assert "best: --method layercam --stride 8 --fuse product" in err
    assert "layercam: evidence for Positive, at layer2, layer3, layer4" in err


def test_result_as_table_and_as_json(fresh, capsys):
    assert train.main(QUICK) == 0
    *_, scores, written = capsys.readouterr().out.splitlines()
    assert scores.startswith("test accuracy 0.")
    assert scores.endswith(" before calibration), 12 images")
    names = written.removeprefix("wrote ").split(", ")
    assert set(names) == {"weights/model.safetensors", *OUTPUTS} - {"outputs/training_curves.png"}
    assert train.main([*QUICK, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "test"
    assert result["classes"] == ["Negative", "Positive"]
    assert f"test accuracy {result['test']['accuracy']:.4f}, ECE {result['test']['ece']:.4f}" in scores
    assert result["files"] == names


# -- the end of a run ------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_best_epoch_and_exits_130(fresh):
    process = start_python(ROOT / "train.py", *QUICK, "--epochs", "500", err="log")
    while "\nepoch 2/" not in Path("log").read_text() and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    messages = Path("log").read_text()
    assert "kept the best epoch so far" in messages
    assert "Traceback" not in messages
    _, card = checkpoint.load(Path("weights/model.safetensors"), CPU)
    assert card.metrics["best_epoch"] >= 1
    left = {p.name for p in Path("weights").iterdir()}
    # The second epoch is logged before its state is written.
    assert left - {"model.resume.previous"} == {"model.safetensors", "model.resume"}
    assert len(list(csv.DictReader(Path("outputs/training.csv").open()))) >= 1


# -- data ------------------------------------------------------------------------------------------------------------


def test_sample_generates_only_where_there_is_nothing(tmp_path, without_figures, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crackcam.data.synthetic.sample.COUNTS", {"train": 4, "test": 2})
    assert train.main([*QUICK, "--sample"]) == 0
    assert "generated 12 images" in capsys.readouterr().err
    stamp = Path("data/train/Positive/00001.jpg").stat().st_mtime_ns
    assert train.main([*QUICK, "--sample"]) == 0
    assert "nothing generated" in capsys.readouterr().err
    assert Path("data/train/Positive/00001.jpg").stat().st_mtime_ns == stamp


def test_classes_travel_by_name(fresh, without_figures, capsys):
    """A class missing in test and a stranger there shift no index."""
    shutil.rmtree("data/test/Negative")
    shutil.copytree("data/test/Positive", "data/test/Aardvark")
    Path("data/train/.ipynb_checkpoints").mkdir()
    assert train.main([*QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["classes"] == ["Negative", "Positive"]
    assert result["test"]["per_class"]["Positive"]["pictures"] == 6
    assert result["test"]["per_class"]["Negative"]["pictures"] == 0
    assert "warning: test/Aardvark is not a class of the training split: ignored" in err
    assert "warning: no images of Negative in the test split" in err


def test_broken_files_are_named_skipped_and_counted(fresh, without_figures, capsys):
    folder = Path("data/test/Positive")
    first = sorted(folder.iterdir())[0]
    (folder / "cut.jpg").write_bytes(first.read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image")
    assert train.main(QUICK) == 0
    err = capsys.readouterr().err
    assert "cut.jpg: truncated" in err
    assert "empty.jpg: empty file" in err
    assert "notes.txt: not an image" in err
    assert "warning: 2 files of the test split could not be read" in err  # known before they are split
    assert "warning: 1 file of the test split could not be read" in err


def no_data():
    shutil.rmtree("data")


def empty_class():
    shutil.rmtree("data/train/Positive")
    Path("data/train/Positive").mkdir()


def one_class():
    shutil.rmtree("data/train/Positive")


def all_broken():
    for path in Path("data/train/Positive").iterdir():
        path.write_bytes(b"broken")


def only_test():
    shutil.rmtree("data/train")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_data, "no data folder data: name one with --data, or generate synthetic images with python train.py"),
        (empty_class, "class folder data/train/Positive is empty"),
        (one_class, "only one class folder (Negative)"),
        (all_broken, "no image of class Positive in the train split can be read"),
        (only_test, "data has no train folder"),
    ],
)
def test_bad_data_is_one_line_and_exit_2(fresh, capsys, spoil, message):
    spoil()
    assert train.main(QUICK) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not Path("weights/model.safetensors").exists()


@pytest.mark.parametrize("flags", [[], ["--output", "/proc/nowhere/model.safetensors"]])
def test_unwritable_output_is_noticed_before_any_work(fresh, capsys, flags):
    Path("weights").write_text("a file where a folder should be")
    assert train.main([*QUICK, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write")
    assert len(err.splitlines()) == 1


def test_output_that_is_a_folder(fresh, capsys):
    Path("weights/model.safetensors").mkdir(parents=True)
    assert train.main(QUICK) == 2
    assert "weights/model.safetensors: is a folder" in capsys.readouterr().err


def test_images_of_the_training_split_in_the_test_split_are_counted(fresh, without_figures, capsys):
    shutil.copy("data/train/Positive/00003.jpg", "data/test/Positive/renamed.jpg")
    assert train.main([*QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["near_duplicates"] == {"val": 0, "test": 1}
    pair = "the first data/test/Positive/renamed.jpg of data/train/Positive/00003.jpg; they inflate its scores"
    assert f"warning: near-duplicates of training images in the test split: 1, {pair}" in err


def test_group_by_that_is_no_pattern_or_has_nothing_to_do(fresh, capsys):
    assert train.main([*QUICK, "--group-by", "photo("]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: argument --group-by: 'photo(' is not a regular expression: missing ), unterminated")
    assert len(err.splitlines()) == 1
    assert train.main([*QUICK, "--group-by", r"^0"]) == 2  # all in one group
    last = "error: class Negative has too few groups of files to hold out a val split: try another --val-fraction"
    assert capsys.readouterr().err.splitlines()[-1] == last
    shutil.copytree("data/test", "data/val")
    assert train.main([*QUICK, "--group-by", r"\d"]) == 2
    message = "error: --group-by is for data without splits, but data has them: drop it"
    assert capsys.readouterr().err.splitlines()[-1] == message


# -- earlier results ---------------------------------------------------------------------------------------------------


def test_weights_of_other_data_are_kept_with_a_warning(fresh, without_figures, capsys):
    """Of a file that no training of ours wrote, too."""
    Path("weights").mkdir()
    Path("weights/model.safetensors").write_bytes(b"earlier")
    assert train.main(QUICK) == 0
    err = capsys.readouterr().err
    assert "warning: weights/model.safetensors was trained on other classes or data: keeping it as" in err
    assert Path("weights/model.previous.safetensors").read_bytes() == b"earlier"
    checkpoint.load(Path("weights/model.safetensors"), CPU)


def test_one_epoch_makes_no_curve(fresh, capsys):
    curves = Path("outputs/training_curves.png")
    curves.parent.mkdir()
    curves.write_bytes(b"of an earlier run")
    assert train.main(QUICK) == 0
    assert not curves.exists()
    assert "training_curves" not in capsys.readouterr().out


def test_batches_of_one_image_that_batch_norm_cannot_take(fresh, capsys):
    flags = [
        "--pretrained",
        "none",
        "--arch",
        "resnet18",
        "--image-size",
        "32",
        "--batch-size",
        "1",
        "--epochs",
        "1",
        "--workers",
        "0",
    ]
    assert train.main(flags) == 2
    assert "pass a larger --batch-size or --image-size" in capsys.readouterr().err
