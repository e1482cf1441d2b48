"""Generated concrete, with and without cracks: the data that a fresh clone starts with.

Each picture is drawn from a seed of its own: a surface (tone, grain, pores, stains, patches), light (gradient,
shadow), distractors (joints, scratches), perhaps a crack, and a camera (focus, noise, JPEG). Cracks are branching
walks of changing width with ragged edges. Distractors are as dark and as long as cracks and stand in pictures of both
classes, so that darkness or a line alone does not tell the classes apart.

    data/train/{Positive,Negative}/NNNNN.jpg    300 + 300
    data/test/{Positive,Negative}/NNNNN.jpg      60 +  60
    data/masks/NNNNN.png                        255 on the crack, 0 elsewhere; empty for Negative

Honest measure: benchmarks/sample_realism.py trains on these pictures only and scores real photographs.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np

from crackcam import distributed
from crackcam.errors import UserError
from crackcam.text import counted

logger = logging.getLogger(__name__)

SIDE = 227  # pixels, as in the METU concrete set
COUNTS = {"train": 300, "test": 60}  # pictures of each class
WIDTHS = (1.6, 18.0)  # pixels; narrowest and widest crack
FINE = 4  # cracks are drawn this much larger, then averaged down: soft edges and an exact mask

Rng = np.random.Generator


def write_where_there_is_none(root: Path) -> None:
    """Write the sample data set below ``root``, unless there are class folders already; says what it did."""
    from crackcam.data.splits import class_folders

    if not distributed.is_main():  # the others meet it later
        return
    try:
        class_folders(root)
    except UserError:
        logger.info(f"sample: generated {counted(write_sample(root), 'picture')} and their crack masks in {root}")
    else:
        logger.info(f"sample: {root} has class folders already; nothing generated")


def write_sample(root: Path, seed: int = 0, counts: dict[str, int] | None = None) -> int:
    """Write the sample data set below ``root``; a folder appears only when it is complete.

    Args:
        root: data folder; must hold none of the folders that are written.
        seed: same seed, same pictures.
        counts: pictures of each class for each split; default ``COUNTS``.

    Returns:
        Number of pictures.
    """
    counts = COUNTS if counts is None else counts
    root.mkdir(parents=True, exist_ok=True)
    staging = root / ".sample-being-written"
    shutil.rmtree(staging, ignore_errors=True)
    number = 0
    try:
        (staging / "masks").mkdir(parents=True)
        for split, count in counts.items():
            for label in ("Positive", "Negative"):
                folder = staging / split / label
                folder.mkdir(parents=True)
                for _ in range(count):
                    number += 1
                    rng = np.random.default_rng([seed, number])
                    picture, mask = draw(rng, cracked=label == "Positive")
                    quality = int(rng.integers(75, 96))
                    cv2.imwrite(
                        str(folder / f"{number:05d}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
                    )
                    cv2.imwrite(str(staging / "masks" / f"{number:05d}.png"), mask)
        for folder in sorted(staging.iterdir()):
            folder.rename(root / folder.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return number


def draw(rng: Rng, cracked: bool) -> tuple[np.ndarray, np.ndarray]:
    """One picture: (227, 227, 3) uint8 RGB, and its crack mask, (227, 227) uint8 of 0 and 255."""
    light = rng.uniform(0, 2 * np.pi)  # where the light comes from, in the plane of the picture
    tone, colour = surface(rng)
    for distractor in DISTRACTORS:
        if rng.random() < 0.16:
            tone = distractor(rng, tone, light)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if cracked:
        tone, mask = crack(rng, tone, light)
    tone = tone * illumination(rng)
    return camera(rng, tone[..., None] * colour), mask


# -- surface --------------------------------------------------------------------------------------------


def noise(rng: Rng, cells: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise with about ``cells`` bumps across, (SIDE, SIDE), mean 0, deviation 1."""
    rows, columns = max(2, round(cells)), max(2, round(cells * stretch))
    field = cv2.resize(
        rng.standard_normal((rows + 2, columns + 2), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )
    return (field - field.mean()) / (field.std() + 1e-6)


def clouds(rng: Rng, coarsest: float, roughness: float, stretch: float = 1.0) -> np.ndarray:
    """Noise of all scales, each finer one ``roughness`` times as strong, deviation 1."""
    field = np.zeros((SIDE, SIDE), np.float32)
    cells, strength = coarsest, 1.0
    while cells < SIDE / 2:
        field += strength * noise(rng, cells, stretch)
        cells, strength = cells * 2, strength * roughness
    return field / field.std()


def turned(rng: Rng, field: np.ndarray) -> np.ndarray:
    """The field turned by any angle about its middle, mirrored at the borders."""
    centre = (SIDE / 2, SIDE / 2)
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(0, 360), 1)
    return cv2.warpAffine(field, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)


def surface(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Bare concrete: brightness (SIDE, SIDE) float about 1, and its colour (3,) in 0..255."""
    level = rng.uniform(95, 215)
    warmth, green = rng.normal(0.025, 0.03), rng.normal(0, 0.008)
    colour = level * np.array([1 + warmth, 1 + green, 1 - warmth], np.float32)
    tone: np.ndarray = np.ones((SIDE, SIDE), np.float32)
    tone += rng.uniform(0.005, 0.06) * clouds(rng, rng.uniform(1, 5), rng.uniform(0.4, 0.8))
    grain = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE), np.float32), (0, 0), rng.uniform(0.6, 2.0))
    tone += rng.uniform(0.01, 0.07) * grain / grain.std()
    if rng.random() < 0.3:  # brushed, or cast against timber
        tone += rng.uniform(0.01, 0.06) * turned(rng, clouds(rng, rng.uniform(2, 8), 0.8, stretch=rng.uniform(3, 8)))
    if rng.random() < 0.6:
        tone = pores(rng, tone)
    if rng.random() < 0.5:  # coarse sand, light and dark
        specks = clouds(rng, rng.uniform(20, 60), 0.6)
        tone += rng.uniform(0.02, 0.12) * ((specks > 1.8).astype(np.float32) - (specks < -1.9))
    for _ in range(rng.poisson(0.6)):
        tone *= 1 + rng.uniform(-0.25, 0.15) * blotch(rng, rng.uniform(0.02, 0.5))
    return tone, colour


def pores(rng: Rng, tone: np.ndarray) -> np.ndarray:
    """Air voids: small dark ellipses."""
    depth = np.zeros((SIDE * 2, SIDE * 2), np.float32)
    for _ in range(rng.integers(2, 50)):
        x, y = rng.integers(0, 2 * SIDE, 2)
        radius = min(14.0, 1 + rng.exponential(2.5))
        axes = (max(1, round(radius)), max(1, round(radius * rng.uniform(0.5, 1))))
        cv2.ellipse(depth, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.1, 0.6), -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(depth, (0, 0), rng.uniform(0.6, 1.6))
    soft = cv2.resize(soft, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return tone * (1 - soft)


def blotch(rng: Rng, share: float) -> np.ndarray:
    """An irregular region over about ``share`` of the picture, 0..1 with an edge sharp or soft."""
    field = clouds(rng, rng.uniform(1, 4), rng.uniform(0.3, 0.6))
    softness = rng.uniform(0.03, 0.6)
    return np.clip((field - np.quantile(field, 1 - share)) / softness + 0.5, 0, 1)


def illumination(rng: Rng) -> np.ndarray:
    """Uneven light: a gradient across the picture."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return 1 + rng.uniform(0, 0.15) * (np.cos(angle) * x + np.sin(angle) * y)


def camera(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """Focus, sensor noise, range."""
    sigma = rng.uniform(0.2, 1.0) if rng.random() < 0.8 else rng.uniform(1.0, 2.5)
    picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    picture = picture + rng.normal(0, rng.uniform(0.3, 4), picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


# -- distractors: what is dark or long and no crack -------------------------------------------------------


def across(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Two points on the border of the picture, on different sides."""
    while True:
        first, second = rng.permutation(4)[:2]
        t, u = rng.uniform(0.05, 0.95, 2) * SIDE
        border = {0: (t, -4), 1: (u, SIDE + 4), 2: (-4, t), 3: (SIDE + 4, u)}
        start, end = np.array(border[first]), np.array(border[second])
        if np.linalg.norm(end - start) > 0.55 * SIDE:  # no mere corner
            return start, end


def bent(rng: Rng, start: np.ndarray, end: np.ndarray, bend: float) -> np.ndarray:
    """A smooth arc from start to end: (64, 2) points."""
    t = np.linspace(0, 1, 64)[:, None]
    normal = np.array([start[1] - end[1], end[0] - start[0]])
    return start + t * (end - start) + bend * np.sin(np.pi * t) * normal


def joint(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A formwork or expansion joint: dead straight, of one width, dark or light, sometimes two parallel lines."""
    start, end = across(rng)
    if rng.random() < 0.5:  # upright or level
        end = (
            np.array([start[0], SIDE + 4 - start[1]])
            if abs(start[1] - SIDE / 2) > SIDE / 2
            else np.array([SIDE + 4 - start[0], start[1]])
        )
    width = np.exp(rng.uniform(np.log(1.5), np.log(16)))
    contrast = rng.uniform(0.15, 0.85) * (1 if rng.random() < 0.8 else -0.3)
    normal = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
    for shift in (0.0,) if rng.random() < 0.75 else (0.0, rng.uniform(8, 60)):
        path = np.stack([start, end]) + shift * normal
        cover = polygon(path, np.full(2, width / 2), np.full(2, width / 2))
        tone = tone * (1 - contrast * cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.4, 1.5)))
    return tone


def scratch(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Scratches and marks: smooth thin arcs of one width, lighter or darker than the ground."""
    for _ in range(rng.integers(1, 4)):
        start, end = rng.uniform(0, SIDE, 2), rng.uniform(0, SIDE, 2)
        path = bent(rng, start, end, rng.normal(0, 0.08))
        half = np.full(len(path), rng.uniform(0.4, 2.0))
        cover = polygon(path, half, half) * rng.uniform(0.08, 0.6)
        tone = tone * (1 - cover) if rng.random() < 0.55 else tone * (1 + 0.5 * cover)
    return tone


def stain(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Dark stains: damp, oil, soot, as dark as a crack but no line."""
    return tone * (1 - rng.uniform(0.2, 0.75) * blotch(rng, rng.uniform(0.01, 0.25)))


def shadow(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """The shadow of something outside the picture: one smooth edge, dark on one side."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    distance = np.cos(angle) * (x - SIDE / 2) + np.sin(angle) * (y - SIDE / 2) + rng.uniform(-70, 70)
    distance += rng.uniform(0, 18) * noise(rng, rng.uniform(1, 3))
    return tone * (1 - rng.uniform(0.2, 0.65) / (1 + np.exp(-distance / rng.uniform(0.6, 8))))


def spots(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A few large voids or chips, dark and round."""
    cover = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(rng.integers(1, 8)):
        x, y = rng.integers(0, SIDE, 2)
        axes = tuple(int(v) for v in rng.integers(2, 12, 2))
        cv2.ellipse(cover, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 0.85), -1, cv2.LINE_AA)
    ragged = np.clip(cover + 0.15 * noise(rng, 40) * (cover > 0), 0, 0.9)
    return tone * (1 - cv2.GaussianBlur(ragged, (0, 0), rng.uniform(0.5, 1.5)))


DISTRACTORS = (joint, scratch, stain, shadow, spots)


# -- cracks -----------------------------------------------------------------------------------------------


def polygon(path: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cover (SIDE, SIDE) in 0..1 of a band along ``path`` (n, 2) with half widths to both sides, in pixels."""
    direction = np.gradient(path, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    cover = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)
    edges = [path + left[:, None] * normal, path - right[:, None] * normal]
    for i in range(len(path) - 1):  # quad by quad: a band that crosses itself stays filled
        quad = np.stack([edges[0][i], edges[0][i + 1], edges[1][i + 1], edges[1][i]]) * FINE
        cv2.fillConvexPoly(cover, np.rint(quad).astype(np.int32), 255)
    return cv2.resize(cover, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def wander(rng: Rng, start: np.ndarray, end: np.ndarray, roughness: float) -> np.ndarray:
    """A ragged way from start to end by midpoint displacement: (129, 2) points."""
    path = np.stack([start, end])
    length = np.linalg.norm(end - start)
    amplitude = roughness * length
    while len(path) < 129:
        middle = (path[1:] + path[:-1]) / 2 + rng.normal(0, amplitude, (len(path) - 1, 2))
        path = np.insert(path, np.arange(1, len(path)), middle, axis=0)
        amplitude *= 0.52
    return path


def ragged_width(rng: Rng, count: int, width: float, taper: bool) -> np.ndarray:
    """Half widths along one side of a crack, in pixels: they swell and shrink, and break in small steps."""
    knots = np.linspace(0, 1, rng.integers(3, 9))
    slow = np.interp(np.linspace(0, 1, count), knots, np.exp(rng.normal(0, 0.35, len(knots))))
    fast = 1 + 0.18 * rng.standard_normal(count)
    half = width / 2 * slow * np.clip(fast, 0.4, 1.8)
    return half * np.linspace(1, 0.15, count) if taper else half


def crack(
    rng: Rng, tone: np.ndarray, light: float, widths: tuple[float, float] = WIDTHS, faintest: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """The surface with a crack in it, and the crack's mask.

    Args:
        widths: narrowest and widest, in pixels.
        faintest: least share of the light that a hairline takes away.
    """
    width = float(np.exp(rng.uniform(*np.log(widths))))
    roughness = rng.uniform(0.03, 0.11)
    start, end = across(rng)
    trunk = wander(rng, start, end, roughness)
    ends_inside = rng.random() < 0.15
    if ends_inside:
        trunk = trunk[: rng.integers(70, 110)]
    cover = polygon(
        trunk, ragged_width(rng, len(trunk), width, ends_inside), ragged_width(rng, len(trunk), width, ends_inside)
    )
    for _ in range(rng.poisson(0.6)):
        fork = trunk[rng.integers(10, len(trunk) - 10)]
        reach = rng.uniform(40, 160) * np.array([np.cos(a := rng.uniform(0, 2 * np.pi)), np.sin(a)])
        branch = wander(rng, fork, fork + reach, roughness)
        thin = max(1.2, width * rng.uniform(0.2, 0.6))
        side = ragged_width(rng, len(branch), thin, taper=True)
        cover = np.maximum(cover, polygon(branch, side, side))
    mask = np.where(cover > 0.4, 255, 0).astype(np.uint8)

    # Dark inside, deepest in the middle, with grit in it; hairlines are seldom black.
    depth = rng.uniform(0.45, 0.93) if width > 3 else rng.uniform(faintest, 0.85)
    inside = np.clip(cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.3, 0.5 + width / 10)) * rng.uniform(1.0, 1.5), 0, 1)
    grit = np.clip(1 + rng.uniform(0, 0.25) * clouds(rng, 12, 0.8), 0.3, 1.15)
    # The edge that faces the light is bright and chipped; the other lies in a little shade.
    shift = rng.uniform(0.8, 1.2 + width / 4) * np.array([np.cos(light), np.sin(light)])
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    moved = cv2.warpAffine(cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.5, 2)), matrix, (SIDE, SIDE))
    chips = np.clip(0.6 + 0.7 * clouds(rng, 10, 0.8), 0, 1.5)
    rim = (rng.uniform(0, 0.35) if rng.random() < 0.7 else 0) * chips * np.clip(moved - inside, 0, 1)
    halo = rng.uniform(0, 0.2) * cv2.GaussianBlur(cover, (0, 0), rng.uniform(3, 9))
    return tone * (1 + rim) * (1 - halo) * (1 - depth * grit * inside).clip(0.03), mask
