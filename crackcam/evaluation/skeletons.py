"""Skeletons of connected regions: their length, without spurs, and their branches.

The skeleton is that of Zhang and Suen, A Fast Parallel Algorithm for Thinning Digital Patterns, Communications of the
ACM, 1984. A diagonal step counts as the square root of 2.

A skeleton ends half a width before the region does, so half a width is added at each of its ends. The length of a
straight bar is then exact to about two pixels whatever its width, and its width is as exact as that; a spot, whose
skeleton is a point, gets the side of a square of its area. Twice the mean distance to the border would be one pixel too
much for every odd width.
"""

from __future__ import annotations

import cv2
import numpy as np

Pixel = tuple[int, int]  # row, column


def skeleton_length(region: np.ndarray) -> float:
    """Length in pixels of one connected region, (H, W) bool, along its skeleton, corrected at its ends."""
    line = pruned_skeleton(region)
    right, below = line[:, 1:] & line[:, :-1], line[1:] & line[:-1]
    # A diagonal beside two straight steps round the same corner would count it twice.
    falling = line[1:, 1:] & line[:-1, :-1] & ~line[1:, :-1] & ~line[:-1, 1:]
    rising = line[1:, :-1] & line[:-1, 1:] & ~line[1:, 1:] & ~line[:-1, :-1]
    steps = right.sum() + below.sum() + 2**0.5 * (falling.sum() + rising.sum())
    branches = branch_counts(line)[line]
    ends = (branches == 1).sum() + 2 * (branches == 0).sum()
    if (branches > 2).all():  # only the middle of a fork is left: a spot
        steps, ends = 0, 2
    # length = steps + ends / 2 * width, and width = area / length: a quadratic equation.
    return float(steps + (steps**2 + 2 * ends * region.sum()) ** 0.5) / 2


def pruned_skeleton(region: np.ndarray) -> np.ndarray:
    """Skeleton of one connected region, without spurs: branches no longer than the region is wide at their fork.

    Args:
        region: (H, W) bool.

    Returns:
        (H + 2, W + 2) bool: with a margin of one pixel.
    """
    from skimage.morphology import skeletonize

    padded = np.pad(region, 1)
    line = skeletonize(padded)
    width = 2 * cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    while True:
        counts, spurs = branch_counts(line), []
        for y, x in np.argwhere(counts == 1).tolist():
            branch, fork = trace_branch(counts, (y, x), width.max())
            if fork and len(branch) <= width[fork]:
                spurs += branch
        if not spurs:
            return line
        line[tuple(np.transpose(spurs))] = False


NEIGHBORS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise, from above


def branch_counts(line: np.ndarray) -> np.ndarray:
    """Crossing number of each pixel: the branches that meet there, 1 at an end, 3 or more at a fork; -1 off the line.

    Blocks of 2 x 2 pixels, in the middle of forks, count as 3.
    """
    around = [np.roll(line, step, (0, 1)) for step in NEIGHBORS]
    changes = [after & ~before for before, after in zip(around, around[1:] + around[:1], strict=True)]
    blocks = cv2.morphologyEx(line.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    return np.select([blocks, line], [3, np.sum(changes, axis=0)], -1)


def trace_branch(counts: np.ndarray, tip: Pixel, longest: float) -> tuple[list[Pixel], Pixel | None]:
    """The pixels from a tip up to a fork, and the fork; None where there is none within ``longest`` pixels."""
    y, x = tip
    branch = {tip: None}
    while len(branch) <= longest:
        neighbors = [(y + dy, x + dx) for dy, dx in (*NEIGHBORS[::2], *NEIGHBORS[1::2])]  # straight steps first
        following = next((pixel for pixel in neighbors if counts[pixel] >= 0 and pixel not in branch), None)
        if following is None:
            break
        if counts[following] > 2:
            return list(branch), following
        branch[following] = None
        y, x = following
    return list(branch), None
