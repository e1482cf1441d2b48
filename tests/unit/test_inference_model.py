"""The copy of a model that predicts: the same function, never an old one."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

import crackcam
from crackcam.explain.heatmaps import _evidence
from crackcam.models.inference import InferenceCopies, _folded, folded, images_at_a_time
from crackcam.models.loaded import LoadedModel
from crackcam.types import ModelCard

pytestmark = pytest.mark.slow
SIDE = 64


def trained(model: nn.Module) -> nn.Module:
    """The model with statistics of batch norm as after training: random, and far from 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(layer.bias, 0, 0.2, generator=generator)
    return model.eval()


def noise(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def loaded(model: nn.Module, classes: int = 1000, side: int = SIDE) -> LoadedModel:
    return LoadedModel(model, ModelCard("any", [str(number) for number in range(classes)], side))


def norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


def of_itself(network: LoadedModel, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network.model(network.to_inputs(pixels)).softmax(1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.gain = 1.0

    def forward(self, x):
        return self.gain * self.last(self.norm(self.conv(x)).relu()).mean(dim=(2, 3))


@pytest.fixture
def small() -> LoadedModel:
    torch.manual_seed(0)
    return loaded(trained(Small()), 3)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("mobilenet_v3_small", 0),
        ("efficientnet_b0", 0),
        ("shufflenet_v2_x0_5", 0),
        ("densenet121", 62),  # its other layers normalise what several layers returned
    ],
)
def test_torchvision_models_without_their_batch_norm(name, left):
    network = loaded(trained(torchvision.models.get_model(name)))
    assert norms(network.inference_model) == left
    torch.testing.assert_close(network.probabilities(noise()), of_itself(network, noise()), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "repvgg_a0"])
def test_timm_models_whose_batch_norm_has_an_activation(name):
    network = loaded(trained(timm.create_model(name)))
    network.model.get_classifier().weight.data *= 0.01  # of the random weights some logits are 100,000
    assert norms(network.model) - norms(network.inference_model) >= 44
    torch.testing.assert_close(network.probabilities(noise()), of_itself(network, noise()), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["convnext_tiny", "squeezenet1_1"])
def test_models_without_batch_norm_are_not_copied(name):
    model = torchvision.models.get_model(name).eval()
    assert loaded(model).inference_model is model


def test_the_bundled_network_has_the_same_probabilities_and_evidence():
    network = crackcam.load()
    pixels = noise(1, network.card.image_size)
    assert (norms(network.model), norms(network.inference_model)) == (80, 0)
    with torch.inference_mode():
        expected = network.model.evidence(network.to_inputs(pixels))
        logits = network.model.pool(expected)
    found, found_logits = _evidence(network, pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(found_logits, logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(network.probabilities(pixels), logits.softmax(1), rtol=0, atol=1e-6)


def test_the_model_itself_stays_as_it_is(small):
    before = copy.deepcopy(small.model.state_dict())
    small.probabilities(noise())
    assert small.inference_model is not small.model
    after = small.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert norms(small.model) == 1


def test_other_tensors_are_shared(small):
    made = small.inference_model
    assert made.last.weight is small.model.last.weight
    assert made.conv.weight is not small.model.conv.weight


def train_a_step(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model.train()
    model(torch.randn(4, 3, SIDE, SIDE)).square().sum().backward()
    optimizer.step()
    model.eval()


def write_to_data(model):
    model.conv.weight.data.mul_(-2)


def replace_data(model):
    model.norm.weight.data = torch.full((8,), 3.0)


def replace_layer(model):
    model.norm = nn.BatchNorm2d(8, affine=False).eval()


def set_attribute(model):
    model.gain = 7.5


def load_state(model):
    torch.manual_seed(5)
    model.load_state_dict(trained(Small()).state_dict())


def change_another(model):
    nn.init.constant_(model.last.weight, 0.3)


@pytest.mark.parametrize(
    "change", [train_a_step, write_to_data, replace_data, replace_layer, set_attribute, load_state, change_another]
)
def test_a_model_that_has_changed_predicts_as_it_is_now(small, change):
    first = small.probabilities(noise())
    change(small.model)
    for _ in range(3):  # the model itself, then a new copy, then the same copy
        found = small.probabilities(noise())
        torch.testing.assert_close(found, of_itself(small, noise()), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found, first, atol=1e-3)
    assert small.inference_model is not small.model


def test_a_model_in_training_predicts_by_itself(small):
    assert small.inference_model is not small.model
    small.model.train()
    assert small.inference_model is small.model


def test_hooks_of_a_user_keep_working(small):
    seen = []
    small.probabilities(noise())
    handle = small.model.norm.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    small.probabilities(noise())
    assert seen == [(2, 8, SIDE - 2, SIDE - 2)]
    handle.remove()
    small.probabilities(noise())
    assert len(seen) == 1


class Remembers(Small):
    def forward(self, x):
        self.features = self.norm(self.conv(x))
        return self.last(self.features).mean(dim=(2, 3))


def test_a_model_that_keeps_what_it_computed_keeps_it():
    network = loaded(trained(Remembers()), 3)
    network.probabilities(noise())
    assert network.model.features.shape == (2, 8, SIDE - 2, SIDE - 2)


class UsedTwice(Small):
    def forward(self, x):
        x = self.conv(x)
        return self.last(self.norm(x) + x).mean(dim=(2, 3))


class ConvolvedTwice(Small):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.last(self.norm(self.conv(self.conv(x))).relu()).mean(dim=(2, 3))


class PaddedBehind(Small):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Identity(), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.last(self.norm(x)).square().mean(dim=(2, 3))


class Standardized(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.std())


class OwnConvolution(Small):
    def __init__(self):
        super().__init__()
        self.conv = Standardized(3, 8, 3, bias=False)


class ChangesInPlace(Small):
    def forward(self, x):
        x = self.conv(x)
        x.add_(1)
        return self.last(self.norm(x).relu()).mean(dim=(2, 3))


class Random(Small):
    def forward(self, x):
        return super().forward(x) + torch.rand(1, 3)


@pytest.mark.parametrize("kind", [UsedTwice, ConvolvedTwice, PaddedBehind, OwnConvolution, ChangesInPlace, Random])
def test_what_cannot_be_folded_is_not(kind):
    model = trained(kind())
    assert folded(model, SIDE) is None
    assert loaded(model, 3).inference_model is model


class NormFirst(Small):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Identity(), nn.BatchNorm2d(3, affine=False)
        self.last = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.last(self.norm(x)).square().mean(dim=(2, 3))


def test_batch_norm_before_a_convolution_without_padding():
    network = loaded(trained(NormFirst()), 3)
    assert norms(network.inference_model) == 0
    torch.testing.assert_close(network.probabilities(noise()), of_itself(network, noise()), rtol=1e-4, atol=1e-6)


def test_random_numbers_of_the_caller_stay_his():
    torch.manual_seed(3)
    expected = torch.rand(4)
    model = trained(Random())
    torch.manual_seed(3)
    assert folded(model, SIDE) is None  # it is another function each time
    assert torch.equal(torch.rand(4), expected)


def test_a_copy_is_made_once(small, monkeypatch):
    made = []
    monkeypatch.setattr("crackcam.models.inference._folded", lambda *args: made.append(args) or _folded(*args))
    assert small.inference_model is small.inference_model is small.without_crop().inference_model
    assert len(made) == 1


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_compiled_models_are_left_alone(small):
    scripted = torch.jit.script(small.model)
    assert InferenceCopies().of(scripted, SIDE, folded) is scripted


def test_a_cpu_computes_few_large_images_at_a_time():
    cpu, side = torch.device("cpu"), 448
    sizes = {scale: images_at_a_time(cpu, torch.empty(32, 3, side // scale, side // scale)) for scale in (1, 2, 4)}
    assert sizes == {1: 2, 2: 8, 4: 32}
    assert images_at_a_time(cpu, torch.empty(32, 3, 2 * side, 2 * side)) == 1
    assert images_at_a_time(torch.device("cuda"), torch.empty(32, 3, side, side)) == 32
    assert images_at_a_time(cpu, torch.empty(0, 3, 8, 8)) >= 1


def test_a_batch_in_parts_has_the_probabilities_of_its_images(small, monkeypatch):
    pixels = noise(7)
    expected = torch.cat([small.probabilities(image[None]) for image in pixels])
    monkeypatch.setattr("crackcam.models.inference.CPU_PIXELS", 3 * SIDE**2)
    assert [len(part) for part in small.together(pixels)] == [3, 3, 1]
    torch.testing.assert_close(small.probabilities(pixels), expected)
