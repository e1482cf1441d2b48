"""Layer outputs that are no images, brought into the shape (N, C, H, W): for ``reshape_transform=``.

    cam = GradCAM(model, [model.blocks[-1].norm1], reshape_transform=vit_reshape_transform)

A grid of another size than the default is found from the number of tokens, if it has the proportions of
``height`` : ``width``, which are square by default. The number alone cannot tell a 16 x 9 grid from a 12 x 12
one: for images that are not square, pass the grid, with functools.partial or a lambda.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

# Tokens before those of the image: none; the class; class and distillation (DeiT); class and four registers (DINOv2).
VIT_PREFIXES = (0, 1, 2, 5)


def fasterrcnn_reshape_transform(x: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Absolute values of all levels of a feature pyramid, at the size of the coarsest, one after the other.

    Args:
        x: (N, C, h, w) of each level, as torchvision's detection backbones return them.

    Returns:
        (N, levels * C, H, W), H and W those of the coarsest level.
    """
    return pyramid_reshape_transform(x, cells=1)


def pyramid_reshape_transform(x: torch.Tensor | Mapping[str, torch.Tensor], cells: int = 5) -> torch.Tensor:
    """The same for any detector, whose coarsest levels may be a single place.

    For Faster R-CNN, and others whose coarsest level has enough places, equal to :func:`fasterrcnn_reshape_transform`.

    Args:
        x: (N, C, h, w) of each level, of whatever number of channels; or one (N, C, H, W) tensor, which stays.
        cells: places that the shorter side of the result has at least; if no level has so many, it is the finest one.

    Returns:
        (N, channels of all levels, H, W), H and W those of the coarsest level that is fine enough.
    """
    if isinstance(x, torch.Tensor):
        return x
    sizes = sorted((level.shape[-2:] for level in x.values()), key=math.prod)
    size = next((size for size in sizes if min(size) >= cells), sizes[-1])
    return torch.cat([F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], dim=1)


def swinT_reshape_transform(tensor: torch.Tensor, height: int = 7, width: int = 7) -> torch.Tensor:  # noqa: N802
    """Channels first.

    Args:
        tensor: (N, height * width, C) tokens, or (N, H, W, C) as torchvision and newer versions of timm have it.
        height: rows of the grid of tokens; of no effect on (N, H, W, C).
        width: its columns.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the number of tokens fits no grid of these proportions.
    """
    if tensor.ndim == 4:
        return tensor.permute(0, 3, 1, 2)
    return _channels_first(tensor, height, width, usual_prefix=0, prefixes=[0])


def vit_reshape_transform(tensor: torch.Tensor, height: int = 14, width: int = 14) -> torch.Tensor:
    """Tokens on their grid, channels first, without the class token and others that belong to no place.

    Args:
        tensor: (N, 1 + height * width, C) tokens.
        height: rows of the grid of tokens.
        width: its columns.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the number of tokens fits no grid of these proportions, or several.
    """
    return _channels_first(tensor, height, width, usual_prefix=1, prefixes=VIT_PREFIXES)


def _channels_first(
    tensor: torch.Tensor, height: int, width: int, usual_prefix: int, prefixes: Sequence[int]
) -> torch.Tensor:
    if tensor.ndim != 3:
        raise ValueError(f"expected tokens (N, tokens, C), got a tensor of shape {tuple(tensor.shape)}")
    tokens = tensor.shape[1]
    grids = {usual_prefix: (height, width)}
    if tokens != usual_prefix + height * width:
        grids = {prefix: grid for prefix in prefixes if (grid := _enlarged(tokens - prefix, height, width))}
    if len(grids) != 1:
        raise ValueError(
            f"{tokens} tokens do not tell their grid: pass height and width, with height * width + {usual_prefix} == "
            f"{tokens} (got height={height}, width={width}); or cut other leading tokens off before"
        )
    ((prefix, grid),) = grids.items()
    return tensor[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)


def _enlarged(places: int, height: int, width: int) -> tuple[int, int] | None:
    """The grid of that many places in the proportions height : width, if there is one."""
    common = math.gcd(height, width)
    rows, columns = height // common, width // common
    factor = math.isqrt(max(places, 0) // (rows * columns))
    return (rows * factor, columns * factor) if 0 < factor * factor * rows * columns == places else None
