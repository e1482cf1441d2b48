"""Detectors: boxes, their formats and colours, and heat maps, on random weights and on a tiny detector trained here."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

import inference
import xai
from crackcam import runtime
from crackcam.data.images import DecodedImage
from crackcam.evaluation import regions
from crackcam.explain import detectors
from crackcam.models import registry
from crackcam.models.loaded import LoadedModel
from crackcam.types import ModelCard
from pytorch_grad_cam import EigenCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform, pyramid_reshape_transform

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
RANDOM = ["--arch", SMALL, "--pretrained", "none", "--score-threshold", "0.0112"]  # of 91 classes, each has about 1/91


@pytest.fixture
def street(tmp_path, monkeypatch):
    """A wide picture, which COCO could have named so, in an empty folder, the working directory."""
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


def random_network(args=()):
    given = {"arch": SMALL, "device": "cpu", "precision": "auto", "classes": None, "weights": None,
             "pretrained": "none", "score_threshold": 0.0112, "seed": 0}  # fmt: skip
    return detectors.open_detector(SimpleNamespace(**{**given, **dict(args)}))


# -- boxes ---------------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_and_written_as_coco_has_them(street, capsys):
    document = result_of(inference.main, capsys, "--image", str(street), *RANDOM)
    assert {p.name for p in Path("outputs").iterdir()} == {
        "inference_images.png", "inference_images.json", "inference_images_coco.json",
    }  # fmt: skip
    pixels = torch.from_numpy(np.asarray(Image.open(street)).copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
        (expected,) = random_network().model([pixels])
    (picture,) = document["pictures"]
    assert picture["image_id"] == 139
    assert len(picture["detections"]) == len(expected["boxes"]) > 0
    results = json.loads(Path("outputs/inference_images_coco.json").read_text())
    assert [set(result) for result in results] == [{"image_id", "category_id", "bbox", "score"}] * len(results)
    names = registry.weights_entry(SMALL).meta["categories"]
    for found, coco, box, label, score in zip(
        picture["detections"], results, expected["boxes"], expected["labels"], expected["scores"], strict=True
    ):
        left, top, right, bottom = box.tolist()
        assert found["box"] == pytest.approx([left, top, right, bottom], abs=0.011)
        assert coco["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.011)
        assert coco["image_id"] == 139
        assert coco["category_id"] == found["label"] == label
        assert found["name"] == names[label]
        assert coco["score"] == pytest.approx(score.item(), abs=1e-6)
        assert score > 0.0112
    width, height = Image.open("outputs/inference_images.png").size
    assert min(width, height) > 300


def test_the_threshold_is_the_detectors_own(street, capsys):
    for arch, holder in {SMALL: "roi_heads", "ssdlite320_mobilenet_v3_large": None}.items():
        network = random_network({"arch": arch, "score_threshold": 0.25})
        assert (getattr(network.model, holder) if holder else network.model).score_thresh == 0.25
    document = result_of(inference.main, capsys, "--image", str(street), *RANDOM[:-1], "0.9")
    assert document["pictures"][0]["detections"] == []
    assert json.loads(Path("outputs/inference_images_coco.json").read_text()) == []
    assert xai.main(["--image", str(street), *RANDOM[:-1], "0.9"]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == "error: no box to explain: lower --score-threshold, which is 0.9"


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
        (["--layer", "nope"], "no layer 'nope' with a grid; there are: backbone.body.0"),
        (["--method", "guidedbackprop"], "guidedbackprop draws how a classifier's logit changes"),
        (["--method", "cam"], "cam cannot explain this"),
        (["--target", "unicorn"], "no class 'unicorn' to explain; there are: predicted, __background__, person"),
        (["--score-threshold", "1.5"], "'1.5' is not a number from 0 to 1"),
    ],
)
def test_what_does_not_go_with_a_detector(street, capsys, flags, message):
    assert xai.main(["--image", str(street), *RANDOM, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_pictures_must_be_named(capsys):
    assert xai.main(["--type", "Positive", *RANDOM]) == 2
    assert "has classes of its own, not those of a folder: name pictures with --image" in capsys.readouterr().err
    assert inference.main(["--all", *RANDOM]) == 2
    assert "--image FOLDER --num 1000" in capsys.readouterr().err


def test_train_says_that_detectors_are_not_trained(fresh, capsys):
    import train

    assert train.main(["--arch", SMALL]) == 2
    assert "is a detector, which can be used and explained as it is, but not trained here" in capsys.readouterr().err


# -- maps ----------------------------------------------------------------------------------------------------------

THEIRS = """
import functools, sys, torch, numpy as np, pytorch_grad_cam
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
assert "site-packages" in pytorch_grad_cam.__file__
job = torch.load("job.pt", weights_only=False)
boxes = [box.numpy() for box in job["boxes"]]
cam = pytorch_grad_cam.EigenCAM(job["model"], [job["model"].backbone], reshape_transform=fasterrcnn_reshape_transform)
np.save("map.npy", cam(job["picture"], [FasterRCNNBoxScoreTarget(job["labels"].tolist(), boxes)]))
"""


def test_faster_rcnn_maps_are_those_of_the_package(tmp_path):
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=160, max_size=256, box_score_thresh=0.0112,
        rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=20,
    ).eval()  # fmt: skip
    picture = torch.rand(1, 3, 120, 200)
    with torch.no_grad():
        (found,) = model(picture)
    job = {"model": model, "picture": picture, "boxes": found["boxes"], "labels": found["labels"]}
    torch.save(job, tmp_path / "job.pt")
    subprocess.run([sys.executable, "-P", "-c", THEIRS], cwd=tmp_path, check=True, capture_output=True)
    theirs = np.load(tmp_path / "map.npy")

    class Turned(EigenCAM):  # their component has the sign that LAPACK gives it
        def layer_map(self, run, eigen_smooth):
            return -super().layer_map(run, eigen_smooth)

    targets = [FasterRCNNBoxScoreTarget(found["labels"], found["boxes"])]
    ours = [cam(model, ["backbone"], fasterrcnn_reshape_transform)(picture, targets) for cam in (EigenCAM, Turned)]
    assert theirs.shape == ours[0].shape == (1, 120, 200)
    assert np.ptp(theirs) > 0.9
    assert min(abs(found - theirs).max() for found in ours) < 1e-3


def test_xai_draws_what_the_engine_computes(street, capsys):
    flags = ["--image", str(street), *RANDOM, "--method", "eigencam", "--save-maps", "maps"]
    document = result_of(xai.main, capsys, *flags)
    assert {p.name for p in Path("outputs").iterdir()} == {"xai_images_eigencam.png", "xai_images_eigencam.json"}
    network = random_network()
    pixels = torch.from_numpy(np.asarray(Image.open(street)).copy()).permute(2, 0, 1)[None] / 255
    expected = EigenCAM(network.model, ["backbone"], fasterrcnn_reshape_transform).maps(
        pixels, [FasterRCNNBoxScoreTarget([1], [[0, 0, 1, 1]])], normalize=False
    )
    found = np.load("maps/000000000139.npy")
    assert found.shape == (192, 320)
    assert np.allclose(found, expected[0], atol=1e-3 * float(expected.max()))
    assert document["methods"] == {"eigencam": ["backbone"]}
    assert document["pictures"][0]["maps"]["eigencam"]["max"] == pytest.approx(float(found.max()), rel=1e-3)


def test_findings_of_a_detector(street, capsys):
    flags = [
        "--image",
        str(street),
        *RANDOM,
        "--method",
        "eigencam",
        "--style",
        "mask",
        "--refine",
        "guided",
        "--save-maps",
        "maps",
    ]
    assert xai.main(flags) == 0
    out, err = capsys.readouterr()
    assert "no threshold is known for these maps of eigencam" in err
    document = json.loads(Path("outputs/xai_images_eigencam.json").read_text())
    assert out.startswith("wrote outputs/xai_images_eigencam.png, outputs/xai_images_eigencam.json, ")
    for row in document["pictures"]:
        entry = row["maps"]["eigencam"]
        it = regions.measure(np.load(entry["file"]), entry["threshold"])
        assert {name: entry[name] for name in ("share", "length", "width", "boxes")} == it.as_row()
    assert Path(document["found_table"]).read_text().count("\n") == 1 + len(document["pictures"])
    assert xai.main([*flags, "--metrics"]) == 2
    assert "--metrics is for classifiers" in capsys.readouterr().err


def test_boxes_of_one_class_can_be_explained(street, capsys):
    flags = ["--image", str(street), *RANDOM]
    everything = result_of(xai.main, capsys, *flags, "--method", "eigencam")["pictures"][0]["detections"]
    name = everything[-1]["name"]
    some = result_of(xai.main, capsys, *flags, "--method", "eigencam", "--target", name)["pictures"][0]["detections"]
    assert some == [box for box in everything if box["name"] == name]


def test_several_methods_share_a_picture(street, capsys):
    methods = ["eigencam", "ablationcam", "scorecam", "gradcam", "layercam"]
    flags = ["--image", str(street), *RANDOM, "--method", ",".join(methods), "--save-maps", "maps"]
    result_of(xai.main, capsys, *flags)
    assert {p.name for p in Path("maps").iterdir()} == {f"000000000139_{name}.npy" for name in methods}
    assert (Path("outputs") / "xai_images_compared.png").exists()
    for path in Path("maps").iterdir():
        heat = np.load(path)
        assert np.isfinite(heat).all()
        assert heat.min() >= 0
    assert np.ptp(np.load("maps/000000000139_scorecam.npy")) > 0


@pytest.mark.parametrize(
    "arch",
    [
        *(pytest.param(slow, marks=pytest.mark.torture) for slow in ("retinanet_resnet50_fpn", "ssd300_vgg16")),
        *("fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"),
    ],
)
def test_other_detectors(street, capsys, arch):
    flags = ["--image", str(street), "--arch", arch, "--pretrained", "none", "--score-threshold", "0"]
    document = result_of(xai.main, capsys, *flags, "--method", "eigencam", "--save-maps", "maps")
    assert document["pictures"][0]["detections"]
    heat = np.load("maps/000000000139.npy")
    assert heat.shape == (192, 320)
    assert np.ptp(heat) > 0


def test_a_pyramid_that_ends_in_a_single_place():
    levels = {str(side): torch.randn(2, side, side, side + 1) for side in (19, 9, 5, 3, 1)}
    found = pyramid_reshape_transform(levels)
    assert found.shape == (2, 19 + 9 + 5 + 3 + 1, 5, 6)
    assert torch.equal(found[:, 19 + 9 : 19 + 9 + 5], levels["5"].abs())
    assert fasterrcnn_reshape_transform(levels).shape == (2, 37, 1, 2)
    tiny = {"0": levels["3"], "1": levels["1"]}
    assert pyramid_reshape_transform(tiny).shape[2:] == (3, 4)
    assert torch.equal(pyramid_reshape_transform(levels["9"]), levels["9"])


# -- a detector that has learnt something ----------------------------------------------------------------------------


def drawn(rng):
    """96 x 96 noise with a bright square (1) in one half and a dark disc (2) in the other; boxes and labels."""
    picture = rng.normal(0.5, 0.05, (96, 96)).astype(np.float32)
    rows, columns = np.mgrid[:96, :96]
    left_first = rng.random() < 0.5
    boxes = []
    for label, half in ((1, 0 if left_first else 1), (2, 1 if left_first else 0)):
        radius = rng.integers(9, 15)
        x, y = rng.integers(16, 32) + 48 * half, rng.integers(20, 76)
        square = (abs(columns - x) <= radius) & (abs(rows - y) <= radius)
        disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        picture[square if label == 1 else disc] = 0.95 if label == 1 else 0.05
        boxes.append([x - radius, y - radius, x + radius + 1, y + radius + 1])
    return np.repeat(picture[None], 3, axis=0).clip(0, 1), torch.tensor(boxes, dtype=torch.float32)


@pytest.fixture(scope="module")
def taught():
    """A tiny Faster R-CNN after some seconds of training on generated shapes."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def block(before, after):
        return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())

    backbone = nn.Sequential(block(3, 16), block(16, 32), block(32, 64), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
    backbone.out_channels = 64
    model = FasterRCNN(
        backbone, num_classes=3, min_size=96, max_size=96, rpn_anchor_generator=AnchorGenerator(((24,),), ((1.0,),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 5, 2), box_score_thresh=0.5,
        rpn_pre_nms_top_n_train=60, rpn_post_nms_top_n_train=30, rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=30,
        box_batch_size_per_image=32, rpn_batch_size_per_image=32,
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(90):
        batch = [drawn(rng) for _ in range(4)]
        targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _, boxes in batch]
        loss = sum(model([torch.from_numpy(picture) for picture, _ in batch], targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    card = ModelCard("fasterrcnn", ["background", "square", "disc"], 0)
    return LoadedModel(model.eval(), card, runtime.Runtime(torch.device("cpu"), torch.float32), None)


def test_maps_of_a_trained_detector_lie_on_what_it_found(taught, monkeypatch):
    monkeypatch.setattr(detectors, "STRONGEST", 1.0)  # a hundredth of its 64 channels would be a single one
    rng = np.random.default_rng(1)
    layers = detectors.find_layers(taught, ["backbone"])
    hits = dict.fromkeys(["ablationcam", "layercam"], 0)
    for _ in range(8):
        picture, boxes = drawn(rng)
        pixels = np.rint(255 * picture.transpose(1, 2, 0)).astype(np.uint8)
        found = detectors.detect(taught, pixels)
        assert {d.name for d in found} == {"square", "disc"}
        for detection in found:
            overlap = torchvision.ops.box_iou(torch.tensor([detection.box]), boxes[None, detection.label - 1])
            assert overlap.item() > 0.6
        for label in (1, 2):
            left, top, right, bottom = boxes[label - 1].tolist()
            for method in hits:
                heat = detectors.explain_boxes(taught, method, layers, pixels, [d for d in found if d.label == label])
                y, x = np.unravel_index(int(heat.argmax()), heat.shape)
                hits[method] += left - 8 <= x <= right + 8 and top - 8 <= y <= bottom + 8  # a cell is 8 pixels
    # By chance a peak lies there in one case of six.
    assert hits["layercam"] >= 15
    assert hits["ablationcam"] >= 9


def test_a_box_is_as_coco_has_it():
    picture = DecodedImage(Path("12.jpg"), np.zeros((2, 2, 3), np.uint8))
    box = detectors.Detection(3, "car", 0.75, (10.0, 20.0, 40.0, 60.5))
    rows = [detectors.as_row(picture, [], 12), detectors.as_row(picture, [box], 7)]
    assert detectors.as_coco(rows) == [
        {"image_id": 7, "category_id": 3, "bbox": [10.0, 20.0, 30.0, 40.5], "score": 0.75}
    ]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "7.png"], [139, 7]),
        (["1.jpg", "b.jpg"], [0, 1]),  # the second one's place is the first one's name
        (["a/5.jpg", "b/5.jpg"], [0, 1]),
    ],
)
def test_two_pictures_never_share_an_id(names, ids):
    pictures = [DecodedImage(Path(name), np.zeros((2, 2, 3), np.uint8)) for name in names]
    assert list(detectors.image_ids(pictures).values()) == ids


def test_colours_are_stable_and_boxes_scale_with_the_picture():
    picture = DecodedImage(Path("a.jpg"), np.zeros((400, 800, 3), np.uint8))
    found = [
        detectors.Detection(1, "person", 0.9, (80.0, 40.0, 160.0, 80.0)),
        detectors.Detection(1, "person", 0.5, (0.0, 0.0, 8.0, 8.0)),
    ]
    tile = detectors.tile(picture, found, np.zeros((200, 400, 3), np.uint8))
    assert tile.boxes[0] == ((40.0, 20.0, 80.0, 40.0), "person 90.0 %", 1)
    assert tile.note == "2 x person"
    assert tile.probabilities == {"person": 0.9}


def test_documented_commands_are_in_the_readme():
    assert "--arch fasterrcnn_resnet50_fpn" in (ROOT / "README.md").read_text()
