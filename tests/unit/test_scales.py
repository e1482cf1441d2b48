"""Heatmaps of images at several scales, in tiles, and of several layers."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from networks import QUICK
from PIL import Image
from torch import nn

import crackcam
import pytorch_grad_cam
from crackcam.errors import UserError
from crackcam.explain import scales
from crackcam.explain.heatmaps import Technique
from crackcam.methods import METHODS, OWN
from crackcam.models import tiles
from crackcam.models.loaded import LoadedModel
from crackcam.models.target_layers import find_target_layers
from crackcam.preprocessing import Preprocessing, squash
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow


def network_of(model, size, resize=None):
    card = ModelCard("own", ["a", "b", "c"], size, resize=resize)
    return LoadedModel(model.eval(), card)


def combination_of(network, method, multiples=(1,), fuse=None, layers=(), batch_size=32):
    technique = Technique(method, layers_of(network, *layers))
    return scales.Combination(technique, multiples, fuse, batch_size)


def tiled_heatmap(network, method, image, target=1, **settings):
    """The heatmap of one image at its native resolution."""
    (heatmap,) = scales.tiled_heatmaps(network, combination_of(network, method, **settings), [image], [target])
    return heatmap


def layers_of(network, *names):
    return find_target_layers(network.model, network.card.image_size, list(names) or None)


class Convolutions(nn.Module):
    """Stride 4; a border shows in the first position behind it."""

    def __init__(self, mode="zeros"):
        super().__init__()
        torch.manual_seed(0)
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode=mode), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode=mode), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.late(self.early(x)).mean(dim=(2, 3)))


def image_of(height, width, seed=0):
    """A noisy image with structures of many sizes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 1, width // 12 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth).astype(int) + rng.integers(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)


# -- scales ---------------------------------------------------------------------------------------------------------


# Of randomcam the weights differ; rise and occlusion cover fractions of the image; cam needs a module that pools.
NOT_BY_POSITION = {
    "randomcam",
    "rise",
    "occlusion",
    "cam",
    *(name for name, method in METHODS.items() if method.signed_image),
}


@pytest.mark.parametrize("name", sorted(set(METHODS) - NOT_BY_POSITION))
def test_how_a_heatmap_depends_on_the_number_of_positions(name):
    """An image repeated four times, in a model that sees no border: the same values, or a quarter of them?"""
    network = Convolutions("circular").eval()
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    settings = QUICK.get(METHODS[name].class_name, {})
    explain = getattr(pytorch_grad_cam, METHODS[name].class_name)(network, ["late"], **settings)
    targets = [int(network(x).argmax())]
    once, four = (explain.maps(each, targets, normalize=False) for each in (x, x.repeat(1, 1, 2, 2)))
    assert once.max() > 0
    assert float(four.mean() / once.mean()) == pytest.approx(0.25 if METHODS[name].extensive else 1, rel=0.2)


def test_the_mean_of_scales_is_made_of_the_image_in_each_size():
    """HiResCAM by hand: head weights times activations, which are 1/positions of the gradient times activations."""
    network = network_of(Convolutions(), 32)
    image, target = image_of(90, 120), 1
    pixels = network.to_pixels([image])
    (found,) = scales.combined_heatmaps(network, combination_of(network, "hirescam", (1, 2)), pixels, [image], [target])
    parts = []
    for size in (32, 64):
        x = network.to_inputs(torch.from_numpy(squash(image, size).copy()).permute(2, 0, 1)[None])
        with torch.no_grad():
            activations = network.model.late(network.model.early(x))
            heatmap = torch.einsum("nchw,c->nhw", activations, network.model.head.weight[target]).relu() / 8**2
        at_size = nn.functional.interpolate(heatmap[:, None], (size, size), mode="bilinear")
        parts.append(nn.functional.interpolate(at_size, (64, 64), mode="bilinear")[0, 0])
    expected = (parts[0] + parts[1]) / 2  # the unit is that of the network's own size
    assert found.shape == (64, 64)
    assert torch.allclose(found, expected, atol=1e-6 * float(expected.max()) + 1e-9)
    assert expected.max() > 0


def test_a_scale_sees_the_same_part_of_the_image():
    preprocessing = Preprocessing(40, 50).at_scale(2)
    assert (preprocessing.size, preprocessing.resize) == (80, 100)
    assert preprocessing.seen(200, 400) == Preprocessing(40, 50).seen(200, 400)
    assert Preprocessing(30).at_scale(1.5) == Preprocessing(45)


# -- tiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(128, 128), (224, 160), (64, 320), (32, 32)])
def test_tiles_give_the_heatmap_of_the_whole_image(height, width):
    """Tiles that begin on the grid: the same numbers, to the edge of the image; their borders leave no trace."""
    network = network_of(Convolutions(), 32)
    image = image_of(height, width)
    x = network.to_inputs(torch.from_numpy(image).permute(2, 0, 1)[None])
    tiled = tiled_heatmap(network, "hirescam", image, batch_size=5)
    with torch.no_grad():
        activations = network.model.late(network.model.early(x))
        heatmap = torch.einsum("nchw,c->nhw", activations, network.model.head.weight[1]).relu() / 8**2
    whole = nn.functional.interpolate(heatmap[:, None], (height, width), mode="bilinear")[0, 0]
    assert tiled.shape == (height, width)
    assert whole.max() > 0
    assert (tiled - whole).abs().max() <= 2e-5 * whole.max()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "eigencam"])
def test_no_seams_where_tiles_do_not_divide_the_image(method):
    """Of a flat image, in sizes that no tile divides, the heatmap is flat up to the border of the image."""
    network = network_of(Convolutions(), 32)
    flat = np.full((101, 147, 3), 90, np.uint8)
    with torch.no_grad():
        target = int((network.model(network.to_inputs(torch.from_numpy(flat).permute(2, 0, 1)[None]))).argmax())
    heatmap = tiled_heatmap(network, method, flat, target)
    inner = heatmap[8:-8, 8:-8]
    assert inner.min() > 0
    assert inner.max() - inner.min() <= 1e-4 * inner.max()
    assert (heatmap[0] - inner.mean()).abs().max() > 1e-2 * inner.max()  # zeros beyond the border do show


def test_an_image_smaller_than_the_network_is_enlarged():
    network = network_of(Convolutions(), 32)
    image = image_of(20, 50)
    heatmap = tiled_heatmap(network, "gradcam", image)
    assert heatmap.shape == (20, 50)
    large = np.asarray(Image.fromarray(image).resize((50, 32), Image.Resampling.BILINEAR))
    expected = tiled_heatmap(network, "gradcam", large)
    expected = nn.functional.interpolate(expected[None, None], (20, 50), mode="bilinear")[0, 0]
    assert torch.allclose(heatmap, expected)


def test_tiles_of_a_crop_cover_the_crop():
    network = network_of(Convolutions(), 32, resize=40)
    image = image_of(100, 200)
    combination = combination_of(network, "gradcam", (1, OWN))
    (heatmap,) = scales.combined_heatmaps(network, combination, network.to_pixels([image]), [image], [1])
    rows, columns = network.preprocessing.seen(100, 200)
    assert heatmap.shape == (80, 80) == image[rows, columns].shape[:2]
    prediction = crackcam.Prediction.of(network.card.classes, [0, 1, 0])
    explanation = crackcam.Explanation(image, prediction, "b", "gradcam", ["late"], heatmap, network.preprocessing)
    whole = explanation.heatmap
    assert np.array_equal(whole[rows, columns], heatmap.numpy())
    whole[rows, columns] = 0
    assert not whole.any()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("rise", "sess", "occlusion", "cam")])
def test_methods_in_tiles(name):
    network = network_of(Convolutions(), 32)
    image, combination = image_of(80, 80), combination_of(network, name, (OWN,))
    if METHODS[name].signed_image or METHODS[name].normalized:
        with pytest.raises(UserError, match=name):
            scales.combined_heatmaps(network, combination, network.to_pixels([image]), [image], [1])
        return
    (heatmap,) = scales.combined_heatmaps(network, combination, network.to_pixels([image]), [image], [1])
    assert heatmap.shape == (80, 80)
    assert torch.isfinite(heatmap).all()
    assert heatmap.min() >= 0
    assert heatmap.max() > 0


MEMORY = """
import resource, sys
import numpy as np, torch
sys.path.insert(0, "tests")
sys.path.insert(0, "tests/unit")
torch.set_num_threads(1)
from test_output_stride import headed, nn
from test_scales import network_of, tiled_heatmap

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

network = network_of(headed(nn.Conv2d(3, 4, 8, stride=8)), 224)
image = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
tiled_heatmap(network, "gradcam", image[:448, :448], batch_size=4)
before = peak()
heatmap = tiled_heatmap(network, "gradcam", image, batch_size=4)
print(*heatmap.shape, float(heatmap.max()) > 0, peak() - before)
"""


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux")
def test_memory_of_a_large_photograph():
    """12 megapixels: a heatmap of 46 MB, and four tiles; the normalised image alone would be 137 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    height, width, positive, megabytes = done.stdout.split()
    assert (height, width, positive) == ("3000", "4000", "True")
    assert float(megabytes) < 120


BUNDLED_MEMORY = """
import resource
import numpy as np
import crackcam

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

model = crackcam.load(device="cpu")
image = np.random.default_rng(0).integers(100, 180, (3000, 4000, 3), dtype=np.uint8)
model.explain(image[:448, :448].copy(), target="Positive").regions()
before = peak()
found = model.explain(image, target="Positive", scales="own")
found.regions()
print(*found.map.shape, peak() - before)
"""


@pytest.mark.torture
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux")
def test_memory_of_a_large_photograph_by_the_bundled_network():
    """As the documentation says: 270 MB, of which 46 are the heatmap; a batch of eight tiles took 1.1 GB."""
    done = subprocess.run(
        [sys.executable, "-c", BUNDLED_MEMORY],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    height, width, megabytes = done.stdout.split()
    assert (height, width) == ("3000", "4000")
    assert float(megabytes) < 350


def test_a_cpu_computes_a_bounded_number_of_tiles_at_a_time(monkeypatch):
    """Whatever the batch size is: the tiles of one photograph would take the memory of a whole batch."""
    assert tiles.TILE_PIXELS == (2 * 448) ** 2  # one tile of the bundled network
    monkeypatch.setattr(tiles, "TILE_PIXELS", 64**2)
    sizes, original = [], scales.heatmaps

    def heatmaps(network, technique, pixels, targets, batch_size):
        sizes.append((tuple(pixels.shape), batch_size))
        return original(network, technique, pixels, targets, batch_size)

    monkeypatch.setattr(scales, "heatmaps", heatmaps)
    tiled_heatmap(network_of(Convolutions(), 32), "gradcam", image_of(128, 160))
    assert sizes == [((1, 3, 64, 64), 1)] * 12


# -- several layers -------------------------------------------------------------------------------------------------


def test_fusion_by_hand():
    maps = [torch.tensor([[4.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.1, 0.4], [0.4, 0.2]])]
    assert torch.allclose(scales.fuse(maps, "mean"), torch.tensor([[0.625, 0.625], [0.5, 0.5]]))
    assert torch.allclose(scales.fuse(maps, "product"), torch.tensor([[0.5, 0.5], [0.0, 0.5]]))
    assert not scales.fuse([maps[0], torch.zeros(2, 2)], "product").any()


def test_layers_are_fused_after_tiles():
    network = network_of(Convolutions(), 32)
    image = image_of(96, 96)
    combination = combination_of(network, "layercam", (OWN,), "product", ["early", "late"])
    (found,) = scales.combined_heatmaps(network, combination, network.to_pixels([image]), [image], [1])
    each = [tiled_heatmap(network, "layercam", image, layers=[layer]) for layer in ("early", "late")]
    expected = ((each[0] / each[0].max()) * (each[1] / each[1].max())).sqrt()
    assert torch.allclose(found, expected, atol=1e-6)
