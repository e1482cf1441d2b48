"""Arithmetic on heat maps, on whatever device they are: (N, *spatial) float32 tensors."""

import torch
import torch.nn.functional as F

# A map whose range is smaller than its own rounding error is constant, whatever its scale.
ROUNDING = 1e-6
EQUAL_SUM = 1e-5  # likewise, for sums of many channels that cancel


def spatial_dims(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions after batch and channel."""
    return tuple(range(2, tensor.ndim))


def broadcast_over_space(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Weights (N, C), shaped to multiply activations (N, C, *spatial)."""
    return weights.reshape(*weights.shape, *[1] * (like.ndim - 2))


def normalize(maps: torch.Tensor) -> torch.Tensor:
    """Each map stretched to [0, 1] by its own minimum and maximum; a constant map becomes zeros.

    Exact at every scale: a map of values around 1e-12 is as valid as one around 1. What is not finite does not become
    so.
    """
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    extent = high - low
    varies = ~(extent <= ROUNDING * torch.maximum(low.abs(), high.abs())) | ~extent.isfinite()
    stretched = (flat - low) / torch.where(varies, extent, 1.0)
    return torch.where(varies, stretched, 0.0).reshape(maps.shape)


def resize(maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Maps (N, *spatial) at another spatial size, linear between pixel centres (as cv2.resize does)."""
    if maps.shape[1:] == torch.Size(size):
        return maps
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(maps[:, None], size=tuple(size), mode=mode, align_corners=False)[:, 0]


def align_sign_with_channel_sum(component: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Components (N, *spatial), each turned so that it grows with the sum of its channels (N, C, *spatial).

    A principal component has no sign of its own. Where the sum is the same at all places, as after a LayerNorm without
    weights, the sum of absolute values takes its part.
    """
    flat, channels = component.flatten(1), activations.to(component).flatten(2)
    total, size = channels.sum(dim=1), channels.abs().sum(dim=1)
    constant = total.std(dim=1, keepdim=True) <= EQUAL_SUM * size.mean(dim=1, keepdim=True)
    total = torch.where(constant, size, total)
    agreement = (flat * (total - total.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    return torch.where(agreement < 0, -flat, flat).reshape(component.shape)
