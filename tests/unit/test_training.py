"""crackcam.train and its steps, from Python."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from torch import nn

import crackcam
from crackcam import UserError
from crackcam.data.pixels import PixelSplit, load_split
from crackcam.data.splits import plan_splits
from crackcam.files import file_hash
from crackcam.models import checkpoint, heads, pretrained
from crackcam.models.loaded import LoadedModel
from crackcam.models.pretrained import WeightsOrigin
from crackcam.preprocessing import Preprocessing
from crackcam.training import evaluate, features, probe, resume
from crackcam.training.calibration import expected_calibration_error, fit_temperature
from crackcam.training.loop import FineTuning
from crackcam.training.schedule import Schedule
from crackcam.types import ModelCard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("examined_once")]

CPU = torch.device("cpu")
QUICK = {"arch": "squeezenet1_1", "epochs": 1}


def load(path="weights/model.safetensors"):
    return LoadedModel(*checkpoint.load(Path(path), CPU))


def split_of(loaded, name, root="data"):
    plan = plan_splits(Path(root), 0.15, 0)
    return load_split(name, plan.classes, plan.files[name], loaded.preprocessing, 2)


# -- the result ------------------------------------------------------------------------------------------------------


def test_result_of_a_training(fresh, capsys):
    """Nothing is printed; the result has what the checkpoint has, and the model predicts."""
    epochs, results = [], []
    result = crackcam.train(
        tiny_config(arch="squeezenet1_1", precision="fp32"),
        on_epoch=lambda history: epochs.append(len(history)),
        on_result=lambda result: results.append((result, Path("weights/model.resume").exists())),
    )
    assert capsys.readouterr() == ("", "")
    assert epochs == [1, 2]
    assert [epoch.epoch for epoch in result.history] == [1, 2]
    assert results == [(result, True)]  # a run that is killed here can be resumed
    assert {p.name for p in Path("weights").iterdir()} == {"model.safetensors"}
    assert not Path("outputs").exists()
    assert result.checkpoint == Path("weights/model.safetensors")
    assert result.exported is None
    assert result.origin.random
    loaded = load()
    assert loaded.card.metrics == result.metrics
    assert set(result.metrics) == {"best_epoch", "val", "test", "temperature", "near_duplicates"}
    assert result.split == "test"
    assert result.confusion.sum() == result.reliability.count.sum() == len(result.splits["test"]) == 12
    assert "precision" in result.report
    pixels = result.splits["test"].pixels
    assert torch.equal(loaded.probabilities(pixels), result.classifier.probabilities(pixels))
    torch.testing.assert_close(loaded.probabilities(pixels), torch.from_numpy(result.probabilities))
    assert result.metrics["test"]["accuracy"] == pytest.approx(result.confusion.trace() / 12)


def test_settings_are_stored_as_json_has_them(fresh):
    crackcam.train(tiny_config(**QUICK, data="data", command="python train.py"))
    training = load().card.training
    assert len(training.pop("held_out_hashes")) == 4
    assert training == {**tiny_config(**QUICK).as_dict(), "command": "python train.py"}
    assert training["data"] == "data"


def test_the_kept_epoch_is_the_best_one_on_validation(fresh):
    result = crackcam.train(tiny_config(arch="squeezenet1_1", epochs=3))
    best = max(result.history, key=lambda epoch: (epoch.val_balanced_accuracy, -epoch.val_loss))
    assert result.metrics["best_epoch"] == best.epoch
    logits = features.compute_logits(result.classifier, result.splits["val"], 8, "")
    loss = evaluate.score(logits * result.metrics["temperature"], result.splits["val"].labels).loss
    assert loss == pytest.approx(best.val_loss, rel=1e-3)


def test_probabilities_are_calibrated_on_validation_and_reported_on_test(trained, monkeypatch):
    """The checkpoint is a plain model: what its logits were divided by is on the card only."""
    monkeypatch.chdir(trained.root)
    loaded = load()
    loaded.runtime = crackcam.runtime.Runtime.of(tiny_config())  # as it was trained
    splits = {name: split_of(loaded, name) for name in ("val", "test")}
    logits = {name: features.compute_logits(loaded, split, 8, "") for name, split in splits.items()}
    temperature = loaded.card.metrics["temperature"]
    assert fit_temperature(logits["val"] * temperature, splits["val"].labels) == pytest.approx(temperature, rel=1e-3)
    for name, found in {"ece": logits["test"], "ece_before": logits["test"] * temperature}.items():
        error = expected_calibration_error(found.softmax(dim=1).numpy(), splits["test"].labels.numpy())
        assert loaded.card.metrics["test"][name] == pytest.approx(error, rel=1e-3)


def test_validation_is_held_out_of_training_and_never_the_test_split(trained):
    card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)[1]
    assert set(card.split) == {"val"}
    assert len(card.split["val"]) == 2 * 2  # 15 % of 12, of each class
    assert all(name.startswith("train/") for name in card.split["val"])
    plan = plan_splits(trained.root / "data", 0.15, 0)
    train_files = {p.name for files in plan.files["train"].values() for p in files}
    assert not train_files & {Path(name).name for name in card.split["val"]}
    assert len(train_files) == 24 - 4
    hashes = {name: file_hash(trained.root / "data" / name)[:16] for name in card.split["val"]}
    assert card.held_out_hashes == hashes


def test_group_by_holds_validation_out_of_a_training_folder(fresh, caplog):
    """By the last digit: 10 groups, each in both classes."""
    caplog.set_level(logging.INFO, "crackcam")
    crackcam.train(tiny_config(**QUICK, group_by=r"(\d)\.jpg", val_fraction=0.3))
    assert "groups: 10 of 24 files" in caplog.messages
    card = load().card
    assert card.training["group_by"] == r"(\d)\.jpg"
    digits = {Path(name).stem[-1] for name in card.split["val"]}
    files = {path.relative_to("data").as_posix() for path in Path("data/train").rglob("*.jpg")}
    assert set(card.split["val"]) == {name for name in files if Path(name).stem[-1] in digits}
    assert 0.2 < len(card.split["val"]) / 24 < 0.4


# -- fine-tuning -------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Logits (1, 0) for every image."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x):
        return self.bias.expand(len(x), 2)


def test_classes_count_alike_whatever_their_size(tmp_path):
    """With 1 image of one class for 9 of the other, the loss is the mean of the two classes' losses."""
    split = PixelSplit(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.tensor([0] * 9 + [1]), [])
    loaded = LoadedModel(Constant(), ModelCard("constant", ["a", "b"], 32))
    tuning = FineTuning(loaded, Schedule((32,), 1e-9, batch_size=10), split, split)
    history = []
    assert tuning.run(history, resume.StateFile(tmp_path / "state", {})) is history[0]
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))]  # of an image of either class
    assert history[0].train_loss == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert history[0].train_accuracy == pytest.approx(0.9)
    assert history[0].val_accuracy == pytest.approx(0.9)
    assert history[0].val_balanced_accuracy == pytest.approx(0.5)


def test_patience_stops(fresh, caplog):
    caplog.set_level(logging.INFO, "crackcam")
    result = crackcam.train(tiny_config(arch="squeezenet1_1", epochs=40, patience=1, lr=1e-9))
    assert "no improvement in 1 epochs: stopping early" in caplog.messages
    assert len(result.history) < 40
    assert not result.history[-1].best


def test_hopeless_learning_rate_stops_with_advice(fresh):
    with pytest.raises(UserError, match=r"the loss is NaN or infinite in epoch \d: try a lower lr than 1e\+12"):
        crackcam.train(tiny_config(arch="squeezenet1_1", lr=1e12, epochs=6))


def test_nothing_to_do_is_refused(fresh):
    with pytest.raises(UserError, match="epochs 0 trains the linear probe alone"):
        crackcam.train(tiny_config(arch="squeezenet1_1", head="multiscale", epochs=0))


# -- linear probe ------------------------------------------------------------------------------------------------------


def test_probe_equals_logistic_regression_by_hand(fresh):
    """The folded head gives the probabilities of scikit-learn's own pipeline on the same features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    plan = plan_splits(Path("data"), 0.25, 0)
    train, val = (load_split(s, plan.classes, plan.files[s], Preprocessing(64), 2) for s in ("train", "val"))
    torch.manual_seed(0)
    loaded = LoadedModel(pretrained.build_classifier("squeezenet1_1", 2), ModelCard("x", plan.classes, 64))
    with heads.head_inputs(loaded.model) as seen:
        features.compute_logits(loaded, train, 8, "")
        x = torch.cat(seen).numpy()
        seen.clear()
        features.compute_logits(loaded, val, 8, "")
        x_val = torch.cat(seen).numpy()
    probe.linear_probe(loaded, train, val, 8)
    found = evaluate.evaluate(loaded, val, 8).probabilities
    candidates = []
    for strength in probe.REGULARISATION:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        candidates.append(make_pipeline(StandardScaler(), regression).fit(x, train.labels).predict_proba(x_val))
    assert min(abs(found - candidate).max() for candidate in candidates) < 1e-4


def test_pretrained_path_starts_from_that_backbone(fresh, trained):
    source = trained.root / "weights/model.safetensors"
    result = crackcam.train(tiny_config(epochs=0, pretrained=str(source)))
    assert result.origin == WeightsOrigin("file", f"weights of {source}")
    before, after = (checkpoint.read_tensors(path) for path in (source, result.checkpoint))
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("fc."))
    assert not torch.equal(before["fc.weight"], after["fc.weight"])


def test_pretrained_path_of_another_architecture(fresh, trained):
    source = str(trained.root / "weights/model.safetensors")
    with pytest.raises(UserError, match="has another architecture"):
        crackcam.train(tiny_config(pretrained=source, arch="resnet34"))


# -- earlier results -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_other_classes_is_kept(fresh, caplog):
    """Once, before it is overwritten; a second training on the same data keeps nothing."""
    result = crackcam.train(tiny_config(**QUICK))
    first = result.checkpoint.read_bytes()
    previous = Path("weights/model.previous.safetensors")
    caplog.clear()
    crackcam.train(tiny_config(**QUICK, seed=1))
    assert not previous.exists()
    second = result.checkpoint.read_bytes()
    assert second != first
    for folder in Path("data").rglob("Negative"):
        folder.rename(folder.with_name("Sound"))
    crackcam.train(tiny_config(arch="squeezenet1_1", epochs=2, seed=1))
    assert previous.read_bytes() == second
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in warnings if "keeping it as weights/model.previous.safetensors" in text]) == 1
    assert load().card.classes == ["Positive", "Sound"]
    assert {p.name for p in Path("weights").iterdir()} == {"model.safetensors", previous.name}


def test_mnasnet_is_trained_resumed_and_read(fresh, without_figures, monkeypatch):
    """It refuses tensors without the versions of layers, which no file has."""
    config = tiny_config(arch="mnasnet0_5", image_size=32)
    train_epoch = FineTuning.train_epoch

    def killed(self, number):
        if number == 2:
            raise KeyboardInterrupt
        return train_epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "train_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            crackcam.train(config)
    result = crackcam.train(replace(config, resume=True))
    assert [epoch.epoch for epoch in result.history] == [1, 2]
    trained, read = (model.state_dict() for model in (result.classifier.model, load().model))
    assert all(torch.equal(trained[name], tensor) for name, tensor in read.items())
    other, origin = pretrained.initial_weights("mnasnet0_5", "weights/model.safetensors", 2, may_download=False)
    assert origin.kind == "file"
    assert all(torch.equal(trained[n], t) for n, t in other.state_dict().items() if not n.startswith("classifier."))
