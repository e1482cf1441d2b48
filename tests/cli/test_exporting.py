"""ONNX files in the scripts: export after training, and inference."""

import csv
import json
import sys
from pathlib import Path

import pytest
from conftest import TINY_TRAINING, Workplace, train_in

import inference
import train
import xai
from crackcam.models import onnx

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def exported(tiny_data, tmp_path_factory):
    """A file as train.py writes it; the checkpoint is beside it."""
    flags = ["--arch", "timm/test_resnet", "--epochs", "1", "--lr", "0.1", "--export", "onnx"]
    place = Workplace(tmp_path_factory.mktemp("onnx"))
    train_in(place.root, tiny_data, *flags)
    assert place.files("weights") == {"weights/model.safetensors", "weights/model.onnx"}
    return place.root / "weights/model.onnx"


def table(path):
    return list(csv.DictReader(Path(path).open()))


def test_a_missing_package_is_missed_before_training(fresh, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert train.main([*TINY_TRAINING, "--export", "onnx"]) == 2
    assert "missing (onnxscript): pip install" in capsys.readouterr().err
    assert not list(Path("weights").iterdir())


MULTISCALE = [
    *TINY_TRAINING, "--arch", "squeezenet1_1", "--head", "multiscale", "--mix-sample", "0",
    "--image-size", "256", "--epochs", "1", "--export", "onnx", "--json",
]  # fmt: skip


def test_the_full_input_size_is_exported(fresh, capsys, monkeypatch):
    """A multiscale head trains on 224 px where the images have no more; the file has the model's own size."""
    sizes = []
    monkeypatch.setattr(onnx, "export", lambda path, network, pixels: sizes.append(network.card.preprocessing.size))
    assert train.main(MULTISCALE) == 0
    assert "weights/model.onnx" in json.loads(capsys.readouterr().out)["files"]
    assert {row["size"] for row in table("outputs/training.csv")} == {"128"}
    assert sizes == [256]


@pytest.mark.torture
def test_training_exports_the_full_input_size(fresh, capsys):
    assert train.main(MULTISCALE) == 0
    assert {p.name for p in Path("weights").iterdir()} == {"model.safetensors", "model.onnx"}
    assert "weights/model.onnx" in json.loads(capsys.readouterr().out)["files"]
    assert inference.main(["--weights", "weights/model.onnx", "--num", "1"]) == 0
    assert "256 px, from weights/model.onnx" in capsys.readouterr().err


def test_predictions_are_those_of_the_checkpoint(fresh, exported, capsys):
    """Every image of the test split, with a last batch that is not full."""
    arguments = ["--all", "--precision", "fp32", "--batch-size", "5"]
    assert (
        inference.main([*arguments, "--weights", str(exported.with_suffix(".safetensors")), "--output", "a.csv"]) == 0
    )
    capsys.readouterr()
    assert inference.main([*arguments, "--weights", str(exported), "--output", "b.csv"]) == 0
    err = capsys.readouterr().err
    assert f"network: timm/test_resnet, Negative, Positive, 64 px, from {exported}" in err
    assert "machine: cpu, fp32, ONNX Runtime (as exported)" in err
    ours, theirs = table("a.csv"), table("b.csv")
    assert len(ours) == len(theirs) == 12
    assert len({row["p_Positive"] for row in ours}) == 12
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
    from onnx import load, save

    plain = load(exported)
    del plain.metadata_props[:]
    save(plain, "plain.onnx")
    assert inference.main(["--weights", "plain.onnx"]) == 2
    assert "plain.onnx does not contain a model card" in capsys.readouterr().err
