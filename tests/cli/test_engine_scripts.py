"""--engine in the scripts: the same rows and heatmaps as torch, in the messages, the documents and the identity of --all."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crackcam
import inference

pytestmark = [pytest.mark.cli, pytest.mark.slow]

CPU = ["--device", "cpu"]


@pytest.fixture(autouse=True)
def installed():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="--engine onnx is not installed")


def table(path):
    return list(csv.DictReader(Path(path).open()))


def test_all_has_the_same_rows_and_the_engine_is_part_of_the_run(place, tiny_checkpoint, capsys):
    flags = [*CPU, "--weights", str(tiny_checkpoint), "--all", "--batch-size", "5", "--output"]
    assert inference.main([*flags, "torch.csv"]) == 0
    assert inference.main([*flags, "onnx.csv", "--engine", "onnx"]) == 0
    err = capsys.readouterr().err
    assert "exporting the network for ONNX Runtime" in err
    assert "machine: cpu, fp32, ONNX Runtime" in err.splitlines()
    ours, theirs = table("torch.csv"), table("onnx.csv")
    assert len(ours) == len(theirs) == 12
    assert {row["predicted"] for row in ours} == {"Negative", "Positive"}
    for one, other in zip(ours, theirs, strict=True):
        assert [one[name] for name in ("file", "true", "predicted")] == [
            other[name] for name in ("file", "true", "predicted")
        ]
        assert float(other["p_Positive"]) == pytest.approx(float(one["p_Positive"]), abs=1e-4)
    found = json.loads(Path("onnx.json").read_text())
    assert (found["engine"], json.loads(Path("torch.json").read_text())["engine"]) == ("onnx", "torch")
    assert "onnxruntime" in found["versions"]
    assert inference.main([*flags, "onnx.csv", "--resume"]) == 2
    assert "engine was onnx, is torch" in capsys.readouterr().err


@pytest.mark.torture
def test_heatmaps_of_the_bundled_network(place):
    """One image in one piece, one in tiles; the map is an output of the graph."""
    photograph = np.asarray(Image.open(next(Path("data/test/Positive").glob("*"))).convert("RGB"))
    wide = np.tile(photograph, (2, 5, 1))[:320, :928]
    ours, theirs = (crackcam.load(device="cpu", engine=name) for name in ("torch", "onnx"))
    for image, tiles in ((photograph, 1), (wide, 2)):
        expected, found = (model.explain(image, target="Positive") for model in (ours, theirs))
        assert found.prediction.tiles == expected.prediction.tiles == tiles
        assert np.ptp(expected.heatmap) > 0.1
        np.testing.assert_allclose(found.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        assert found.prediction.probabilities == pytest.approx(expected.prediction.probabilities, abs=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "onnx", "--precision", "bf16"], "--engine onnx computes in fp32: add --precision fp32"),
        (["--engine", "tensorrt"], "--engine: invalid choice: 'tensorrt'"),
        (["--engine", "onnx", "--arch", "ssdlite320_mobilenet_v3_large"], "is a detector"),
    ],
)
def test_refusals(place, capsys, flags, message):
    assert inference.main([*CPU, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
