"""The engine's helpers: by hand on tiny cases, against the package grad-cam in a process of its own, and at their limits."""

import functools
import math
import subprocess
import sys

import cv2
import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

from pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
    dff,
    run_dff_on_image,
)
from pytorch_grad_cam.sobel_cam import sobel_cam
from pytorch_grad_cam.utils import find_layers, image
from pytorch_grad_cam.utils import model_targets as mt
from pytorch_grad_cam.utils.reshape_transforms import (
    fasterrcnn_reshape_transform,
    swinT_reshape_transform,
    vit_reshape_transform,
)
from pytorch_grad_cam.utils.svd_on_activations import (
    get_2d_projection,
    get_2d_projection_kernel,
    get_2d_projection_with_sign_correction,
)

COLOURS = [[1.0, 0.0, 0.0], [0.1, 0.5, 0.3], [0.0, 0.0, 0.0]]
CALLS = """
import sys, numpy as np, torch, pytorch_grad_cam
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from pytorch_grad_cam.sobel_cam import sobel_cam
from pytorch_grad_cam.utils import find_layers, image, svd_on_activations as svd, model_targets as mt, reshape_transforms as rt
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
    "detection": [mt.FasterRCNNBoxScoreTarget(g["box_labels"], g["wanted"], t)(wide).item() for t in (0.1, 0.5, 0.9)],
    "pyramid": rt.fasterrcnn_reshape_transform(g["pyramid"]),
    "swin": rt.swinT_reshape_transform(g["tokens"][:, 1:50]),
    "vit": rt.vit_reshape_transform(g["tokens"]),
    "vit 7 x 28": rt.vit_reshape_transform(g["tokens"], height=7, width=28),
    "dff": dff(g["activations"].copy(), 3),
    "kernel": [svd.get_2d_projection_kernel(g["activations"], *how) for how in [(), ("rbf", 0.2), ("poly",)]],
    "corrected": svd.get_2d_projection_with_sign_correction(g["activations"]),
    "projection": svd.get_2d_projection(g["activations"]),
    "overlay": image.show_factorization_on_image(g["picture"] / 255, g["maps"].copy(), g["colours"], 0.3),
    "legend": image.create_labels_legend(g["concept_scores"], g["names"], 2),
    "scaled": image.scale_accross_batch_and_channels(g["activations"][:, :, :, :5], (9, 14)),
    "sobel": sobel_cam(g["picture"]),
}, "found.pt")
"""


@pytest.fixture(scope="module")
def given():
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
        "wanted": (boxes + torch.randn(6, 4) * 2).numpy(),
        "pyramid": {"0": torch.randn(1, 3, 16, 12), "1": torch.randn(1, 3, 8, 6), "pool": torch.randn(1, 3, 4, 3)},
        "tokens": torch.randn(2, 197, 5),
        "activations": activations,
        "picture": random.integers(0, 256, (24, 20, 3), dtype=np.uint8),
        "maps": random.random((3, 24, 20)).astype(np.float32),
        "colours": COLOURS,
        "concept_scores": random.random((3, 4)),
        "names": {0: "tench, Tinca tinca", 1: "a,b,c,d", 2: "crack", 3: "none"},
    }


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    torch.save(given, folder / "given.pt")
    done = subprocess.run([sys.executable, "-P", "-c", CALLS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt", weights_only=False)


# -- targets ---------------------------------------------------------------------------------------------------------


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
    """Values and gradients, on a batch; and a batch is its pictures."""
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
    """Where the probability is 1 to the last bit, its gradient is gone; that of the residual target is not."""
    leaf = torch.tensor([120.0, 0.0], requires_grad=True)
    gone = torch.autograd.grad(mt.ClassifierOutputSoftmaxTarget(0)(leaf), leaf)[0]
    kept = torch.autograd.grad(mt.ClassifierOutputReST(0)(leaf), leaf)[0]
    assert gone.tolist() == [0, 0]
    assert kept.tolist() == [1, 0]


@pytest.mark.parametrize(
    "form", [np.asarray, torch.as_tensor, lambda m: m.astype(bool), lambda m: m.astype(np.float64)]
)
def test_segmentation_target_takes_any_mask(form, given, theirs):
    target = mt.SemanticSegmentationTarget(1, form(given["mask"]))
    found = target(given["dense"])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(theirs["segmentation"].item(), rel=1e-5)
    assert target(torch.stack([given["dense"], 2 * given["dense"]])).tolist() == pytest.approx(
        [found.item(), 2 * found.item()], rel=1e-5
    )
    with pytest.raises(ValueError, match=r"mask is \(6, 7\), but the model's output \(3, 4\)"):
        target(torch.zeros(4, 3, 4))


def test_segmentation_target_of_volumes():
    scores = torch.arange(16.0).reshape(2, 2, 2, 2)  # 2 classes, 2 x 2 x 2 places
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 1] = mask[1, 1, 0] = True
    assert mt.SemanticSegmentationTarget(1, mask)(scores).item() == 8 + 1 + 8 + 6


@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, list, lambda w: w.tolist()])
def test_detection_target_equals_the_packages(form, given, theirs):
    outputs = {"boxes": given["boxes"], "labels": given["box_labels"], "scores": given["scores"]}
    found = [
        mt.FasterRCNNBoxScoreTarget(given["box_labels"], form(given["wanted"]), threshold)(outputs).item()
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
    wanted = [[0, 0, 2, 1.5], [10, 10, 14, 14], [50, 50, 60, 60]]
    # overlaps 3/4 and 1; the third is nowhere
    assert mt.FasterRCNNBoxScoreTarget([1, 2, 1], wanted)(outputs).item() == pytest.approx(0.75 + 0.9 + 1 + 0.8)
    # the best detection of the second box has another label, though a worse one has the right one
    assert mt.FasterRCNNBoxScoreTarget([1, 1, 1], wanted)(outputs).item() == pytest.approx(0.75 + 0.9)
    assert mt.FasterRCNNBoxScoreTarget([1, 1, 1], wanted, iou_threshold=0.75)(outputs).item() == 0


@pytest.mark.parametrize("case", ["elsewhere", "other label", "no detection", "no box"])
def test_detection_target_stays_in_the_graph_where_nothing_is_found(case):
    """The package returns a constant there, and the backward pass fails with "does not require grad"."""
    leaf = torch.tensor([[0.0, 0, 2, 2]], requires_grad=True)
    boxes = leaf[:0] if case == "no detection" else leaf * 1
    outputs = {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "scores": boxes.sum(dim=1)}
    wanted = {"elsewhere": [[5, 5, 9, 9]], "no box": []}.get(case, [[0, 0, 2, 2]])
    found = mt.FasterRCNNBoxScoreTarget([2 if case == "other label" else 1] * len(wanted), wanted)(outputs)
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
    """The package's weights underflow beside its epsilon here: it finds 7e-15."""
    logits = torch.tensor([59.5, 0.5, 0.5])
    assert mt.FinerWeightedTarget(0, [1, 2], alpha=1)(logits).item() == pytest.approx(59)


# -- layers ----------------------------------------------------------------------------------------------------------


def test_reshape_transforms_equal_the_packages(given, theirs):
    tokens = given["tokens"]
    assert torch.equal(fasterrcnn_reshape_transform(given["pyramid"]), theirs["pyramid"])
    assert torch.equal(swinT_reshape_transform(tokens[:, 1:50]), theirs["swin"])
    assert torch.equal(vit_reshape_transform(tokens), theirs["vit"])
    assert torch.equal(vit_reshape_transform(tokens, height=7, width=28), theirs["vit 7 x 28"])


def test_feature_pyramids_without_a_pool_level(given):
    """RetinaNet's levels end otherwise; the coarsest gives the size."""
    levels = dict(zip(["p6", "0", "1"], reversed(given["pyramid"].values()), strict=True))
    found = fasterrcnn_reshape_transform(levels)
    assert torch.equal(
        found, fasterrcnn_reshape_transform(given["pyramid"]).reshape(1, 3, 3, 4, 3).flip(1).flatten(1, 2)
    )


@pytest.mark.parametrize(
    ("before", "grid", "how"),
    [
        (1, (24, 24), {}),  # ViT at 384
        (0, (16, 16), {}),  # no class token
        (2, (14, 14), {}),  # DeiT, distilled
        (5, (16, 16), {}),  # DINOv2 with registers
        (1, (9, 16), {"height": 9, "width": 16}),
        (1, (18, 32), {"height": 9, "width": 16}),  # the same proportions
    ],
)
def test_vit_grids_are_found_from_the_number_of_tokens(before, grid, how):
    places = torch.arange(math.prod(grid)).reshape(1, -1, 1)
    tokens = torch.cat([-torch.ones(1, before, 1, dtype=torch.int64), places], dim=1)
    assert torch.equal(vit_reshape_transform(tokens, **how), places.reshape(1, 1, *grid))


@pytest.mark.parametrize("count", [14 * 20 + 1, 9, 8])
def test_vit_grids_that_cannot_be_told_are_an_error(count):
    """281: no square; 9: 3 x 3, or 2 x 2 after five others; 8: neither."""
    with pytest.raises(ValueError, match=rf"{count} tokens .* pass height and width.* \+ 1 == {count} .*height=14"):
        vit_reshape_transform(torch.zeros(1, count, 4))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        vit_reshape_transform(torch.zeros(2, 3))


def test_swin_layers_of_any_version():
    tokens = torch.randn(2, 144, 3)
    found = swinT_reshape_transform(tokens)  # 12 x 12, a Swin at 384
    assert torch.equal(found[:, :, 2, 5], tokens[:, 2 * 12 + 5])
    assert torch.equal(swinT_reshape_transform(tokens.reshape(2, 8, 18, 3))[:, :, 2, 5], tokens[:, 2 * 18 + 5])
    with pytest.raises(ValueError, match="144 tokens"):
        swinT_reshape_transform(tokens, height=7, width=8)


class Alike(nn.ReLU):
    """Equal to all others of its kind, as data classes are."""

    def __eq__(self, other):
        return isinstance(other, Alike)

    __hash__ = nn.Module.__hash__


def test_layers_are_told_apart_by_identity():
    first, second, new = Alike(), Alike(), nn.Identity()
    model = nn.Sequential(nn.Sequential(first), second, nn.Module())
    model[2].register_module("absent", None)
    assert find_layers.replace_layer_recursive(model, second, new)
    assert model[0][0] is first
    assert model[1] is new
    assert not find_layers.replace_layer_recursive(model, second, new)


def test_layers_are_replaced_by_type():
    class Late(nn.ReLU):
        pass

    shared, new = nn.ReLU(), nn.Sequential(nn.ReLU())  # the new one holds the old type itself
    model = nn.Sequential(shared, nn.Sequential(Late(), nn.Conv2d(1, 1, 1)), shared)
    find_layers.replace_all_layer_type_recursive(model, nn.ReLU, new)
    assert [model[0], model[1][0], model[2]] == [new] * 3
    assert type(new[0]) is nn.ReLU
    assert type(model[1][1]) is nn.Conv2d


def test_layers_are_found_once_and_in_order():
    class Late(nn.ReLU):
        pass

    shared, late = nn.ReLU(), Late()
    inner = nn.Sequential(nn.Conv2d(1, 1, 1), late)
    model = nn.Sequential(shared, inner, shared)
    assert find_layers.find_layer_types_recursive(model, [nn.ReLU, nn.Conv2d]) == [shared, inner[0]]
    found = find_layers.find_layer_predicate_recursive(model, lambda layer: not isinstance(layer, nn.Conv2d))
    assert found == [shared, inner, late]


# -- projections -----------------------------------------------------------------------------------------------------


def test_projections_equal_the_packages(given, theirs):
    kept = given["activations"].copy()
    found = get_2d_projection(given["activations"])
    for one, other in zip(found, theirs["projection"], strict=True):  # whose sign is LAPACK's
        assert min(abs(one - other).max(), abs(one + other).max()) < 1e-4
    assert np.allclose(get_2d_projection_with_sign_correction(given["activations"]), theirs["corrected"], atol=1e-4)
    for how, expected in zip([(), ("rbf", 0.2), ("poly",)], theirs["kernel"], strict=True):
        projection = get_2d_projection_kernel(given["activations"], *how)
        assert projection.dtype == np.float32
        assert np.allclose(projection, expected, atol=1e-4)
    assert np.array_equal(given["activations"], kept, equal_nan=True)


def test_sign_correction_turns_towards_the_largest_value():
    """One place far below the others: the principal map grows with the channels' sum, and is turned round."""
    activations = np.ones((1, 2, 2, 3))
    activations[0, :, 1, 2] = -5
    # channels deviate from their mean 0 by 1 (five places) and -5 (one): sqrt(2) times that along (1, 1)
    expected = math.sqrt(2) * np.array([[[1.0, 1, 1], [1, 1, -5]]])
    assert np.allclose(get_2d_projection(activations), expected)
    assert np.allclose(get_2d_projection_with_sign_correction(activations), -expected)


@pytest.mark.parametrize("side", [5, 17])  # below and above the size at which the solver changes
def test_linear_kernel_is_the_plain_projection(side):
    activations = np.random.default_rng(1).normal(size=(2, 4, side, side)).astype(np.float32)
    found = get_2d_projection_kernel(activations, "linear")
    for one, other in zip(found, get_2d_projection(activations), strict=True):
        assert min(abs(one - other).max(), abs(one + other).max()) < 1e-4
        assert one.max() == abs(one).max()
    assert np.array_equal(found, get_2d_projection_kernel(activations, "linear"))


@pytest.mark.parametrize("side", [5, 17])
@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear", "cosine"])
def test_kernel_projection_of_constant_activations_is_zero(kernel, side):
    """The package fails with an ARPACK error where there are more than 200 places."""
    assert not get_2d_projection_kernel(np.full((1, 3, side, side), 0.1, np.float32), kernel).any()


# -- pictures --------------------------------------------------------------------------------------------------------


def test_legend_and_scaling_equal_the_packages(given, theirs):
    assert image.create_labels_legend(given["concept_scores"], given["names"], 2) == theirs["legend"]
    found = image.scale_accross_batch_and_channels(given["activations"][:, :, :, :5], (9, 14))
    assert found.shape == theirs["scaled"].shape == (2, 6, 14, 9)
    assert np.allclose(found[1], theirs["scaled"][1], atol=1e-5)


def test_labels_by_hand():
    scores = np.array([[0.1, 0.7, 0.2], [0.25, 0.5, 0.25]])
    assert image.create_labels_legend(scores, ["a,b,c,d", "e", "f"]) == ["e:0.70\nf:0.20", "e:0.50\na,b,c:0.25"]
    assert image.create_labels_legend(scores, {0: "a", 1: "e", 2: "f"}, top_k=1) == ["e:0.70", "e:0.50"]


def test_overlay_by_hand():
    """A white picture of four places; the stronger map colours each, by its value."""
    maps = np.array([[[1.0, 0.5, 0.2, 0.0]], [[0.5, 0.8, 0.4, 0.0]]])
    maps.setflags(write=False)  # the package overwrites them
    found = image.show_factorization_on_image(np.ones((1, 4, 3)), maps, [[1, 0, 0], [0, 0.5, 0.25, 1]], 0.2)
    expected = 255 * (0.2 + 0.8 * np.array([[[1, 0, 0], [0, 0.8, 0.4], [0, 0.4, 0.2], [0, 0, 0]]]))
    assert abs(found - expected).max() <= 1
    assert found.dtype == np.uint8


def test_overlay_equals_the_packages(given, theirs):
    """Up to the rounding of hue and saturation to eight bits, there."""
    found = image.show_factorization_on_image(given["picture"] / 255, given["maps"], COLOURS, 0.3)
    assert abs(found.astype(int) - theirs["overlay"]).max() <= 5


def test_overlay_with_legend(given):
    settings = dict(mpl.rcParams)
    height, width = 192, 160
    picture = np.full((height, width, 3), 0.5)
    maps = cv2.resize(given["maps"].transpose(1, 2, 0), (width, height)).transpose(2, 0, 1)
    many = " ".join(["a label that needs more lines than there are"] * 3)
    for label in [many, "Incomprehensibilities:1.00"]:  # the text shrinks for its height, and for its width
        labels = ["tench:0.93\ngreat white shark:0.05", "c:1.00", label]
        both = image.show_factorization_on_image(picture, maps, concept_labels=labels)
        assert np.array_equal(both[:, :width], image.show_factorization_on_image(picture, maps))
        legend = both[:, width:]
        dark = legend.max(axis=2) < 100
        for i, hue in enumerate(mpl.colormaps["gist_rainbow"](np.arange(3) / 3)[:, :3]):
            rows = slice(64 * i + 2, 64 * i + 62)
            assert abs(legend[64 * i + 32, 8] / 255 - hue / hue.max()).max() < 0.01
            assert dark[rows, 15:].any()
        assert not dark[:, -5:].any()  # no text is cut off
        assert not dark[[0, 63, 64, 127, 128, 191]].any()
    assert dict(mpl.rcParams) == settings  # the package changes the user's


def test_overlay_refuses(given):
    picture, maps = given["picture"] / 255, given["maps"]
    for arguments, message in [
        ((picture * 255, maps), "float in"),
        ((picture, maps, None, 1.5), "image_weight"),
        ((picture, maps, COLOURS[:2]), "3 maps"),
        ((picture, maps, None, 0.5, ["one"]), "3 maps"),
    ]:
        with pytest.raises(ValueError, match=message):
            image.show_factorization_on_image(*arguments)


def test_sobel(given, theirs):
    assert np.array_equal(sobel_cam(given["picture"]), theirs["sobel"])
    edge = np.zeros((5, 6, 3), np.uint8)
    edge[:, 3:] = 10
    assert sobel_cam(edge).tolist() == [[0, 0, 20, 20, 0, 0]] * 5  # (1 + 2 + 1) * 10 across, 0 down
    with pytest.raises(ValueError, match="float64"):
        sobel_cam(edge / 255)


# -- deep feature factorization --------------------------------------------------------------------------------------


class Small(nn.Module):
    """A convolution that drops channels in training, average pooling, a linear head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.features(x).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def pictures(given):
    pixels = np.random.default_rng(5).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    pixels = np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in pixels])
    return pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factorization_equals_the_packages(given, theirs):
    kept = given["activations"].copy()
    for found, expected in zip(dff(given["activations"], 3), theirs["dff"], strict=True):
        assert found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-4)
    assert np.array_equal(given["activations"], kept, equal_nan=True)  # where the package writes its zeros


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factorization_recovers_what_was_put_together():
    """Signed activations, made of three concepts that occur here and there."""
    random = np.random.default_rng(0)
    directions, where = random.random((30, 3)), random.random((2, 3, 7, 8)) * (random.random((2, 3, 7, 8)) > 0.5)
    lifted = directions @ where.swapaxes(0, 1).reshape(3, -1)
    activations = (lifted - 5).reshape(30, 2, 7, 8).swapaxes(0, 1)
    concepts, amounts = dff(activations, 3)
    offset = activations.min(axis=(0, 2, 3))
    assert amounts.min() >= 0
    product = np.einsum("cn,bnhw->bchw", concepts - offset[:, None], amounts) + offset[:, None, None]
    assert np.linalg.norm(product - activations) < 0.02 * np.linalg.norm(activations + 5)


def test_deep_feature_factorization(pictures):
    model = Small().train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    _, x = pictures
    factorization = DeepFeatureFactorization(model, model.features, computation_on_concepts=model.fc)
    concepts, maps, logits = factorization(x, n_components=3)
    expected_concepts, amounts = dff(model.features[:2](x).detach().numpy(), 3)  # without dropout
    assert np.allclose(concepts, expected_concepts, atol=1e-5)
    assert isinstance(maps, list)
    for found, amount in zip(maps, amounts, strict=True):
        assert found.dtype == np.float32
        assert np.allclose(found, image.scale_cam_image(amount, (64, 48)), atol=1e-4)
    weight, bias = model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy()
    assert np.allclose(logits, expected_concepts.T @ weight.T + bias, atol=1e-4)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert factorization.activations_and_grads.activations == []
    without = DeepFeatureFactorization(model, model.features)(x, n_components=3)
    assert len(without) == 2
    assert np.array_equal(without[0], concepts)


def test_factorization_head_that_is_no_part_of_the_model(pictures):
    """It runs in eval mode too, and is given back in training."""
    model = Small()
    head = nn.Sequential(nn.Dropout(0.5), model.fc)
    (_, _, found), (_, _, expected) = (
        DeepFeatureFactorization(model, model.features, None, compute)(pictures[1], 2) for compute in (head, model.fc)
    )
    assert np.array_equal(found, expected)
    assert head[0].training


def test_factorization_in_half_precision(pictures):
    _, x = pictures
    half, full = Small().bfloat16(), Small()
    _, (maps, _), logits = DeepFeatureFactorization(half, half.features, None, half.fc)(x.bfloat16(), 2)
    _, (expected, _), exact = DeepFeatureFactorization(full, full.features, None, full.fc)(x, 2)
    assert np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.allclose(logits, exact, atol=0.1)


def test_factorization_lets_errors_through(pictures):
    with pytest.raises(IndexError), DeepFeatureFactorization(Small(), nn.Identity()) as factorization:
        factorization.nothing = [][0]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_factorization_of_one_picture(mode, pictures):
    model = Small()
    picture, x = Image.fromarray(pictures[0][0]).convert(mode), pictures[1][0]
    run = functools.partial(run_dff_on_image, model, model.features, model.fc, picture, x, n_components=2, top_k=1)
    found = run()
    _, (maps,), logits = DeepFeatureFactorization(model, model.features, None, model.fc)(x[None], 2)
    probabilities = torch.from_numpy(logits).softmax(1)
    labels = [f"class {row.argmax()}:{row.max():.2f}" for row in probabilities]
    shown = np.asarray(picture.convert("RGB"))
    overlay = image.show_factorization_on_image(shown / 255, maps, image_weight=0.3, concept_labels=labels)
    assert np.array_equal(found, np.hstack((shown, overlay)))

    model.config = type("Config", (), {"id2label": {k: f"kind {k}" for k in range(4)}})
    assert np.array_equal(run()[:, :128], found[:, :128])
    assert not np.array_equal(run(), found)  # the names in the legend
    with pytest.raises(ValueError, match=r"img_pil is \(48, 64\).* img_tensor \(32, 32\)"):
        run_dff_on_image(model, model.features, model.fc, picture, x[:, :32, :32])


# -- the package of helpers ------------------------------------------------------------------------------------------


def test_helpers_are_imported_on_first_use():
    code = (
        "import sys, pytorch_grad_cam.utils as u; assert 'torch' not in sys.modules; "
        "u.model_targets.ClassifierOutputReST, u.reshape_transforms.vit_reshape_transform; "
        "assert u.deprocess_image is u.image.deprocess_image; "
        "assert u.get_2d_projection is u.svd_on_activations.get_2d_projection; "
        "assert {'model_targets', 'deprocess_image'} <= set(dir(u)); "
        "assert 'matplotlib' not in sys.modules and 'sklearn' not in sys.modules; u.nonsense"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "has no attribute 'nonsense'" in done.stderr.splitlines()[-1], done.stderr
