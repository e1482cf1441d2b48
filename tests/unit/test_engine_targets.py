"""Targets: by hand on small cases, against the package grad-cam, and at their limits."""

import math

import numpy as np
import pytest
import torch
from package_results import given_values, package_values

from pytorch_grad_cam.utils import model_targets as mt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given():
    return given_values()


@pytest.fixture(scope="module")
def theirs():
    return package_values()


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("softmax", [mt.ClassifierOutputSoftmaxTarget(2)]),
        ("rest", [mt.ClassifierOutputReST(2)]),
        ("binary", [mt.BinaryClassifierOutputTarget(1), mt.BinaryClassifierOutputTarget(0)]),
        ("all", [mt.SoftmaxOutputTarget(), mt.RawScoresOutputTarget()]),
    ],
)
def test_targets_equal_the_packages(name, targets, given, theirs):
    """Values and gradients, on a batch; and a batch gives the values of its single images."""
    for target, (value, gradient) in zip(targets, theirs["targets"][name], strict=True):
        leaf = given["logits"].clone().requires_grad_()
        found = target(leaf)
        assert torch.allclose(found, value, atol=1e-6)
        assert torch.allclose(torch.autograd.grad(found.sum(), leaf)[0], gradient, atol=1e-6)
        assert torch.allclose(torch.stack([target(one) for one in given["logits"]]), value, atol=1e-6)


def test_targets_by_hand():
    logits = torch.tensor([0.0, math.log(3)])
    assert mt.ClassifierOutputSoftmaxTarget(1)(logits).item() == pytest.approx(0.75)
    assert mt.ClassifierOutputReST(0)(logits).item() == pytest.approx(math.log(0.25))
    assert mt.BinaryClassifierOutputTarget(0)(torch.tensor([2.5])).tolist() == [-2.5]
    assert mt.BinaryClassifierOutputTarget(category=1)(torch.tensor([2.5])).tolist() == [2.5]
    assert repr(mt.ClassifierOutputSoftmaxTarget(category=1)) == "ClassifierOutputSoftmaxTarget(category=1)"


def test_residual_softmax_target_does_not_saturate():
    """Where the probability is exactly 1 in float32, its gradient is 0; that of the residual target is not."""
    leaf = torch.tensor([120.0, 0.0], requires_grad=True)
    saturated = torch.autograd.grad(mt.ClassifierOutputSoftmaxTarget(0)(leaf), leaf)[0]
    residual = torch.autograd.grad(mt.ClassifierOutputReST(0)(leaf), leaf)[0]
    assert saturated.tolist() == [0, 0]
    assert residual.tolist() == [1, 0]


@pytest.mark.parametrize(
    "form", [np.asarray, torch.as_tensor, lambda m: m.astype(bool), lambda m: m.astype(np.float64)]
)
def test_segmentation_target_accepts_any_mask(form, given, theirs):
    target = mt.SemanticSegmentationTarget(1, form(given["mask"]))
    found = target(given["dense"])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(theirs["segmentation"].item(), rel=1e-5)
    assert target(torch.stack([given["dense"], 2 * given["dense"]])).tolist() == pytest.approx(
        [found.item(), 2 * found.item()], rel=1e-5
    )
    with pytest.raises(ValueError, match=r"mask has size \(6, 7\), the model's output \(3, 4\)"):
        target(torch.zeros(4, 3, 4))


def test_segmentation_target_of_volumes():
    scores = torch.arange(16.0).reshape(2, 2, 2, 2)  # 2 classes, 2 x 2 x 2 voxels
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 1] = mask[1, 1, 0] = True
    assert mt.SemanticSegmentationTarget(1, mask)(scores).item() == 8 + 1 + 8 + 6


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, list, lambda array: array.tolist()])
def test_detection_target_equals_the_packages(form, given, theirs):
    outputs = {"boxes": given["boxes"], "labels": given["box_labels"], "scores": given["scores"]}
    found = [
        mt.FasterRCNNBoxScoreTarget(given["box_labels"], form(given["boxes_to_find"]), threshold)(outputs).item()
        for threshold in (0.1, 0.5, 0.9)
    ]
    assert found == pytest.approx(theirs["detection"], rel=1e-5)
    assert found[0] > found[1] > found[2] == 0


def test_detection_target_by_hand():
    outputs = {
        "boxes": torch.tensor([[0.0, 0, 2, 2], [10, 10, 14, 14], [10, 10, 14, 13]], requires_grad=True),
        "labels": torch.tensor([1, 2, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7], requires_grad=True),
    }
    boxes_to_find = [[0, 0, 2, 1.5], [10, 10, 14, 14], [50, 50, 60, 60]]
    # overlaps 3/4 and 1; the third is not detected
    assert mt.FasterRCNNBoxScoreTarget([1, 2, 1], boxes_to_find)(outputs).item() == pytest.approx(0.75 + 0.9 + 1 + 0.8)
    # the best detection of the second box has another label, though a worse one has the right one
    assert mt.FasterRCNNBoxScoreTarget([1, 1, 1], boxes_to_find)(outputs).item() == pytest.approx(0.75 + 0.9)
    assert mt.FasterRCNNBoxScoreTarget([1, 1, 1], boxes_to_find, iou_threshold=0.75)(outputs).item() == 0


@pytest.mark.parametrize("case", ["no overlap", "other label", "no detection", "no box"])
def test_detection_target_stays_in_the_graph_where_nothing_is_found(case):
    """The package returns a constant there, and the backward pass fails with "does not require grad"."""
    leaf = torch.tensor([[0.0, 0, 2, 2]], requires_grad=True)
    boxes = leaf[:0] if case == "no detection" else leaf * 1
    outputs = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "scores": boxes.sum(dim=1)}
    boxes_to_find = {"no overlap": [[5, 5, 9, 9]], "no box": []}.get(case, [[0, 0, 2, 2]])
    found = mt.FasterRCNNBoxScoreTarget([2 if case == "other label" else 1] * len(boxes_to_find), boxes_to_find)(
        outputs
    )
    assert found.item() == 0
    assert torch.autograd.grad(found, leaf)[0].tolist() == [[0, 0, 0, 0]]


def test_finer_target(given, theirs):
    target = mt.FinerWeightedTarget(0, [1, 3], 0.7)
    assert torch.allclose(target(given["logits"]), theirs["finer"], atol=1e-5)
    assert torch.equal(torch.stack([target(one) for one in given["logits"]]), target(given["logits"]))
    assert torch.equal(mt.FinerWeightedTarget(2, [], 1)(given["logits"]), given["logits"][:, 2])


def test_finer_target_weights_are_constants():
    """The gradient is that of y0 - alpha (w1 y1 + w2 y2), with w1 : w2 = 3 : 1."""
    leaf = torch.tensor([5.0, math.log(3), 0.0, 7.0], requires_grad=True)
    found = mt.FinerWeightedTarget(0, [1, 2], alpha=0.5)(leaf)
    assert found.item() == pytest.approx(5 - 0.5 * 0.75 * math.log(3))
    assert torch.autograd.grad(found, leaf)[0].tolist() == pytest.approx([1, -0.375, -0.125, 0])


def test_finer_target_of_a_confident_model():
    """The package's weights are negligible beside its epsilon here: its result is 7e-15."""
    logits = torch.tensor([59.5, 0.5, 0.5])
    assert mt.FinerWeightedTarget(0, [1, 2], alpha=1)(logits).item() == pytest.approx(59)
