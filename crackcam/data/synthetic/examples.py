"""Training images with synthetic cracks: they teach a network to find cracks other than those of its training data.

A network trained on one set of photographs knows their scale, their light and their wide cracks, and misses most
others. Synthetic examples are surfaces of crack-free training images at other scales, rougher, alone or as a mosaic,
with distractors on them (joints, stains, shadows, masonry, mouldings); on some of them there are synthetic cracks, thin
ones too, or tiles of the mosaic are photographs of cracks; then another camera. The place of a synthetic crack is known
exactly, and so is its absence on a surface, which the multiscale head (:mod:`crackcam.models.multiscale`) learns from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from crackcam.data.synthetic.camera import randomize_camera
from crackcam.data.synthetic.cracks import CrackLimits, fractal_crack, random_walk_crack
from crackcam.data.synthetic.distractors import ON_WALLS, add_distractors
from crackcam.data.synthetic.noise import SIDE, Rng
from crackcam.data.synthetic.sample import CRACK_FREE, CRACKED
from crackcam.data.synthetic.surfaces import random_orientation, random_scale, relief

UNKNOWN = 255  # mask value: there may be a crack or not
COVERED = 254  # mask value: a crack covers all of the pixel
CRACKED_FRACTION = 0.55  # of the examples, where one fills the canvas
CRACKS = CrackLimits(narrowest=1.0, widest=10.0, faintest=0.15)
SECOND_CRACK = 0.25  # probability of two cracks
TILES_PER_SIDE = (1, 2, 3)  # of a mosaic
TILE_PROBABILITIES = (0.55, 0.3, 0.15)  # of those numbers
PHOTOGRAPHED = 0.35  # fraction of cracked examples whose cracks are photographed
DISTRACTOR_PROBABILITY = 0.12  # of each kind
ROUGH = 0.35  # fraction of surfaces made rougher
MIN_CRACK_PIXELS = 12  # an example with fewer of them is labelled crack-free

ImageSource = Callable[[Rng, int], np.ndarray]  # a training image of a class index, (SIDE, SIDE, 3) uint8


class Example(NamedTuple):
    """A synthetic training image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8; 0..254: fraction of the pixel that a crack covers, times 254; 255: unknown.
        cracked: whether it shows a crack.
    """

    image: np.ndarray
    mask: np.ndarray
    cracked: bool


def generate_example(rng: Rng, source: ImageSource, size: int) -> Example:
    """Generate a synthetic training image of (size, size) pixels.

    Args:
        rng: random number generator.
        source: draws a training image of a class: (rng, class index) -> (SIDE, SIDE, 3) uint8.
        size: side in pixels; beyond :data:`SIDE` several scenes side by side, each at its own scale.
    """
    count = -(-size // SIDE)
    scenes = [generate_scene(rng, source, rng.random() < CRACKED_FRACTION / count) for _ in range(count**2)]
    images, masks, cracked = zip(*scenes, strict=True)
    return crop(rng, Example(mosaic(images), mosaic(masks), any(cracked)), size)


def generate_scene(rng: Rng, source: ImageSource, cracked: bool) -> Example:
    """A surface or a mosaic of surfaces with distractors, (SIDE, SIDE), seen by a random camera.

    Photographed cracks are tiles of the mosaic, synthetic ones run over all of it.
    """
    count = int(rng.choice(TILES_PER_SIDE, p=TILE_PROBABILITIES))
    photographed = cracked and rng.random() < PHOTOGRAPHED
    background, unknown = _background(rng, source, count, photographed)
    light = rng.uniform(0, 2 * np.pi)  # direction of the light in the image plane, radians
    tone = add_distractors(rng, np.ones((SIDE, SIDE), np.float32), light, ON_WALLS, DISTRACTOR_PROBABILITY)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if cracked and not photographed:
        for _ in range(1 + (rng.random() < SECOND_CRACK)):
            add_crack = random_walk_crack if rng.random() < 0.5 else fractal_crack
            tone, crack = add_crack(rng, tone, light, CRACKS)
            mask = np.maximum(mask, crack)
    image = randomize_camera(rng, np.clip(background * tone[..., None], 0, 255).astype(np.uint8))
    mask = np.where(unknown, np.uint8(UNKNOWN), np.minimum(mask, COVERED))
    return Example(image, mask, photographed or shows_crack(mask))


def _background(rng: Rng, source: ImageSource, count: int, photographed: bool) -> tuple[np.ndarray, np.ndarray]:
    """A mosaic of ``count`` x ``count`` surfaces; if ``photographed``, some tiles are photographs of cracks instead.

    Returns:
        (SIDE, SIDE, 3) uint8 or float32, and where these photographs are, (SIDE, SIDE) bool.
    """
    side = -(-SIDE // count)
    chosen = set(rng.permutation(count**2)[: rng.integers(1, count**2 // 2 + 2)]) if photographed else set()
    tiles = [
        random_orientation(rng, source(rng, CRACKED)) if i in chosen else random_surface(rng, source)
        for i in range(count**2)
    ]
    background = mosaic([cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in tiles])
    unknown = mosaic([np.full((side, side), i in chosen) for i in range(count**2)])
    return background[:SIDE, :SIDE], unknown[:SIDE, :SIDE]


def random_surface(rng: Rng, source: ImageSource) -> np.ndarray:
    """A crack-free training image at another scale, sometimes rougher: (SIDE, SIDE, 3) float32."""
    surface = random_scale(rng, random_orientation(rng, source(rng, CRACK_FREE)))
    return surface * relief(rng)[..., None] if rng.random() < ROUGH else surface.astype(np.float32)


def mosaic(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange n x n arrays (H, W, ...) row by row: (n * H, n * W, ...)."""
    count = math.isqrt(len(tiles))
    rows = [np.concatenate(tiles[i : i + count], axis=1) for i in range(0, len(tiles), count)]
    return np.concatenate(rows)


def shows_crack(mask: np.ndarray) -> bool:
    """Whether enough pixels of a mask are, or may be, mostly crack."""
    return bool(np.count_nonzero(mask > COVERED / 2) >= MIN_CRACK_PIXELS)


def crop(rng: Rng, example: Example, size: int) -> Example:
    """Crop a square of ``size`` pixels at the original scale: scaled down, a hairline would vanish.

    Where places are unknown, the example is scaled down instead, for the crack may lie outside a crop.
    """
    image, mask, cracked = example
    side = len(mask)
    if (mask == UNKNOWN).any() and size < side:
        return _scale_down(example, size)
    low, high = np.array([0, 0]), np.array([side - size, side - size])
    if cracked:  # contains one of its pixels
        pixels = np.argwhere((mask > COVERED / 2) & (mask != UNKNOWN))
        pixel = pixels[rng.integers(len(pixels))] if len(pixels) else np.array([side, side]) // 2
        low, high = np.clip(pixel - size + 1, low, high), np.clip(pixel, low, high)
    y, x = rng.integers(low, high + 1)
    window = (slice(y, y + size), slice(x, x + size))
    mask = np.ascontiguousarray(mask[window])
    return Example(np.ascontiguousarray(image[window]), mask, shows_crack(mask))


def _scale_down(example: Example, size: int) -> Example:
    image, mask, cracked = example
    unknown = cv2.resize((mask == UNKNOWN).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    coverage = cv2.resize(np.minimum(mask, COVERED), (size, size), interpolation=cv2.INTER_AREA)
    return Example(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA),
        np.where(unknown, np.uint8(UNKNOWN), coverage),
        cracked,
    )
