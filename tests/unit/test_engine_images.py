"""Preprocessing, overlays, legends and normalisation."""

import cv2
import matplotlib as mpl
import numpy as np
import pytest
import torch
from package_results import COLOURS, given_values, package_values

from pytorch_grad_cam.sobel_cam import sobel_cam
from pytorch_grad_cam.utils import image as image_utils
from pytorch_grad_cam.utils import maps as map_utils

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given():
    return given_values()


@pytest.fixture(scope="module")
def theirs():
    return package_values()


def test_normalize():
    heatmap = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1e-30], [2e-30, 4e-30]]])
    assert map_utils.normalize(heatmap).tolist() == [
        [[0.0, 0.5], [0.25, 1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.25], [0.5, 1.0]],
    ]


def test_resize_equals_opencv():
    import cv2

    heatmap = torch.rand(1, 7, 9)
    expected = cv2.resize(heatmap[0].numpy(), (50, 40))
    assert np.allclose(map_utils.resize(heatmap, (40, 50))[0].numpy(), expected, atol=1e-5)
    assert np.allclose(
        image_utils.scale_cam_image(heatmap.numpy(), (50, 40)),
        map_utils.resize(map_utils.normalize(heatmap), (40, 50)).numpy(),
    )


def test_preprocess_and_deprocess():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    tensor = image_utils.preprocess_image(image / 255, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    assert tensor.shape == (1, 3, 5, 4)
    assert tensor[0, 1, 2, 3].item() == pytest.approx((image[2, 3, 1] / 255 - 0.2) / 0.6, abs=1e-6)
    assert torch.equal(image_utils.preprocess_image(image), image_utils.preprocess_image(np.float32(image) / 255))
    values = np.array([-1.0, 0.0, 1.0])
    assert image_utils.deprocess_image(values).tolist() == [int(255 * (0.5 + 0.1 * v / np.std(values))) for v in values]


def test_show_cam_on_image():
    image = np.full((4, 4, 3), 0.5, np.float32)
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 0] = 1
    over = image_utils.show_cam_on_image(image, heatmap, use_rgb=True)
    assert over.dtype == np.uint8
    assert over.max() == 255
    assert over[0, 0].argmax() == 0  # high values are red
    assert over[3, 3].argmax() == 2  # low values are blue
    assert np.array_equal(image_utils.show_cam_on_image(image, heatmap)[..., ::-1], over)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        image_utils.show_cam_on_image(image * 255, heatmap)
    with pytest.raises(ValueError, match="image_weight"):
        image_utils.show_cam_on_image(image, heatmap, image_weight=2)


def test_legend_and_scaling_equal_the_packages(given, theirs):
    assert image_utils.create_labels_legend(given["concept_scores"], given["names"], 2) == theirs["legend"]
    found = image_utils.scale_accross_batch_and_channels(given["activations"][:, :, :, :5], (9, 14))
    assert found.shape == theirs["scaled"].shape == (2, 6, 14, 9)
    assert np.allclose(found[1], theirs["scaled"][1], atol=1e-5)


def test_labels_by_hand():
    scores = np.array([[0.1, 0.7, 0.2], [0.25, 0.5, 0.25]])
    assert image_utils.create_labels_legend(scores, ["a,b,c,d", "e", "f"]) == ["e:0.70\nf:0.20", "e:0.50\na,b,c:0.25"]
    assert image_utils.create_labels_legend(scores, {0: "a", 1: "e", 2: "f"}, top_k=1) == ["e:0.70", "e:0.50"]


def test_overlay_by_hand():
    """A white image of four pixels; the stronger map colours each, scaled by its value."""
    maps = np.array([[[1.0, 0.5, 0.2, 0.0]], [[0.5, 0.8, 0.4, 0.0]]])
    maps.setflags(write=False)  # the package overwrites them
    found = image_utils.show_factorization_on_image(np.ones((1, 4, 3)), maps, [[1, 0, 0], [0, 0.5, 0.25, 1]], 0.2)
    expected = 255 * (0.2 + 0.8 * np.array([[[1, 0, 0], [0, 0.8, 0.4], [0, 0.4, 0.2], [0, 0, 0]]]))
    assert abs(found - expected).max() <= 1
    assert found.dtype == np.uint8


def test_overlay_equals_the_packages(given, theirs):
    """Up to the package's rounding of hue and saturation to eight bits."""
    found = image_utils.show_factorization_on_image(given["image"] / 255, given["maps"], COLOURS, 0.3)
    assert abs(found.astype(int) - theirs["overlay"]).max() <= 5


def test_overlay_with_legend(given):
    settings = dict(mpl.rcParams)
    height, width = 192, 160
    image = np.full((height, width, 3), 0.5)
    maps = cv2.resize(given["maps"].transpose(1, 2, 0), (width, height)).transpose(2, 0, 1)
    many = " ".join(["a label that needs more lines than available"] * 3)
    for label in [many, "Incomprehensibilities:1.00"]:  # the font shrinks to fit the height, and the width
        labels = ["tench:0.93\ngreat white shark:0.05", "c:1.00", label]
        both = image_utils.show_factorization_on_image(image, maps, concept_labels=labels)
        assert np.array_equal(both[:, :width], image_utils.show_factorization_on_image(image, maps))
        legend = both[:, width:]
        dark = legend.max(axis=2) < 100
        for i, hue in enumerate(mpl.colormaps["gist_rainbow"](np.arange(3) / 3)[:, :3]):
            rows = slice(64 * i + 2, 64 * i + 62)
            assert abs(legend[64 * i + 32, 8] / 255 - hue / hue.max()).max() < 0.01
            assert dark[rows, 15:].any()
        assert not dark[:, -5:].any()  # no text is cut off
        assert not dark[[0, 63, 64, 127, 128, 191]].any()
    assert dict(mpl.rcParams) == settings  # the package changes them


def test_overlay_rejects_invalid_arguments(given):
    image, maps = given["image"] / 255, given["maps"]
    for arguments, message in [
        ((image * 255, maps), "float in"),
        ((image, maps, None, 1.5), "image_weight"),
        ((image, maps, COLOURS[:2]), "3 maps"),
        ((image, maps, None, 0.5, ["one"]), "3 maps"),
    ]:
        with pytest.raises(ValueError, match=message):
            image_utils.show_factorization_on_image(*arguments)


def test_sobel(given, theirs):
    assert np.array_equal(sobel_cam(given["image"]), theirs["sobel"])
    edge = np.zeros((5, 6, 3), np.uint8)
    edge[:, 3:] = 10
    assert sobel_cam(edge).tolist() == [[0, 0, 20, 20, 0, 0]] * 5  # (1 + 2 + 1) * 10 across, 0 down
    with pytest.raises(ValueError, match="float64"):
        sobel_cam(edge / 255)
