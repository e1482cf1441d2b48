"""The network: asked for weights that are not at hand and for nothing else, and with --offline for nothing at all."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY_TRAINING

import inference
import train
import xai
from crackcam import config, runtime
from crackcam.models import pretrained

IMAGE = ["--image", "data/test/Positive"]


def test_training_predicting_and_explaining_ask_for_nothing(place, no_network):
    training = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--epochs", "1", "--output", "weights/other.safetensors"]
    assert train.main(training) == 0
    assert inference.main(["--type", "Positive", "--num", "1"]) == 0
    assert xai.main(["--type", "Positive", "--num", "1", "--method", "gradcam"]) == 0
    assert inference.main([*IMAGE, "--num", "1", "--arch", "resnet18", "--pretrained", "none"]) == 0


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No weights at hand."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)


@pytest.mark.parametrize(
    ("main", "flags", "named"),
    [
        (inference.main, [*IMAGE, "--arch", "resnet18"], "resnet18-f37072fd.pth in "),
        (xai.main, [*IMAGE, "--arch", "vgg16"], "vgg16-397923af.pth in "),
        (
            inference.main,
            [*IMAGE, "--arch", "fasterrcnn_resnet50_fpn"],
            "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth in ",
        ),
        (inference.main, [*IMAGE, "--arch", "timm/mobilenetv3_small_050"], "timm looks for them on its hub"),
        (train.main, ["--pretrained", "imagenet", "--workers", "0"], "resnet18-f37072fd.pth in "),
    ],
)
def test_offline_asks_for_nothing_and_names_the_file(place, no_network, empty_cache, capsys, main, flags, named):
    pytest.importorskip("timm")
    assert main([*flags, "--offline"]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert named in said
    assert "offline" in said


def test_the_hubs_own_variable_says_the_same(place, no_network, empty_cache, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert inference.main([*IMAGE, "--arch", "resnet18"]) == 2
    assert "--offline" in capsys.readouterr().err


def test_offline_training_says_that_it_starts_from_random_weights(monkeypatch, no_network, empty_cache, capsys):
    monkeypatch.setattr(config, "_offline", True)
    _, source = pretrained.from_weights("squeezenet1_1", "auto", 2)
    assert source.startswith("random weights")
    said = capsys.readouterr().err
    assert (
        "no ImageNet weights for squeezenet1_1 (not at hand, and --offline fetches nothing (torchvision looks" in said
    )


def test_weights_at_hand_are_used_offline(tmp_path, monkeypatch, no_network):
    """Whatever lies in torch's cache."""
    import torch

    file = tmp_path / "hub/checkpoints/some.pth"
    file.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(config, "_offline", True)

    def state(**_):
        return torch.hub.load_state_dict_from_url("https://example.invalid/some.pth", weights_only=True)

    found = pretrained.download_weights(SimpleNamespace(url="https://example.invalid/some.pth", get_state_dict=state))
    assert found["weight"].tolist() == [1, 1]


def test_what_offline_changes_is_put_back(monkeypatch):
    monkeypatch.setattr(config, "_offline", True)
    hub = SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", hub)
    before = socket.getaddrinfo
    seen = []

    def fetch():
        with pretrained._fetching("here"):
            seen.append(hub.HF_HUB_OFFLINE)
            socket.create_connection(("example.invalid", 443))

    with pytest.raises(pretrained.WeightsUnavailableError, match="--offline fetches nothing .here"):
        fetch()
    assert seen == [True]
    assert socket.getaddrinfo is before
    assert not hub.HF_HUB_OFFLINE


def test_no_code_of_ours_knows_the_network_elsewhere():
    """One place fetches: what else names a way out has to be looked at."""
    ways = ("import socket", "urllib", "requests", "http.client", "urlopen", "import ssl", "ftplib", "smtplib")
    root = Path(runtime.__file__).parents[1]
    files = [*root.glob("*.py"), *root.glob("crackcam/**/*.py"), *root.glob("pytorch_grad_cam/**/*.py")]
    found = {f.relative_to(root).as_posix() for f in files if any(way in f.read_text("utf-8") for way in ways)}
    assert found == {"crackcam/models/pretrained.py"}
