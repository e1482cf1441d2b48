"""Dilated models: a finer grid from the same weights."""

import pytest
import torch
from narrow_resnet import NarrowResNet
from torch import nn
from torchvision.models import ConvNeXt, DenseNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from crackcam.errors import UserError
from crackcam.models import output_stride, registry

pytestmark = pytest.mark.slow


# Of the layers of the large ones, and quick to draw.
SMALL = {
    "small resnet": lambda: NarrowResNet(3),
    "small convnext": lambda: ConvNeXt([CNBlockConfig(8 * 2**i, 16 * 2**i if i < 3 else None, 1) for i in range(4)]),
    "small densenet": lambda: DenseNet(8, (2, 2, 2, 2), 16),
    "small vit": lambda: VisionTransformer(64, 16, 2, 2, 16, 32),
    "small swin": lambda: SwinTransformer([4, 4], 12, [1, 1, 1, 1], [1, 2, 4, 8], [7, 7]),
}


def random_network(arch):
    """With other statistics of batch norm than a fresh model."""
    torch.manual_seed(0)
    model = (SMALL[arch]() if arch in SMALL else registry.create_imagenet_model(arch)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def output_of(model, layer, x):
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        model(x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize(
    ("arch", "size", "layer", "own", "stride", "tolerance"),
    [
        ("small resnet", 96, "layer4", 32, 16, 1e-5),
        ("small resnet", 96, "layer4", 32, 8, 1e-5),
        ("small resnet", 70, "layer4", 32, 4, 1e-5),
        ("squeezenet1_0", 96, "features", 16, 8, 1e-5),  # pooling with ceil_mode, without padding
        ("squeezenet1_0", 111, "features", 16, 4, 1e-5),
        ("googlenet", 104, "inception5b", 32, 8, 1e-5),
        ("alexnet", 96, "features.11", 16, 8, 1e-5),  # a head of fixed size behind adaptive pooling
        ("small densenet", 96, "features", 32, 8, 1e-5),  # average pooling that strides
        ("small convnext", 96, "features", 32, 16, 1e-5),  # grouped convolutions, even kernels
        ("mobilenet_v3_small", 96, "features", 32, 8, 1e-2),  # squeeze-and-excitation averages over more positions
        ("regnet_y_400mf", 96, "trunk_output", 32, 16, 1e-2),
    ],
)
def test_a_finer_grid_contains_the_old_one(arch, size, layer, own, stride, tolerance):
    model = random_network(arch)
    dilated = output_stride.dilate(model, stride, size)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    old, new = output_of(model, layer, x), output_of(dilated, layer, x)
    step = own // stride
    assert new.shape[-1] > (old.shape[-1] - 1) * step
    assert new.std() > 0
    assert (new[..., ::step, ::step] - old).abs().max() <= tolerance * old.abs().max()


def test_the_model_stays_as_it_was():
    model = random_network("squeezenet1_0")
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    before = {name: (str(module), module.training) for name, module in model.named_modules()}
    expected = model(x)
    dilated = output_stride.dilate(model, 8, 96)
    assert {name: (str(module), module.training) for name, module in model.named_modules()} == before
    assert not any(
        module._forward_pre_hooks or module._forward_hooks for module in (*model.modules(), *dilated.modules())
    )
    assert torch.equal(model(x), expected)
    assert {id(tensor) for tensor in dilated.parameters()} == {id(tensor) for tensor in model.parameters()}


def test_its_own_stride_changes_nothing():
    model = random_network("small resnet")
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    assert torch.equal(output_stride.dilate(model, 32, 96)(x), model(x))


def test_reflection_at_the_border():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()
    x = torch.randn(1, 3, 33, 33)
    old, new = (output_of(each, "2", x) for each in (model, output_stride.dilate(model, 2, 33)))
    assert torch.allclose(new[..., ::2, ::2], old, atol=1e-6)


class Same(nn.Conv2d):
    """Pads by what is left over, as TensorFlow does: how much lies to the left depends on stride and dilation."""

    def forward(self, x):
        side, step, gap = x.shape[-1], self.stride[0], self.dilation[0]
        missing = max((-(-side // step) - 1) * step + (self.kernel_size[0] - 1) * gap + 1 - side, 0)
        return super().forward(nn.functional.pad(x, [missing // 2, missing - missing // 2] * 2))


def headed(*layers, channels=4):
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)).eval()


@pytest.mark.parametrize(
    ("make", "size", "stride", "message"),
    [
        (lambda: random_network("small vit"), 64, 8, "accepts 64 px inputs only, so that its output"),
        (lambda: random_network("small swin"), 64, 16, "depends on more than convolutions and pooling; possible: 32"),
        pytest.param(
            lambda: random_network("inception_v3"),
            128,
            16,
            "depends on more than convolutions and pooling; possible: 32",
            marks=pytest.mark.torture,  # 6 s
        ),
        (
            lambda: headed(nn.Conv2d(3, 4, 3, 8, 1), Same(4, 4, 3, 2)),
            64,
            4,
            "stride 4: its layer 1, Same, cannot be dilated; possible: 16",
        ),
        (lambda: headed(nn.Conv2d(3, 4, 3, 8, 1), Same(4, 4, 3, 2)), 128, 8, "possible: 16"),
        (
            lambda: headed(nn.Conv2d(3, 4, 3, 4, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
            64,
            4,
            "its layer 1, AvgPool2d, cannot be dilated; possible: 8",
        ),
        (lambda: headed(nn.Conv2d(3, 4, 3, 8, 1)), 64, 16, "dilation only makes it smaller; possible: 8, 4"),
    ],
)
def test_models_that_cannot_be_dilated(make, size, stride, message):
    with pytest.raises(UserError, match=message):
        output_stride.dilate(make(), stride, size)
