"""Every family of networks is explained, with layers found by themselves; odd layouts against references of our own.

The references use plain hooks, numpy and loops, and turn tokens and (N, H, W, C) into grids in their own words.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from networks import activations_and_gradients
from PIL import Image
from torch import nn

import inference
import train
import xai
from crackcam import runtime
from crackcam.errors import UserError
from crackcam.explain import heatmaps
from crackcam.models import checkpoint, pretrained, target_layers
from crackcam.models.loaded import LoadedModel
from crackcam.types import ModelCard

METHODS = ["gradcam", "eigencam", "layercam", "scorecam"]
CONVOLUTIONAL = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5",
    "squeezenet1_1", "vgg11", "timm/test_resnet", "timm/test_convnext", "timm/test_efficientnet",
]  # fmt: skip
SIZES = {"inception_v3": 96, "timm/test_resnet": 96}


class Own(nn.Module):
    """A network of a user's own: no head of a known name, no known block."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.decide = nn.Linear(12, 4)

    def forward(self, x):
        return self.decide(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


def vision_transformer():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    nn.init.normal_(model.heads.head.weight)
    return model


def swin():
    return torchvision.models.SwinTransformer([2, 2], 12, [1, 2], [2, 4], [4, 4], num_classes=4)


def timm_model(name, **settings):
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=4, **settings)


def network_of(model, size):
    card = ModelCard("own", ["a", "b", "c", "d"], size)
    return LoadedModel(model.eval(), card, runtime.Runtime(torch.device("cpu"), torch.float32), None)


def pixels_of(size, count=2):
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


SLOW = {"vgg11", "densenet121"}


@pytest.mark.parametrize(
    "arch", [pytest.param(a, marks=[pytest.mark.torture] if a in SLOW else []) for a in CONVOLUTIONAL]
)
def test_convolutional_networks(arch):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    size = SIZES.get(arch, 64)
    network = network_of(pretrained.build_classifier(arch, 4), size)
    layers = target_layers.find_target_layers(network.model, size)
    pixels = pixels_of(size, 1)
    for method in METHODS:
        heat = heatmaps.heatmaps(network, method, layers, pixels, [2])
        assert heat.shape == (1, size, size)
        assert torch.isfinite(heat).all()
        assert heat.min() >= 0
        if method in ("eigencam", "scorecam"):  # of a random network nothing may speak for a class
            assert heat.max() > heat.min(), method


ODD = {
    "ViT": (vision_transformer, 32, "encoder.layers.encoder_layer_1.ln_1"),
    "Swin": (swin, 32, "permute"),
    "Swin, (N, H, W, C)": (swin, 32, "features.2.reduction"),
    "own": (Own, 32, "second"),
    "timm ViT, class token": (
        functools.partial(timm_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24,
                          num_heads=2), 32, "blocks.1.norm1"),
    "timm ViT, registers": (
        functools.partial(timm_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24,
                          num_heads=2, reg_tokens=4), 32, "blocks.1.norm1"),
    "timm ViT, mean of tokens": (
        functools.partial(timm_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24,
                          num_heads=2, global_pool="avg", class_token=False, fc_norm=False), 32, "norm"),
    "timm Swin": (
        functools.partial(timm_model, "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=12,
                          depths=(2, 2), num_heads=(1, 2)), 32, "norm"),
}  # fmt: skip


def as_grid(output, places):
    """Whatever a layer puts out, as (N, C, side, side) float64; the last tokens are those of places."""
    output = output.detach().double()
    if output.ndim == 3:
        side = int(places**0.5)
        return output[:, -places:].transpose(1, 2).reshape(len(output), -1, side, side)
    return output if output.shape[2] == output.shape[3] else torch.einsum("nhwc->nchw", output)


def enlarged(maps, size):
    return torch.nn.functional.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def reference(method, model, layer, x, classes, places):
    """Maps before stretching, (N, size, size)."""
    activations, gradients = activations_and_gradients(model, layer, x, classes)
    a, g = as_grid(activations, places), as_grid(gradients, places)
    if method == "gradcam":
        maps = (g.mean((2, 3), keepdim=True) * a).sum(1)
    elif method == "layercam":
        maps = (g.clamp(min=0) * a).sum(1)
    elif method == "eigencam":
        maps = []
        for one in a:
            rows = one.flatten(1).T.numpy()
            rows = rows - rows.mean(0)
            first = rows @ np.linalg.svd(rows, full_matrices=False)[2][0]
            total = one.sum(0).flatten()
            if total.max() - total.min() <= 1e-4 * one.abs().sum(0).mean():  # after a LayerNorm it is 0
                total = one.abs().sum(0).flatten()
            maps.append(first * np.sign(np.corrcoef(first, total.numpy())[0, 1]))
        maps = torch.from_numpy(np.stack(maps)).reshape(a[:, 0].shape)
    else:
        maps = []
        for one, picture, category in zip(a, x, classes, strict=True):
            large = torch.nn.functional.interpolate(one[:, None], x.shape[2:], mode="bilinear", align_corners=True)
            low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
            with torch.no_grad():
                scores = torch.stack(
                    [model((picture * mask)[None].float())[0, category] for mask in (large - low) / (high - low)]
                )
            maps.append((scores.double().softmax(0)[:, None, None] * one).sum(0))
        maps = torch.stack(maps)
    return enlarged(maps.clamp(min=0), x.shape[-1])


@pytest.mark.parametrize("case", ODD)
def test_odd_layouts_against_references(case):
    torch.manual_seed(3)
    make, size, name = ODD[case]
    network = network_of(make(), size)
    if case == "Swin, (N, H, W, C)":
        (layer,) = target_layers.find_target_layers(network.model, size, [name])
    else:
        (layer,) = target_layers.find_target_layers(network.model, size)
    assert layer.name == name
    pixels, classes = pixels_of(size), [1, 3]
    x = network.to_inputs(pixels)
    places = layer.grid.height * layer.grid.width
    for method in METHODS:
        found = heatmaps.heatmaps(network, method, [layer], pixels, classes)
        expected = reference(method, network.model, layer.module, x, classes, places)
        assert torch.allclose(found.double(), expected, atol=2e-4 * float(expected.max()) + 1e-12), method
        assert expected.max() > 0, method


def test_a_class_token_hides_what_comes_after_the_last_attention():
    model = vision_transformer().eval()
    grids, target = target_layers.grid_layers(model, 32)
    assert target == "encoder.layers.encoder_layer_1.ln_1"
    assert {"encoder", "encoder.layers", "encoder.layers.encoder_layer_1.ln_2"} <= set(grids)
    assert grids["encoder"][:3] == (16, 4, 4)


def test_layers_of_different_layouts_are_refused():
    with pytest.raises(UserError, match="explain one at a time"):
        target_layers.find_target_layers(swin().eval(), 32, ["permute", "features.1"])


# -- timm, from the command line -------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((300, 200), Image.Resampling.BICUBIC).save("photo.png")
    return "photo.png"


@pytest.mark.parametrize("name", ["test_vit", "test_convnext.r160_in1k"])
def test_timm_networks_see_pictures_as_timm_does(photo, capsys, name):
    import timm

    flags = ["--image", photo, "--arch", f"timm/{name}", "--pretrained", "none", "--precision", "fp32"]
    assert inference.main([*flags, "--json", "--top-k", "1000"]) == 0
    document = json.loads(capsys.readouterr().out)
    device = torch.device("cpu")
    torch.manual_seed(0)
    model, card = checkpoint.load_imagenet(f"timm/{name}", device, random=True)
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    assert (card.image_size, card.mean, card.std) == (config["input_size"][1], [*config["mean"]], [*config["std"]])
    expected = timm.data.create_transform(**config)(Image.open(photo))
    pixels = torch.from_numpy(card.preprocessing.apply(np.asarray(Image.open(photo))).copy()).permute(2, 0, 1)[None]
    found = runtime.Runtime(device, torch.float32, card.mean, card.std).input(pixels)[0]
    assert torch.allclose(found, expected, atol=1e-5)
    assert len(document["pictures"][0]["probabilities"]) == 1000
    assert "goldfish" in document["pictures"][0]["probabilities"]


def test_timm_weights_and_names(photo, monkeypatch, capsys):
    import timm

    original = timm.create_model

    def create(name, pretrained=False, **settings):
        if pretrained:
            raise OSError("no route to the hub")
        return original(name, **settings)

    monkeypatch.setattr(timm, "create_model", create)
    assert xai.main(["--image", photo, "--arch", "timm/test_vit"]) == 2
    assert "no ImageNet weights for timm/test_vit: no route to the hub (timm looks" in capsys.readouterr().err
    assert xai.main(["--image", photo, "--arch", "timm/convnext_tinny"]) == 2
    assert "no architecture 'timm/convnext_tinny' in timm; close to it: convnext_tiny" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert xai.main(["--image", photo, "--arch", "timm/test_vit"]) == 2
    assert "need the package timm: pip install timm" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["timm/test_vit", "timm/test_byobnet"])
def test_timm_networks_are_trained_predicted_and_explained(fresh, capsys, arch):
    pytest.importorskip("timm")
    common = ["--pretrained", "none", "--epochs", "1", "--workers", "0", "--batch-size", "8"]
    assert train.main(["--arch", arch, *common]) == 0
    assert inference.main(["--type", "Positive", "--num", "2"]) == 0
    flags = ["--type", "Negative", "--num", "1", "--method", ",".join(METHODS), "--save-maps", "maps"]
    assert xai.main(flags) == 0
    assert Path("outputs/xai_Negative_compared.png").exists()
    heats = [np.load(path) for path in Path("maps").iterdir()]
    assert len(heats) == len(METHODS)
    assert all(np.isfinite(heat).all() and heat.min() >= 0 for heat in heats)
    capsys.readouterr()
    if arch == "timm/test_byobnet":  # convolutions are compared with the package elsewhere
        return
    assert xai.main(["--num", "2", "--method", "gradcam,layercam", "--verify"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines()[1:3]] == ["same", "same"], out
