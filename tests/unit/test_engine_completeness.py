"""FullGrad: input times gradient and all implicit biases times gradient sum to the logit, whatever layers are made of."""

import numpy as np
import pytest
import torch
import torchvision
from networks import CLASSES, Small, small_images
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.ops import FrozenBatchNorm2d

from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.fullgrad_cam import decompose

pytestmark = pytest.mark.slow


def randomized(model):
    """Every affine parameter and statistic drawn at random, so that no bias is zero by initialisation."""
    generator = torch.Generator().manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.ndim == 1 and value.numel() > 3:
            noise = torch.rand(value.shape, generator=generator)
            value.data.copy_(noise + 0.5 if "var" in name or "weight" in name else 0.4 * noise - 0.2)
    return model.eval()


def gap(model, images, classes):
    """Largest difference between the logits' sum and the sum of all products, relative to the products."""
    products = []
    with torch.no_grad():
        logits = model(images)[range(len(images)), classes].double()
    decompose(model, images, classes, lambda product, _: products.append(product.double()))
    size = sum(float(p.abs().sum()) for p in products)
    assert size > 0
    return abs(float(sum(p.sum() for p in products)) - float(logits.sum())) / size


class Shifted(nn.Module):
    """Constants that are added by hand."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3, -0.4]).view(1, 4, 1, 1))
        self.offset = nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.1]).view(4, 1, 1))

    def forward(self, x):
        return getattr(self, self.shift)(x)

    def normalized(self, x):
        return (x - self.mean) / (0.2 + self.mean.abs())

    def in_place(self, x):
        x = x * 1
        x -= self.mean
        x += 0.5
        return x

    def reversed(self, x):
        return 1 - x

    def alpha(self, x):
        return torch.add(self.offset, x, alpha=2) - torch.sub(0.5 * x, self.offset, alpha=3)

    def clamped(self, x):
        return x.clamp(-0.3, 0.8) + torch.clamp(x, max=0.2)


NORMS = {
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm without affine": lambda: nn.BatchNorm2d(4, affine=False),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "frozen batch norm": lambda: FrozenBatchNorm2d(4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "group norm without affine": lambda: nn.GroupNorm(2, 4, affine=False),
    "group norm with large epsilon": lambda: nn.GroupNorm(2, 4, eps=0.5),
    "layer norm": lambda: nn.LayerNorm([4, 8, 8]),
    "layer norm over channels": lambda: ChannelsLast(nn.LayerNorm(4)),
    "rms norm": lambda: ChannelsLast(nn.RMSNorm(4)),
    "linear over channels": lambda: ChannelsLast(nn.Linear(4, 4)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
    "padded convolution": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "transposed convolution": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1),
    "ReLU6": lambda: nn.Sequential(Scaled(), nn.ReLU6()),
    "ReLU6 in place": lambda: nn.Sequential(Scaled(), nn.ReLU6(inplace=True)),
    "hard tanh": lambda: nn.Hardtanh(-0.2, 0.3),
    "leaky ReLU": lambda: nn.LeakyReLU(0.2),
    "PReLU": lambda: nn.PReLU(),
    **{
        shift: lambda shift=shift: Shifted(shift)
        for shift in ("normalized", "in_place", "reversed", "alpha", "clamped")
    },
}


class Scaled(nn.Module):
    def forward(self, x):
        return 20 * x


class ChannelsLast(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def network(layer, inplace=True):
    torch.manual_seed(1)
    return randomized(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            layer(),
            nn.ReLU(inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
    )


@pytest.mark.parametrize("norm", NORMS)
def test_full_grad_is_complete_for_every_layer(norm):
    """Also under autograd modes of the caller, with frozen parameters, and with a finite map."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    model = network(NORMS[norm])
    assert gap(model, images, CLASSES) < 1e-5
    model.requires_grad_(False)
    with torch.no_grad():
        assert gap(model, images, CLASSES) < 1e-5
    assert FullGrad(model)(images, CLASSES).max() == 1


def test_full_grad_is_complete_for_one_and_three_dimensions():
    for conv, norm, pool, size in (
        (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d, (32,)),
        (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d, (6, 6, 6)),
    ):
        model = nn.Sequential(
            conv(3, 4, 3), norm(4), nn.ReLU(), conv(4, 5, 3), pool(1), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3)
        )
        images = torch.randn(2, 3, *size)
        assert gap(randomized(model), images, [0, 2]) < 1e-5
        assert FullGrad(model)(images, [0, 2]).shape == (2, *size)


TORCHVISION = [
    "resnet18",
    "squeezenet1_1",
    "mobilenet_v2",
    "shufflenet_v2_x0_5",
    "regnet_x_400mf",
    "mnasnet0_5",
    "densenet121",
]
TIMM = {  # families whose batch norm also activates, and others that are piecewise linear
    "densenet121": {"growth_rate": 8, "block_config": (2, 2)},
    "regnetx_002": {},
    "dpn48b": {"act_layer": "relu"},
    "dla46_c": {},
    "inception_v3": {"aux_logits": False},
    "inception_v4": {},
    "resnetv2_18": {},
    "mobilenetv2_035": {},
    "mnasnet_050": {},
    "vovnet39a": {},
    "cspresnet50": {},
    "darknet17": {},
    "repvgg_a0": {},
    "res2net50_14w_8s": {},
    "hrnet_w18_small": {},
    "selecsls42": {},
    "xception41": {},
    "resnet10t": {},
}
SLOW = {
    "inception_v4",
    "inception_v3",
    "hrnet_w18_small",
    "xception41",
    "res2net50_14w_8s",
    "cspresnet50",
    "vovnet39a",
    "selecsls42",
}


def marked(names):
    return [pytest.param(name, marks=[pytest.mark.torture] if name in SLOW else []) for name in names]


@pytest.mark.parametrize("name", TORCHVISION)
def test_full_grad_is_complete_for_torchvision_networks(name):
    torch.manual_seed(0)
    model = randomized(torchvision.models.get_model(name, weights=None, num_classes=8)).double()
    images = torch.randn(1, 3, 64, 64).double()
    assert gap(model, images, [int(model(images).argmax())]) < 1e-4


@pytest.mark.parametrize("name", marked(TIMM))
def test_full_grad_is_complete_for_timm_networks(name):
    import timm

    torch.manual_seed(0)
    model = randomized(timm.create_model(name, num_classes=3, **TIMM[name])).double()
    size = 96 if "inception" in name or "xception" in name else 64
    assert gap(model, torch.randn(1, 3, size, size).double(), [1]) < 1e-4


@pytest.mark.parametrize("kind", ["BatchNormAct2d", "FrozenBatchNormAct2d", "GroupNormAct", "LayerNormAct2d"])
def test_full_grad_of_a_norm_that_also_activates_equals_both_written_plainly(kind):
    from timm import layers

    size = {"num_groups": 2} if kind == "GroupNormAct" else {}

    class Plain(nn.Module):
        """The same without the activation, then the activation."""

        def __init__(self):
            super().__init__()
            self.norm = getattr(layers, kind)(4, apply_act=False, **size)

        def forward(self, x):
            return torch.relu(self.norm(x))

    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    fused, plain = network(lambda: getattr(layers, kind)(4, **size), False), network(Plain, False)
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        theirs.data.copy_(ours)
    for ours, theirs in zip(fused.buffers(), plain.buffers(), strict=True):
        theirs.copy_(ours)
    assert torch.allclose(fused(images), plain(images))
    assert np.allclose(FullGrad(fused)(images, CLASSES), FullGrad(plain)(images, CLASSES), atol=1e-5)
    assert gap(fused, images, CLASSES) < 1e-5


def test_full_grad_with_an_activation_in_a_convolution():
    class Activated(nn.Conv2d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    torch.manual_seed(0)
    fused = nn.Sequential(Activated(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *fused[1:])
    plain[0].load_state_dict(fused[0].state_dict())
    images = small_images()
    assert np.allclose(FullGrad(fused)(images, CLASSES), FullGrad(plain)(images, CLASSES), atol=1e-6)
    assert gap(fused, images, CLASSES) < 1e-5


def test_full_grad_is_complete():
    """Input times gradient plus bias times gradient sums to the logit (proposition 1 of the paper), by hand."""
    model, images = Small().eval(), small_images()
    leaf = images.clone().requires_grad_()
    z1 = model.conv1(leaf)
    z2 = model.bn1(z1)
    z3 = model.conv2(torch.relu(z2))
    logits = model.fc(torch.relu(z3).mean(dim=(2, 3)))[range(4), CLASSES]
    parts = torch.autograd.grad(logits.sum(), [z3, z2, z1, leaf])
    slope = model.bn1.weight / (model.bn1.running_var + model.bn1.eps).sqrt()
    biases = [model.conv2.bias, model.bn1.bias - model.bn1.running_mean * slope, model.conv1.bias]
    expected = [g * b.detach().view(1, -1, 1, 1) for g, b in zip(parts, biases, strict=False)] + [parts[-1] * images]
    products = []
    decompose(model, images, CLASSES, lambda product, _: products.append(product))
    head, *found = products  # the linear layer's bias is first in the backward pass
    assert torch.allclose(head[range(4), CLASSES], model.fc.bias.detach()[CLASSES])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    total = sum(product.flatten(1).sum(dim=1) for product in products)
    assert torch.allclose(total, logits.detach(), atol=1e-4)
