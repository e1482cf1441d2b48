"""What a first call of the engine gets wrong: it means what it says, or the message ends with what to type."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel


class Net(nn.Module):
    def __init__(self, activation=F.relu):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), nn.Conv2d(8, 16, 3, 1, 1)
        self.activation, self.fc = activation, nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.activation(self.b(self.a(x))).mean((2, 3)))


@pytest.fixture
def images():
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", ["a", "b", "a.0"])
def test_one_layer_without_a_list(images, layer):
    net = Net().eval()
    expected = GradCAM(net, [layer])(images, [0, 1])
    assert (GradCAM(net, layer)(images, [0, 1]) == expected).all()
    assert (GradCAM(net, net.get_submodule(layer))(images, [0, 1]) == expected).all()


def test_names_of_a_wrapped_model(images):
    net = Net().eval()
    wrapped = nn.DataParallel(net)
    expected = GradCAM(net, ["b"])(images, [0, 1])
    for name in ("b", "module.b"):
        assert (GradCAM(wrapped, [name])(images, [0, 1]) == expected).all()


def test_an_image_without_a_batch(images):
    with pytest.raises((RuntimeError, IndexError)) as raised:
        GradCAM(Net().eval(), ["b"])(images[0], [0])
    assert "pass inputs[None]" in " ".join(raised.value.__notes__)


@pytest.mark.parametrize(
    "other",
    [lambda x: x.clamp(min=0), lambda x: torch.clamp(x, 0), lambda x: x.clamp_min(0), lambda x: x.clip(min=0.0)],
)
def test_relus_by_another_name_are_guided(images, other):
    plain, clamped = (GuidedBackpropReLUModel(Net(each).eval())(images, [0, 1]) for each in (F.relu, other))
    assert (plain == clamped).all()


@pytest.mark.parametrize("other", [F.relu6, F.hardswish, F.gelu])
def test_activations_that_are_not_guided_are_named(images, other):
    with pytest.warns(UserWarning, match="that of other activations in this network .* is the plain one"):
        GuidedBackpropReLUModel(Net(other).eval())(images, [0, 1])
