"""ONNX: an exported file predicts what the model does, and contains the model card."""

import sys

import pytest
import torch
from torch import nn

from crackcam.config import RuntimeConfig
from crackcam.errors import UserError
from crackcam.models import checks, onnx
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.types import ModelCard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("exported_once")]

CPU = torch.device("cpu")


def noise(count):
    """Pixels of noise, (count, 3, 64, 64) uint8."""
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Backbone(nn.Module):
    """Two grids, quick to export."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 5, 4, 2), nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, x):
        return self.coarse(self.fine(x).relu()).relu()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(Backbone(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2))
    model = checks.to_device(model, CPU).eval()
    return LoadedModel(model, ModelCard("resnet18", ["a", "ä ö"], 64, training={"data": "data"}))


@pytest.fixture
def exported(network, tmp_path):
    path = tmp_path / "model.onnx"
    assert onnx.export(path, network, noise(5)) < 1e-5
    return path


def test_a_file_predicts_what_the_model_does(network, exported):
    found = onnx.load(exported, RuntimeConfig(device="cpu"))
    for count in (1, 4):  # batches of any length
        expected = network.all_probabilities(noise(count), 32)
        assert found.all_probabilities(noise(count), 32) == pytest.approx(expected, abs=1e-5)
    assert found.card == network.card
    assert found.path == exported
    assert str(found.runtime) == "cpu, fp32, ONNX Runtime (as exported)"


def test_one_image_to_compare_on_is_enough(network, tmp_path):
    onnx.export(tmp_path / "m.onnx", network, noise(1))
    inputs = network.to_inputs(noise(3))
    assert onnx.OnnxModel(tmp_path / "m.onnx", CPU)(inputs).shape == (3, 2)


def test_a_failed_export_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(torch.onnx, "export", fail)
    network = LoadedModel(nn.Sequential(Backbone(), nn.Flatten(), nn.LazyLinear(2)), ModelCard("x", ["a", "b"], 64))
    network.model(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match="this model cannot be exported to ONNX: AssertionError"):
        onnx.export(tmp_path / "m.onnx", network, noise(1))


def test_multiscale_heads(tmp_path):
    torch.manual_seed(0)
    model = checks.to_device(Multiscale(Backbone(), {"fine": 8, "coarse": 12}, 2), CPU).eval()
    model.mask_out_class(0)
    network = LoadedModel(model, ModelCard("resnet18", ["a", "b"], 64, head="multiscale", stages=model.stages))
    onnx.export(tmp_path / "m.onnx", network, noise(3))
    inputs = network.to_inputs(noise(3))
    found = onnx.OnnxModel(tmp_path / "m.onnx", CPU)
    with torch.inference_mode():
        torch.testing.assert_close(found(inputs), model(inputs), rtol=1e-4, atol=1e-4)
        evidence = found.output(inputs, "evidence")
        torch.testing.assert_close(evidence, model.evidence(inputs), rtol=1e-4, atol=1e-4)
    assert evidence.shape == (3, 2, 16, 16)
    assert not model.training


def test_a_file_with_other_predictions_is_not_written(network, tmp_path, monkeypatch):
    run = onnx.OnnxModel.forward
    monkeypatch.setattr(onnx.OnnxModel, "forward", lambda self, x: run(self, x) * 1.5)
    with pytest.raises(ArithmeticError, match="probabilities differ by"):
        onnx.export(tmp_path / "m.onnx", network, noise(5))
    assert not list(tmp_path.iterdir())


def test_files_that_are_refused(exported, tmp_path):
    import onnx as package

    def load(path, **settings):
        return onnx.load(path, RuntimeConfig(device="cpu", **settings))

    with pytest.raises(UserError, match="no ONNX file at .*none.onnx: make one with python train.py --export onnx"):
        load(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="computes in fp32, as it was exported; drop precision bf16"):
        load(exported, precision="bf16")
    half = tmp_path / "half.onnx"
    half.write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(UserError, match="half.onnx is truncated or not an ONNX file"):
        load(half)
    plain = package.load(exported)
    del plain.metadata_props[:]
    package.save(plain, tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="plain.onnx does not contain a model card: export it with"):
        load(tmp_path / "plain.onnx")


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"missing \(onnxruntime\): pip install onnx onnxscript onnxruntime"):
        onnx.require(onnx.TO_WRITE)
