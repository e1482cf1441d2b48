"""Arithmetic on maps: (N, *spatial) float32 tensors, on any device."""

import torch
import torch.nn.functional as F

# A map is constant where its range is below its rounding error, relative to its largest magnitude.
ROUNDING = 1e-6
EQUAL_SUM = 1e-5  # the same for sums of many channels that cancel

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # interpolation by number of spatial dimensions


def spatial_dims(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions after batch and channel."""
    return tuple(range(2, tensor.ndim))


def broadcast_over_space(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshape weights (N, C) so that they multiply activations (N, C, *spatial)."""
    return weights.reshape(*weights.shape, *[1] * (like.ndim - 2))


def normalize(maps: torch.Tensor) -> torch.Tensor:
    """Normalise each map to [0, 1] by its own minimum and maximum; a constant map becomes zeros.

    Exact at every scale: a map of values around 1e-12 is as valid as one around 1. NaN and infinite values do not
    become finite.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.maps import normalize
        >>> normalize(torch.tensor([[[1.0, 3.0], [2.0, 5.0]]])).tolist()
        [[[0.0, 0.5], [0.25, 1.0]]]
    """
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    extent = high - low
    varies = ~(extent <= ROUNDING * torch.maximum(low.abs(), high.abs())) | ~extent.isfinite()
    normalized = (flat - low) / torch.where(varies, extent, 1.0)
    return torch.where(varies, normalized, 0.0).reshape(maps.shape)


def resize(maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resize maps (N, *spatial), linearly between pixel centres (as cv2.resize does).

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.maps import resize
        >>> resize(torch.tensor([[[0.0, 1.0]]]), (1, 4)).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    if maps.shape[1:] == torch.Size(size):
        return maps
    return F.interpolate(maps[:, None], size=tuple(size), mode=LINEAR[len(size)], align_corners=False)[:, 0]


def align_sign_with_channel_sum(
    component: torch.Tensor, activations: torch.Tensor, by_strength: bool = False
) -> torch.Tensor:
    """Choose the signs of components (N, *spatial) such that each correlates with the sum of the channels.

    The sign of a principal component is arbitrary. Where the sum is the same at all positions, as after a LayerNorm
    without weights, the sum of absolute values is used.

    Args:
        component: (N, *spatial).
        activations: (N, C, *spatial).
        by_strength: whether a channel counts in the sum by its root mean square: weak channels, of which there are
            many, may turn a component round.
    """
    flat, channels = component.flatten(1), activations.to(component).flatten(2)
    if by_strength:
        channels = channels * channels.square().mean(dim=2, keepdim=True).sqrt()
    total, size = channels.sum(dim=1), channels.abs().sum(dim=1)
    constant = total.std(dim=1, keepdim=True) <= EQUAL_SUM * size.mean(dim=1, keepdim=True)
    total = torch.where(constant, size, total)
    agreement = (flat * (total - total.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    return torch.where(agreement < 0, -flat, flat).reshape(component.shape)
