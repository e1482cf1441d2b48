"""Sharper maps from the same weights: output stride, scales, tiles, several layers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from networks import QUICK
from PIL import Image
from torch import nn

import pytorch_grad_cam
import xai
from crackcam import runtime
from crackcam.data import images
from crackcam.errors import UserError
from crackcam.explain import heatmaps
from crackcam.methods import METHODS, SHARING, STRETCHED
from crackcam.models import output_stride, registry, target_layers
from crackcam.models.loaded import LoadedModel
from crackcam.preprocessing import Preprocessing, squash
from crackcam.types import ModelCard


def run(capsys, *flags):
    """Grad-CAM where a test does not say otherwise."""
    code = xai.main([*([] if "--method" in flags else ["--method", "gradcam"]), *flags])
    return code, *capsys.readouterr()


def network_of(model, size, resize=None):
    card = ModelCard("own", ["a", "b", "c"], size, resize=resize)
    return LoadedModel(model.eval(), card, runtime.Runtime(torch.device("cpu"), torch.float32), None)


def layers_of(network, *names):
    return target_layers.find_target_layers(network.model, network.card.image_size, list(names) or None)


def random_network(arch):
    """With statistics of batch norm that are not those of a fresh network."""
    torch.manual_seed(0)
    model = registry.bare_network(arch).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


class Convolutions(nn.Module):
    """Stride 4; a border shows in the first place behind it."""

    def __init__(self, mode="zeros"):
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode=mode), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode=mode), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.late(self.early(x)).mean(dim=(2, 3)))


def picture_of(height, width, seed=0):
    """A noisy picture with structures of many sizes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 1, width // 12 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth).astype(int) + rng.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)


# -- output stride ---------------------------------------------------------------------------------------------------


def output_of(model, layer, x):
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        model(x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize(
    ("arch", "size", "layer", "own", "stride", "tolerance"),
    [
        ("resnet18", 96, "layer4", 32, 16, 1e-5),
        ("resnet18", 96, "layer4", 32, 8, 1e-5),
        ("resnet18", 70, "layer4", 32, 4, 1e-5),
        ("squeezenet1_0", 96, "features", 16, 8, 1e-5),  # pooling with ceil_mode, without padding
        ("squeezenet1_0", 111, "features", 16, 4, 1e-5),
        ("googlenet", 104, "inception5b", 32, 8, 1e-5),
        ("vgg11", 64, "features.19", 16, 8, 1e-5),  # a head of fixed size behind adaptive pooling
        ("densenet121", 96, "features", 32, 8, 1e-5),  # average pooling that strides
        ("convnext_tiny", 96, "features", 32, 16, 1e-5),  # grouped convolutions, even kernels
        ("mobilenet_v3_small", 96, "features", 32, 8, 1e-2),  # squeeze-and-excitation averages over more places
        ("regnet_y_400mf", 96, "trunk_output", 32, 16, 1e-2),
    ],
)
def test_a_finer_grid_holds_the_old_one(arch, size, layer, own, stride, tolerance):
    model = random_network(arch)
    finer = output_stride.dilate(model, stride, size)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    old, new = output_of(model, layer, x), output_of(finer, layer, x)
    step = own // stride
    assert new.shape[-1] > (old.shape[-1] - 1) * step
    assert new.std() > 0
    assert (new[..., ::step, ::step] - old).abs().max() <= tolerance * old.abs().max()


def test_the_network_stays_as_it_was():
    model = random_network("squeezenet1_0")
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    before = {name: (str(module), module.training) for name, module in model.named_modules()}
    expected = model(x)
    finer = output_stride.dilate(model, 8, 96)
    assert {name: (str(module), module.training) for name, module in model.named_modules()} == before
    assert not any(
        module._forward_pre_hooks or module._forward_hooks for module in (*model.modules(), *finer.modules())
    )
    assert torch.equal(model(x), expected)
    assert {id(tensor) for tensor in finer.parameters()} == {id(tensor) for tensor in model.parameters()}


def test_its_own_stride_changes_nothing():
    model = random_network("resnet18")
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    assert torch.equal(output_stride.dilate(model, 32, 96)(x), model(x))


def test_reflection_at_the_border():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 33, 33)
    old, new = (output_of(each, "2", x) for each in (model, output_stride.dilate(model, 2, 33)))
    assert torch.allclose(new[..., ::2, ::2], old, atol=1e-6)


class Same(nn.Conv2d):
    """Pads by what is left over, as TensorFlow does: how much lies to the left depends on stride and dilation."""

    def forward(self, x):
        side, step, gap = x.shape[-1], self.stride[0], self.dilation[0]
        missing = max((-(-side // step) - 1) * step + (self.kernel_size[0] - 1) * gap + 1 - side, 0)
        return super().forward(nn.functional.pad(x, [missing // 2, missing - missing // 2] * 2))


def headed(*layers, channels=4):
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)).eval()


@pytest.mark.parametrize(
    ("make", "size", "stride", "message"),
    [
        (lambda: random_network("vit_b_16"), 224, 8, "takes pictures of 224 px only, so that its output"),
        (lambda: random_network("swin_t"), 64, 16, "rests on more than convolutions and pooling; it can have 32"),
        (lambda: random_network("inception_v3"), 128, 16, "rests on more than convolutions and pooling; it can have 32"),
        (lambda: headed(nn.Conv2d(3, 4, 3, 8, 1), Same(4, 4, 3, 2)), 64, 4,
         "stride 4: its layer 1, Same, cannot be dilated; it can have 16"),
        (lambda: headed(nn.Conv2d(3, 4, 3, 8, 1), Same(4, 4, 3, 2)), 128, 8, "it can have 16"),
        (lambda: headed(nn.Conv2d(3, 4, 3, 4, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)), 64, 4,
         "its layer 1, AvgPool2d, cannot be dilated; it can have 8"),
        (lambda: headed(nn.Conv2d(3, 4, 3, 8, 1)), 64, 16, "dilation only makes it smaller; it can have 8, 4"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_dilated(make, size, stride, message):
    with pytest.raises(UserError, match=message):
        output_stride.dilate(make(), stride, size)


def test_stride_of_the_script(place, capsys):
    code, out, _ = run(capsys, "--list-layers", "--stride", "8")
    assert code == 0
    assert "layer4  512 x 8 x 8  (default)" in out.splitlines()
    documents = []
    for flags in ([], ["--stride", "8"]):
        code, _, _ = run(capsys, *flags, "--num", "2", "--save-maps", f"maps{len(flags)}", "--target", "predicted")
        assert code == 0
        documents.append(json.loads(Path("outputs/xai_Positive_gradcam.json").read_text()))
    assert [document["stride"] for document in documents] == [None, 8]
    for old, new in zip(*(document["pictures"] for document in documents), strict=True):
        assert old["probabilities"] == new["probabilities"]  # of the network as it was trained
        assert old["target"] == new["target"]
    name = Path(documents[0]["pictures"][0]["maps"]["gradcam"]["file"]).name
    assert not np.allclose(np.load(f"maps0/{name}"), np.load(f"maps2/{name}"))


def test_layers_of_stages_are_those_of_the_network_as_it_is(place, capsys):
    code, _, _ = run(capsys, "--method", "refinecam", "--stride", "8", "--num", "1")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_refinecam.json").read_text())
    assert document["methods"] == {"refinecam": ["layer2", "layer3", "layer4"]}


def test_every_method_explains_a_dilated_network(place, capsys):
    names = [name for name in METHODS if name not in ("sess", "rise", "occlusion", "scorecam")]
    code, _, err = run(capsys, "--method", ",".join(names), "--stride", "16", "--num", "1")
    assert code == 0
    assert "left out" not in err
    maps = json.loads(Path("outputs/xai_Positive_compared.json").read_text())["pictures"][0]["maps"]
    assert set(maps) == set(names)


@pytest.mark.torture
def test_verify_runs_the_dilated_network(place, capsys):
    code, _, _ = run(capsys, "--method", "hirescam", "--stride", "8", "--verify", "--num", "1", "--json")
    assert code == 0
    (found,) = json.loads(Path("outputs/xai_Positive_hirescam.json").read_text())["verified"]
    assert found["verdict"] == "same"


# -- scales ------------------------------------------------------------------------------------------------------------


# Of randomcam the weights differ; rise and occlusion cover shares of the picture; cam wants a module that pools.
NOT_OF_PLACES = {
    "randomcam",
    "rise",
    "occlusion",
    "cam",
    *(name for name, method in METHODS.items() if method.signed_image),
}


@pytest.mark.parametrize("name", sorted(set(METHODS) - NOT_OF_PLACES))
def test_how_a_map_depends_on_the_number_of_places(name):
    """A picture laid out four times, in a network that sees no border: is there as much heat, or a quarter?"""
    network = Convolutions("circular").eval()
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    settings = QUICK.get(METHODS[name].class_name, {})
    explain = getattr(pytorch_grad_cam, METHODS[name].class_name)(network, ["late"], **settings)
    targets = [int(network(x).argmax())]
    once, four = (explain.maps(each, targets, normalize=False) for each in (x, x.repeat(1, 1, 2, 2)))
    assert once.max() > 0
    assert float(four.mean() / once.mean()) == pytest.approx(0.25 if name in SHARING else 1, rel=0.2)


def test_the_mean_of_scales_is_made_of_the_picture_in_each_size():
    """HiResCAM by hand: head weights times activations, which are 1/places of the gradient times activations."""
    network = network_of(Convolutions(), 32)
    picture, target = picture_of(90, 120), 1
    pixels = squash(picture, 32)[None].transpose(0, 3, 1, 2)
    (found,) = heatmaps.merged_maps(
        network, "hirescam", layers_of(network), torch.from_numpy(pixels.copy()), [picture], [target], [1, 2]
    )
    parts = []
    for size in (32, 64):
        x = network.to_inputs(torch.from_numpy(squash(picture, size).copy()).permute(2, 0, 1)[None])
        with torch.no_grad():
            activations = network.model.late(network.model.early(x))
            heat = torch.einsum("nchw,c->nhw", activations, network.model.head.weight[target]).relu() / 8**2
        at_size = nn.functional.interpolate(heat[:, None], (size, size), mode="bilinear")
        parts.append(nn.functional.interpolate(at_size, (64, 64), mode="bilinear")[0, 0])
    expected = (parts[0] + parts[1]) / 2  # places of the network's own size are the unit
    assert found.shape == (64, 64)
    assert torch.allclose(found, expected, atol=1e-6 * float(expected.max()) + 1e-9)
    assert expected.max() > 0


def test_a_scale_sees_the_same_part_of_the_picture():
    preprocessing = Preprocessing(40, 50).times(2)
    assert (preprocessing.size, preprocessing.resize) == (80, 100)
    assert preprocessing.seen(200, 400) == Preprocessing(40, 50).seen(200, 400)
    assert Preprocessing(30).times(1.5) == Preprocessing(45)


def test_scales_of_the_script(place, capsys):
    code, _, _ = run(capsys, "--scales", "1,2,own", "--stride", "16", "--num", "2", "--save-maps", "maps")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
    assert (document["stride"], document["scales"], document["fuse"]) == (16, [1, 2, "own"], None)
    for row in document["pictures"]:
        heat = np.load(row["maps"]["gradcam"]["file"])
        assert heat.shape == images.read_image(Path(row["file"])).shape[:2]
        assert heat.max() == pytest.approx(row["maps"]["gradcam"]["max"])
        assert heat.min() >= 0


@pytest.mark.parametrize("scales", ["", "0", "nan", "1,,2", "9", "whole"])
def test_scales_that_are_none(capsys, scales):
    code, _, err = run(capsys, "--scales", scales)
    assert code == 2
    assert "is not own, or a number from 0.25 to 8" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "guidedbackprop", "--scales", "2"], "guidedbackprop makes pictures, not maps: leave --scales"),
        (["--method", "sess", "--scales", "own"], "sess stretches every map to [0, 1], so that tiles do not fit"),
        (["--method", "refinecam", "--fuse", "product"], "refinecam multiplies the maps of its layers itself"),
        (["--fuse", "mean", "--layer", "layer4"], "--fuse merges layers, and there is layer4 alone: name others"),
        (["--verify", "--scales", "2"], "--verify compares plain maps"),
        (["--anatomy", "--scales", "2"], "--anatomy shows how Grad-CAM comes about"),
        (["--arch", "vit_b_32", "--pretrained", "none", "--scales", "2"], "vit_b_32 takes pictures of 224 px only"),
        (["--arch", "vit_b_32", "--pretrained", "none", "--scales", "own"], "vit_b_32 takes pictures of 224 px only"),
        (["--arch", "vit_b_32", "--pretrained", "none", "--stride", "16"], "takes pictures of 224 px only, so that"),
        (["--arch", "fasterrcnn_resnet50_fpn", "--scales", "2"], "--scales is for classifiers"),
    ],
)  # fmt: skip
def test_what_cannot_be_sharpened(place, capsys, flags, message):
    picture = str(sorted(Path("data/test/Positive").iterdir())[0])
    code, _, err = run(capsys, "--image", picture, *flags)
    assert code == 2
    assert message in err.splitlines()[-1]


# -- tiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(128, 128), (224, 160), (64, 320), (32, 32)])
def test_tiles_give_the_map_of_the_whole_picture(height, width):
    """Tiles that begin on the grid: the same numbers, to the rim of the picture; their borders leave no trace."""
    network = network_of(Convolutions(), 32)
    picture = picture_of(height, width)
    x = network.to_inputs(torch.from_numpy(picture).permute(2, 0, 1)[None])
    layers = layers_of(network)
    (tiled,) = heatmaps.tiled_maps(network, "hirescam", layers, [picture], [1], batch_size=5)
    with torch.no_grad():
        activations = network.model.late(network.model.early(x))
        heat = torch.einsum("nchw,c->nhw", activations, network.model.head.weight[1]).relu() / 8**2
    whole = nn.functional.interpolate(heat[:, None], (height, width), mode="bilinear")[0, 0]
    assert tiled.shape == (height, width)
    assert whole.max() > 0
    assert (tiled - whole).abs().max() <= 2e-5 * whole.max()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "eigencam"])
def test_no_seams_where_tiles_do_not_fit(method):
    """Of a flat picture, in sizes that no tile divides, the map is flat up to the border of the picture."""
    network = network_of(Convolutions(), 32)
    flat = np.full((101, 147, 3), 90, np.uint8)
    with torch.no_grad():
        target = int((network.model(network.to_inputs(torch.from_numpy(flat).permute(2, 0, 1)[None]))).argmax())
    (heat,) = heatmaps.tiled_maps(network, method, layers_of(network), [flat], [target])
    inner = heat[8:-8, 8:-8]
    assert inner.min() > 0
    assert inner.max() - inner.min() <= 1e-4 * inner.max()
    assert (heat[0] - inner.mean()).abs().max() > 1e-2 * inner.max()  # zeros beyond the border do show


def test_a_picture_smaller_than_the_network_is_enlarged():
    network = network_of(Convolutions(), 32)
    picture = picture_of(20, 50)
    (heat,) = heatmaps.tiled_maps(network, "gradcam", layers_of(network), [picture], [1])
    assert heat.shape == (20, 50)
    large = np.asarray(Image.fromarray(picture).resize((50, 32), Image.Resampling.BILINEAR))
    (expected,) = heatmaps.tiled_maps(network, "gradcam", layers_of(network), [large], [1])
    expected = nn.functional.interpolate(expected[None, None], (20, 50), mode="bilinear")[0, 0]
    assert torch.allclose(heat, expected)


def test_tiles_of_a_crop_cover_the_crop():
    network = network_of(Convolutions(), 32, resize=40)
    picture = picture_of(100, 200)
    pixels = torch.from_numpy(network.card.preprocessing.apply(picture).copy()).permute(2, 0, 1)[None]
    (heat,) = heatmaps.merged_maps(network, "gradcam", layers_of(network), pixels, [picture], [1], [1, "own"])
    rows, columns = network.card.preprocessing.seen(100, 200)
    assert heat.shape == (80, 80) == picture[rows, columns].shape[:2]
    whole = heatmaps.at_picture_size(heat, picture, network.card.preprocessing)
    assert np.array_equal(whole[rows, columns], heat.numpy())
    whole[rows, columns] = 0
    assert not whole.any()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("rise", "sess", "occlusion", "cam")])
def test_methods_in_tiles(name):
    network = network_of(Convolutions(), 32)
    layers = layers_of(network)
    if METHODS[name].signed_image or name in STRETCHED:
        with pytest.raises(UserError, match=name):
            heatmaps.merged_maps(network, name, layers, None, [picture_of(80, 80)], [1], ["own"])
        return
    (heat,) = heatmaps.merged_maps(network, name, layers, None, [picture_of(80, 80)], [1], ["own"])
    assert heat.shape == (80, 80)
    assert torch.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() > 0


MEMORY = """
import resource, sys
import numpy as np, torch
sys.path.insert(0, "tests")
torch.set_num_threads(1)
from test_sharp import headed, layers_of, network_of, nn
from crackcam import explaining

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

network = network_of(headed(nn.Conv2d(3, 4, 8, stride=8)), 224)
layers = layers_of(network)
picture = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
next(explaining.tiled_maps(network, "gradcam", layers, [picture[:448, :448]], [1], batch_size=4))
before = peak()
(heat,) = explaining.tiled_maps(network, "gradcam", layers, [picture], [1], batch_size=4)
print(*heat.shape, float(heat.max()) > 0, peak() - before)
"""


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux")
def test_memory_of_a_large_photograph():
    """12 megapixels: a map of 46 MB, and four tiles; the normalised picture alone would be 137 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    height, width, warm, megabytes = done.stdout.split()
    assert (height, width, warm) == ("3000", "4000", "True")
    assert float(megabytes) < 120


# -- several layers ----------------------------------------------------------------------------------------------------


def test_fused_by_hand():
    maps = [torch.tensor([[4.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.1, 0.4], [0.4, 0.2]])]
    assert torch.allclose(heatmaps.fused(maps, "mean"), torch.tensor([[0.625, 0.625], [0.5, 0.5]]))
    assert torch.allclose(heatmaps.fused(maps, "product"), torch.tensor([[0.5, 0.5], [0.0, 0.5]]))
    assert not heatmaps.fused([maps[0], torch.zeros(2, 2)], "product").any()


def test_fuse_of_the_script(place, capsys):
    """The maps of single layers, which the script saves one by one, give the merged one."""
    single = {}
    for layer in ("layer2", "layer3", "layer4"):
        run(capsys, "--num", "1", "--method", "layercam", "--layer", layer, "--save-maps", layer)
        (single[layer],) = [np.load(path) for path in Path(layer).iterdir()]
    code, _, _ = run(capsys, "--num", "1", "--method", "layercam", "--fuse", "product", "--save-maps", "maps")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_layercam.json").read_text())
    assert document["methods"] == {"layercam": ["layer2", "layer3", "layer4"]}
    assert document["fuse"] == "product"
    (found,) = [np.load(path) for path in Path("maps").iterdir()]
    expected = np.prod([heat / heat.max() for heat in single.values()], axis=0) ** (1 / 3)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99  # saved at 227 px, fused at 64


def test_layers_are_fused_after_tiles():
    network = network_of(Convolutions(), 32)
    layers = layers_of(network, "early", "late")
    picture = picture_of(96, 96)
    (found,) = heatmaps.merged_maps(network, "layercam", layers, None, [picture], [1], ["own"], "product")
    each = [next(heatmaps.tiled_maps(network, "layercam", [layer], [picture], [1])) for layer in layers]
    expected = ((each[0] / each[0].max()) * (each[1] / each[1].max())).sqrt()
    assert torch.allclose(found, expected, atol=1e-6)
