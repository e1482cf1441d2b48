"""ONNX: an exported file predicts what the model does, and contains the model card."""

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
from crackcam.config import RuntimeConfig
from crackcam.errors import UserError
from crackcam.models import checkpoint, checks, onnx, pretrained, stages
from crackcam.models.loaded import LoadedModel
from crackcam.types import ModelCard

CPU = torch.device("cpu")


def noise(count):
    """Pixels of noise, (count, 3, 64, 64) uint8."""
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network(trained):
    """The trained model."""
    return LoadedModel(*checkpoint.load(trained.root / "weights/model.safetensors", CPU))


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The trained model as a file, as train.py writes it."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert onnx.export(path, network, noise(5)) < 1e-5
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


def test_training_on_small_inputs_exports_the_full_input_size(fresh, capsys):
    """A multiscale head trains on 224 px where the images have no more; inference uses the model's own size."""
    arguments = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--head", "multiscale", "--mix-sample", "0"]
    assert train.main([*arguments, "--image-size", "256", "--epochs", "1", "--export", "onnx"]) == 0
    assert inference.main(["--weights", "weights/model.onnx", "--num", "1"]) == 0
    assert "256 px, from weights/model.onnx" in capsys.readouterr().err


def test_one_image_to_compare_on_is_enough(network, tmp_path):
    onnx.export(tmp_path / "m.onnx", network, noise(1))
    inputs = network.to_inputs(noise(3))
    assert onnx.OnnxModel(tmp_path / "m.onnx", CPU)(inputs).shape == (3, 2)


def test_a_failed_export_is_one_line(network, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="this model cannot be exported to ONNX: AssertionError"):
        onnx.export(tmp_path / "m.onnx", network, noise(1))


def test_predictions_are_those_of_the_checkpoint(place, exported, capsys):
    """Every image of the test split, with a last batch that is not full."""
    arguments = ["--all", "--precision", "fp32", "--batch-size", "5"]
    assert inference.main([*arguments, "--output", "a.csv"]) == 0
    capsys.readouterr()
    assert inference.main([*arguments, "--weights", str(exported), "--output", "b.csv"]) == 0
    err = capsys.readouterr().err
    assert f"network: resnet18, Negative, Positive, 64 px, from {exported}" in err
    assert "machine: cpu, fp32 (as exported, by onnxruntime)" in err
    ours, theirs = table("a.csv"), table("b.csv")
    assert len(ours) == len(theirs) == 12
    for a, b in zip(ours, theirs, strict=True):
        assert (a["file"], a["true"], a["predicted"]) == (b["file"], b["true"], b["predicted"])
        assert float(a["p_Positive"]) == pytest.approx(float(b["p_Positive"]), abs=1e-5)


def test_the_card_is_in_the_file(network, exported):
    found = onnx.load(exported, RuntimeConfig(device="cpu"))
    assert found.card == network.card
    assert found.path == exported
    assert str(found.runtime) == "cpu, fp32 (as exported, by onnxruntime)"


def test_multiscale_heads(tmp_path):
    torch.manual_seed(0)
    model = stages.add_multiscale_head(pretrained.build_classifier("resnet18", 2), 2, 64)
    model = checks.to_device(model, CPU).eval()
    model.mask_out_class(0)
    network = LoadedModel(model, ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=model.stages))
    onnx.export(tmp_path / "m.onnx", network, noise(3))
    inputs = network.to_inputs(noise(3))
    with torch.inference_mode():
        expected = model(inputs)
    found = onnx.OnnxModel(tmp_path / "m.onnx", CPU)(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not model.training


def test_a_file_with_other_predictions_is_not_written(network, tmp_path, monkeypatch):
    run = onnx.OnnxModel.forward
    monkeypatch.setattr(onnx.OnnxModel, "forward", lambda self, x: run(self, x) * 1.5)
    with pytest.raises(ArithmeticError, match="probabilities differ by"):
        onnx.export(tmp_path / "m.onnx", network, noise(5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (xai, [], "has no layers to read: explain the checkpoint that it was exported from"),
        (inference, ["--precision", "bf16"], "computes in fp32, as it was exported; drop --precision bf16"),
        (inference, ["--arch", "resnet18"], "already stores its architecture; drop --arch, --classes and --pretrained"),
        (inference, ["--device", "mps"], "--device mps is not available here"),
    ],
)
def test_refusals(place, exported, capsys, script, arguments, message):
    assert script.main(["--weights", str(exported), *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_foreign_files(place, exported, capsys):
    assert inference.main(["--weights", "none.onnx"]) == 2
    assert "no ONNX file at none.onnx: make one with python train.py --export onnx" in capsys.readouterr().err
    Path("half.onnx").write_bytes(exported.read_bytes()[:5000])
    assert inference.main(["--weights", "half.onnx"]) == 2
    assert "half.onnx is truncated or not an ONNX file" in capsys.readouterr().err
    import onnx

    plain = onnx.load(exported)
    del plain.metadata_props[:]
    onnx.save(plain, "plain.onnx")
    assert inference.main(["--weights", "plain.onnx"]) == 2
    assert "plain.onnx does not contain a model card" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"missing \(onnxruntime\): pip install onnx onnxscript onnxruntime"):
        onnx.require(onnx.TO_WRITE)
