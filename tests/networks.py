"""Helpers for tests of the engine: small networks, their images, and all methods with settings that make them fast."""

import torch
from torch import nn

import pytorch_grad_cam
from pytorch_grad_cam import BaseCAM

CLASSES = [0, 1, 2, 1]
QUICK = {
    "IntegratedGradients": {"steps": 8},
    "Occlusion": {"window": 4, "stride": 3},
    "RISE": {"masks": 64},
    "SESS": {"num_scales": 2},
    "SmoothGrad": {"samples": 4},
    "SmoothGradCAMPlusPlus": {"samples": 3},
}


def all_methods():
    """Names of all public classes that compute heatmaps."""
    for name in pytorch_grad_cam.__all__:
        found = getattr(pytorch_grad_cam, name)
        if isinstance(found, type) and issubclass(found, BaseCAM) and found is not BaseCAM:
            yield name


METHODS = list(all_methods())
CLASS_INDEPENDENT = ["EigenCAM", "FEM", "KPCA_CAM", "RandomCAM"]


def method(name, model, layers, **others):
    return getattr(pytorch_grad_cam, name)(model, layers, **QUICK.get(name, {}), **others)


class Small(nn.Module):
    """Two convolutions with batch norm, in-place ReLU, average pooling, a linear head: 3 classes."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.relu = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 3)
        self.bn1.running_mean.normal_(0, 0.3)
        self.bn1.running_var.uniform_(0.5, 2)
        nn.init.normal_(self.bn1.weight)
        nn.init.normal_(self.bn1.bias)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.relu(self.conv2(x)).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """A minimal transformer: class token, LayerNorm (the target layer), attention, linear head on the class token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.token = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), 1, 8), self.embed(x).flatten(2).transpose(1, 2)], dim=1)
        tokens = self.norm(tokens)
        return self.head((tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])[:, 0])


def small_images():
    return torch.randn(4, 3, 16, 12, generator=torch.Generator().manual_seed(1))


small_pictures = small_images  # the name in tests/test_calibrating.py


def activations_and_gradients(model, layer, x, classes):
    """Output of a layer and the gradient with respect to it, from plain autograd: an independent reference."""
    kept = []
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o) or o.clone())
    outputs = model(x)
    handle.remove()
    (activations,) = kept
    score = outputs[torch.arange(len(x)), torch.tensor(classes)].sum()
    (gradients,) = torch.autograd.grad(score, activations)
    return activations.detach(), gradients


def normalized(heatmaps):
    """ReLU, then each map (N, H, W) min-max normalised to [0, 1]."""
    heatmaps = heatmaps.clamp(min=0)
    low, high = heatmaps.amin(dim=(1, 2), keepdim=True), heatmaps.amax(dim=(1, 2), keepdim=True)
    return (heatmaps - low) / (high - low)


def resized(heatmaps, size):
    """Bilinear resizing of (N, h, w) to (N, *size)."""
    return nn.functional.interpolate(heatmaps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def finished(layer_maps, size):
    """The last steps of every method: ReLU, min-max, resizing, min-max; (N, h, w) to a numpy array (N, *size)."""
    return normalized(resized(normalized(layer_maps), size)).detach().numpy()


def grad_cam_maps(model, layer, x, classes):
    """Signed Grad-CAM at the layer's resolution, from plain autograd: (N, h, w)."""
    a, g = activations_and_gradients(model, layer, x, classes)
    return (g.mean(dim=(2, 3), keepdim=True) * a).sum(1)
