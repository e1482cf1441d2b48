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
from crackcam.data.synthetic.cracks import CrackLimits, easiest_crack, fractal_crack, random_walk_crack, stepped_crack
from crackcam.data.synthetic.distractors import ON_WALLS, add_distractors
from crackcam.data.synthetic.noise import Rng
from crackcam.data.synthetic.sample import CRACK_FREE, CRACKED
from crackcam.data.synthetic.surfaces import random_orientation, random_scale, relief
from crackcam.data.synthetic.transplants import photographed_crack

UNKNOWN = 255  # mask value: there may be a crack or not
COVERED = 254  # mask value: a crack covers all of the pixel
CRACKED_FRACTION = 0.55  # of the examples, where one fills the canvas
CRACKS = CrackLimits(narrowest=1.0, widest=10.0, faintest=0.15)
SECOND_CRACK = 0.25  # probability of two cracks
TILES_PER_SIDE = (1, 2, 3)  # of a mosaic
TILE_PROBABILITIES = (0.7, 0.2, 0.1)  # of those numbers
PHOTOGRAPHED = 0.15  # fraction of cracked examples that are mosaics with photographs of cracks
DISTRACTOR_PROBABILITY = 0.08  # of each kind
ROUGH = 0.35  # fraction of surfaces made rougher
MIN_CRACK_PIXELS = 12  # an example with fewer of them is labelled crack-free

CRACK_KINDS = {"photographed": 0.35, "fractal": 0.25, "walk": 0.2, "stepped": 0.08, "easiest": 0.12}
BRIGHT = 0.06  # fraction of the drawn cracks that are brighter than the surface
VISIBLE = 0.7  # least contrast of a crack, in standard deviations of the grey values around it
LEAST_CONTRAST = 6.0  # of 255
ATTEMPTS = 4  # to draw a crack that can be seen
SMALLEST_SCENE = 227  # pixels of its side

# A training image of a class index, square and without padding, (H, H, 3) uint8; resized to a side, if one is given.
ImageSource = Callable[[Rng, int, int | None], np.ndarray]


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
        source: draws a training image of a class.
        size: side in pixels; below :data:`SMALLEST_SCENE` a crop of a scene of that side.
    """
    scene = generate_scene(rng, source, max(size, SMALLEST_SCENE), rng.random() < CRACKED_FRACTION)
    return crop(rng, scene, size)


def generate_scene(rng: Rng, source: ImageSource, side: int, cracked: bool) -> Example:
    """A surface or a mosaic of surfaces with distractors, (side, side), seen by a random camera.

    Photographs of cracks are tiles of the mosaic, other cracks run over all of it.
    """
    count = int(rng.choice(TILES_PER_SIDE, p=TILE_PROBABILITIES))
    tiled = cracked and rng.random() < PHOTOGRAPHED
    background, unknown = _background(rng, source, side, count, tiled)
    light = rng.uniform(0, 2 * np.pi)  # direction of the light in the image plane, radians
    tone = add_distractors(rng, np.ones((side, side), np.float32), light, ON_WALLS, DISTRACTOR_PROBABILITY)
    mask = np.zeros((side, side), np.uint8)
    if cracked and not tiled:
        tone, mask = _add_cracks(rng, source, background, tone, light)
    scene = np.clip(background * tone[..., None], 0, 255).astype(np.uint8)
    for _ in range(ATTEMPTS):
        image = randomize_camera(rng, scene)
        if stands_out(image, mask):
            break
    mask = np.where(unknown, np.uint8(UNKNOWN), np.minimum(mask, COVERED))
    return Example(image, mask, tiled or shows_crack(mask))


def _add_cracks(
    rng: Rng, source: ImageSource, background: np.ndarray, tone: np.ndarray, light: float
) -> tuple[np.ndarray, np.ndarray]:
    """One or two cracks of any kind, if they can be seen; the tone and the mask, as of the functions in cracks."""
    mask = np.zeros(tone.shape, np.uint8)
    for _ in range(1 + (rng.random() < SECOND_CRACK)):
        for _ in range(ATTEMPTS):
            cracked, crack = _any_crack(rng, source, background, tone, light)
            if is_visible(background.mean(axis=2), tone, cracked, crack):
                tone, mask = cracked, np.maximum(mask, crack)
                break
    return tone, mask


def _any_crack(
    rng: Rng, source: ImageSource, background: np.ndarray, tone: np.ndarray, light: float
) -> tuple[np.ndarray, np.ndarray]:
    """A crack of a random kind; bright ones, filled with dust or lime, are rare."""
    kind = rng.choice(list(CRACK_KINDS), p=list(CRACK_KINDS.values()))
    if kind == "photographed":
        found = photographed_crack(rng, lambda rng: source(rng, CRACKED, None), tone)
        if found is not None:
            return found
    if kind == "easiest":
        cracked, mask = easiest_crack(rng, tone, light, CRACKS, background)
    else:
        add_crack = {"walk": random_walk_crack, "stepped": stepped_crack}.get(kind, fractal_crack)
        cracked, mask = add_crack(rng, tone, light, CRACKS)
    if rng.random() < BRIGHT:
        cracked = tone * (2 - cracked / np.maximum(tone, 1e-3)).clip(1, 1.7)
    return cracked, mask


def is_visible(surface: np.ndarray, before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a crack stands out from what surrounds it: its contrast against the spread of grey values beside it.

    Args:
        surface: (H, H), grey values that the tones are relative to.
        before: (H, H), tone without the crack.
        after: (H, H), tone with it.
        mask: (H, H) uint8, above 0 on the crack.
    """
    crack = mask > 0
    if not crack.any():
        return False
    near = cv2.dilate(mask, np.ones((15, 15), np.uint8)) > 0
    spread = (surface * before)[near].std()
    contrast = np.abs(surface * (after - before))[crack].mean()
    return bool(contrast > max(LEAST_CONTRAST, VISIBLE * spread))


def stands_out(image: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a crack, if there is one, differs from the pixels beside it: not where a camera has overexposed them.

    Args:
        image: (H, H, 3) uint8.
        mask: (H, H) uint8, above 0 on the crack.
    """
    if not mask.any():
        return True
    grey = image.mean(axis=2)
    edge, near = (cv2.dilate(mask, np.ones((side, side), np.uint8)) > 0 for side in (5, 11))
    return bool(abs(grey[mask > 0].mean() - grey[near & ~edge].mean()) > LEAST_CONTRAST)


def _background(rng: Rng, source: ImageSource, side: int, count: int, tiled: bool) -> tuple[np.ndarray, np.ndarray]:
    """A mosaic of ``count`` x ``count`` surfaces; if ``tiled``, some tiles are photographs of cracks instead.

    Returns:
        (side, side, 3) uint8 or float32, and where these photographs are, (side, side) bool.
    """
    part = -(-side // count)
    chosen = set(rng.permutation(count**2)[: rng.integers(1, count**2 // 2 + 2)]) if tiled else set()
    tiles = [
        random_orientation(rng, source(rng, CRACKED, part)) if i in chosen else random_surface(rng, source, part)
        for i in range(count**2)
    ]
    unknown = mosaic([np.full((part, part), i in chosen) for i in range(count**2)])
    return mosaic(tiles)[:side, :side], unknown[:side, :side]


def random_surface(rng: Rng, source: ImageSource, side: int) -> np.ndarray:
    """A crack-free training image at another scale, sometimes rougher: (side, side, 3) float32."""
    surface = random_scale(rng, random_orientation(rng, source(rng, CRACK_FREE, None)), side)
    return surface * relief(rng, side)[..., None] if rng.random() < ROUGH else surface.astype(np.float32)


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
