"""Other engines compute what torch does: probabilities, evidence, images of other sizes; and say why where they cannot."""

import sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from processes import run_python
from torch import nn

import crackcam
from crackcam.config import ExactRuntimeConfig, ExplainConfig, TrainConfig
from crackcam.errors import UserError
from crackcam.explain.explainer import Explainer
from crackcam.explain.heatmaps import Technique, heatmaps, predict_and_explain
from crackcam.models import checks, engines, tiles
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.runtime import ENGINES, Runtime
from crackcam.types import ModelCard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("exported_once")]

SIDE = 64
BOTH = ["onnx", "openvino"]


def needs(engine):
    for name in ("onnx", "onnxscript", ENGINES[engine].package):
        pytest.importorskip(name, reason=f"--engine {engine} is not installed")


def noise(count=2, height=SIDE, width=SIDE):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), generator=draw, dtype=torch.uint8)


class Backbone(nn.Module):
    """Two grids and batch norm, quick to export."""

    def __init__(self, knows_its_size=False):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 5, 4, 2), nn.Conv2d(8, 12, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.weight, 2)
        self.knows_its_size = knows_its_size

    def forward(self, x):
        factor = x.shape[-1] / SIDE if self.knows_its_size else 1
        return self.coarse(self.norm(self.fine(factor * x)).relu()).relu()


def multiscale(knows_its_size=False):
    torch.manual_seed(0)
    model = Multiscale(Backbone(knows_its_size), {"fine": 8, "coarse": 12}, 2)
    for layer in model.maps.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.bias)
    model.mask_out_class(0)
    model = checks.to_device(model, torch.device("cpu")).eval()
    return LoadedModel(model, ModelCard("resnet18", ["a", "b"], SIDE, head="multiscale", stages=model.stages))


def linear():
    torch.manual_seed(0)
    model = nn.Sequential(Backbone(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2)).eval()
    return LoadedModel(checks.to_device(model, torch.device("cpu")), ModelCard("resnet18", ["a", "b"], SIDE))


@pytest.fixture(scope="module", params=BOTH)
def pair(request):
    """The same network in torch, and by an engine."""
    needs(request.param)
    ours, theirs = multiscale(), multiscale()
    theirs.use_engine(request.param)
    return ours, theirs


def test_probabilities(pair):
    ours, theirs = pair
    assert isinstance(theirs.inference_model, engines.EngineModel)
    assert str(theirs.runtime) == f"cpu, fp32, {ENGINES[theirs.runtime.engine].title}"
    for count in (1, 5):
        expected = ours.probabilities(noise(count))
        assert expected.std() > 0.001
        torch.testing.assert_close(theirs.probabilities(noise(count)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (96, 64)])
def test_evidence_of_all_sizes_that_the_strides_divide(pair, height, width, monkeypatch):
    ours, theirs = pair
    expected = ours.evidence(noise(2, height, width))
    torch_model = theirs.inference_model.model
    monkeypatch.setattr(torch_model, "evidence", None)  # torch is not asked
    found = theirs.evidence(noise(2, height, width))
    assert found.shape == (2, 2, height // 4, width // 4)
    assert found[:, 1].std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_evidence_of_another_size_is_computed_in_torch(pair):
    ours, theirs = pair
    assert torch.equal(theirs.evidence(noise(1, 50, 70)), ours.evidence(noise(1, 50, 70)))


def test_heatmaps_and_tiles(pair):
    ours, theirs = pair
    one, other = (predict_and_explain(each, Technique("evidence"), noise(3), 1) for each in pair)
    for found, expected in zip(other, one, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    image = noise(1, 200, 150)[0].permute(1, 2, 0).numpy()
    expected, found = (tiles.read_evidence(each, image) for each in pair)
    assert found.tiles == expected.tiles > 1
    torch.testing.assert_close(found.map, expected.map, rtol=0, atol=1e-4)
    expected, found = (
        tiles.tiled_probabilities(each, evidence) for each, evidence in zip(pair, (expected, found), strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_only_a_few_sizes_are_kept_ready(pair):
    _, theirs = pair
    for width in range(64, 64 + 32 * (engines.SIZES + 2), 32):
        theirs.evidence(noise(1, 64, width))
    assert len(theirs.inference_model._ready) == engines.SIZES


def test_other_models_of_the_network_compute_in_torch(pair):
    """Dilated ones, and those of the sanity check: each would be exported for a few images."""
    _, theirs = pair
    other = theirs.with_model(multiscale().model)
    assert other.runtime.engine == "torch"
    made = heatmaps(other, Technique("evidence"), noise(), [1, 1])
    assert torch.equal(made, heatmaps(multiscale(), Technique("evidence"), noise(), [1, 1]))
    assert theirs.without_tiles().inference_model is theirs.inference_model


@pytest.mark.parametrize(
    ("method", "said"), [("fullgrad", ["heatmaps by fullgrad are computed in torch"]), ("evidence", [])]
)
def test_heatmaps_that_stay_in_torch_are_named(pair, method, said, caplog):
    with caplog.at_level("INFO"):
        Explainer.of(pair[1], ExplainConfig(method=method))
    assert [record.message for record in caplog.records if "in torch" in record.message] == said


def test_weights_that_change_are_exported_again():
    needs("onnx")
    network = linear()
    network.use_engine("onnx")
    torch.testing.assert_close(network.probabilities(noise()), linear().probabilities(noise()), rtol=0, atol=1e-4)
    before = network.inference_model
    network.model[3].bias.data += torch.tensor([0.0, 1.0])
    with torch.inference_mode():
        expected = network.model(network.to_inputs(noise())).softmax(1)
    assert network.inference_model is network.model  # it may go on
    torch.testing.assert_close(network.probabilities(noise()), expected, rtol=0, atol=1e-4)
    assert isinstance(network.inference_model, engines.EngineModel)
    assert network.inference_model is not before


def test_a_model_that_knows_its_size_has_a_graph_for_that_size_only():
    needs("onnx")
    network = multiscale(knows_its_size=True)
    network.use_engine("onnx")
    assert not network.inference_model.any_size
    for width in (64, 128):
        expected = multiscale(knows_its_size=True).evidence(noise(1, 64, width))
        torch.testing.assert_close(network.evidence(noise(1, 64, width)), expected, rtol=0, atol=1e-4)


def test_an_engine_that_computes_something_else_is_refused(monkeypatch):
    needs("onnx")
    run = engines.OnnxRuntime.__call__
    monkeypatch.setattr(engines.OnnxRuntime, "__call__", lambda self, image: run(self, image) * 1.001)
    network = linear()
    with pytest.raises(UserError, match="ONNX Runtime does not compute what this model does: a result differs by 0.0"):
        network.use_engine("onnx")
    assert network.runtime.engine == "torch"
    assert not isinstance(network.inference_model, engines.EngineModel)


def test_a_model_that_cannot_be_exported(monkeypatch, tiny_checkpoint, caplog):
    needs("onnx")

    def fail(*_, **__):
        raise RuntimeError("no operator of that kind")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="cannot be exported to ONNX: no operator of that kind"):
        crackcam.load(tiny_checkpoint, device="cpu", engine="onnx")
    with caplog.at_level("INFO"):
        assert crackcam.load(tiny_checkpoint, device="cpu", engine="auto").runtime.engine == "torch"
    assert "computing in torch: this model cannot be exported to ONNX" in caplog.text


# -- which one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", BOTH)
def test_a_missing_package_is_named_with_the_extra(engine, monkeypatch):
    needs(engine)
    package = ENGINES[engine].package
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"engine {engine} needs a package that is missing \({package}\): pip install crackcam\[{engine}\]"
    with pytest.raises(UserError, match=message):
        engines.resolve(engine, Runtime())


def test_auto_takes_what_is_installed(monkeypatch):
    for engine in BOTH:
        needs(engine)
    assert engines.resolve("auto", Runtime()) == "onnx"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert engines.resolve("auto", Runtime()) == "openvino"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert engines.resolve("auto", Runtime()) == "torch"


def test_engines_compute_on_cpus_in_fp32():
    half = replace(Runtime(), dtype=torch.bfloat16)
    on_gpu = replace(Runtime(), device=torch.device("cuda"))
    assert [engines.resolve(name, each) for each in (half, on_gpu) for name in ("auto", "torch")] == ["torch"] * 4
    with pytest.raises(UserError, match="engine onnx computes in fp32: add precision fp32"):
        engines.resolve("onnx", half)
    with pytest.raises(UserError, match="engine openvino computes on CPUs: add device cpu"):
        engines.resolve("openvino", on_gpu)


def test_training_computes_in_torch():
    assert TrainConfig().engine == "torch"
    assert ExactRuntimeConfig(engine="onnx").engine == "onnx"
    with pytest.raises(UserError, match="engine: 'tensorflow' is not one of auto, torch, onnx, openvino"):
        ExactRuntimeConfig(engine="tensorflow")


def test_detectors_compute_in_torch():
    with pytest.raises(UserError, match="engine onnx is for classifiers; fasterrcnn_resnet50_fpn is a detector"):
        crackcam.load(arch="fasterrcnn_resnet50_fpn", pretrained="none", engine="onnx")


REMOVED = """
import gc, signal, sys, threading
import test_inference_engines as here
networks = [here.multiscale(), here.multiscale()]
for network in networks:
    network.use_engine("openvino")
    network.probabilities(here.noise())
del network
thread = threading.Thread(target=lambda: (networks.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_a_network_of_openvino_may_be_removed_by_any_thread():
    """OpenVINO's core took the stack of signal handlers with it: the next signal ended the process."""
    needs("openvino")
    done = run_python(REMOVED, path=[ROOT / "tests/unit", ROOT / "tests", ROOT])
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
