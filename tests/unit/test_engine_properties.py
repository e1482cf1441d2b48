"""Properties for arbitrary images, sizes, channels and value ranges, tested with hypothesis."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import CLASS_INDEPENDENT, METHODS, QUICK
from torch import nn

import pytorch_grad_cam

pytestmark = pytest.mark.slow

SLOW = ["IntegratedGradients", "Occlusion", "RISE", "SESS", "SmoothGrad"]
# Each example runs every method, so a few examples suffice.
thrifty = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


class Any(nn.Module):
    """One convolution, pooling, one linear layer, of variable width."""

    def __init__(self, channels, classes, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.relu = nn.Conv2d(2, channels, 3, padding=1), nn.ReLU(inplace=True)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean(dim=(2, 3)))


@st.composite
def cases(draw, bad=False, extreme=True):
    """A network, its images and their classes; ``bad``: with a NaN pixel."""
    seed, batch = draw(st.integers(0, 10_000)), draw(st.integers(1, 3))
    height, width = draw(st.integers(6, 14)), draw(st.integers(6, 14))
    network = Any(draw(st.integers(1, 9)), draw(st.integers(2, 4)), seed).eval()
    x = torch.randn(batch, 2, height, width, generator=torch.Generator().manual_seed(seed))
    x = x * (draw(st.sampled_from([1e-6, 1.0, 1e4])) if extreme else 1)
    kind = draw(st.sampled_from(["noise", "constant", "zero", "one pixel"])) if extreme else "noise"
    if kind == "constant":
        x[0] = 0.5
    elif kind == "zero":
        x[0] = 0
    elif kind == "one pixel":
        x[0], x[0, 0, 2, 1] = 0, 1
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(draw(st.sampled_from([1e-3, 1.0, 1.0, 30.0])) if extreme else 1)
        if extreme and draw(st.booleans()):
            network.conv.bias -= 1000  # nothing is active
    targets = [seed % network.fc.out_features] * batch
    if bad:
        x[draw(st.integers(0, batch - 1)), 1, 3, 3] = float("nan")
    return network, x, targets


def make(name, network, layer="relu"):
    few = {"RISE": {"masks": 8}, "SESS": {"num_scales": 1}, "IntegratedGradients": {"steps": 2}}
    return getattr(pytorch_grad_cam, name)(network, [layer], **few.get(name, QUICK.get(name, {})))


@thrifty
@given(cases(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.sampled_from(["conv", "relu"]))
def test_maps_are_finite_and_in_range(case, dtype, layer):
    """For constant, zero, very large and very small activations."""
    network, x, targets = case
    network, x = network.to(dtype), x.to(dtype)
    for name in METHODS:
        heatmap = make(name, network, "relu" if name == "CAM" else layer)(x, targets)
        assert heatmap.shape == (len(x), *x.shape[2:]), name
        assert heatmap.dtype == np.float32, name
        assert np.isfinite(heatmap).all(), name
        # each map spans [0, 1], or is zero
        for one in heatmap:
            assert one.min() == 0, name
            assert one.max() == 0 or abs(one.max() - 1) < 1e-6, name


@thrifty
@given(cases(extreme=False), st.sampled_from(["conv", "relu"]))
def test_a_batch_equals_its_single_images(case, layer):
    """In the maps' own unit, where rounding errors are not amplified by normalisation."""
    network, x, targets = case
    for name in METHODS:
        if name in SLOW or name == "RandomCAM":  # test_engine_calls.py tests them; random maps differ in each call
            continue
        cam = make(name, network, "relu" if name == "CAM" else layer)
        together = cam.maps(x, targets, normalize=False)
        alone = torch.cat([cam.maps(x[i : i + 1], targets[:1], normalize=False) for i in range(len(x))])
        # differences of scores are rounded as the scores are
        scale = float(together.abs().amax()) + float(network(x).detach().abs().max() if name == "AblationCAM" else 0)
        assert (together - alone).abs().max() <= 2e-3 * scale, name


@thrifty
@given(cases(bad=True))
def test_non_finite_inputs_are_errors(case):
    network, x, targets = case
    for name in METHODS:
        with pytest.raises(ValueError, match="not finite"):
            make(name, network)(x, targets)


@thrifty
@given(cases(), st.integers(0, 5))
def test_wrong_targets_are_an_error(case, count):
    network, x, _ = case
    if count == len(x):
        count += 1
    for name in METHODS:
        if name not in CLASS_INDEPENDENT:
            with pytest.raises(ValueError, match=f"{count} targets for {len(x)} images"):
                make(name, network)(x, [0] * count)
