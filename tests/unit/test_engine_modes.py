"""Models whose ``train()`` and ``eval()`` do things: what they do is undone, and done only once."""

import copy

import numpy as np
import pytest
import torch
from networks import CLASSES, Small, finished, grad_cam_maps, method, small_images
from torch import nn

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange


@pytest.fixture
def images():
    return small_images()


class LoRA(nn.Linear):
    """As in loralib: the low-rank weight is merged in eval mode, and taken out in train mode."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.a, self.b = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (self.b @ self.a).detach() * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x):
        extra = 0 if self.merged else x @ self.a.T @ self.b.T
        return super().forward(x) + extra


class Adapted(Small):
    def __init__(self):
        super().__init__()
        self.fc = LoRA(8, 3)


@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "AblationCAM", "Occlusion", "FullGrad"])
@pytest.mark.parametrize("layer_mode", [True, False])
def test_merged_weights_are_taken_out_again(name, layer_mode, images):
    model = Adapted().train()
    model.fc.train(layer_mode)
    before = copy.deepcopy(model.state_dict())
    found = method(name, model, ["relu"])(images, CLASSES)
    assert model.fc.merged is not layer_mode
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == [m is not model.fc or layer_mode for m in model.modules()]
    reference = Adapted()
    reference.load_state_dict(before)
    reference.fc.merged = not layer_mode
    assert np.allclose(found, method(name, reference.eval(), ["relu"])(images, CLASSES), atol=1e-4)


def test_merged_weights_are_taken_out_after_an_error(images):
    model = Adapted().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError):
        GradCAM(model, ["relu"])(images, [lambda output: 1 / 0] * 4)
    assert not model.fc.merged
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(m.training for m in model.modules())


class Averaged(Small):
    """Swaps in averaged weights for evaluation, without asking whether it has done so."""

    def __init__(self):
        super().__init__()
        self.average = {name: 3 * value.detach().clone() for name, value in self.named_parameters()}

    def train(self, mode=True):
        for name, value in self.named_parameters():
            value.data, self.average[name] = self.average[name], value.data
        return super().train(mode)


@pytest.mark.parametrize("training", [True, False])
def test_swapped_weights(training, images):
    """They are swapped once and back, or, in eval mode, not at all."""
    model = Averaged()
    if not training:
        model.eval()
    before = copy.deepcopy(model.state_dict())
    reference = Small().eval()
    reference.load_state_dict(before if not training else {k: model.average.get(k, v) for k, v in before.items()})
    found = GradCAM(model, ["relu"])(images, CLASSES)
    assert np.allclose(found, finished(grad_cam_maps(reference, reference.relu, images, CLASSES), (16, 12)), atol=1e-5)
    assert model.training is training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Frozen(nn.Module):
    """Disregards train() and eval(), or keeps its batch norm in eval mode."""

    def __init__(self, how):
        super().__init__()
        self.bn, self.drop, self.how = nn.BatchNorm2d(3), nn.Dropout(0.5), how

    def train(self, mode=True):
        if self.how == "nothing":
            return self
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x):
        return self.drop(self.bn(x))


@pytest.mark.parametrize("how", ["nothing", "batch norm"])
def test_modules_that_disregard_train(how, images):
    """Flags are those of before; meanwhile nothing is random, and batch norm keeps its statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(Frozen(how), Small())
    model.train()
    modes = [m.training for m in model.modules()]
    buffers = [b.clone() for b in model.buffers()]
    found = GradCAM(model, ["1.relu"])(images, CLASSES)
    assert np.array_equal(found, GradCAM(model, ["1.relu"])(images, CLASSES))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    plain = Small().eval()
    scaled = images / (1 + 1e-5) ** 0.5
    assert np.allclose(found, finished(grad_cam_maps(plain, plain.relu, scaled, CLASSES), (16, 12)), atol=1e-4)


def test_train_replaced_on_an_instance(images):
    """As latent diffusion does with its frozen encoders."""
    model = Small().eval()
    model.bn1.train = lambda mode=True: model.bn1
    model.train()
    assert not model.bn1.training
    GradCAM(model, ["relu"])(images, CLASSES)
    assert [name for name, m in model.named_modules() if not m.training] == ["bn1"]


def test_mixed_modes_in_an_evaluated_model(images):
    """Dropout that stays in train mode (Monte Carlo dropout), below a root in eval mode."""
    model = nn.Sequential(Small(), nn.Dropout(0.5)).eval()
    model[1].train()
    expected = GradCAM(model[0], ["relu"])(images, CLASSES)
    assert np.allclose(GradCAM(model, ["0.relu"])(images, CLASSES), expected, atol=1e-6)
    assert [m.training for m in model] == [False, True]
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "tiny_vit_5m_224"])
def test_caches_of_timm_models_follow_their_parameters(name):
    """LeViT and TinyViT keep attention biases in eval mode and discard them in train()."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).train()
    layer = next(n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d))
    x = torch.randn(1, 3, 224, 224)
    GradCAM(model, [layer])(x, [1])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "attention_biases" in key:
                parameter.normal_(0, 3)
    fresh = timm.create_model(name, num_classes=3)
    fresh.load_state_dict(model.state_dict())
    for m in model.modules():
        m.training = False  # as a caller that explains during training and then only sets flags
    with torch.no_grad():
        assert torch.allclose(model(x), fresh.eval()(x), atol=1e-5)


def test_metrics_restore_modes_in_the_same_way(images):
    model = Adapted().train()
    before = copy.deepcopy(model.state_dict())
    CamMultImageConfidenceChange()(images, torch.rand(4, 16, 12), CLASSES, model)
    assert not model.fc.merged
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
