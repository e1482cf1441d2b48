"""Detectors through the scripts: boxes, their formats, heatmaps, messages, on random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import crackcam
import inference
import train
import xai
from crackcam.data import images
from crackcam.evaluation import regions
from crackcam.models import registry
from pytorch_grad_cam import EigenCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
THRESHOLD = 0.0112  # of 91 classes, each has about 1/91
RANDOM = ["--arch", SMALL, "--pretrained", "none", "--score-threshold", str(THRESHOLD)]


@pytest.fixture
def street(tmp_path, monkeypatch):
    """A wide image, which COCO could have named so, in an empty folder, the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((320, 192), Image.Resampling.BICUBIC).save("000000000139.png")
    return Path("000000000139.png")


def result_of(main, capsys, *flags):
    code = main([*flags, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def random_detector():
    """The detector of :data:`RANDOM`."""
    detector = crackcam.load(SMALL, pretrained="none", device="cpu")
    detector.set_score_threshold(THRESHOLD)
    return detector


# -- boxes ----------------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_and_written_as_coco_has_them(street, capsys):
    document = result_of(inference.main, capsys, "--image", str(street), *RANDOM)
    assert {p.name for p in Path("outputs").iterdir()} == {
        "inference_images.png",
        "inference_images.json",
        "inference_images_coco.json",
    }
    pixels = torch.from_numpy(np.asarray(Image.open(street)).copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
        (expected,) = random_detector().model([pixels])
    (row,) = document["pictures"]
    assert row["image_id"] == 139
    assert len(row["detections"]) == len(expected["boxes"]) > 0
    results = json.loads(Path("outputs/inference_images_coco.json").read_text())
    assert [set(result) for result in results] == [{"image_id", "category_id", "bbox", "score"}] * len(results)
    names = registry.weights_entry(SMALL).meta["categories"]
    for found, coco, box, label, score in zip(
        row["detections"], results, expected["boxes"], expected["labels"], expected["scores"], strict=True
    ):
        left, top, right, bottom = box.tolist()
        assert found["box"] == pytest.approx([left, top, right, bottom], abs=0.011)
        assert coco["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.011)
        assert coco["image_id"] == 139
        assert coco["category_id"] == found["label"] == label
        assert found["name"] == names[label]
        assert coco["score"] == pytest.approx(score.item(), abs=1e-6)
        assert score > THRESHOLD
    width, height = Image.open("outputs/inference_images.png").size
    assert min(width, height) > 300


def test_nothing_detected(street, capsys):
    document = result_of(inference.main, capsys, "--image", str(street), *RANDOM[:-1], "0.9")
    assert document["pictures"][0]["detections"] == []
    assert json.loads(Path("outputs/inference_images_coco.json").read_text()) == []
    assert xai.main(["--image", str(street), *RANDOM[:-1], "0.9"]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == "error: no box to explain: lower --score-threshold, which is 0.9"


@pytest.mark.parametrize(("main", "flags"), [(inference.main, ["--all"]), (xai.main, ["--aug-smooth"])])
def test_conflicts_are_found_before_weights_are_downloaded(street, monkeypatch, capsys, main, flags):
    def refuse(*args, **keywords):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    assert main(["--image", str(street), "--arch", SMALL, *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flags[0]} ")


def test_random_weights_fetch_no_backbone(street, monkeypatch, capsys):
    def refuse(*args, **keywords):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    assert inference.main(["--image", str(street), *RANDOM]) == 0


def test_missing_weights_are_named_with_their_place(street, tmp_path, monkeypatch, capsys):
    from urllib.error import URLError

    def offline(*args, **keywords):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    assert xai.main(["--image", str(street), "--arch", "fasterrcnn_resnet50_fpn"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        "error: no COCO weights for fasterrcnn_resnet50_fpn: no route to host (torchvision looks for "
    )
    assert "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth" in line
    assert str(tmp_path / "cache") in line
    assert line.endswith("or name a file with --weights")


def test_a_file_with_classes_of_its_own(street, capsys):
    torch.manual_seed(1)
    arguments = {"weights": None, "weights_backbone": None, "num_classes": 3}
    model = torchvision.models.get_model(SMALL, **arguments)
    torch.save(model.state_dict(), "own.pth")
    flags = ["--image", str(street), "--arch", SMALL, "--weights", "own.pth", "--score-threshold", "0.3"]
    document = result_of(inference.main, capsys, *flags, "--classes", "crack,hole")
    assert document["classes"] == ["background", "crack", "hole"]
    assert {box["name"] for box in document["pictures"][0]["detections"]} <= {"crack", "hole"}
    assert document["pictures"][0]["detections"]
    assert inference.main([*flags, "--classes", "crack"]) == 2
    assert "own.pth does not fit fasterrcnn_mobilenet_v3_large_320_fpn with 1 class:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--anatomy"], "--anatomy is for classifiers; fasterrcnn"),
        (["--verify"], "--verify is for classifiers"),
        (["--aug-smooth"], "--aug-smooth is for classifiers"),
        (["--list-layers"], "--list-layers is for classifiers"),
        (["--layer", "nope"], "no layer 'nope' with a grid; available: backbone.body.0"),
        (["--method", "guidedbackprop"], "guidedbackprop shows how a classifier's logit changes"),
        (["--method", "cam"], "cam cannot explain this"),
        (["--target", "unicorn"], "no class 'unicorn' to explain; available: predicted, __background__, person"),
        (["--score-threshold", "1.5"], "'1.5' is not a number from 0 to 1"),
    ],
)
def test_what_does_not_go_with_a_detector(street, capsys, flags, message):
    assert xai.main(["--image", str(street), *RANDOM, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_images_must_be_named(capsys):
    assert xai.main(["--type", "Positive", *RANDOM]) == 2
    assert "has classes of its own, not those of a folder: name images with --image" in capsys.readouterr().err
    assert inference.main(["--all", *RANDOM]) == 2
    assert "--image FOLDER --num 1000" in capsys.readouterr().err


def test_train_says_that_detectors_are_not_trained(fresh, capsys):
    assert train.main(["--arch", SMALL]) == 2
    assert "is a detector: it can be used and explained, but not trained here" in capsys.readouterr().err


# -- heatmaps -------------------------------------------------------------------------------------------------------


def test_xai_draws_what_the_engine_computes(street, capsys):
    flags = ["--image", str(street), *RANDOM, "--method", "eigencam", "--save-maps", "maps"]
    document = result_of(xai.main, capsys, *flags)
    assert {p.name for p in Path("outputs").iterdir()} == {"xai_images_eigencam.png", "xai_images_eigencam.json"}
    detector = random_detector()
    pixels = torch.from_numpy(np.asarray(Image.open(street)).copy()).permute(2, 0, 1)[None] / 255
    expected = EigenCAM(detector.model, ["backbone"], fasterrcnn_reshape_transform).maps(
        pixels, [FasterRCNNBoxScoreTarget([1], [[0, 0, 1, 1]])], normalize=False
    )
    found = np.load("maps/000000000139.npy")
    assert found.shape == (192, 320)
    assert np.allclose(found, expected[0], atol=1e-3 * float(expected.max()))
    assert document["methods"] == {"eigencam": ["backbone"]}
    assert document["pictures"][0]["maps"]["eigencam"]["max"] == pytest.approx(float(found.max()), rel=1e-3)


def test_regions_of_a_detector(street, capsys):
    flags = [
        "--image",
        str(street),
        *RANDOM,
        "--method",
        "eigencam",
        "--style",
        "mask",
        "--refine",
        "lines",
        "--save-maps",
        "maps",
    ]
    assert xai.main(flags) == 0
    out, err = capsys.readouterr()
    assert "no detection threshold is known for these heatmaps of eigencam" in err
    document = json.loads(Path("outputs/xai_images_eigencam.json").read_text())
    assert out.startswith("wrote outputs/xai_images_eigencam.png, outputs/xai_images_eigencam.json, ")
    for row in document["pictures"]:
        entry = row["maps"]["eigencam"]
        measured = regions.measure(np.load(entry["file"]), entry["threshold"], images.read_image(street))
        assert {
            name: value for name, value in entry.items() if name not in ("max", "file", "threshold")
        } == measured.as_row()
    assert Path(document["found_table"]).read_text().count("\n") == 1 + len(document["pictures"])
    assert xai.main([*flags, "--metrics"]) == 2
    assert "--metrics is for classifiers" in capsys.readouterr().err


def test_boxes_of_one_class_can_be_explained(street, capsys):
    flags = ["--image", str(street), *RANDOM]
    everything = result_of(xai.main, capsys, *flags, "--method", "eigencam")["pictures"][0]["detections"]
    name = everything[-1]["name"]
    some = result_of(xai.main, capsys, *flags, "--method", "eigencam", "--target", name)["pictures"][0]["detections"]
    assert some == [box for box in everything if box["name"] == name]


def test_several_methods_share_a_figure(street, capsys):
    methods = ["eigencam", "scorecam", "gradcam", "layercam"]  # Ablation-CAM: tests/unit/test_detectors.py
    flags = ["--image", str(street), *RANDOM, "--method", ",".join(methods), "--save-maps", "maps"]
    result_of(xai.main, capsys, *flags)
    assert {p.name for p in Path("maps").iterdir()} == {f"000000000139_{name}.npy" for name in methods}
    assert (Path("outputs") / "xai_images_compared.png").exists()
    for path in Path("maps").iterdir():
        heatmap = np.load(path)
        assert np.isfinite(heatmap).all()
        assert heatmap.min() >= 0
    assert np.ptp(np.load("maps/000000000139_scorecam.npy")) > 0


@pytest.mark.parametrize(
    "arch",
    [
        "ssdlite320_mobilenet_v3_large",
        *(
            pytest.param(slow, marks=pytest.mark.torture)
            for slow in ("fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16")
        ),
    ],
)
def test_other_detectors(street, capsys, arch):
    flags = ["--image", str(street), "--arch", arch, "--pretrained", "none", "--score-threshold", "0"]
    document = result_of(xai.main, capsys, *flags, "--method", "eigencam", "--save-maps", "maps")
    assert document["pictures"][0]["detections"]
    heatmap = np.load("maps/000000000139.npy")
    assert heatmap.shape == (192, 320)
    assert np.ptp(heatmap) > 0
