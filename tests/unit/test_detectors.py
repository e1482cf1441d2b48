"""Detectors: heatmaps against the package grad-cam, and on a tiny detector that is trained here."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from processes import run_python
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

import crackcam
from crackcam.config import ExplainConfig
from crackcam.data.images import DecodedImage
from crackcam.explain import detectors
from crackcam.render import coco
from crackcam.render.figures import detection_tile
from crackcam.types import Detection, ModelCard
from pytorch_grad_cam import EigenCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform, pyramid_reshape_transform

pytestmark = pytest.mark.slow

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
THEIRS = """
import functools, sys, torch, numpy as np, pytorch_grad_cam
from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
assert "site-packages" in pytorch_grad_cam.__file__
job = torch.load("job.pt", weights_only=False)
boxes = [box.numpy() for box in job["boxes"]]
cam = pytorch_grad_cam.EigenCAM(job["model"], [job["model"].backbone], reshape_transform=fasterrcnn_reshape_transform)
np.save("map.npy", cam(job["image"], [FasterRCNNBoxScoreTarget(job["labels"].tolist(), boxes)]))
"""


def test_faster_rcnn_maps_are_those_of_the_package(tmp_path):
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=160,
        max_size=256,
        box_score_thresh=0.0112,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=20,
    ).eval()
    image = torch.rand(1, 3, 120, 200)
    with torch.no_grad():
        (found,) = model(image)
    job = {"model": model, "image": image, "boxes": found["boxes"], "labels": found["labels"]}
    torch.save(job, tmp_path / "job.pt")
    done = run_python(THEIRS, cwd=tmp_path, path=[])
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "map.npy")

    class Turned(EigenCAM):  # their component has the sign that LAPACK gives it
        def layer_map(self, run, eigen_smooth):
            return -super().layer_map(run, eigen_smooth)

    targets = [FasterRCNNBoxScoreTarget(found["labels"], found["boxes"])]
    ours = [cam(model, ["backbone"], fasterrcnn_reshape_transform)(image, targets) for cam in (EigenCAM, Turned)]
    assert theirs.shape == ours[0].shape == (1, 120, 200)
    assert np.ptp(theirs) > 0.9
    assert min(abs(found - theirs).max() for found in ours) < 1e-3


def test_a_pyramid_that_ends_in_a_single_cell():
    levels = {str(side): torch.randn(2, side, side, side + 1) for side in (19, 9, 5, 3, 1)}
    found = pyramid_reshape_transform(levels)
    assert found.shape == (2, 19 + 9 + 5 + 3 + 1, 5, 6)
    assert torch.equal(found[:, 19 + 9 : 19 + 9 + 5], levels["5"].abs())
    assert fasterrcnn_reshape_transform(levels).shape == (2, 37, 1, 2)
    tiny = {"0": levels["3"], "1": levels["1"]}
    assert pyramid_reshape_transform(tiny).shape[2:] == (3, 4)
    assert torch.equal(pyramid_reshape_transform(levels["9"]), levels["9"])


# -- a detector that was trained ----------------------------------------------------------------------------


def shapes(rng):
    """96 x 96 noise with a bright square (1) in one half and a dark disc (2) in the other; boxes and labels."""
    image = rng.normal(0.5, 0.05, (96, 96)).astype(np.float32)
    rows, columns = np.mgrid[:96, :96]
    left_first = rng.random() < 0.5
    boxes = []
    for label, half in ((1, 0 if left_first else 1), (2, 1 if left_first else 0)):
        radius = rng.integers(9, 15)
        x, y = rng.integers(16, 32) + 48 * half, rng.integers(20, 76)
        square = (abs(columns - x) <= radius) & (abs(rows - y) <= radius)
        disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        image[square if label == 1 else disc] = 0.95 if label == 1 else 0.05
        boxes.append([x - radius, y - radius, x + radius + 1, y + radius + 1])
    return np.repeat(image[None], 3, axis=0).clip(0, 1), torch.tensor(boxes, dtype=torch.float32)


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
        backbone,
        min_size=96,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((24,),), ((1.0,),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 5, 2),
        box_head=TwoMLPHead(64 * 5 * 5, 128),
        box_predictor=FastRCNNPredictor(128, 3),
        box_score_thresh=0.5,
        rpn_pre_nms_top_n_train=60,
        rpn_post_nms_top_n_train=30,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=30,
        box_batch_size_per_image=32,
        rpn_batch_size_per_image=32,
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(90):
        batch = [shapes(rng) for _ in range(4)]
        targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _, boxes in batch]
        loss = sum(model([torch.from_numpy(image) for image, _ in batch], targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    card = ModelCard("fasterrcnn", ["background", "square", "disc"], image_size=None)
    return detectors.Detector(model.eval(), card)


def test_heatmaps_of_a_trained_detector_lie_on_what_it_detected(taught, monkeypatch):
    monkeypatch.setattr(detectors, "STRONGEST", 1.0)  # a hundredth of its 64 channels would be a single one
    rng = np.random.default_rng(1)
    layers = taught.find_layers(["backbone"])
    hits = dict.fromkeys(["ablationcam", "layercam"], 0)
    for _ in range(8):
        pixels, boxes = shapes(rng)
        image = DecodedImage(Path("shapes.png"), np.rint(255 * pixels.transpose(1, 2, 0)).astype(np.uint8))
        prediction = taught.detect(image)
        assert set(prediction.probabilities) == {"square", "disc"}
        for detection in prediction.detections:
            overlap = torchvision.ops.box_iou(torch.tensor([detection.box]), boxes[None, detection.label - 1])
            assert overlap.item() > 0.6
        for label in (1, 2):
            left, top, right, bottom = boxes[label - 1].tolist()
            of_label = detectors.of_class(prediction, label)
            for method in hits:
                (explained,) = taught.explain_boxes(image, of_label, ExplainConfig(method=(method,)), layers)
                y, x = np.unravel_index(int(explained.heatmap.argmax()), explained.heatmap.shape)
                hits[method] += left - 8 <= x <= right + 8 and top - 8 <= y <= bottom + 8  # a cell is 8 pixels
    # By chance a peak lies there in one case of six; processors differ in what they train.
    assert hits["layercam"] >= 15
    assert hits["ablationcam"] >= 7


def test_a_box_is_as_coco_has_it():
    box = Detection(3, "car", 0.75, (10.0, 20.0, 40.0, 60.5))
    rows = coco.rows([detectors.as_prediction(Path(f"{name}.jpg"), boxes) for name, boxes in ((12, []), (7, [box]))])
    assert rows[0] == {"file": "12.jpg", "image_id": 12, "detections": []}
    assert coco.results(rows) == [{"image_id": 7, "category_id": 3, "bbox": [10.0, 20.0, 30.0, 40.5], "score": 0.75}]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "7.png"], [139, 7]),
        (["1.jpg", "b.jpg"], [0, 1]),  # the second one's place is the first one's name
        (["a/5.jpg", "b/5.jpg"], [0, 1]),
    ],
)
def test_two_images_never_share_an_id(names, ids):
    assert coco.image_ids([Path(name) for name in names]) == ids


def test_boxes_of_a_tile_scale_with_the_image():
    boxes = [
        Detection(1, "person", 0.9, (80.0, 40.0, 160.0, 80.0)),
        Detection(1, "person", 0.5, (0.0, 0.0, 8.0, 8.0)),
    ]
    prediction = detectors.as_prediction(Path("a.jpg"), boxes)
    tile = detection_tile(np.zeros((400, 800, 3), np.uint8), prediction, np.zeros((200, 400, 3), np.uint8))
    assert tile.boxes[0] == ((40.0, 20.0, 80.0, 40.0), "person 90.0 %", 1)
    assert tile.note == "2 x person"
    assert tile.probabilities == {"person": 0.9}


@pytest.mark.parametrize(("arch", "holder"), [(SMALL, "roi_heads"), ("ssdlite320_mobilenet_v3_large", None)])
def test_the_threshold_is_the_detectors_own(arch, holder):
    detector = crackcam.load(arch, pretrained="none", device="cpu")
    prediction = detector.predict(np.zeros((64, 64, 3), np.uint8), score_threshold=0.25)
    assert (getattr(detector.model, holder) if holder else detector.model).score_thresh == 0.25
    assert (prediction.label, prediction.confidence, prediction.detections) == ("nothing detected", 0, ())
