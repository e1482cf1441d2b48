"""ONNX files in the scripts: export after training, and inference."""

import csv
import json
import sys
from pathlib import Path

import pytest
from conftest import TINY_TRAINING

import crackcam
import inference
import train
import xai


@pytest.fixture(scope="module")
def exported(trained_small, tmp_path_factory):
    """The trained model as a file, as train.py writes it."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    crackcam.load(trained_small.root / "weights/model.safetensors").export(path)
    return path


def table(path):
    return list(csv.DictReader(Path(path).open()))


def test_a_missing_package_is_missed_before_training(fresh, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert train.main([*TINY_TRAINING, "--export", "onnx"]) == 2
    assert "missing (onnxscript): pip install" in capsys.readouterr().err
    assert not list(Path("weights").iterdir())


def test_training_exports_the_full_input_size(fresh, capsys):
    """A multiscale head trains on 224 px where the images have no more; inference uses the model's own size."""
    arguments = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--head", "multiscale", "--mix-sample", "0"]
    assert train.main([*arguments, "--image-size", "256", "--epochs", "1", "--export", "onnx", "--json"]) == 0
    assert {p.name for p in Path("weights").iterdir()} == {"model.safetensors", "model.onnx"}
    assert "weights/model.onnx" in json.loads(capsys.readouterr().out)["files"]
    assert inference.main(["--weights", "weights/model.onnx", "--num", "1"]) == 0
    assert "256 px, from weights/model.onnx" in capsys.readouterr().err


def test_predictions_are_those_of_the_checkpoint(place, exported, capsys):
    """Every image of the test split, with a last batch that is not full."""
    arguments = ["--all", "--precision", "fp32", "--batch-size", "5"]
    assert inference.main([*arguments, "--output", "a.csv"]) == 0
    capsys.readouterr()
    assert inference.main([*arguments, "--weights", str(exported), "--output", "b.csv"]) == 0
    err = capsys.readouterr().err
    assert f"network: timm/test_resnet, Negative, Positive, 64 px, from {exported}" in err
    assert "machine: cpu, fp32, ONNX Runtime (as exported)" in err
    ours, theirs = table("a.csv"), table("b.csv")
    assert len(ours) == len(theirs) == 12
    for a, b in zip(ours, theirs, strict=True):
        assert (a["file"], a["true"], a["predicted"]) == (b["file"], b["true"], b["predicted"])
        assert float(a["p_Positive"]) == pytest.approx(float(b["p_Positive"]), abs=1e-5)


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
