"""Training pictures with cracks drawn into them: what teaches a network to find other cracks than those it was given.

A classifier of one set of photographs knows their scale, their light and their wide cracks, and misses most others. So
a share of each epoch is made anew: surfaces from the pictures of the class without cracks, at other scales, rougher,
alone or as a mosaic, with joints, stains, shadows, masonry and mouldings on them that are no cracks; on some of them
cracks, thin ones too, or photographed ones as fields of the mosaic; then another camera. Where a crack was drawn its
exact place is known, and so is its absence on a surface: a network with a map (:mod:`crackcam.multiscale`) is taught
that too.

Only for data of cracks, which is told by the classes' names: those of the generated sample.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch

from crackcam.data.pixels import PixelSplit
from crackcam.data.synthetic import sample
from crackcam.data.synthetic.sample import SIDE, Rng
from crackcam.errors import UserError
from crackcam.preprocessing import GREY

CLASSES = ["Negative", "Positive"]  # the sample's, in index order
PLAIN, CRACKED = 0, 1
SHARE = 0.5
UNKNOWN = 255  # in masks: there may be a crack or not
COVERED = 254  # in masks: all crack
WIDTHS = (1.0, 10.0)  # pixels; narrowest and widest crack that is drawn
FIELDS = (1, 2, 3)  # a side, of mosaics
FIELD_SHARES = (0.55, 0.3, 0.15)
FAINTEST = 0.15  # share of the light that a hairline takes away, at least
REAL = 0.35  # share of cracked examples whose cracks are photographed
DISTRACTING = 0.12  # chance of each kind of distractor
ROUGH = 0.35  # share of surfaces made rougher
LEAST = 12  # pixels of crack that make a picture one of a crack


class Example(NamedTuple):
    """A picture made for training.

    Attributes:
        picture: (SIDE, SIDE, 3) uint8.
        mask: (SIDE, SIDE) uint8, share of a pixel that is crack in units of 1/254; 255 where nobody knows.
        cracked: whether there is a crack in it.
    """

    picture: np.ndarray
    mask: np.ndarray
    cracked: bool


def mix_fraction(wanted: float | None, classes: list[str], multiscale: bool) -> float:
    """The share of pictures to make anew; without a wish, :data:`SHARE` of a multiscale head's where these are cracks.

    Raises:
        UserError: cracks cannot be drawn for other classes.
    """
    if wanted and classes != CLASSES:
        raise UserError(f"--mix-sample draws cracks: it needs the classes {' and '.join(CLASSES)}")
    return wanted if wanted is not None else SHARE if multiscale and classes == CLASSES else 0.0


class MixedImages(torch.utils.data.Dataset):
    """As many examples as there are pictures in a split, from a seed; every index is always the same example.

    Args:
        split: of :data:`CLASSES`.
        seed: same seed, same examples.
        size: side of the pictures.

    Raises:
        UserError: the split lacks a class.
    """

    def __init__(self, split: PixelSplit, seed: int, size: int) -> None:
        self.pixels, self.seed, self.size = split.pixels, seed, size
        self.where = [(split.labels == index).nonzero()[:, 0].numpy() for index in (PLAIN, CRACKED)]
        for name, found in zip(CLASSES, self.where, strict=True):
            if not len(found):
                raise UserError(f"cracks cannot be drawn into a split without {name}: add some, or --mix-sample 0")

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        """(3, size, size) uint8, the label, and the mask (size, size) uint8 as in :class:`Example`."""
        rng = np.random.default_rng([self.seed, index])
        picture, mask, cracked = part(rng, self.canvas(rng), self.size)
        return torch.from_numpy(picture).permute(2, 0, 1), int(cracked), torch.from_numpy(mask)

    def canvas(self, rng: Rng) -> Example:
        """As many examples side by side as the size needs, at their own scale."""
        count = -(-self.size // SIDE)
        examples = [self.example(rng, rng.random() < 0.55 / count) for _ in range(count**2)]
        if count == 1:
            return examples[0]

        def laid(arrays: list[np.ndarray]) -> np.ndarray:
            return np.concatenate([np.concatenate(arrays[i * count : (i + 1) * count], axis=1) for i in range(count)])

        return Example(
            laid([e.picture for e in examples]), laid([e.mask for e in examples]), any(e.cracked for e in examples)
        )

    def example(self, rng: Rng, cracked: bool) -> Example:
        """One picture or mosaic, through a camera. Photographed cracks are fields of it; others are drawn over all."""
        count = int(rng.choice(FIELDS, p=FIELD_SHARES))
        real = cracked and rng.random() < REAL
        chosen = set(rng.permutation(count**2)[: rng.integers(1, count**2 // 2 + 2)]) if real else set()
        fields = [
            turned(rng, self.picture(rng, CRACKED)) if i in chosen else self.surface(rng) for i in range(count**2)
        ]
        side = -(-SIDE // count)

        def laid(arrays: list[np.ndarray], how: int = cv2.INTER_AREA) -> np.ndarray:
            small = [cv2.resize(a, (side, side), interpolation=how) if count > 1 else a for a in arrays]
            rows = [np.concatenate(small[i * count : (i + 1) * count], axis=1) for i in range(count)]
            return np.concatenate(rows)[:SIDE, :SIDE]

        picture, light = laid(fields), rng.uniform(0, 2 * np.pi)
        tone = np.ones((SIDE, SIDE), np.float32)
        for distractor in (*sample.DISTRACTORS, courses, moulding, peeling):
            if rng.random() < DISTRACTING:
                tone = distractor(rng, tone, light)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if cracked and not real:
            for _ in range(1 + (rng.random() < 0.25)):
                tone, drawn = (walked if rng.random() < 0.5 else sample.crack)(rng, tone, light, WIDTHS, FAINTEST)
                mask = np.maximum(mask, drawn)
        mask = np.minimum(mask, COVERED)
        if real:
            marks = [np.full((SIDE, SIDE), UNKNOWN if i in chosen else 0, np.uint8) for i in range(count**2)]
            mask = laid(marks, cv2.INTER_NEAREST)
        seen = camera(rng, np.clip(picture * tone[..., None], 0, 255).astype(np.uint8))
        return Example(seen, mask, real or bool(np.count_nonzero(mask > COVERED / 2) >= LEAST))

    def surface(self, rng: Rng) -> np.ndarray:
        """A picture of the class without cracks at another scale, sometimes rougher: (SIDE, SIDE, 3) float32."""
        surface = zoomed(rng, turned(rng, self.picture(rng, PLAIN)))
        return surface * rough(rng)[..., None] if rng.random() < ROUGH else surface.astype(np.float32)

    def picture(self, rng: Rng, label: int) -> np.ndarray:
        """A training picture of a class, (SIDE, SIDE, 3) uint8; of large plain ones a part, at their own scale."""
        pixels = self.pixels[rng.choice(self.where[label])].permute(1, 2, 0).numpy()
        if label == PLAIN and len(pixels) > SIDE:
            y, x = rng.integers(0, len(pixels) - SIDE + 1, 2)
            return pixels[y : y + SIDE, x : x + SIDE]
        return cv2.resize(
            pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA if len(pixels) > SIDE else cv2.INTER_LINEAR
        )


def part(rng: Rng, example: Example, size: int) -> Example:
    """A square of ``size`` of the example, at its own scale: a hairline that is made smaller is gone, a part is not.

    Where places are unknown all of it is made smaller instead, for the crack may lie outside any part.
    """
    picture, mask, cracked = example
    high = len(mask)
    if (mask == UNKNOWN).any() and size < high:
        side = (size, size)
        unknown = cv2.resize((mask == UNKNOWN).astype(np.uint8), side, interpolation=cv2.INTER_NEAREST)
        cover = cv2.resize(np.minimum(mask, COVERED), side, interpolation=cv2.INTER_AREA)
        return Example(
            cv2.resize(picture, side, interpolation=cv2.INTER_AREA),
            np.where(unknown, np.uint8(UNKNOWN), cover),
            cracked,
        )
    corners = np.array([0, 0]), np.array([high - size, high - size])
    if cracked:  # about one of its pixels
        pixels = np.argwhere((mask > COVERED / 2) & (mask != UNKNOWN))
        here = pixels[rng.integers(len(pixels))] if len(pixels) else np.array([high, high]) // 2
        corners = np.clip(here - size + 1, *corners), np.clip(here, *corners)
    y, x = rng.integers(corners[0], corners[1] + 1)
    window = (slice(y, y + size), slice(x, x + size))
    inside = np.ascontiguousarray(mask[window])
    return Example(np.ascontiguousarray(picture[window]), inside, bool(np.count_nonzero(inside > COVERED / 2) >= LEAST))


class BlendedImages(torch.utils.data.Dataset):
    """A share of mixed examples among pictures that are as they were; of those, only the plain ones have known masks.

    Args:
        pictures: (3, size, size) uint8 and the label.
        mixed: as many examples.
        share: of the examples, 0..1.
    """

    def __init__(self, pictures: torch.utils.data.Dataset, mixed: MixedImages, share: float) -> None:
        self.pictures, self.mixed = pictures, mixed
        self.taken = np.random.default_rng(mixed.seed).random(len(mixed)) < share

    def __len__(self) -> int:
        return len(self.mixed)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        if self.taken[index]:
            return self.mixed[index]
        picture, label = self.pictures[index]
        if label == PLAIN:
            picture = shifted(np.random.default_rng([self.mixed.seed, index]), picture)
        mask = torch.full(picture.shape[1:], 0 if label == PLAIN else UNKNOWN, dtype=torch.uint8)
        return picture, int(label), mask


def mixed_split(split: PixelSplit, seed: int, size: int) -> PixelSplit:
    """As many examples as a split has pictures, to choose epochs by and calibrate on."""
    examples = MixedImages(split, seed, size)
    pixels, labels = torch.empty((len(examples), 3, size, size), dtype=torch.uint8), torch.empty_like(split.labels)
    for index in range(len(examples)):  # at once in their place: a list of them would take as much memory again
        pixels[index], labels[index], _ = examples[index]
    return PixelSplit(pixels, labels, split.paths)


def shifted(rng: Rng, picture: torch.Tensor) -> torch.Tensor:
    """The picture (3, size, size) moved by up to half its size, the frame beside it that inference may show."""
    high, wide = picture.shape[1:]
    around = torch.tensor(GREY, dtype=torch.uint8)[:, None, None].repeat(1, 2 * high, 2 * wide)
    around[:, high // 2 : high // 2 + high, wide // 2 : wide // 2 + wide] = picture
    y, x = rng.integers(0, high + 1), rng.integers(0, wide + 1)
    return around[:, y : y + high, x : x + wide]


# -- surfaces --------------------------------------------------------------------------------------------------------


def turned(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """One of the eight ways to lay a square picture."""
    picture = np.rot90(picture, int(rng.integers(4)))
    return np.ascontiguousarray(picture[:, ::-1] if rng.random() < 0.5 else picture)


def zoomed(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """A part of the surface, or more of it than there is, mirrored at its borders: 0.33 to 2.2 times the scale."""
    scale = float(np.exp(rng.uniform(np.log(0.33), np.log(2.2))))
    side = round(SIDE / scale)
    if side > SIDE:
        pad = -(-(side - SIDE) // 2)
        picture = cv2.copyMakeBorder(
            picture, pad, pad, pad, pad, cv2.BORDER_REFLECT_101 if pad < SIDE else cv2.BORDER_WRAP
        )
    y, x = rng.integers(0, len(picture) - side + 1, 2)
    part = np.ascontiguousarray(picture[y : y + side, x : x + side])
    return cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR)


def rough(rng: Rng) -> np.ndarray:
    """Gravel, or plaster under light from the side: (SIDE, SIDE) float32 about 1."""
    field = sample.clouds(rng, np.exp(rng.uniform(np.log(8), np.log(60))), rng.uniform(0.4, 0.9))
    if rng.random() < 0.5:  # lit from one side: bumps are bright here and dark there
        field = sample.turned(rng, field)
        field = field - np.roll(field, int(rng.integers(1, 4)), axis=0)
        field /= field.std()
    sharpness = rng.uniform(0.7, 1.6)
    return np.clip(1 + rng.uniform(0.02, 0.16) * np.sign(field) * np.abs(field) ** sharpness, 0.1, 2).astype(np.float32)


def courses(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Masonry, tiles or boards: joints in rows, and across them in each row or in none."""
    high, ratio = np.exp(rng.uniform(np.log(14), np.log(90))), rng.uniform(1, 4)
    width = max(1.0, rng.uniform(0.01, 0.12) * high)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.06) + (np.pi / 4 if rng.random() < 0.1 else 0)
    ragged = rng.uniform(0, 0.5) * width
    along = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(0, 500) + ragged * sample.clouds(rng, 20, 0.7)
    over = -np.sin(angle) * x + np.cos(angle) * y + rng.uniform(500, 999) + ragged * sample.clouds(rng, 20, 0.7)
    row = np.floor(over / high)
    edge = np.abs(over / high - row - 0.5) * high
    cover = np.clip(edge - high / 2 + width / 2 + 0.5, 0, 1)
    if rng.random() < 0.7:
        along = along + row * rng.choice([0.0, 0.5, 0.37]) * high * ratio
        edge = np.abs(along / (high * ratio) % 1 - 0.5) * high * ratio
        cover = np.maximum(cover, np.clip(edge - high * ratio / 2 + width / 2 + 0.5, 0, 1))
    shades = 1 + rng.uniform(0, 0.15) * np.sin(row * 7.3 + rng.uniform(0, 9))  # no course is quite like the next
    cover = cv2.GaussianBlur(cover.astype(np.float32), (0, 0), rng.uniform(0.4, 1.5))
    return (tone * shades * (1 - rng.uniform(-0.25, 0.75) * cover)).astype(np.float32)


def moulding(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """An edge, a ledge or an ornament: smooth parallel lines, straight or round, some dark, some lit."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.35, 0.35, 0.3])
    radius = np.exp(rng.uniform(np.log(25), np.log(400))) if rng.random() < 0.5 else 1e5
    cx, cy = rng.uniform(0, SIDE, 2) - radius * np.array([np.cos(angle), np.sin(angle)])
    distance = np.hypot(x - cx, y - cy) - radius
    for _ in range(int(rng.integers(1, 5))):
        at, soft = rng.uniform(-50, 50), rng.uniform(0.5, 4)
        profile = np.exp(-(((distance - at) / soft) ** 2))
        tone = tone * (1 - rng.uniform(-0.4, 0.75) * profile)
    if rng.random() < 0.5:  # beyond it lies something else
        tone = tone * (1 + rng.uniform(-0.5, 0.4) / (1 + np.exp(-np.clip(distance, -30, 30) / rng.uniform(0.5, 2))))
    return tone.astype(np.float32)


def peeling(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Paint that comes off: ragged patches, lighter or darker, with a thin shadow along their edges."""
    patch = sample.blotch(rng, rng.uniform(0.05, 0.5))
    edge = np.clip(4 * patch * (1 - patch), 0, 1)
    rim = rng.uniform(0, 0.4) * np.roll(
        edge, (int(np.rint(2 * np.sin(light))), int(np.rint(2 * np.cos(light)))), (0, 1)
    )
    return (tone * (1 + rng.uniform(-0.35, 0.6) * patch) * (1 - rim)).astype(np.float32)


# -- cracks ----------------------------------------------------------------------------------------------------------


def walked(
    rng: Rng, tone: np.ndarray, light: float, widths: tuple[float, float], faintest: float
) -> tuple[np.ndarray, np.ndarray]:
    """A crack as a walk that keeps its direction for a while, of any length: more winding than :func:`sample.crack`."""
    width = float(np.exp(rng.uniform(*np.log(widths))))
    start = rng.uniform(0, SIDE, 2)
    inwards = np.arctan2(*(SIDE / 2 - start)[::-1]) + rng.normal(0, 0.8)
    step, winding = rng.uniform(2, 5), rng.uniform(0.1, 0.5)
    paths = [(walk(rng, start, inwards, int(rng.integers(25, 110)), step, winding), width)]
    for _ in range(rng.poisson(0.7)):
        trunk = paths[0][0]
        heading = inwards + rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
        branch = walk(rng, trunk[rng.integers(len(trunk))], heading, len(trunk) // 2 + 2, step, winding)
        paths.append((branch, max(0.8, 0.6 * width)))
    cover: np.ndarray = np.zeros((SIDE, SIDE), np.float32)
    for path, wide in paths:
        half = sample.ragged_width(rng, len(path), wide, taper=rng.random() < 0.3)
        cover = np.maximum(cover, sample.polygon(path, half, half))
    depth = rng.uniform(faintest, 0.5 if width < 2 else 0.85)
    inside = np.clip(1.2 * cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.35, 0.9) + 0.08 * width), 0, 1)
    if rng.random() < 0.5:
        inside *= np.clip(0.8 + 0.35 * sample.clouds(rng, rng.uniform(5, 30), 0.6), 0.3, 1.2)
    return tone * (1 - depth * inside), np.where(cover > 0.35, 255, 0).astype(np.uint8)


def walk(rng: Rng, start: np.ndarray, heading: float, steps: int, step: float, winding: float) -> np.ndarray:
    """(steps + 1, 2) points; the direction swings about a heading that sometimes changes."""
    turns = np.where(rng.random(steps) < 0.03, rng.normal(0, 0.8, steps), 0).cumsum()
    swings, swing = np.empty(steps), 0.0
    for i, push in enumerate(rng.normal(0, winding, steps)):
        swing = 0.7 * swing + push
        swings[i] = swing
    angle = heading + turns + swings
    moves = step * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([start[None], start + moves.cumsum(axis=0)])


# -- camera ----------------------------------------------------------------------------------------------------------


def camera(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """Focus, contrast, exposure, white balance, uneven light, noise and compression of another camera."""
    values: np.ndarray = picture.astype(np.float32) / 255
    if rng.random() < 0.5:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.6))
    mean = values.mean()
    exposure = np.clip(mean + rng.normal(0, 0.13), 0.15, 0.85)
    values = (values - mean) * np.float32(np.exp(rng.normal(0, 0.35))) + np.float32(exposure)
    tint = 0.06 if rng.random() < 0.75 else 0.18  # the second of painted walls
    values *= np.exp(rng.normal(0, tint, 3)).astype(np.float32)
    values *= (sample.illumination(rng) * sample.illumination(rng)).astype(np.float32)[..., None]
    values += np.float32(rng.uniform(0, 0.05)) * rng.standard_normal(values.shape, np.float32)
    taken = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))]
        taken = cv2.imdecode(cv2.imencode(".jpg", taken, quality)[1], cv2.IMREAD_COLOR)
    return taken
