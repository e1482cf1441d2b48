"""Principal components of activations, against numpy's SVD and the package grad-cam."""

import math

import numpy as np
import pytest
import torch
from package_results import given_values, package_values
from torch import nn

from pytorch_grad_cam import EigenCAM
from pytorch_grad_cam.utils.svd_on_activations import (
    get_2d_projection,
    get_2d_projection_kernel,
    get_2d_projection_with_sign_correction,
    principal_map,
)

pytestmark = pytest.mark.slow


class Fixed(nn.Module):
    """A network whose layer puts out given activations (N, C, W)."""

    def __init__(self, activations):
        super().__init__()
        self.layer = nn.Identity()
        self.register_buffer("activations", activations)

    def forward(self, x):
        return self.layer(self.activations + 0 * x).mean(dim=2)


@pytest.fixture(scope="module")
def given():
    return given_values()


@pytest.fixture(scope="module")
def theirs():
    return package_values()


def test_projections_equal_the_packages(given, theirs):
    kept = given["activations"].copy()
    found = get_2d_projection(given["activations"])
    for one, other in zip(found, theirs["projection"], strict=True):  # whose sign is LAPACK's choice
        assert min(abs(one - other).max(), abs(one + other).max()) < 1e-4
    assert np.allclose(get_2d_projection_with_sign_correction(given["activations"]), theirs["corrected"], atol=1e-4)
    for how, expected in zip([(), ("rbf", 0.2), ("poly",)], theirs["kernel"], strict=True):
        projection = get_2d_projection_kernel(given["activations"], *how)
        assert projection.dtype == np.float32
        assert np.allclose(projection, expected, atol=1e-4)
    assert np.array_equal(given["activations"], kept, equal_nan=True)


def test_sign_correction_turns_towards_the_largest_value():
    """One position far below the others: the sign correction inverts the map, which correlates with the channels' sum."""
    activations = np.ones((1, 2, 2, 3))
    activations[0, :, 1, 2] = -5
    # channels deviate from their mean 0 by 1 (five positions) and -5 (one): sqrt(2) times that along (1, 1)
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
    """The package fails with an ARPACK error where there are more than 200 positions."""
    assert not get_2d_projection_kernel(np.full((1, 3, side, side), 0.1, np.float32), kernel).any()


@pytest.mark.parametrize(("channels", "side"), [(64, 7), (5, 30)])
def test_principal_map_equals_the_svd(channels, side):
    a = np.random.default_rng(0).random((3, channels, side, side), dtype=np.float32)
    found = get_2d_projection(a)
    for one, projected in zip(a.astype(np.float64), found, strict=True):
        positions = one.reshape(channels, -1).T
        centred = positions - positions.mean(axis=0)
        component = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        assert min(abs(component - projected.ravel()).max(), abs(component + projected.ravel()).max()) < 1e-4
        assert np.corrcoef(projected.ravel(), positions.sum(axis=1))[0, 1] >= 0


def test_principal_map_of_rounding_differences_is_zero():
    """Normalisation would turn them into a map of noise."""
    activations = torch.full((2, 5, 6, 6), 0.3)
    activations[0] += 1e-8 * torch.rand(5, 6, 6)
    activations[1, :, 2, 2] += 1e-4
    found = principal_map(activations)
    assert not found[0].any()
    assert found[1].flatten().argmax() == 2 * 6 + 2


def test_weak_channels_do_not_turn_the_sign_round():
    """One strong channel at the left, and many weak ones at the right, whose sum is larger there."""
    left, right = torch.tensor([10.0, 0, 0, 0]), torch.tensor([0, 1.0, 1.0, 1.0])
    activations = torch.cat([left[None], right.repeat(15, 1)])[None]
    component = principal_map(activations)[0]
    assert component[0] < 0 < component[1]
    assert torch.equal(principal_map(activations, by_strength=True)[0], -component)
    assert EigenCAM(Fixed(activations), ["layer"]).maps(torch.zeros(1, 1, 4))[0].argmax() == 0
