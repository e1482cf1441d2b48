"""The steps of Grad-CAM: the figure's numbers, and the page that explains them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT
from PIL import Image
from torch import nn

import xai
from crackcam.cli import explain
from crackcam.explain.anatomy import gradcam_steps
from crackcam.models import checkpoint, pretrained
from crackcam.models.loaded import LoadedModel
from crackcam.models.target_layers import Grid, TargetLayer
from pytorch_grad_cam import GradCAM


def test_figure_and_json(place, capsys):
    assert xai.main(["--anatomy", "--num", "1", "--layer", "layer3"]) == 0
    capsys.readouterr()
    document = json.loads(Path("outputs/xai_Positive_anatomy.json").read_text())
    (row,) = document["pictures"]
    assert document["layer"] == "layer3"
    assert len(row["weights"]) == 256
    width, height = Image.open("outputs/xai_Positive_anatomy.png").size
    assert (width, height) == (1380, 1008)
    assert xai.main(["--anatomy", "--method", "layercam"]) == 2
    assert (
        "leave --method, --masks, --metrics, --scales, --fuse, --report and --style mask out" in capsys.readouterr().err
    )
    assert xai.main(["--anatomy", "--masks", "data/masks"]) == 2


def test_steps_lead_to_grad_cam(place):
    model, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    network = LoadedModel(model, card)
    layer = TargetLayer("layer3", model.layer3, Grid(256, 4, 4))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steps = gradcam_steps(network, layer, pixels, 1)
    expected = GradCAM(model, [model.layer3]).maps(network.to_inputs(pixels), [1], normalize=False)[0]
    assert torch.allclose(steps.heatmap, expected, atol=1e-7)
    assert torch.allclose(steps.weights, steps.gradients.mean(dim=(1, 2)))
    assert torch.allclose(steps.signed, (steps.weights[:, None, None] * steps.activations).sum(dim=0), atol=1e-6)


PAGE = "docs/tutorials/grad-cam-from-scratch.md"


class Slim(torchvision.models.VGG):
    """VGG's convolutions; a classifier of a fiftieth of its weights, which take seconds to draw."""

    def __init__(self, features, num_classes=1000, **others):
        nn.Module.__init__(self)
        self.features, self.avgpool = features, nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def page():
    """What the Python blocks of docs/tutorials/grad-cam-from-scratch.md compute, with random weights."""
    original, names = torchvision.models.vgg16, {}
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models.vgg, "VGG", Slim)
        patch.setattr(torchvision.models, "vgg16", lambda weights: original(weights=None))
        for block in re.findall(r"```py\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL):
            exec(block, names)
            names.setdefault("heatmaps", []).append(names["heatmap"])
    return names


def test_the_page_computes_grad_cam(page):
    assert page["captured"]["activations"].shape == (1, 512, 14, 14)
    by_hand, same = page["heatmaps"]
    large = torch.nn.functional.interpolate(by_hand[None, None], (224, 224), mode="bilinear", align_corners=False)[0]
    assert large.max() > 0
    assert torch.allclose(large, same, atol=1e-6 * float(large.max()))
    assert not any(module._forward_hooks or module._backward_hooks for module in page["model"].modules())


def test_vgg_before_an_in_place_relu(page, monkeypatch, tmp_path, capsys):
    """xai.py at features.28, which an in-place ReLU follows, against the page's plain hooks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models.vgg, "VGG", Slim)
    state = page["model"].state_dict()
    monkeypatch.setattr(pretrained, "imagenet_state", lambda arch, may_download: state)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save("noise.png")
    seen = {}
    monkeypatch.setattr(explain, "gradcam_steps", lambda *given: seen.setdefault("steps", gradcam_steps(*given)))
    flags = ["--arch", "vgg16", "--layer", "features.28", "--image", "noise.png", "--anatomy", "--target", "7"]
    assert xai.main(flags) == 0
    capsys.readouterr()
    network, card = checkpoint.load_imagenet("vgg16", torch.device("cpu"), random=False, may_download=False)
    pixels = torch.from_numpy(card.preprocessing.apply(np.asarray(Image.open("noise.png"))).copy()).permute(2, 0, 1)[
        None
    ]
    kept = []
    for module in network.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    network.features[28].register_forward_hook(
        lambda module, inputs, output: kept.append(output) or output.retain_grad()
    )
    network(card.preprocessing.normalize(pixels, torch.device("cpu")))[0, 7].backward()
    steps = seen["steps"]
    assert steps.activations.shape == (512, 14, 14)
    assert steps.activations.min() < 0  # as the convolution made them
    assert torch.allclose(steps.activations, kept[0][0].detach(), atol=1e-5)
    assert torch.allclose(steps.gradients, kept[0].grad[0], atol=1e-7)
