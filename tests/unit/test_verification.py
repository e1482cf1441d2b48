"""The package grad-cam as reference: in a process of its own, and truly that package."""

import base64
import hashlib
from importlib.metadata import PathDistribution

import numpy as np
import pytest
import torch
from torch import nn

from crackcam.errors import UserError
from crackcam.evaluation import reference, verification
from crackcam.evaluation.verification import Comparison, MethodRun, compare
from crackcam.methods import METHODS, method_class
from crackcam.models.loaded import LoadedModel
from crackcam.models.multiscale import Multiscale
from crackcam.models.target_layers import Grid, TargetLayer
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    return LoadedModel(model.eval(), ModelCard("small", ["a", "b"], 32))


def run_of(loaded, method, pixels, targets, seconds=0.5):
    layer = TargetLayer("1", loaded.model[1], Grid(8, 30, 30))
    maps = method_class(method)(loaded.model, [layer.module]).maps(loaded.to_inputs(pixels), targets, normalize=False)
    return MethodRun(method, [layer], list(maps), seconds)


@pytest.mark.torture
def test_heatmaps_equal_those_of_the_package():
    pixels, targets = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), [0, 1]
    loaded = network()
    runs = [run_of(loaded, method, pixels, targets) for method in ("gradcam", "cam", "hirescam")]
    spoilt = MethodRun("layercam", runs[0].layers, [torch.rand(32, 32) for _ in targets], 0.5)
    compared = verification.verify(loaded, [*runs, spoilt], pixels, targets)
    assert [c.method for c in compared] == ["gradcam", "hirescam", "layercam"]  # the package has no CAM
    for c in compared[:2]:
        assert c.verdict == "same"
        assert c.difference < 1e-4
        assert c.rank_correlation > 0.999
        assert c.times_as_fast > 0
    assert compared[2].verdict == "DIFFERENT"
    assert next(loaded.model.parameters()).requires_grad


def test_what_cannot_be_verified(monkeypatch):
    pixels, loaded = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), network()
    with pytest.raises(UserError, match="has none of these methods"):
        verification.verify(loaded, [run_of(loaded, "cam", pixels, [0])], pixels, [0])
    head = loaded.with_model(Multiscale(nn.Sequential(nn.Conv2d(3, 4, 1)), {"0": 4}, 2))
    with pytest.raises(UserError, match="does not support multiscale heads"):
        verification.verify(head, [], pixels, [0])

    def lacking(name):
        raise verification.PackageNotFoundError(name)

    monkeypatch.setattr(verification, "version", lacking)
    with pytest.raises(UserError, match="grad-cam is not installed"):
        verification.verify(loaded, [], pixels, [0])


def test_a_failure_of_the_package_is_one_line(monkeypatch, tmp_path):
    failing = tmp_path / "reference.py"
    failing.write_text("raise KeyError('first line\\n', 'last')")
    monkeypatch.setattr(verification, "REFERENCE", failing)
    with pytest.raises(UserError, match=r"^the package grad-cam failed: KeyError: \('first line\\n', 'last'\)$"):
        verification.run_reference({})
    failing.write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match="^the package grad-cam failed: no message$"):
        verification.run_reference({})


def test_our_engine_is_not_its_own_reference():
    with pytest.raises(SystemExit, match="another package is imported in its place: .*pytorch_grad_cam"):
        reference.main("job.pt", "result.npz")


def test_verdicts():
    ramp = torch.arange(16.0).reshape(4, 4)
    expected = (ramp / 15).numpy()[None]

    def compared(method, heatmap):
        return compare(MethodRun(method, [], [heatmap], seconds=2.0), expected, seconds=6.0)

    same = compared("gradcam", 7 * ramp)
    assert same == Comparison("gradcam", same.difference, pytest.approx(1), 3.0, "same")
    assert same.difference < 1e-6
    assert list(same.as_row()) == ["method", "difference", "rank_correlation", "times_as_fast", "verdict"]
    wrong = compared("gradcam", ramp.flip(0, 1))
    assert (wrong.difference, wrong.rank_correlation, wrong.verdict) == (1, pytest.approx(-1), "DIFFERENT")
    assert compared("fem", ramp.flip(0, 1)).verdict == f"by design: {METHODS['fem'].difference}"
    assert compared("fem", ramp).verdict == "same"
    constant = compared("gradcam", torch.zeros(4, 4))
    assert np.isnan(constant.rank_correlation)
    header, *lines = verification.verification_table([same, wrong, constant]).splitlines()
    assert [line.split()[0] for line in lines] == ["gradcam"] * 3
    assert {line.index(verdict) for line, verdict in zip(lines, ("same", "DIFFERENT", "DIFFERENT"), strict=True)} == {
        header.index("verdict")
    }


@pytest.fixture
def installed(tmp_path):
    """A folder of installed packages with grad-cam in it, its module, and its distribution."""
    module, info = tmp_path / "pytorch_grad_cam/__init__.py", tmp_path / "grad_cam-1.dist-info"
    for path, text in ((module, "theirs"), (info / "METADATA", "Name: grad-cam\nVersion: 1\n")):
        path.parent.mkdir()
        path.write_text(text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"theirs").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"pytorch_grad_cam/__init__.py,sha256={digest},6\ngrad_cam-1.dist-info/RECORD,,\n")
    return tmp_path, module, PathDistribution(info)


def test_the_reference_must_be_the_package_itself(installed):
    folder, module, distribution = installed
    assert reference.belongs_to(distribution, module)
    assert reference.belongs_to(distribution, folder / "pytorch_grad_cam/../pytorch_grad_cam/__init__.py")
    ours = folder / "elsewhere/pytorch_grad_cam/__init__.py"
    ours.parent.mkdir(parents=True)
    ours.write_text("theirs")
    assert not reference.belongs_to(distribution, ours)
    module.write_text("ours, installed over it")
    assert not reference.belongs_to(distribution, module)
