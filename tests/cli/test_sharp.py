"""Sharper heatmaps through the scripts: output stride, scales, tiles, several layers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import xai
from crackcam.data import images
from crackcam.methods import METHODS

pytestmark = pytest.mark.usefixtures("without_figures")

VIT = ["--arch", "timm/levit_128s", "--pretrained", "none"]  # takes images of one size only


@pytest.fixture(autouse=True)
def dilatable(place, tiny_checkpoint):
    """SqueezeNet: the network of ``place`` cannot be dilated."""
    shutil.copy(tiny_checkpoint, "weights/model.safetensors")


def run(capsys, *flags):
    """Grad-CAM where a test names no other method."""
    code = xai.main([*([] if "--method" in flags else ["--method", "gradcam"]), *flags])
    return code, *capsys.readouterr()


def test_stride_of_the_script(place, capsys):
    code, out, _ = run(capsys, "--list-layers", "--stride", "8")
    assert code == 0
    assert "features  Sequential  512 x 6 x 6  (default)" in out.splitlines()
    documents = []
    for flags in ([], ["--stride", "8"]):
        code, _, _ = run(capsys, *flags, "--num", "2", "--save-maps", f"maps{len(flags)}", "--target", "predicted")
        assert code == 0
        documents.append(json.loads(Path("outputs/xai_Positive_gradcam.json").read_text()))
    assert [document["stride"] for document in documents] == [None, 8]
    for old, new in zip(*(document["pictures"] for document in documents), strict=True):
        assert old["probabilities"] == pytest.approx(new["probabilities"], abs=1e-6)  # of the network as it was trained
        assert old["target"] == new["target"]
    name = Path(documents[0]["pictures"][0]["maps"]["gradcam"]["file"]).name
    assert not np.allclose(np.load(f"maps0/{name}"), np.load(f"maps2/{name}"))


def test_layers_of_stages_are_those_of_the_network_as_it_is(place, capsys):
    code, _, _ = run(capsys, "--method", "refinecam", "--stride", "8", "--num", "1")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_refinecam.json").read_text())
    assert document["methods"] == {"refinecam": ["features.4", "features.7", "features"]}


def test_every_method_explains_a_dilated_network(place, capsys):
    names = [name for name in METHODS if name not in ("sess", "rise", "occlusion", "scorecam", "cam")]
    code, _, err = run(capsys, "--method", ",".join(names), "--stride", "16", "--num", "1")
    assert code == 0
    assert "left out" not in err
    maps = json.loads(Path("outputs/xai_Positive_compared.json").read_text())["pictures"][0]["maps"]
    assert set(maps) == set(names)
    (image, *_) = sorted(Path("data/test/Positive").iterdir())
    other = ["--arch", "timm/test_efficientnet", "--pretrained", "none"]  # CAM needs a linear layer after pooling
    assert run(capsys, "--image", str(image), *other, "--method", "cam", "--stride", "16")[0] == 0


@pytest.mark.torture
def test_verify_runs_the_dilated_network(place, capsys):
    code, _, _ = run(capsys, "--method", "hirescam", "--stride", "8", "--verify", "--num", "1", "--json")
    assert code == 0
    (found,) = json.loads(Path("outputs/xai_Positive_hirescam.json").read_text())["verified"]
    assert found["verdict"] == "same"


def test_scales_of_the_script(place, capsys):
    code, _, _ = run(capsys, "--scales", "1,2,own", "--stride", "16", "--num", "1", "--save-maps", "maps")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_gradcam.json").read_text())
    assert (document["stride"], document["scales"], document["fuse"]) == (16, [1, 2, "own"], None)
    for row in document["pictures"]:
        heatmap = np.load(row["maps"]["gradcam"]["file"])
        assert heatmap.shape == images.read_image(Path(row["file"])).shape[:2]
        assert heatmap.max() == pytest.approx(row["maps"]["gradcam"]["max"])
        assert heatmap.min() >= 0


@pytest.mark.parametrize("scales", ["", "0", "nan", "1,,2", "9", "whole"])
def test_invalid_scales(capsys, scales):
    code, _, err = run(capsys, "--scales", scales)
    assert code == 2
    assert "is not own, or a number from 0.25 to 8" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "guidedbackprop", "--scales", "2"], "guidedbackprop makes images, not heatmaps: leave --scales"),
        (["--method", "sess", "--scales", "own"], "sess stretches every heatmap to [0, 1], so that tiles do not match"),
        (["--method", "refinecam", "--fuse", "product"], "refinecam combines its layers itself"),
        (["--fuse", "mean", "--layer", "features"], "--fuse combines layers, and there is features alone: name others"),
        (["--verify", "--scales", "2"], "--verify compares plain heatmaps"),
        (["--anatomy", "--scales", "2"], "--anatomy shows the steps of Grad-CAM"),
        ([*VIT, "--scales", "2"], "timm/levit_128s accepts images of 224 px only"),
        ([*VIT, "--scales", "own"], "timm/levit_128s accepts images of 224 px only"),
        ([*VIT, "--stride", "16"], "this model accepts 224 px inputs only, so that"),
        (["--arch", "fasterrcnn_resnet50_fpn", "--scales", "2"], "--scales is for classifiers"),
    ],
)
def test_what_cannot_be_sharpened(place, capsys, flags, message):
    image = str(sorted(Path("data/test/Positive").iterdir())[0])
    code, _, err = run(capsys, "--image", image, *flags)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_fuse_of_the_script(place, capsys):
    """The heatmaps of single layers, which the script saves one by one, give the combined one."""
    single = {}
    for layer in ("features.4", "features.7", "features"):
        run(capsys, "--num", "1", "--method", "layercam", "--layer", layer, "--save-maps", layer)
        (single[layer],) = [np.load(path) for path in Path(layer).iterdir()]
    code, _, _ = run(capsys, "--num", "1", "--method", "layercam", "--fuse", "product", "--save-maps", "maps")
    assert code == 0
    document = json.loads(Path("outputs/xai_Positive_layercam.json").read_text())
    assert document["methods"] == {"layercam": ["features.4", "features.7", "features"]}
    assert document["fuse"] == "product"
    (found,) = [np.load(path) for path in Path("maps").iterdir()]
    expected = np.prod([heatmap / heatmap.max() for heatmap in single.values()], axis=0) ** (1 / 3)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99  # saved at 227 px, fused at 64
