"""Models of every family are explained with default target layers; odd layouts against independent references.

The references use plain hooks, numpy and loops, and turn tokens and (N, H, W, C) into grids by code of their own.
"""

import functools

import numpy as np
import pytest
import torch
import torchvision
from networks import activations_and_gradients
from PIL import Image
from torch import nn

import crackcam
from crackcam.errors import UserError
from crackcam.models import checkpoint, pretrained, target_layers
from crackcam.preprocessing import Preprocessing

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")

METHODS = ["gradcam", "eigencam", "layercam", "scorecam"]
CONVOLUTIONAL = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11",
    "timm/test_resnet",
    "timm/test_convnext",
    "timm/test_efficientnet",
]
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
    import timm

    return timm.create_model(name, num_classes=4, **settings)


def classifier_of(model, size):
    return crackcam.Classifier(model.eval(), classes=["a", "b", "c", "d"], preprocessing=Preprocessing(size))


def images_of(size, count=2):
    """Images (size, size, 3) uint8 of noise."""
    return list(np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8))


# Each 3 to 12 s; smaller networks of their kinds are mobilenet_v3_small, mnasnet0_5, shufflenet_v2_x0_5 and timm's.
SLOW = {
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "regnet_y_400mf",
    "vgg11",
}


@pytest.mark.parametrize(
    "arch", [pytest.param(a, marks=[pytest.mark.torture] if a in SLOW else []) for a in CONVOLUTIONAL]
)
def test_convolutional_networks(arch):
    torch.manual_seed(0)
    size = SIZES.get(arch, 64)
    model = pretrained.build_classifier(arch, 4)
    classifier = classifier_of(model, size)
    (layer,) = target_layers.find_target_layers(model, size)
    for method in METHODS if layer.grid.channels <= 256 else METHODS[:-1]:  # scorecam: one forward pass a channel
        heatmap = classifier.explain(images_of(size, 1)[0], method=method, target="c").heatmap
        assert heatmap.shape == (size, size)
        assert np.isfinite(heatmap).all()
        assert heatmap.min() >= 0
        if method in ("eigencam", "scorecam"):  # of a random model the heatmap may be empty for a class
            assert heatmap.max() > heatmap.min(), method


ODD = {
    "ViT": (vision_transformer, 32, "encoder.layers.encoder_layer_1.ln_1"),
    "Swin": (swin, 32, "permute"),
    "Swin, (N, H, W, C)": (swin, 32, "features.2.reduction"),
    "own": (Own, 32, "second"),
    "timm ViT, class token": (
        functools.partial(
            timm_model, "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2
        ),
        32,
        "blocks.1.norm1",
    ),
    "timm ViT, registers": (
        functools.partial(
            timm_model,
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            depth=2,
            embed_dim=24,
            num_heads=2,
            reg_tokens=4,
        ),
        32,
        "blocks.1.norm1",
    ),
    "timm ViT, mean of tokens": (
        functools.partial(
            timm_model,
            "vit_tiny_patch16_224",
            img_size=32,
            patch_size=8,
            depth=2,
            embed_dim=24,
            num_heads=2,
            global_pool="avg",
            class_token=False,
            fc_norm=False,
        ),
        32,
        "norm",
    ),
    "timm Swin": (
        functools.partial(
            timm_model,
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=12,
            depths=(2, 2),
            num_heads=(1, 2),
        ),
        32,
        "norm",
    ),
}


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
            total = (one * one.square().mean((1, 2), keepdim=True).sqrt()).sum(0).flatten()
            maps.append(first * np.sign(np.corrcoef(first, total.numpy())[0, 1]))
        maps = torch.from_numpy(np.stack(maps)).reshape(a[:, 0].shape)
    else:
        maps = []
        for one, image, category in zip(a, x, classes, strict=True):
            large = torch.nn.functional.interpolate(one[:, None], x.shape[2:], mode="bilinear", align_corners=True)
            low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
            with torch.no_grad():
                scores = torch.stack(
                    [model((image * mask)[None].float())[0, category] for mask in (large - low) / (high - low)]
                )
            maps.append((scores.double().softmax(0)[:, None, None] * one).sum(0))
        maps = torch.stack(maps)
    return enlarged(maps.clamp(min=0), x.shape[-1])


@pytest.mark.parametrize("case", ODD)
def test_odd_layouts_against_references(case):
    torch.manual_seed(3)
    make, size, name = ODD[case]
    model = make().eval()
    names = [name] if case == "Swin, (N, H, W, C)" else None
    (layer,) = target_layers.find_target_layers(model, size, names)
    assert layer.name == name
    images, classes = images_of(size), [1, 3]
    classifier = classifier_of(model, size)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    x = Preprocessing(size).normalize(pixels, CPU)
    places = layer.grid.height * layer.grid.width
    for method in METHODS:
        expected = reference(method, model, layer.module, x, classes, places).numpy()
        for image, index, truth in zip(images, classes, expected, strict=True):
            heatmap = classifier.explain(image, method=method, target="abcd"[index], layer=names).heatmap
            assert np.allclose(heatmap, truth, atol=2e-4 * float(expected.max()) + 1e-12), method
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


# -- timm --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit", "test_convnext.r160_in1k"])
def test_timm_models_see_images_as_timm_does(name):
    import timm

    _, card = checkpoint.load_imagenet(f"timm/{name}", CPU, random=True, may_download=False)
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    assert (card.image_size, card.mean, card.std) == (config["input_size"][1], [*config["mean"]], [*config["std"]])
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((300, 200), Image.Resampling.BICUBIC)
    expected = timm.data.create_transform(**config)(photo)
    pixels = torch.from_numpy(card.preprocessing.apply(np.asarray(photo)).copy()).permute(2, 0, 1)[None]
    assert torch.allclose(card.preprocessing.normalize(pixels, CPU)[0], expected, atol=1e-5)
    assert len(card.classes) == 1000
    assert "goldfish" in card.classes


def test_timm_weights_and_names(monkeypatch):
    import timm

    original = timm.create_model

    def create(name, pretrained=False, **settings):
        if pretrained:
            raise OSError("no route to the hub")
        return original(name, **settings)

    def load(arch):
        return checkpoint.load_imagenet(arch, CPU, random=False, may_download=True)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UserError, match=r"no ImageNet weights for timm/test_vit: no route to the hub \(timm looks"):
        load("timm/test_vit")
    with pytest.raises(UserError, match="no architecture 'timm/convnext_tinny' in timm; did you mean convnext_tiny"):
        load("timm/convnext_tinny")
