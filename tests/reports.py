"""Small documents, images and pages that the tests of the report share."""

import base64
import io
import json
import re

import numpy as np
from matplotlib import colormaps
from PIL import Image

from crackcam.render import report

EVIL = '<script>alert("x")</script>'


def row(name, true, predicted, confidence, **more):
    other = "cat" if predicted != "cat" else "dog"
    probabilities = {predicted: confidence, other: 1 - confidence}
    known = {"file": f"data/{name}", "true": true, "predicted": predicted, "target": predicted}
    return {**known, "probabilities": probabilities, **more}


def document(rows, **more):
    return {
        "schema": 1,
        "command": "python xai.py --report",
        "type": "cat",
        "split": "test",
        "seed": 0,
        "device": "cpu",
        "precision": "fp32",
        "classes": ["cat", "dog"],
        "versions": {"torch": "2.6"},
        "pictures": rows,
        "checkpoint": {"file": "weights/model.safetensors", "sha256": "ab" * 32, "arch": "resnet18"},
        **more,
    }


def training_document(rows, **more):
    """Two epochs, of which the first is the best; 10 images, 3 of them incorrect."""
    epochs = [
        {
            "epoch": number,
            "best": number == 1,
            "train_loss": 0.75,
            "train_accuracy": 0.5,
            "val_loss": 0.5 + number / 8,
            "val_accuracy": 0.75,
        }
        for number in (1, 2)
    ]
    scores = {"precision": 0.75, "recall": 0.75, "f1": 0.75, "pictures": 5}
    nan = float("nan")
    return document(
        rows,
        pretrained="random weights: asked for",
        data="data",
        history=epochs,
        best_epoch=1,
        metrics={
            "accuracy": 0.7,
            "balanced_accuracy": 0.7,
            "ece": 0.25,
            "ece_before": 0.5,
            "per_class": {"cat": scores, "dog": scores},
        },
        scored=10,
        mistakes=3,
        confusion=[[4, 1], [2, 3]],
        reliability={"confidence": [nan, nan, 0.75], "accuracy": [nan, nan, 1.0], "count": [0, 0, 3]},
        summary={
            "pictures": {"train": {"cat": 5, "dog": 5}},
            "sizes": [(40, 30, 10)],
            "other_sizes": 0,
            "duplicates": [],
            "duplicated": 0,
        },
        near_duplicates={"val": 0},
        methods={"gradcam": ["layer4"]},
        target="predicted",
        **more,
    )


def grey(count, height=30, width=40):
    return [np.full((height, width, 3), 40 * i % 256, np.uint8) for i in range(count)]


def peak(y, x, side=1):
    """A heatmap that is zero but for a square."""
    heatmap = np.zeros((20, 30), np.uint8)
    heatmap[y : y + side, x : x + side] = 255
    return heatmap


def written(folder, rows, maps=None, name="report.html", masks=(), images=None, probabilities=(), **more):
    """The path of a report."""
    path = folder / name
    heatmaps = None
    if maps:
        more = {"methods": {method: ["layer4"] for method in maps}, "target": "predicted", **more}
        heatmaps = report.Heatmaps(maps, colormaps["inferno"], frozenset(probabilities))
    report.write(path, document(rows, **more), grey(len(rows)) if images is None else images, heatmaps, masks)
    return path


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def run_of(html):
    """The JSON in the page."""
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', html, re.DOTALL)[1])
