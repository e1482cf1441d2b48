"""Check that the positions of a layer's output are in the order of the image.

The model runs on two images of noise, A and B, and on images joined from their halves: A on the left of B, B on the left
of A, A above B, B above A. In a grid that is in image order, positions on the left respond to the first of these more
like to A, and those on the right more like to B, line by line, however far information spreads in between.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

COUNT = 6  # images
CELLS = (1, 8, 32)  # pixels: noise of several scales, of which some reaches every layer
CORRELATION = 0.4  # of preferences with sides: grids of networks with random weights have more, permuted ones about 0
SPREAD = 0.1  # of preferences from -1 to 1: with less, positions respond to both halves of the image alike
NOISE = 1e-3  # of preferences, from rounding


def probe_images(size: int) -> torch.Tensor:
    """(COUNT, 3, size, size) float32: A, B, A left of B, B left of A, A above B, B above A."""
    draw = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 3, max(2, size // cell), max(2, size // cell), generator=draw) for cell in CELLS]
    both = torch.stack([F.interpolate(each, (size, size)) for each in noise]).mean(dim=0)
    half = size // 2
    beside = torch.cat([both[..., :half], both.flip(0)[..., half:]], dim=3)
    above = torch.cat([both[:, :, :half], both.flip(0)[:, :, half:]], dim=2)
    return torch.cat([both, beside, above])


def in_image_order(grids: torch.Tensor) -> bool | None:
    """Whether the positions of a layer's output are in the order of the image.

    Args:
        grids: (COUNT, C, H, W) output for :func:`probe_images`, H and W > 1.

    Returns:
        None where that cannot be told: all positions respond to both halves of the image alike.
    """
    both, beside, above = grids.detach().float().split(2)
    columns, rows = _preference(beside, both), _preference(above, both).T
    if _ordered(columns) and _ordered(rows):
        return True
    spread = min(float(columns.abs().mean()), float(rows.abs().mean()))
    return False if spread >= SPREAD else None


def _preference(joined: torch.Tensor, both: torch.Tensor) -> torch.Tensor:
    """Of each position (H, W): from 1, it responds as to the first image of each joined pair, to -1, as to the second.

    The mean of both ways to join two images: a position that prefers A whatever is joined has 0.
    """
    to_first, to_second = ((joined - each).abs().mean(dim=1) for each in (both, both.flip(0)))
    return ((to_second - to_first) / (to_first + to_second)).nan_to_num().mean(dim=0)


def _ordered(preference: torch.Tensor) -> bool:
    """Whether positions on the left (H, W) prefer the first image, and positions on the right the second.

    A grid that is shifted by one position shows it at the border; columns at the seam see both images.
    """
    half = preference.shape[1] // 2
    own = torch.stack([preference[:, :half], -preference[:, -half:].flip(1)])  # from the border to the seam
    deviation = max(float(own.square().mean().sqrt()), NOISE)
    outer = own.mean(dim=1)[:, : max(1, half - 1)]
    return float(own.mean()) > CORRELATION * deviation and bool((outer > 0).all())
