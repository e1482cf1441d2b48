"""Deep Feature Factorization."""

import functools

import cv2
import numpy as np
import pytest
import torch
from package_results import given_values, package_values
from PIL import Image
from torch import nn

from pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
    dff,
    run_dff_on_image,
)
from pytorch_grad_cam.utils import image as image_utils

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given():
    return given_values()


@pytest.fixture(scope="module")
def theirs():
    return package_values()


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
def images(given):
    pixels = np.random.default_rng(5).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    pixels = np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in pixels])
    return pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factorization_equals_the_packages(given, theirs):
    kept = given["activations"].copy()
    for found, expected in zip(dff(given["activations"], 3), theirs["dff"], strict=True):
        assert found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-4)
    assert np.array_equal(given["activations"], kept, equal_nan=True)  # the package overwrites NaN


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factorization_recovers_a_synthetic_mixture():
    """Signed activations that are a mixture of three concepts."""
    random = np.random.default_rng(0)
    directions, where = random.random((30, 3)), random.random((2, 3, 7, 8)) * (random.random((2, 3, 7, 8)) > 0.5)
    lifted = directions @ where.swapaxes(0, 1).reshape(3, -1)
    activations = (lifted - 5).reshape(30, 2, 7, 8).swapaxes(0, 1)
    concepts, amounts = dff(activations, 3)
    offset = activations.min(axis=(0, 2, 3))
    assert amounts.min() >= 0
    product = np.einsum("cn,bnhw->bchw", concepts - offset[:, None], amounts) + offset[:, None, None]
    assert np.linalg.norm(product - activations) < 0.02 * np.linalg.norm(activations + 5)


def test_deep_feature_factorization(images):
    model = Small().train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    _, x = images
    factorization = DeepFeatureFactorization(model, model.features, computation_on_concepts=model.fc)
    concepts, maps, logits = factorization(x, n_components=3)
    expected_concepts, amounts = dff(model.features[:2](x).detach().numpy(), 3)  # without dropout
    assert np.allclose(concepts, expected_concepts, atol=1e-5)
    assert isinstance(maps, list)
    for found, amount in zip(maps, amounts, strict=True):
        assert found.dtype == np.float32
        assert np.allclose(found, image_utils.scale_cam_image(amount, (64, 48)), atol=1e-4)
    weight, bias = model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy()
    assert np.allclose(logits, expected_concepts.T @ weight.T + bias, atol=1e-4)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert factorization.activations_and_grads.activations == []
    without = DeepFeatureFactorization(model, model.features)(x, n_components=3)
    assert len(without) == 2
    assert np.array_equal(without[0], concepts)


def test_factorization_with_a_head_outside_the_model(images):
    """It also runs in eval mode, and its training mode is restored."""
    model = Small()
    head = nn.Sequential(nn.Dropout(0.5), model.fc)
    (_, _, found), (_, _, expected) = (
        DeepFeatureFactorization(model, model.features, None, compute)(images[1], 2) for compute in (head, model.fc)
    )
    assert np.array_equal(found, expected)
    assert head[0].training


def test_factorization_in_half_precision(images):
    _, x = images
    half, full = Small().bfloat16(), Small()
    _, (maps, _), logits = DeepFeatureFactorization(half, half.features, None, half.fc)(x.bfloat16(), 2)
    _, (expected, _), exact = DeepFeatureFactorization(full, full.features, None, full.fc)(x, 2)
    assert np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.allclose(logits, exact, atol=0.1)


def test_factorization_propagates_errors(images):
    with pytest.raises(IndexError), DeepFeatureFactorization(Small(), nn.Identity()) as factorization:
        factorization.nothing = [][0]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_factorization_of_one_image(mode, images):
    model = Small()
    image, x = Image.fromarray(images[0][0]).convert(mode), images[1][0]
    run = functools.partial(run_dff_on_image, model, model.features, model.fc, image, x, n_components=2, top_k=1)
    found = run()
    _, (maps,), logits = DeepFeatureFactorization(model, model.features, None, model.fc)(x[None], 2)
    probabilities = torch.from_numpy(logits).softmax(1)
    labels = [f"class {row.argmax()}:{row.max():.2f}" for row in probabilities]
    shown = np.asarray(image.convert("RGB"))
    overlay = image_utils.show_factorization_on_image(shown / 255, maps, image_weight=0.3, concept_labels=labels)
    assert np.array_equal(found, np.hstack((shown, overlay)))

    model.config = type("Config", (), {"id2label": {k: f"kind {k}" for k in range(4)}})
    assert np.array_equal(run()[:, :128], found[:, :128])
    assert not np.array_equal(run(), found)  # the names in the legend
    with pytest.raises(ValueError, match=r"img_pil is \(48, 64\).* img_tensor \(32, 32\)"):
        run_dff_on_image(model, model.features, model.fc, image, x[:, :32, :32])
