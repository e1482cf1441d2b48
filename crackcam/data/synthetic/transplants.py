"""Photographed cracks, taken off the plain surface they were photographed on and put on another one.

On bare concrete a crack is what is much darker than its surroundings and long. Where a photograph shows that clearly,
the ratio of its brightness to that of the surface without the crack (*tone*) can be multiplied onto any other surface,
and the place of the crack is known without anybody having drawn it. Other photographs are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from crackcam.data.synthetic.noise import Rng

DARK, DARKEST = 0.8, 0.62  # of the tone: a crack's pixels are below the first, and some of them below the second
BACKGROUND = 61  # pixels; window of the median that removes the crack
MARGIN = 2  # pixels around the dark ones that belong to the crack's edges
LONG = 0.55  # least extent of a crack, as a fraction of the image's side
WIDEST = 22  # pixels; greatest mean width
CLEAN = 0.25  # dark pixels elsewhere, at most this fraction of those of the crack
MAGNIFICATIONS = (0.3, 1.3)
CONTRASTS = (0.5, 1.6)  # powers of the tone
FEATHER = 6  # pixels over which a transplant fades at its borders
ATTEMPTS = 8  # photographs to look at before giving up


class Transplant(NamedTuple):
    """A crack without its surface.

    Attributes:
        tone: (H, W) float32, brightness relative to the surface; 1 where there is no crack.
        coverage: (H, W) float32 in 0..1, fraction of the pixel that the crack covers.
    """

    tone: np.ndarray
    coverage: np.ndarray


def cut_out(photograph: np.ndarray) -> Transplant | None:
    """Take the crack off a photograph (H, W, 3) uint8 RGB; None where it is not clear what is crack."""
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    ratio = (grey.astype(np.float32) + 4) / (cv2.medianBlur(grey, BACKGROUND) + np.float32(4))
    ratio = cv2.GaussianBlur(ratio, (0, 0), 0.6)
    dark = (ratio < DARK).astype(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    if count < 2:
        return None
    extents = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    areas = stats[1:, cv2.CC_STAT_AREA]
    main = 1 + int(extents.argmax())
    extent, area = int(extents[main - 1]), int(areas[main - 1])
    crack = components == main
    clear = ratio[crack].min() < DARKEST and extent > LONG * len(grey)
    if not clear or area > WIDEST * extent or areas.sum() - area > CLEAN * area:
        return None
    near = cv2.dilate(crack.astype(np.uint8), np.ones((2 * MARGIN + 1,) * 2, np.uint8)).astype(np.float32)
    weight = cv2.GaussianBlur(near, (0, 0), 1.0)
    tone = 1 + weight * (np.clip(ratio, 0.05, 1.15) - 1)
    return Transplant(tone.astype(np.float32), crack.astype(np.float32))


def transplant(rng: Rng, cut: Transplant, side: int) -> Transplant:
    """The crack at another size, turned and moved, on a canvas (side, side)."""
    height, width = cut.tone.shape
    inside = np.pad(np.ones((height - 2, width - 2), np.uint8), 1)
    fade = np.clip(cv2.distanceTransform(inside, cv2.DIST_L2, 5) / FEATHER, 0, 1)
    contrast = rng.uniform(*CONTRASTS)
    scale = float(np.exp(rng.uniform(*np.log(MAGNIFICATIONS))))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    turn = np.array(cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), rng.uniform(0, 360), 1), np.float64)
    turn[:, 2] += rng.uniform(0.25, 0.75, 2) * side - np.array(size) / 2
    mirrored = rng.random() < 0.5

    def place(values: np.ndarray, empty: float) -> np.ndarray:
        resized = cv2.resize(values, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        resized = np.ascontiguousarray(resized[:, ::-1]) if mirrored else resized
        return cv2.warpAffine(resized, turn, (side, side), flags=cv2.INTER_LINEAR, borderValue=empty)

    tone = 1 + fade * (cut.tone**contrast - 1)
    return Transplant(place(tone, 1.0), place(cut.coverage * (fade > 0.5), 0.0))


def photographed_crack(
    rng: Rng, photograph: Callable[[Rng], np.ndarray], tone: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Put a photographed crack on a surface.

    Args:
        rng: random number generator.
        photograph: draws a photograph of a crack, (H, W, 3) uint8 RGB.
        tone: (side, side), relative brightness of the surface.

    Returns:
        The tone with the crack, (side, side) float, and its mask, (side, side) uint8 of 0 and 255; None where no
        photograph showed one clearly.
    """
    for _ in range(ATTEMPTS):
        if cut := cut_out(photograph(rng)):
            moved = transplant(rng, cut, len(tone))
            return tone * moved.tone, np.where(moved.coverage > 0.35, 255, 0).astype(np.uint8)
    return None
