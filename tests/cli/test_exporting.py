"""ONNX: what is exported predicts what the network does, and says itself what it is."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY_TRAINING

import inference
import train
import xai
from crackcam import runtime
from crackcam.errors import UserError
from crackcam.models import checkpoint, checks, onnx, pretrained, stages
from crackcam.types import ModelCard

CPU = torch.device("cpu")
MACHINE = runtime.Runtime(CPU, torch.float32)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The trained network as a file, as train.py writes it."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    network, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    pixels = torch.randint(0, 256, (5, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert onnx.export(path, network, card, MACHINE, pixels) < 1e-5
    return path


def table(path):
    return list(csv.DictReader(Path(path).open()))


def test_training_exports(fresh, capsys):
    assert train.main([*TINY_TRAINING, "--epochs", "1", "--export", "onnx", "--json"]) == 0
    assert {p.name for p in Path("weights").iterdir()} == {"model.safetensors", "model.onnx"}
    assert "weights/model.onnx" in json.loads(capsys.readouterr().out)["files"]


def test_a_missing_package_is_missed_before_training(fresh, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert train.main([*TINY_TRAINING, "--export", "onnx"]) == 2
    assert "missing (onnxscript): pip install" in capsys.readouterr().err
    assert not list(Path("weights").iterdir())


def test_pictures_smaller_than_the_network_are_trained_small_and_exported_whole(fresh, capsys):
    """A multiscale head trains on 224 px where the pictures have no more; inference shows it its own size."""
    arguments = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--head", "multiscale", "--mix-sample", "0"]
    assert train.main([*arguments, "--image-size", "256", "--epochs", "1", "--export", "onnx"]) == 0
    assert inference.main(["--weights", "weights/model.onnx", "--num", "1"]) == 0
    assert "256 px, from weights/model.onnx" in capsys.readouterr().err


def test_one_picture_to_compare_on_is_enough(trained, tmp_path):
    network, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    onnx.export(tmp_path / "m.onnx", network, card, MACHINE, pixels[:1])
    assert onnx.OnnxModel(tmp_path / "m.onnx", CPU)(MACHINE.input(pixels)).shape == (3, 2)


def test_what_cannot_be_exported_is_one_line_whatever_it_says(trained, tmp_path, monkeypatch):
    network, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)

    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="cannot be exported to ONNX: AssertionError"):
        onnx.export(tmp_path / "m.onnx", network, card, MACHINE, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_predictions_are_those_of_the_checkpoint(place, exported, capsys):
    """Every picture of the test split, in batches that do not come out even."""
    arguments = ["--all", "--precision", "fp32", "--batch-size", "5"]
    assert inference.main([*arguments, "--output", "a.csv"]) == 0
    capsys.readouterr()
    assert inference.main([*arguments, "--weights", str(exported), "--output", "b.csv"]) == 0
    said = capsys.readouterr().err
    assert f"network: resnet18, Negative, Positive, 64 px, from {exported}" in said
    assert "machine: cpu, fp32 (as exported, by onnxruntime)" in said
    ours, theirs = table("a.csv"), table("b.csv")
    assert len(ours) == len(theirs) == 12
    for a, b in zip(ours, theirs, strict=True):
        assert (a["file"], a["true"], a["predicted"]) == (b["file"], b["true"], b["predicted"])
        assert float(a["p_Positive"]) == pytest.approx(float(b["p_Positive"]), abs=1e-5)


def test_the_card_travels(trained, exported):
    _, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    assert onnx.OnnxModel(exported, CPU).card(exported) == card


def test_multiscale_heads(tmp_path):
    torch.manual_seed(0)
    network = checks.place(stages.add_multiscale_head(pretrained.build_classifier("resnet18", 2), 2, 64), CPU).eval()
    network.silence(0)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    card = ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=network.stages)
    onnx.export(tmp_path / "m.onnx", network, card, MACHINE, pixels)
    inputs = MACHINE.input(pixels)
    with torch.inference_mode():
        wanted = network(inputs)
    found = onnx.OnnxModel(tmp_path / "m.onnx", CPU)(inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not network.training


def test_what_would_predict_otherwise_is_not_written(tmp_path, trained, monkeypatch):
    network, card = checkpoint.load(trained.root / "weights/model.safetensors", CPU)
    run = onnx.OnnxModel.forward
    monkeypatch.setattr(onnx.OnnxModel, "forward", lambda self, x: run(self, x) * 1.5)
    pixels = torch.randint(0, 256, (5, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with pytest.raises(ArithmeticError, match="probabilities differ by"):
        onnx.export(tmp_path / "m.onnx", network, card, MACHINE, pixels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (xai, [], "has no layers to look into: explain the checkpoint that it was exported from"),
        (inference, ["--precision", "bf16"], "computes in fp32, as it was exported: leave --precision bf16 out"),
        (inference, ["--arch", "resnet18"], "says itself what it is: leave --arch, --classes and --pretrained out"),
        (inference, ["--device", "mps"], "--device mps is not available here"),
    ],
)
def test_refusals(place, exported, capsys, script, arguments, message):
    assert script.main(["--weights", str(exported), *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_files_that_are_none_of_ours(place, exported, capsys):
    assert inference.main(["--weights", "none.onnx"]) == 2
    assert "no ONNX file at none.onnx: make one with python train.py --export onnx" in capsys.readouterr().err
    Path("half.onnx").write_bytes(exported.read_bytes()[:5000])
    assert inference.main(["--weights", "half.onnx"]) == 2
    assert "half.onnx is no whole ONNX file" in capsys.readouterr().err
    import onnx

    plain = onnx.load(exported)
    del plain.metadata_props[:]
    onnx.save(plain, "plain.onnx")
    assert inference.main(["--weights", "plain.onnx"]) == 2
    assert "plain.onnx does not say what it predicts" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"missing \(onnxruntime\): pip install onnx onnxscript onnxruntime"):
        onnx.require(onnx.TO_WRITE)
