"""Check that the positions of a layer's output are in the order of the image.

The model runs on four images: noise, with a quarter that is another noise in one corner after another. Whatever a layer
gathers from the whole image is the same for all four, so that in a grid in image order each position responds most to
the change of its own quarter, line by line, however far information spreads in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

COUNT = 4  # images
DRAWS = 4  # of the noise, where one does not tell
PLACES = 56  # along a side that are looked at; early layers of large images have many more, as orderly as these
TYPICAL_SIZE = 224  # pixels; in smaller images few positions are left, and each of them sees everything
CELLS = (1, 8, 32)  # pixels: noise of several scales, of which some reaches every layer
CORRELATION = 0.4  # of preferences with sides: grids of networks with random weights have more, permuted ones about 0
SPREAD = 0.1  # of preferences, about -1 to 1: with less, positions respond to both halves of the image alike
NOISE = 1e-3  # of preferences, from rounding
REPRODUCED = 0.5  # correlation of the preferences in two halves of the draws: with less, they are chance


def probe_images(size: int, seed: int = 0) -> torch.Tensor:
    """(COUNT, 3, size, size) float32: changed at the upper left, upper right, lower left, lower right."""
    draw, half = torch.Generator().manual_seed(seed), size // 2
    side = size - half
    noise = [torch.randn(2, 3, max(2, side // cell), max(2, side // cell), generator=draw) for cell in CELLS]
    # the same in all quarters: the mean over an image does not tell which was changed
    change, images = torch.stack([F.interpolate(each, (side, side)) for each in noise]).mean(dim=0).repeat(1, 1, 2, 2)
    images = images[:, :size, :size].repeat(COUNT, 1, 1, 1)
    first, last = slice(half), slice(half, size)
    for image, (rows, columns) in zip(
        images, [(first, first), (first, last), (last, first), (last, last)], strict=True
    ):
        image[:, rows, columns] = change[:, rows, columns]
    return images


def responses(grids: torch.Tensor) -> torch.Tensor:
    """How much each position responds to the change of each quarter.

    Args:
        grids: (COUNT, C, H, W) output for :func:`probe_images`, H and W > 1.

    Returns:
        (COUNT, H, W) float32, relative to all changes at that position; of large grids, of every second place or fewer.
    """
    step = max(1, max(grids.shape[2:]) // PLACES)
    values = grids.detach()[:, :, ::step, ::step].float()
    # In few passes: early layers have millions of values. Compared with the mean of all, as with that of the others.
    factor = COUNT / (COUNT - 1) / values.shape[1]
    changes = factor * (values - values.mean(dim=0)).abs_().sum(dim=1)
    rounding = 10 * torch.finfo(grids.dtype).eps * values.abs().mean(dim=(0, 1))
    return changes / (changes.sum(dim=0) + rounding + 1e-30)


def in_image_order(draws: Sequence[torch.Tensor]) -> bool | None:
    """Whether the positions of a layer's output are in the order of the image.

    Args:
        draws: (COUNT, H, W) :func:`responses`, to noise of one seed each.

    Returns:
        None where that cannot be told: all positions respond to all quarters alike, or as chance has it.
    """
    columns, rows = _preferences(draws)
    spread = min(float(columns.abs().mean()), float(rows.abs().mean()))
    if _ordered(columns) and _ordered(rows.T):
        return True if len(draws) == 1 or spread >= SPREAD else None  # what one draw did not show must be plain
    halves = torch.stack([torch.cat(_preferences(draws[start::2])).flatten() for start in range(min(2, len(draws)))])
    chance = len(draws) > 1 and float(torch.corrcoef(halves)[0, 1]) < REPRODUCED
    return None if chance or spread < SPREAD else False


def _preferences(draws: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each position for the left (H, W), 1, or the right, -1, and for the upper or the lower half."""
    upper_left, upper_right, lower_left, lower_right = 3 * torch.stack([*draws]).mean(dim=0)
    columns = upper_left + lower_left - upper_right - lower_right
    rows = upper_left + upper_right - lower_left - lower_right
    # One change may be stronger than another everywhere: that tells nothing of positions.
    return columns - columns.mean(), rows - rows.mean()


def _ordered(preference: torch.Tensor) -> bool:
    """Whether positions on the left (H, W) respond more to changes on the left (1), those on the right not (-1).

    A grid that is shifted by one position shows it at the border; columns at the seam see both halves.
    """
    half = preference.shape[1] // 2
    own = torch.stack([preference[:, :half], -preference[:, -half:].flip(1)])  # from the border to the seam
    deviation = max(float(own.square().mean().sqrt()), NOISE)
    outer = own.mean(dim=1)[:, : max(1, half - 1)]
    return float(own.mean()) > CORRELATION * deviation and bool((outer > 0).all())
