"""Functions for ``reshape_transform=``: bring tokens and feature pyramids into the shape (N, C, H, W).

    cam = GradCAM(model, [model.blocks[-1].norm1], reshape_transform=vit_reshape_transform)

A grid of another size than the default is inferred from the number of tokens if it has the aspect ratio
``height`` : ``width``, which is square by default. The number alone cannot distinguish a 16 x 9 grid from a 12 x 12
one: for images that are not square, pass the grid, with functools.partial or a lambda.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

# Prefix tokens: none; the class; class and distillation (DeiT); class and four registers (DINOv2).
VIT_PREFIXES = (0, 1, 2, 5)


def fasterrcnn_reshape_transform(x: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Resize the absolute values of all levels of a feature pyramid to the coarsest one, and concatenate them.

    Args:
        x: (N, C, h, w) of each level, as torchvision's detection backbones return them.

    Returns:
        (N, levels * C, H, W), H and W those of the coarsest level.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform
        >>> fasterrcnn_reshape_transform({"0": torch.rand(1, 8, 16, 16), "pool": torch.rand(1, 8, 8, 8)}).shape
        torch.Size([1, 16, 8, 8])
    """
    return pyramid_reshape_transform(x, cells=1)


def pyramid_reshape_transform(x: torch.Tensor | Mapping[str, torch.Tensor], cells: int = 5) -> torch.Tensor:
    """The same for any detector, whose coarsest levels may be a single cell.

    Equal to :func:`fasterrcnn_reshape_transform` where the coarsest level has enough cells, as in Faster R-CNN.

    Args:
        x: (N, C, h, w) of each level, with any number of channels; or one (N, C, H, W) tensor, which is returned
            unchanged.
        cells: minimum number of cells along the shorter side of the result; if no level has as many, the finest level
            is used.

    Returns:
        (N, channels of all levels, H, W), H and W those of the coarsest level with enough cells.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.reshape_transforms import pyramid_reshape_transform
        >>> pyramid_reshape_transform({"0": torch.rand(1, 8, 16, 16), "1": torch.rand(1, 4, 1, 1)}).shape
        torch.Size([1, 12, 16, 16])
    """
    if isinstance(x, torch.Tensor):
        return x
    sizes = sorted((level.shape[-2:] for level in x.values()), key=math.prod)
    size = next((size for size in sizes if min(size) >= cells), sizes[-1])
    return torch.cat([F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], dim=1)


def swinT_reshape_transform(tensor: torch.Tensor, height: int = 7, width: int = 7) -> torch.Tensor:  # noqa: N802
    """Reshape the tokens of a Swin transformer to (N, C, H, W).

    Args:
        tensor: (N, height * width, C) tokens, or (N, H, W, C) as in torchvision and newer versions of timm.
        height: rows of the grid of tokens; ignored for (N, H, W, C).
        width: columns of the grid.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the number of tokens fits no grid of this aspect ratio.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform
        >>> swinT_reshape_transform(torch.rand(2, 49, 8)).shape
        torch.Size([2, 8, 7, 7])
    """
    if tensor.ndim == 4:
        return tensor.permute(0, 3, 1, 2)
    return _channels_first(tensor, height, width, usual_prefix=0, prefixes=[0])


def vit_reshape_transform(tensor: torch.Tensor, height: int = 14, width: int = 14) -> torch.Tensor:
    """Reshape the patch tokens of a vision transformer to (N, C, H, W), without class and other prefix tokens.

    Args:
        tensor: (N, 1 + height * width, C) tokens.
        height: rows of the grid of tokens.
        width: columns of the grid.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the number of tokens fits no grid of this aspect ratio, or several.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
        >>> vit_reshape_transform(torch.rand(2, 1 + 16 * 16, 8)).shape
        torch.Size([2, 8, 16, 16])
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
        grids = {prefix: grid for prefix in prefixes if (grid := _grid_of(tokens - prefix, height, width))}
    if len(grids) != 1:
        raise ValueError(
            f"{tokens} tokens do not determine a grid: pass height and width, with height * width + {usual_prefix} == "
            f"{tokens} (got height={height}, width={width}); or remove other prefix tokens first"
        )
    ((prefix, grid),) = grids.items()
    return tensor[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)


def _grid_of(cells: int, height: int, width: int) -> tuple[int, int] | None:
    """Grid with that number of cells and the aspect ratio height : width, or None."""
    common = math.gcd(height, width)
    rows, columns = height // common, width // common
    factor = math.isqrt(max(cells, 0) // (rows * columns))
    return (rows * factor, columns * factor) if 0 < factor * factor * rows * columns == cells else None
