"""Photographs with drawn cracks and the rows of ``xai.py --all --style mask`` about them, for the findings page."""

import cv2
import numpy as np
from PIL import Image

from crackcam.render.report.findings import write_findings


def document(**more):
    return {
        "command": "python xai.py --image /home/ann/flight --all --style mask --report /srv/out/report.html",
        "method": "evidence",
        "device": "cpu",
        "precision": "fp32",
        "versions": {"torch": "2.6"},
        "checkpoint": {"file": "/home/ann/weights/model.safetensors", "sha256": "ab" * 32, "arch": "resnet18"},
        **more,
    }


def crack(length, p95=None, measured=50, place=None, orientation=30.0):
    """Sizes in pixels; mean and maximum follow from the 95th percentile."""
    wide = {"mean": p95 and p95 / 2, "p95": p95, "maximum": p95 and p95 * 1.25}
    return {"length": length, **wide, "place": place, "orientation": orientation, "measured": measured}


def region(number, box, sizes=None, mm_per_pixel=None, width_class=None, **more):
    """A region that fills its box."""
    x, y, width, height = box
    mm = None
    if mm_per_pixel and sizes:
        names = ("length", "mean", "p95", "maximum")
        mm = {name: sizes[name] and sizes[name] * mm_per_pixel for name in names}
    return {
        "number": number,
        "box": list(box),
        "area": width * height,
        "length": float(max(width, height)),
        "width": float(min(width, height)),
        "peak": 0.9,
        "polygons": [[x, y, x + width, y, x + width, y + height, x, y + height]],
        "crack": sizes,
        "mm": mm,
        "width_class": width_class,
        **more,
    }


def row(folder, name, regions=(), size=(160, 120), capture=(None, None, None, None), mm_per_pixel=None):
    """A row, and its photograph and overlay in ``folder``: grey, with a dark line through each region."""
    pixels = np.random.default_rng(0).normal(150, 8, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
    for each in regions:
        x, y, width, height = each["box"]
        cv2.line(pixels, (x, y), (x + width, y + height), (50, 50, 50), max(1, round(min(width, height) / 4)))
    path, overlay = folder / "flight" / name, folder / "overlays" / f"{name}.jpg"
    for file in (path, overlay):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return {
        "image": name,
        "file": str(path),
        "true": None,
        "target": "Positive",
        "predicted": "Positive" if regions else "Negative",
        "probabilities": {"Positive": 0.875 if regions else 0.125},
        "overlay": str(overlay),
        "threshold": 0.5,
        "size": list(size),
        "regions": list(regions),
        "capture": dict(zip(("time", "latitude", "longitude", "altitude"), capture, strict=True)),
        "mm_per_pixel": mm_per_pixel,
    }


def written(folder, rows, **more):
    path = folder / "report.html"
    write_findings(path, document(**more), iter(rows))
    return path
