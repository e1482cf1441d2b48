"""xai.py: every method, targets, layers, styles, saved heatmaps. How heatmaps come about: tests/unit/test_explainer.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference
import xai
from crackcam.data import images
from crackcam.explain.explainer import Explainer
from crackcam.methods import METHODS, QUICK, STYLES
from crackcam.models import checkpoint
from crackcam.render.figures import comparison_table, grids


@pytest.fixture
def run(capsys):
    """Runs xai.py, with Grad-CAM where a test does not name a method; returns exit code, output and messages."""

    def call(*flags):
        code = xai.main([*([] if "--method" in flags else ["--method", "gradcam"]), *flags])
        return code, *capsys.readouterr()

    return call


def document(name="xai_Positive_gradcam"):
    return json.loads(Path(f"outputs/{name}.json").read_text())


@pytest.mark.parametrize("method", ["gradcam", "fem", "occlusion"])  # of a layer, of one that is named, of no layer
def test_a_method_writes_its_grid(place, run, method):
    # FEM needs more places than the 2 x 2 of the last layer: none of four exceeds their mean by two deviations.
    flags, layers = {
        "gradcam": ([], ["layer4"]), "fem": (["--layer", "layer2"], ["layer2"]), "occlusion": ([], []),
    }[method]  # fmt: skip
    code, out, err = run("--method", method, "--save-maps", "maps", "--num", "2", *flags)
    assert code == 0
    image = Path(f"outputs/xai_Positive_{method}.png")
    assert out == f"wrote {image}, {image.with_suffix('.json')}, and heatmaps in maps\n"
    assert Image.open(image).format == "PNG"
    found = document(image.stem)
    assert (found["target"], found["precision"]) == ("Positive", "fp32")
    assert found["methods"] == {method: layers}
    assert len(found["pictures"]) == 2
    for row in found["pictures"]:
        assert Path(row["maps"][method]["file"]).name == Path(row["file"]).stem + ".npy"
    assert max(check_heatmap(row, method) for row in found["pictures"]) > 0
    assert {path.stem for path in Path("maps").iterdir()} == {Path(row["file"]).stem for row in found["pictures"]}


def check_heatmap(row, method):
    """The highest value of a stored heatmap."""
    heatmap = np.load(row["maps"][method]["file"])
    assert heatmap.dtype == np.float32
    assert heatmap.shape == images.read_image(Path(row["file"])).shape[:2]
    assert heatmap.min() >= 0
    assert np.isfinite(heatmap).all()
    return heatmap.max()


def test_every_method_is_drawn(place, run):
    """In one figure, in which FEM is left out for its layer; of an image of which random weights make a heatmap too."""
    methods = [method for method in METHODS if method != "fem"]
    code, _, _ = run("--method", ",".join(methods), "--save-maps", "maps", "--num", "1", "--seed", "3")
    assert code == 0
    assert Image.open("outputs/xai_Positive_compared.png").format == "PNG"
    found = document("xai_Positive_compared")
    assert list(found["methods"]) == methods
    for method, layers in found["methods"].items():
        default = ["layer4"] if METHODS[method].uses_layers else []
        assert layers == (["layer3.0.act1", "layer3", "layer4"] if method == "refinecam" else default)
    (row,) = found["pictures"]
    assert {method for method in methods if check_heatmap(row, method) > 0} == set(methods)


def test_tutorial_call(place, run):
    code, _, err = run("--type", "Negative", "--method", "eigencam")
    assert code == 0
    assert {"outputs/xai_Negative_eigencam.png", "outputs/xai_Negative_eigencam.json"} <= place.files("outputs")
    assert "eigencam: independent of the class, at layer4" in err
    assert list(document("xai_Negative_eigencam")) == [
        "schema", "command", "type", "split", "seed", "device", "precision", "engine", "checkpoint", "classes",
        "versions", "pictures", "methods", "target", "stride", "scales", "fuse", "refine", "aug_smooth", "eigen_smooth", "picture",
        "seconds",
    ]  # fmt: skip


def test_same_images_as_inference(place, run):
    inference.main(["--num", "3", "--seed", "5"])
    run("--num", "3", "--seed", "5")
    names = [
        [row["file"] for row in document(name)["pictures"]] for name in ("inference_Positive", "xai_Positive_gradcam")
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 3


def test_targets(place, run):
    for flags, target in (([], "Positive"), (["--target", "Negative"], "Negative"), (["--target", "0"], "Negative")):
        run("--num", "1", *flags)
        found = document()
        assert found["target"] == target
        assert [row["target"] for row in found["pictures"]] == [target]
    run("--target", "predicted", "--num", "4")
    found = document()
    assert found["target"] == "predicted"
    assert len({row["target"] for row in found["pictures"]}) == 2
    assert all(row["target"] == row["predicted"] for row in found["pictures"])
    image = str(sorted(Path("data/test/Negative").iterdir())[0])
    assert run("--image", image)[0] == 0
    found = document("xai_images_gradcam")
    assert (found["target"], found["type"]) == ("predicted", None)


def test_layers(place, run):
    code, out, _ = run("--list-layers")
    assert code == 0
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["conv1.0"] == "Conv2d  16 x 32 x 32"
    assert lines["act1"] == "ReLU  32 x 32 x 32"
    assert lines["layer2"] == "Sequential  48 x 8 x 8"
    assert lines["layer4"] == "Sequential  96 x 2 x 2  (default)"
    assert len([line for line in out.splitlines() if line.endswith("(default)")]) == 1
    code, _, _ = run("--layer", "layer3,layer4", "--method", "layercam", "--num", "1")
    assert code == 0
    assert document("xai_Positive_layercam")["methods"] == {"layercam": ["layer3", "layer4"]}
    code, _, err = run("--layer", "layer9")
    assert code == 2
    assert "no layer 'layer9' with a grid; available: conv1.0, conv1.1, " in err
    assert "layer4.0.conv2" in err


def test_images_of_the_same_name_are_not_overwritten(place, run):
    a, b = Path("a/x.jpg"), Path("b/x.png")
    for path in (a, b):
        path.parent.mkdir()
        Image.open(sorted(Path("data/test/Positive").iterdir())[0]).save(path)
    code, _, err = run("--image", str(a), str(b), "--save-maps", "maps")
    assert code == 2
    assert err.endswith("error: two of the images have the same name: their heatmaps would overwrite each other\n")
    assert not Path("maps").exists()


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_drawn(place, run, style):
    code, _, _ = run("--style", style, "--num", "2", "--colormap", "viridis")
    assert code == 0
    width, height = Image.open("outputs/xai_Positive_gradcam.png").size
    assert (width / height > 2) == (style in ("edges", "sidebyside"))  # the image beside the heatmap
    code, _, _ = run("--style", style, "--num", "1", "--method", "gradcam,eigencam")
    assert code == 0


def test_unknown_colormap(place, run):
    code, _, err = run("--colormap", "infernal")
    assert code == 2
    assert err.startswith("error: matplotlib has no colormap 'infernal'; close to it: inferno")


def test_a_heatmap_of_zeros_is_drawn(place, run, monkeypatch):
    nothing = torch.full((6, 2), 0.5), [1] * 6, [torch.zeros(64, 64)] * 6
    monkeypatch.setattr(Explainer, "predict_and_explain", lambda *_: nothing)
    code, _, _ = run()
    assert code == 0
    assert {row["maps"]["gradcam"]["max"] for row in document()["pictures"]} == {0.0}


def test_several_methods_share_a_figure(place, run):
    code, out, _ = run("--method", "gradcam,eigencam,guidedgradcam", "--num", "3", "--save-maps", "maps")
    assert code == 0
    assert out == "wrote outputs/xai_Positive_compared.png, outputs/xai_Positive_compared.json, and heatmaps in maps\n"
    found = document("xai_Positive_compared")
    assert found["methods"] == {name: ["layer4"] for name in ("gradcam", "eigencam", "guidedgradcam")}
    assert list(found["seconds"]) == list(found["methods"])
    stems = {Path(row["file"]).stem for row in found["pictures"]}
    assert {path.name for path in Path("maps").iterdir()} == {f"{s}_{m}.npy" for s in stems for m in found["methods"]}
    width, height = Image.open("outputs/xai_Positive_compared.png").size
    assert width > height  # four columns, three rows
    assert run("--method", "eigencam", "--num", "3", "--save-maps", "alone")[0] == 0
    for stem in stems:
        assert np.array_equal(np.load(f"alone/{stem}.npy"), np.load(f"maps/{stem}_eigencam.npy"))


def test_all_are_the_quick_ones(place, run):
    code, _, err = run("--method", "all", "--num", "1")
    assert code == 0
    assert tuple(document("xai_Positive_compared")["methods"]) == QUICK
    assert {"gradcam", "ablationcam", "fullgrad", "smoothgradcam++"} <= {*QUICK}
    assert not {"scorecam", "rise", "sess", "smoothgrad"} & {*QUICK}


def test_a_method_that_cannot_explain_the_network(place, run, monkeypatch):
    """CAM needs average pooling and one linear layer; here a ReLU stands between."""
    model, card = checkpoint.load(Path("weights/model.safetensors"), torch.device("cpu"))
    model.global_pool = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Threshold(1.0, 0.0)
    )
    monkeypatch.setattr(checkpoint, "load", lambda *a, **k: (model, card))
    code, _, err = run("--method", "cam", "--num", "1")
    assert code == 2
    assert "error: cam cannot explain this: CAM needs exactly global average pooling" in err
    code, _, err = run("--method", "cam,gradcam", "--num", "1")
    assert code == 0
    assert "warning: left out cam cannot explain this" in err
    assert list(document("xai_Positive_compared")["methods"]) == ["gradcam"]


def test_the_default_is_what_was_measured_to_be_best(place, tiny_checkpoint, capsys):
    shutil.copy(tiny_checkpoint, "weights/model.safetensors")  # the other network cannot be dilated
    assert xai.main(["--num", "1"]) == 0
    assert "best: --method layercam --stride 8 --fuse product" in capsys.readouterr().err.splitlines()
    found = document("xai_Positive_best")
    assert found["methods"] == {"layercam": ["features.4", "features.7", "features"]}
    assert (found["stride"], found["fuse"]) == (8, "product")


def test_methods_and_targets_are_found_however_they_are_spelled(place, run):
    code, out, _ = run("--type", "positive", "--method", "Eigen-CAM,Grad-CAM", "--target", "NEGATIVE", "--num", "1")
    assert code == 0
    assert "outputs/xai_Positive_compared.png" in out
    found = document("xai_Positive_compared")
    assert list(found["methods"]) == ["eigencam", "gradcam"]
    assert found["target"] == "Negative"


@pytest.mark.parametrize(
    ("methods", "bars", "legend"),
    [
        ("guidedbackprop", 0, "guidedbackprop: signed, grey is zero"),
        ("guidedbackprop,guidedgradcam", 0, "guidedbackprop, guidedgradcam: signed, grey is zero"),
        ("gradcam", 1, "heatmap, relative to the maximum of each image"),
        (
            "gradcam,guidedgradcam",
            1,
            "heatmap, relative to the maximum of each image; guidedgradcam: signed, grey is zero",
        ),
    ],
)
def test_a_color_bar_only_where_colors_are_a_heatmap(place, run, monkeypatch, methods, bars, legend):
    kept = []
    for module in (grids, comparison_table):
        monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
    run("--method", methods, "--num", "2")
    (figure,) = kept
    texts = [text.get_text() for text in figure.texts]
    assert legend in " ".join(reversed(texts))
    assert sum(axes.get_window_extent().height < 0.11 * figure.dpi for axes in figure.axes) == bars


def test_the_reference_command_claims_no_class(place, run, monkeypatch):
    kept = []
    monkeypatch.setattr(grids, "save", lambda figure, path: kept.append(figure))
    run("--type", "Negative", "--method", "eigencam", "--report")
    texts = [text.get_text() for text in (*kept[0].texts, *(t for axes in kept[0].axes for t in axes.texts))]
    assert texts[0] == "eigencam: independent of the class, at layer4"
    assert texts.count("independent of the class") == 6
    assert not [text for text in texts if "Negative" in text and not text.startswith(("predicted:", "✗ true:"))]
    assert "<title>Independent of the class</title>" in Path("outputs/report.html").read_text()
