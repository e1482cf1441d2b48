"""train.py: what it writes, what it learns from, how it resumes, what it refuses."""

import csv
import functools
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_TRAINING
from PIL import Image

import train
from crackcam.data import pixels
from crackcam.data.pixels import PixelSplit
from crackcam.data.splits import choose_split, hold_out, plan_splits
from crackcam.errors import UserError
from crackcam.models import checkpoint
from crackcam.preprocessing import Preprocessing
from crackcam.runtime import Runtime
from crackcam.training import features, resume, trainer

FIGURES = {"outputs/training_curves.png", "outputs/confusion_matrix.png", "outputs/reliability.png"}
OUTPUTS = {"outputs/training.csv", *FIGURES}
CPU = torch.device("cpu")


def test_writes_exactly_its_files(trained):
    assert trained.train_code == 0
    assert trained.files("weights") | trained.files("outputs") == {"weights/model.safetensors", *OUTPUTS}


def test_log_has_a_line_for_each_epoch(trained):
    rows = list(csv.DictReader((trained.root / "outputs/training.csv").open()))
    assert list(rows[0]) == [
        "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_balanced_accuracy", "lr", "size", "best",
    ]  # fmt: skip
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["best"] == "True"
    assert float(rows[1]["lr"]) < float(rows[0]["lr"]) <= 1e-3


def test_figures_are_pictures_of_a_size_to_read(trained):
    assert Image.open(trained.root / "outputs/training_curves.png").size == (1080, 432)
    assert Image.open(trained.root / "outputs/reliability.png").size == (672, 720)
    width, height = Image.open(trained.root / "outputs/confusion_matrix.png").size
    assert width > 350
    assert height > 350


def test_checkpoint_carries_all_that_inference_needs(trained):
    _, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    assert (card.arch, card.classes, card.image_size) == ("resnet18", ["Negative", "Positive"], 64)
    assert (card.mean, card.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert card.output_stride == 32
    assert card.pretrained == "random weights: asked for"
    assert card.training["epochs"] == 2
    assert set(card.metrics) == {"best_epoch", "val", "test", "temperature", "near_duplicates"}
    assert card.metrics["near_duplicates"] == {"val": 0, "test": 0}
    assert card.metrics["test"]["per_class"]["Positive"]["pictures"] == 6
    assert card.versions["torch"] == version("torch")


def test_validation_is_held_out_of_training_and_never_the_test_split(trained):
    _, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    assert set(card.split) == {"val"}
    assert len(card.split["val"]) == 2 * 2  # 15 % of 12, of each class
    assert all(name.startswith("train/") for name in card.split["val"])
    plan = plan_splits(trained.root / "data", 0.15, 0)
    train_files = {p.name for files in plan.files["train"].values() for p in files}
    assert not train_files & {Path(name).name for name in card.split["val"]}
    assert len(train_files) == 24 - 4


def test_json_result(fresh, capsys):
    assert train.main([*TINY_TRAINING, "--epochs", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "test"
    assert result["classes"] == ["Negative", "Positive"]
    assert 0 <= result["test"]["accuracy"] <= 1
    assert all(Path(name).is_file() for name in result["files"])


def test_the_kept_epoch_is_the_best_one_on_validation(fresh):
    assert train.main([*TINY_TRAINING, "--epochs", "3"]) == 0
    rows = list(csv.DictReader(Path("outputs/training.csv").open()))
    best = max(rows, key=lambda row: (float(row["val_balanced_accuracy"]), -float(row["val_loss"])))
    model, card = checkpoint.load(Path("weights/model.safetensors"), CPU)
    assert card.metrics["best_epoch"] == int(best["epoch"])
    plan = plan_splits(Path("data"), 0.15, 0)
    val = pixels.load_split("val", plan.classes, plan.files["val"], Preprocessing(64), 2)
    from crackcam.runtime import Runtime, choose_precision

    logits = features.forward(model, Runtime(CPU, choose_precision("auto", CPU)[0]), val, 8, "")
    loss = trainer.score(logits * card.metrics["temperature"], val.labels).loss
    assert loss == pytest.approx(float(best["val_loss"]), rel=1e-3)


def test_probabilities_are_calibrated_on_validation_and_reported_on_test(trained):
    """The checkpoint is a plain network: what its logits were divided by is on the card only."""
    from crackcam.runtime import choose_precision
    from crackcam.training.calibration import expected_calibration_error, fit_temperature

    model, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    plan = plan_splits(trained.root / "data", 0.15, 0)
    machine = Runtime(CPU, choose_precision("auto", CPU)[0])
    logits = {}
    for name in ("val", "test"):
        split = pixels.load_split(name, plan.classes, plan.files[name], Preprocessing(64), 2)
        logits[name] = features.forward(model, machine, split, 8, ""), split.labels
    temperature = card.metrics["temperature"]
    before, labels = logits["val"][0] * temperature, logits["val"][1]
    assert fit_temperature(before, labels) == pytest.approx(temperature, rel=1e-3)
    after, labels = logits["test"]
    for name, found in {"ece": after, "ece_before": after * temperature}.items():
        error = expected_calibration_error(found.softmax(dim=1).numpy(), labels.numpy())
        assert card.metrics["test"][name] == pytest.approx(error, rel=1e-3)


# -- resuming ------------------------------------------------------------------------------------------------------


def weights_of(path):
    return checkpoint.read_tensors(Path(path))


def fail_in_epoch(number, monkeypatch):
    run_epoch = trainer._train_epoch

    def run_or_die(*of_epoch):
        if of_epoch[-2] == number:
            raise SystemExit(9)
        return run_epoch(*of_epoch)

    monkeypatch.setattr(trainer, "_train_epoch", run_or_die)


def test_resumed_run_ends_with_the_same_weights_as_an_uninterrupted_one(fresh, monkeypatch):
    arguments = [*TINY_TRAINING, "--epochs", "4"]
    assert train.main([*arguments, "--output", "weights/whole.safetensors"]) == 0
    with monkeypatch.context() as patched:
        fail_in_epoch(3, patched)
        assert train.main(arguments) == 9
    assert Path("weights/model.resume").is_file()
    assert train.main([*arguments, "--resume"]) == 0
    assert not Path("weights/model.resume").exists()
    whole, resumed = weights_of("weights/whole.safetensors"), weights_of("weights/model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(list(csv.DictReader(Path("outputs/training.csv").open()))) == 4


def test_resume_with_other_arguments_is_refused(fresh, monkeypatch, capsys):
    fail_in_epoch(2, monkeypatch)
    assert train.main(TINY_TRAINING) == 9
    assert train.main([*TINY_TRAINING, "--resume", "--lr", "0.5"]) == 2
    assert "belongs to a run with lr None, not 0.5: give the same arguments" in capsys.readouterr().err
    assert train.main([*TINY_TRAINING, "--resume", "--pretrained", "auto"]) == 2
    assert "belongs to a run with pretrained none, not auto: give the same arguments" in capsys.readouterr().err


def test_damaged_state_is_refused(fresh, capsys):
    Path("weights").mkdir()
    Path("weights/model.resume").write_bytes(b"PK\x03\x04 truncated")
    assert train.main([*TINY_TRAINING, "--resume"]) == 2
    assert "is damaged: train without --resume" in capsys.readouterr().err


def test_ctrl_c_keeps_the_best_epoch_and_exits_130(fresh):
    command = [sys.executable, str(ROOT / "train.py"), *TINY_TRAINING, "--epochs", "500"]
    # Jobs that a script starts in the background ignore Ctrl-C, and so would their children.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "kept the best epoch so far" in rest
    assert "Traceback" not in rest
    _, card = checkpoint.load(Path("weights/model.safetensors"), CPU)
    assert card.metrics["best_epoch"] >= 1
    left = {p.name for p in Path("weights").iterdir()}
    # The second epoch is said before its state is written.
    assert left - {"model.resume.previous"} == {"model.safetensors", "model.resume"}


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
    state = resume.read_state(Path("weights/model.resume"))
    assert len(state["history"]) >= 2  # the third is said before it is written
    checkpoint.load(Path("weights/model.safetensors"), CPU)


# -- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pictures", "epochs"), [(510, 12), (3000, 5), (40000, 3), (20, 30)])
def test_epochs_from_random_weights_follow_the_number_of_pictures(pictures, epochs):
    recipe = trainer.schedule_for(True, pictures, 224, None, None, batch_size=32, patience=0, seed=0, workers=0)
    assert len(recipe.sizes) == epochs
    assert recipe.sizes[0] == 128
    assert recipe.sizes[-1] == 224


def test_probe_equals_logistic_regression_by_hand(fresh):
    """The folded head gives the probabilities of scikit-learn's own pipeline on the same features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from crackcam import runtime
    from crackcam.models import heads, pretrained

    plan = plan_splits(Path("data"), 0.25, 0)
    train_split, val = (
        pixels.load_split(s, plan.classes, plan.files[s], Preprocessing(64), 2) for s in ("train", "val")
    )
    torch.manual_seed(0)
    network = pretrained.build_classifier("squeezenet1_1", 2)
    machine = runtime.Runtime(CPU, torch.float32)
    with heads.head_inputs(network) as seen:
        features.forward(network, machine, train_split, 8, "")
        x = torch.cat(seen).numpy()
        seen.clear()
        features.forward(network, machine, val, 8, "")
        x_val = torch.cat(seen).numpy()
    trainer.linear_probe(network, machine, train_split, val, 8)
    found = trainer.evaluate(network, machine, val, 8).probabilities
    candidates = []
    for strength in trainer.REGULARISATION:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        candidates.append(make_pipeline(StandardScaler(), regression).fit(x, train_split.labels).predict_proba(x_val))
    assert min(abs(found - candidate).max() for candidate in candidates) < 1e-4


class Stubborn(torch.nn.Module):
    """Says logits (1, 0) of every picture."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x):
        return self.bias.expand(len(x), 2)


def test_classes_count_alike_whatever_their_size(tmp_path):
    """With 1 picture of one class for 9 of the other, the loss is the mean of the two classes' losses."""
    split = PixelSplit(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.tensor([0] * 9 + [1]), [])
    recipe = trainer.Schedule((32,), 1e-9, batch_size=10, strong=False, patience=0, seed=0, workers=0)
    history = []
    trainer.fit(
        Stubborn(), Runtime(torch.device("cpu"), torch.float32), recipe, split, split, history,
        resume.StateFile(tmp_path / "state", {}), None, lambda epoch: None,
    )  # fmt: skip
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))]  # of a picture of either class
    assert history[0].train_loss == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert history[0].train_accuracy == pytest.approx(0.9)
    assert history[0].val_accuracy == pytest.approx(0.9)
    assert history[0].val_balanced_accuracy == pytest.approx(0.5)


def test_better_is_balanced_accuracy_then_loss():
    def epoch(balanced, loss):
        return trainer.Epoch(1, 0.1, 0.9, loss, 0.5, balanced, 0.0, 64, best=False)

    assert trainer.is_better(epoch(0.5, 0.5), [])
    assert trainer.is_better(epoch(0.9, 0.6), [epoch(0.8, 0.1)])
    assert trainer.is_better(epoch(0.9, 0.4), [epoch(0.9, 0.5)])
    assert not trainer.is_better(epoch(0.9, 0.5), [epoch(0.9, 0.5)])
    assert trainer.is_better(epoch(0.8, 0.4), [epoch(0.9, 0.5)], by_loss=True)
    assert not trainer.is_better(epoch(0.9, 0.5), [epoch(0.8, 0.5)], by_loss=True)


def test_patience_stops(fresh, capsys):
    assert train.main([*TINY_TRAINING, "--epochs", "40", "--patience", "1", "--lr", "1e-9"]) == 0
    assert "stopping early" in capsys.readouterr().err
    assert len(list(csv.DictReader(Path("outputs/training.csv").open()))) < 40


def test_hopeless_learning_rate_stops_with_advice(fresh, capsys):
    assert train.main([*TINY_TRAINING, "--lr", "1e12", "--epochs", "6"]) == 2
    assert "try a lower --lr" in capsys.readouterr().err


def test_pretrained_path_starts_from_that_backbone(fresh, trained):
    source = trained.root / "weights/model.safetensors"
    assert train.main([*TINY_TRAINING, "--epochs", "0", "--pretrained", str(source)]) == 0
    before, after = weights_of(source), weights_of("weights/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("fc."))
    assert not torch.equal(before["fc.weight"], after["fc.weight"])


def test_pretrained_path_of_another_architecture(fresh, trained, capsys):
    source = str(trained.root / "weights/model.safetensors")
    assert train.main([*TINY_TRAINING, "--pretrained", source, "--arch", "resnet34"]) == 2
    assert "holds another architecture" in capsys.readouterr().err


# -- data ------------------------------------------------------------------------------------------------------------


def test_sample_generates_only_where_there_is_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crackcam.data.synthetic.sample.COUNTS", {"train": 4, "test": 2})
    assert train.main([*TINY_TRAINING, "--sample", "--epochs", "0"]) == 0
    assert "generated 12 images" in capsys.readouterr().err
    stamp = Path("data/train/Positive/00001.jpg").stat().st_mtime_ns
    assert train.main([*TINY_TRAINING, "--sample", "--epochs", "0"]) == 0
    assert "nothing generated" in capsys.readouterr().err
    assert Path("data/train/Positive/00001.jpg").stat().st_mtime_ns == stamp


def test_plain_class_folders_are_split_without_copying(tmp_path):
    for name in ("b", "a", ".hidden", "Ünï côde"):
        (tmp_path / name).mkdir()
        for i in range(40):
            (tmp_path / name / f"{i}.jpg").touch()
    plan = plan_splits(tmp_path, 0.2, seed=3)
    assert plan.classes == ["a", "b", "Ünï côde"]
    parts = [{p for files in plan.files[s].values() for p in files} for s in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 120
    assert len(plan.files["test"]["a"]) == 6  # a fifth of what validation (8) left
    assert plan.held_out.keys() == {"val", "test"}
    assert plan_splits(tmp_path, 0.2, seed=3) == plan
    assert plan_splits(tmp_path, 0.2, seed=4).held_out != plan.held_out
    assert choose_split(tmp_path, None, plan.held_out) == ("test", plan.files["test"])
    assert choose_split(tmp_path, "val", plan.held_out) == ("val", plan.files["val"])


def test_held_out_files_are_neighbours():
    files = [Path(f"{i}.jpg") for i in range(200)]
    _, held = hold_out(files, 0.2, "seed")
    numbers = [int(p.stem) for p in held]
    blocks = 1 + sum(b - a > 1 for a, b in itertools.pairwise(numbers))
    assert len(held) == 40
    assert blocks <= 4


def test_classes_travel_by_name(fresh, capsys):
    """A class missing in test and a stranger there shift no index."""
    shutil.rmtree("data/test/Negative")
    shutil.copytree("data/test/Positive", "data/test/Aardvark")
    Path("data/train/.ipynb_checkpoints").mkdir()
    assert train.main([*TINY_TRAINING, "--epochs", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["classes"] == ["Negative", "Positive"]
    assert result["test"]["per_class"]["Positive"]["pictures"] == 6
    assert result["test"]["per_class"]["Negative"]["pictures"] == 0
    assert "test/Aardvark is no class of the training split" in err
    assert "no pictures of Negative in the test split" in err


def test_broken_files_are_named_skipped_and_counted(fresh, capsys):
    folder = Path("data/train/Positive")
    first = sorted(folder.iterdir())[0]
    (folder / "cut.jpg").write_bytes(first.read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no picture")
    assert train.main([*TINY_TRAINING, "--epochs", "0"]) == 0
    err = capsys.readouterr().err
    assert "cut.jpg: truncated" in err
    assert "empty.jpg: empty file" in err
    assert "notes.txt: not a picture" in err
    assert "3 files" in err or "2 files" in err


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
        (no_data, "no data folder data: name one with --data, or make sample pictures with python train.py --sample"),
        (empty_class, "class folder data/train/Positive is empty"),
        (one_class, "only one class folder (Negative)"),
        (all_broken, "no picture of class Positive in the train split can be read"),
        (only_test, "data has no train folder"),
    ],
)
def test_bad_data_is_one_line_and_exit_2(fresh, capsys, spoil, message):
    spoil()
    assert train.main([*TINY_TRAINING]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not Path("weights/model.safetensors").exists()


@pytest.mark.parametrize("flags", [[], ["--output", "/proc/nowhere/model.safetensors"]])
def test_unwritable_output_is_noticed_before_any_work(fresh, capsys, flags):
    Path("weights").write_text("a file where a folder should be")
    assert train.main([*TINY_TRAINING, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write")
    assert len(err.splitlines()) == 1


def test_output_that_is_a_folder(fresh, capsys):
    Path("weights/model.safetensors").mkdir(parents=True)
    assert train.main(TINY_TRAINING) == 2
    assert "weights/model.safetensors: is a folder" in capsys.readouterr().err


def test_pictures_of_the_training_split_in_the_test_split_are_counted(fresh, capsys):
    shutil.copy("data/train/Positive/00003.jpg", "data/test/Positive/renamed.jpg")
    assert train.main([*TINY_TRAINING, "--epochs", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["near_duplicates"] == {"val": 0, "test": 1}
    said = "the first data/test/Positive/renamed.jpg of data/train/Positive/00003.jpg; they flatter its scores"
    assert f"warning: near-duplicates of training pictures in the test split: 1, {said}" in err


# -- groups of files ---------------------------------------------------------------------------------------------------


def photographs(root, classes=("a", "b"), count=20, tiles=6):
    """Plain class folders; tiles of one photograph are scattered over the numbers, and over the classes."""
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for photo in range(count):
            for tile in range(tiles):
                (root / name / f"{tile}{index}_photo{photo:02d}_{'xy'[tile % 2]}.jpg").touch()


def groups_of(plan, split, pattern):
    return {re.search(pattern, p.name)[0] for files in plan.files[split].values() for p in files}


@pytest.mark.parametrize("pattern", [r"photo\d+", r"_(photo\d+)_", r"_(photo(\d+))_[xy]"])
def test_groups_of_files_stay_in_one_split(tmp_path, pattern, capsys):
    photographs(tmp_path)
    plan = plan_splits(tmp_path, 0.2, 0, pattern)
    splits = {split: groups_of(plan, split, r"photo\d+") for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 20
    assert [len(splits[split]) for split in ("val", "test", "train")] == [4, 3, 13]  # a fifth of 20, then of 16
    assert {split: {name: len(f) for name, f in files.items()} for split, files in plan.files.items()} == {
        split: dict.fromkeys("ab", 6 * len(groups)) for split, groups in splits.items()
    }
    assert capsys.readouterr().err == "groups: 20 of 240 files\n"
    assert plan_splits(tmp_path, 0.2, 0, pattern) == plan
    assert plan_splits(tmp_path, 0.2, 1, pattern).held_out != plan.held_out
    assert choose_split(tmp_path, "test", plan.held_out).files == plan.files["test"]


def test_blocks_of_neighbours_would_part_those_groups(tmp_path):
    photographs(tmp_path)
    plan = plan_splits(tmp_path, 0.2, 0)
    assert groups_of(plan, "val", r"photo\d+") & groups_of(plan, "train", r"photo\d+")


def test_classes_of_unlike_sizes_are_held_out_alike(tmp_path):
    photographs(tmp_path, ["many"], count=40, tiles=10)
    photographs(tmp_path, ["few"], count=10, tiles=2)
    for path in (tmp_path / "few").iterdir():
        path.rename(path.with_name(path.name.replace("photo", "other")))
    plan = plan_splits(tmp_path, 0.2, 0, r"(?:photo|other)\d+")
    assert {name: len(files) for name, files in plan.files["val"].items()} == {"few": 4, "many": 80}


def test_files_without_a_match_are_groups_of_their_own_and_counted(tmp_path, capsys):
    photographs(tmp_path)
    for name in ("a", "b"):
        for i in range(20):
            (tmp_path / name / f"single{i}.jpg").touch()
    plan = plan_splits(tmp_path, 0.2, 0, r"photo(\d+)|single")  # a match, but not of the first group
    first = tmp_path / "a" / "single0.jpg"
    said = f"groups: 60 of 280 files; 40 files without a match, the first {first}, each by itself\n"
    assert capsys.readouterr().err == said
    singles = {split: {p for p in plan.files[split]["a"] if "single" in p.name} for split in plan.files}
    assert 0 < len(singles["val"]) < 20


def test_group_by_holds_validation_out_of_a_training_folder(fresh, capsys):
    """By the last digit: 10 groups, each in both classes."""
    assert train.main([*TINY_TRAINING, "--epochs", "1", "--group-by", r"(\d)\.jpg", "--val-fraction", "0.3"]) == 0
    assert "groups: 10 of 24 files" in capsys.readouterr().err
    _, card = checkpoint.load(Path("weights/model.safetensors"), CPU)
    assert card.training["group_by"] == r"(\d)\.jpg"
    digits = {Path(name).stem[-1] for name in card.split["val"]}
    files = {path.relative_to("data").as_posix() for path in Path("data/train").rglob("*.jpg")}
    assert set(card.split["val"]) == {name for name in files if Path(name).stem[-1] in digits}
    assert 0.2 < len(card.split["val"]) / 24 < 0.4


def test_group_by_that_is_no_pattern_or_has_nothing_to_do(fresh, capsys):
    assert train.main([*TINY_TRAINING, "--group-by", "photo("]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: argument --group-by: 'photo(' is no regular expression: missing ), unterminated")
    assert len(err.splitlines()) == 1
    assert train.main([*TINY_TRAINING, "--group-by", r"^0"]) == 2  # all in one group
    last = "error: class Negative has too few groups of files to hold out a val split: try another --val-fraction"
    assert capsys.readouterr().err.splitlines()[-1] == last
    shutil.copytree("data/test", "data/val")
    assert train.main([*TINY_TRAINING, "--group-by", r"\d"]) == 2
    assert "error: --group-by says how to split, but data is split already: leave it out" in capsys.readouterr().err


def test_hold_out_needs_two(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").touch()
    with pytest.raises(UserError, match="too few pictures"):
        plan_splits(tmp_path, 0.2, 0)
