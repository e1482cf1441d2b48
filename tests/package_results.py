"""Results of the installed package grad-cam, computed in a separate process, for the tests of the engine's helpers."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from processes import run_python

COLOURS = [[1.0, 0.0, 0.0], [0.1, 0.5, 0.3], [0.0, 0.0, 0.0]]

CALLS = """
import sys, numpy as np, torch, pytorch_grad_cam
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from pytorch_grad_cam.sobel_cam import sobel_cam
from pytorch_grad_cam.utils import find_layers, image as image_utils, svd_on_activations as svd, model_targets as mt, reshape_transforms as rt
assert "site-packages" in pytorch_grad_cam.__file__
g = torch.load("given.pt", weights_only=False)
def score(target):
    leaf = g["logits"].clone().requires_grad_()
    value = target(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient
wide = {"boxes": g["boxes"], "labels": g["box_labels"], "scores": g["scores"]}
torch.save({
    "targets": {name: [score(make(mt)) for make in makers] for name, makers in {
        "softmax": [lambda m: m.ClassifierOutputSoftmaxTarget(2)],
        "rest": [lambda m: m.ClassifierOutputReST(2)],
        "binary": [lambda m: m.BinaryClassifierOutputTarget(1), lambda m: m.BinaryClassifierOutputTarget(0)],
        "all": [lambda m: m.SoftmaxOutputTarget(), lambda m: m.RawScoresOutputTarget()],
    }.items()},
    "finer": mt.FinerWeightedTarget(0, [1, 3], 0.7)(g["logits"]),
    "segmentation": mt.SemanticSegmentationTarget(1, g["mask"])(g["dense"]),
    "detection": [mt.FasterRCNNBoxScoreTarget(g["box_labels"], g["boxes_to_find"], t)(wide).item() for t in (0.1, 0.5, 0.9)],
    "pyramid": rt.fasterrcnn_reshape_transform(g["pyramid"]),
    "swin": rt.swinT_reshape_transform(g["tokens"][:, 1:50]),
    "vit": rt.vit_reshape_transform(g["tokens"]),
    "vit 7 x 28": rt.vit_reshape_transform(g["tokens"], height=7, width=28),
    "dff": dff(g["activations"].copy(), 3),
    "kernel": [svd.get_2d_projection_kernel(g["activations"], *how) for how in [(), ("rbf", 0.2), ("poly",)]],
    "corrected": svd.get_2d_projection_with_sign_correction(g["activations"]),
    "projection": svd.get_2d_projection(g["activations"]),
    "overlay": image_utils.show_factorization_on_image(g["image"] / 255, g["maps"].copy(), g["colours"], 0.3),
    "legend": image_utils.create_labels_legend(g["concept_scores"], g["names"], 2),
    "scaled": image_utils.scale_accross_batch_and_channels(g["activations"][:, :, :, :5], (9, 14)),
    "sobel": sobel_cam(g["image"]),
}, "found.pt")
"""


@functools.cache
def given_values():
    """Inputs of both implementations."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    corners = torch.rand(6, 2) * 20
    boxes = torch.cat([corners, corners + 10 + torch.rand(6, 2) * 10], dim=1)
    activations = random.normal(size=(2, 6, 8, 7)).astype(np.float32)
    activations[0, 1, 2, 3] = np.nan
    return {
        "logits": torch.randn(3, 5),
        "dense": torch.randn(4, 6, 7),
        "mask": (random.random((6, 7)) > 0.5).astype(np.float32),
        "boxes": boxes,
        "box_labels": torch.tensor([1, 1, 2, 1, 2, 1]),
        "scores": torch.rand(6),
        "boxes_to_find": (boxes + torch.randn(6, 4) * 2).numpy(),
        "pyramid": {"0": torch.randn(1, 3, 16, 12), "1": torch.randn(1, 3, 8, 6), "pool": torch.randn(1, 3, 4, 3)},
        "tokens": torch.randn(2, 197, 5),
        "activations": activations,
        "image": random.integers(0, 256, (24, 20, 3), dtype=np.uint8),
        "maps": random.random((3, 24, 20)).astype(np.float32),
        "colours": COLOURS,
        "concept_scores": random.random((3, 4)),
        "names": {0: "tench, Tinca tinca", 1: "a,b,c,d", 2: "crack", 3: "none"},
    }


@functools.cache
def package_values():
    """What the package grad-cam makes of :func:`given_values`; computed once per test run."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(given_values(), Path(folder, "given.pt"))
        done = run_python(CALLS, cwd=folder, path=[])
        assert done.returncode == 0, done.stderr
        return torch.load(Path(folder, "found.pt"), weights_only=False)
