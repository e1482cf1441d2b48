"""The scripts and the network: no script asks for anything that it does not need, and --offline asks for nothing."""

import json

import pytest
import torch
import torchvision
from conftest import TINY_TRAINING

import inference
import train
import xai
from crackcam.models import checkpoint, pretrained

pytestmark = pytest.mark.usefixtures("without_figures")

IMAGE = ["--image", "data/test/Positive"]
TINY = ["--arch", "squeezenet1_1", "--image-size", "64", "--workers", "0"]


def test_training_predicting_and_explaining_ask_for_nothing(place, no_network):
    training = [*TINY_TRAINING, "--arch", "squeezenet1_1", "--epochs", "1", "--output", "weights/other.safetensors"]
    assert train.main(training) == 0
    assert inference.main(["--type", "Positive", "--num", "1"]) == 0
    assert xai.main(["--type", "Positive", "--num", "1", "--method", "gradcam"]) == 0
    assert inference.main([*IMAGE, "--num", "1", "--arch", "resnet18", "--pretrained", "none"]) == 0


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
        (train.main, ["--pretrained", "imagenet", "--workers", "0"], "resnet18-f37072fd.pth in "),
    ],
)
def test_offline_asks_for_nothing_and_names_the_file(place, no_network, monkeypatch, capsys, main, flags, named):
    monkeypatch.setenv("TORCH_HOME", str(place.root / "torch"))
    assert main([*flags, "--offline"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert named in error
    assert "--offline forbids downloads" in error


def test_the_hubs_own_variable_forbids_downloads_too(place, no_network, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(place.root / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert inference.main([*IMAGE, "--arch", "resnet18"]) == 2
    assert "--offline" in capsys.readouterr().err


def test_offline_training_falls_back_to_random_weights_and_warns(fresh, no_network, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(fresh.root / "torch"))
    assert train.main([*TINY, "--epochs", "1", "--offline", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["pretrained"].startswith("random weights: ImageNet weights are not available (not cached")
    assert "warning: no ImageNet weights for squeezenet1_1 (not cached" in err
    _, card = checkpoint.load(fresh.root / "weights/model.safetensors", torch.device("cpu"))
    assert card.pretrained == json.loads(out)["pretrained"]


def test_auto_takes_imagenet_weights_probes_and_tunes(fresh, monkeypatch, capsys):
    torch.manual_seed(5)
    state = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr(pretrained, "imagenet_state", lambda arch, may_download: state)
    assert train.main([*TINY]) == 0
    err = capsys.readouterr().err
    assert "ImageNet weights of torchvision" in err
    assert "linear probe: val loss" in err
    assert "epoch 2/2" in err
    rows = (fresh.root / "outputs/training.csv").read_text().splitlines()
    assert rows[1].startswith("0,,,")
    assert len(rows) == 1 + 1 + 2
