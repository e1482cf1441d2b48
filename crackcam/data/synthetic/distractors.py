"""Distractors: what is dark or long and no crack, so that neither darkness nor a line alone tells the classes apart.

Each takes the random number generator, the tone (relative brightness) of a surface, (H, H) float about 1, and the
direction of the light in the image plane in radians; each returns the tone with the distractor on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from crackcam.data.synthetic.noise import Rng, blotch, fractal_noise, smooth_noise
from crackcam.data.synthetic.paths import arc, band_coverage, border_to_border, fractal_path

Distractor = Callable[[Rng, np.ndarray, float], np.ndarray]


def add_distractors(
    rng: Rng, tone: np.ndarray, light: float, kinds: Sequence[Distractor], probability: float
) -> np.ndarray:
    """Add each kind of distractor with a probability, in the order given."""
    for distractor in kinds:
        if rng.random() < probability:
            tone = distractor(rng, tone, light)
    return tone


def joint(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A formwork or expansion joint: straight, of constant width, dark or light, sometimes two parallel lines."""
    side = len(tone)
    start, end = border_to_border(rng, side)
    if rng.random() < 0.5:  # vertical or horizontal
        from_left_or_right = abs(start[1] - side / 2) > side / 2
        end = np.array([start[0], side + 4 - start[1]] if from_left_or_right else [side + 4 - start[0], start[1]])
    width = np.exp(rng.uniform(np.log(1.5), np.log(16)))
    contrast = rng.uniform(0.15, 0.85) * (1 if rng.random() < 0.8 else -0.3)
    normal = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
    half = np.full(2, width / 2)
    for offset in (0.0,) if rng.random() < 0.75 else (0.0, rng.uniform(8, 60)):
        coverage = band_coverage(side, np.stack([start, end]) + offset * normal, half, half)
        tone = tone * (1 - contrast * cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.4, 1.5)))
    return tone


def scratch(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Scratches and marks: smooth thin arcs of constant width, lighter or darker than the surface."""
    side = len(tone)
    for _ in range(rng.integers(1, 4)):
        start, end = rng.uniform(0, side, 2), rng.uniform(0, side, 2)
        path = arc(start, end, rng.normal(0, 0.08))
        half = np.full(len(path), rng.uniform(0.4, 2.0))
        coverage = band_coverage(side, path, half, half) * rng.uniform(0.08, 0.6)
        tone = tone * (1 - coverage) if rng.random() < 0.55 else tone * (1 + 0.5 * coverage)
    return tone


def stain(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A stain of damp, oil or soot: as dark as a crack but not a line."""
    side = len(tone)
    return tone * (1 - rng.uniform(0.2, 0.75) * blotch(rng, side, rng.uniform(0.01, 0.25)))


def shadow(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """The shadow of an object outside the image: one smooth edge, dark on one side."""
    side = len(tone)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    distance = np.cos(angle) * (x - side / 2) + np.sin(angle) * (y - side / 2) + rng.uniform(-70, 70)
    distance += rng.uniform(0, 18) * smooth_noise(rng, side, rng.uniform(1, 3))
    return tone * (1 - rng.uniform(0.2, 0.65) / (1 + np.exp(-distance / rng.uniform(0.6, 8))))


def spots(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A few large voids or chips, dark and round."""
    side = len(tone)
    coverage = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(1, 8)):
        x, y = (int(v) for v in rng.integers(0, side, 2))
        axes = tuple(int(v) for v in rng.integers(2, 12, 2))
        cv2.ellipse(coverage, (x, y), axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 0.85), -1, cv2.LINE_AA)
    ragged = np.clip(coverage + 0.15 * smooth_noise(rng, side, 40) * (coverage > 0), 0, 0.9)
    return tone * (1 - cv2.GaussianBlur(ragged, (0, 0), rng.uniform(0.5, 1.5)))


def masonry(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Masonry, tiles or boards: parallel joints, and with or without joints across them in each course."""
    side = len(tone)
    height, aspect = np.exp(rng.uniform(np.log(14), np.log(90))), rng.uniform(1, 4)
    width = max(1.0, rng.uniform(0.01, 0.12) * height)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.06) + (np.pi / 4 if rng.random() < 0.1 else 0)
    ragged = rng.uniform(0, 0.5) * width
    along = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(0, 500) + ragged * fractal_noise(rng, side, 20, 0.7)
    across = -np.sin(angle) * x + np.cos(angle) * y + rng.uniform(500, 999) + ragged * fractal_noise(rng, side, 20, 0.7)
    course = np.floor(across / height)
    from_middle = np.abs(across / height - course - 0.5) * height
    coverage = np.clip(from_middle - height / 2 + width / 2 + 0.5, 0, 1)
    if rng.random() < 0.7:
        along = along + course * rng.choice([0.0, 0.5, 0.37]) * height * aspect
        from_middle = np.abs(along / (height * aspect) % 1 - 0.5) * height * aspect
        coverage = np.maximum(coverage, np.clip(from_middle - height * aspect / 2 + width / 2 + 0.5, 0, 1))
    shades = 1 + rng.uniform(0, 0.15) * np.sin(course * 7.3 + rng.uniform(0, 9))  # courses differ in brightness
    coverage = cv2.GaussianBlur(coverage.astype(np.float32), (0, 0), rng.uniform(0.4, 1.5))
    return (tone * shades * (1 - rng.uniform(-0.25, 0.75) * coverage)).astype(np.float32)


def moulding(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """An edge, a ledge or an ornament: smooth parallel lines, straight or curved, some dark, some bright."""
    side = len(tone)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.35, 0.35, 0.3])
    radius = np.exp(rng.uniform(np.log(25), np.log(400))) if rng.random() < 0.5 else 1e5
    cx, cy = rng.uniform(0, side, 2) - radius * np.array([np.cos(angle), np.sin(angle)])
    distance = np.hypot(x - cx, y - cy) - radius
    for _ in range(int(rng.integers(1, 5))):
        offset, softness = rng.uniform(-50, 50), rng.uniform(0.5, 4)
        profile = np.exp(-(((distance - offset) / softness) ** 2))
        tone = tone * (1 - rng.uniform(-0.4, 0.75) * profile)
    if rng.random() < 0.5:  # another brightness beyond the edge
        tone = tone * (1 + rng.uniform(-0.5, 0.4) / (1 + np.exp(-np.clip(distance, -30, 30) / rng.uniform(0.5, 2))))
    return tone.astype(np.float32)


def peeling_paint(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Peeling paint: ragged patches, lighter or darker, with a thin shadow along their edges."""
    side = len(tone)
    patch = blotch(rng, side, rng.uniform(0.05, 0.5))
    edge = np.clip(4 * patch * (1 - patch), 0, 1)
    offset = int(np.rint(2 * np.sin(light))), int(np.rint(2 * np.cos(light)))
    rim = rng.uniform(0, 0.4) * np.roll(edge, offset, (0, 1))
    return (tone * (1 + rng.uniform(-0.35, 0.6) * patch) * (1 - rim)).astype(np.float32)


def cable(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A cable, a pipe or a plant's stem in front of the surface: round, of constant width, with a shadow beside it."""
    side = len(tone)
    start, end = border_to_border(rng, side)
    path = arc(start, end, rng.normal(0, 0.12))
    width = np.exp(rng.uniform(np.log(2), np.log(14)))
    half = np.full(len(path), width / 2)
    offset = rng.uniform(0, 2) * width * np.array([np.cos(light), np.sin(light)])
    shade = cv2.GaussianBlur(band_coverage(side, path - offset, half, half), (0, 0), rng.uniform(0.6, 4))
    tone = tone * (1 - rng.uniform(0, 0.5) * shade)
    body, core = (band_coverage(side, path, half * k, half * k) for k in (1.0, 0.45))
    shown = rng.uniform(0.1, 1.6) * (1 + rng.uniform(0.1, 0.5) * cv2.GaussianBlur(core, (0, 0), 0.2 * width + 0.3))
    return tone * (1 - body) + shown * body


def plant(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A climbing plant or roots: thin smooth stems that fork, with leaves on some."""
    side = len(tone)
    leaves, shade = rng.random() < 0.6, rng.uniform(0.2, 1.4)
    start, _ = border_to_border(rng, side)
    for _ in range(rng.integers(1, 5)):
        path = arc(start, rng.uniform(0, side, 2), rng.normal(0, 0.25))
        half = np.linspace(1, 0.3, len(path)) * rng.uniform(0.5, 3)
        cover = band_coverage(side, path, half, half)
        if leaves:
            for x, y in path[:: int(rng.integers(4, 12))] + rng.normal(0, 4, 2):
                axes = (int(rng.integers(2, 9)), int(rng.integers(1, 5)))
                cv2.ellipse(cover, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
        cover = cv2.GaussianBlur(cover, (0, 0), 0.6)
        tone = tone * (1 - cover) + shade * rng.uniform(0.8, 1.2) * cover
    return tone


def lettering(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Letters and digits, painted or written by hand."""
    side = len(tone)
    drawn = np.zeros((side, side), np.uint8)
    text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ0123456789/-")) for _ in range(rng.integers(1, 8)))
    place = (int(rng.uniform(-0.1, 0.6) * side), int(rng.uniform(0.1, 1.0) * side))
    fonts = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)
    size, thickness = rng.uniform(0.5, 4), int(rng.integers(1, 8))
    cv2.putText(drawn, text, place, fonts[rng.integers(len(fonts))], size, 255, thickness, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-90, 90), 1)
    turned = cv2.warpAffine(drawn.astype(np.float32) / 255, turn, (side, side))
    cover = cv2.GaussianBlur(turned, (0, 0), rng.uniform(0.4, 1.5))
    worn = np.clip(0.8 + 0.3 * fractal_noise(rng, side, 20, 0.8), 0, 1)
    return tone * (1 + rng.choice([-0.7, 0.8]) * rng.uniform(0.3, 1) * cover * worn)


def tyre_marks(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """Tyre marks: one or two wide faint bands side by side."""
    side = len(tone)
    start, end = border_to_border(rng, side)
    path, strength = arc(start, end, rng.normal(0, 0.1)), rng.uniform(0.08, 0.4)
    half = np.full(len(path), rng.uniform(4, 20))
    normal = np.array([start[1] - end[1], end[0] - start[0]]) / np.linalg.norm(end - start)
    ribs = np.clip(0.8 + 0.4 * fractal_noise(rng, side, rng.uniform(10, 50), 0.8), 0, 1.3)
    for offset in (0.0, rng.uniform(15, 90))[: rng.integers(1, 3)]:
        cover = cv2.GaussianBlur(band_coverage(side, path + offset * normal, half, half), (0, 0), rng.uniform(1, 5))
        tone = tone * (1 - strength * ribs * cover)
    return tone


def tar_seam(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """A sealed joint or a sealed crack: a smooth winding band of tar or paste, wide, with soft blunt edges."""
    side = len(tone)
    path = fractal_path(rng, *border_to_border(rng, side), rng.uniform(0.005, 0.05))
    half = np.full(len(path), rng.uniform(4, 14)) * (1 + 0.15 * np.sin(np.linspace(0, rng.uniform(5, 40), len(path))))
    cover = cv2.GaussianBlur(band_coverage(side, path, half, half), (0, 0), rng.uniform(0.8, 2.5))
    shown = rng.choice([rng.uniform(0.15, 0.5), rng.uniform(1.1, 1.6)], p=[0.75, 0.25])
    return tone * (1 - cover) + shown * cover


def boards(rng: Rng, tone: np.ndarray, light: float) -> np.ndarray:
    """The prints of formwork boards: each of its own shade and grain, with dark, bright or no lines between them."""
    side = len(tone)
    width, angle = np.exp(rng.uniform(np.log(25), np.log(130))), rng.choice([0, np.pi / 2]) + rng.normal(0, 0.1)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    across = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(500, 999)
    across += rng.uniform(0, 1.5) * smooth_noise(rng, side, 12)
    board = np.floor(across / width).astype(int)
    shades = rng.normal(1, rng.uniform(0, 0.12), board.max() + 1).clip(0.5, 1.5)[board]
    grain = fractal_noise(rng, side, rng.uniform(3, 10), 0.8, stretch=rng.uniform(4, 10))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), -np.degrees(angle), 1)
    grain = cv2.warpAffine(grain, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    edge = np.abs(across / width % 1 - 0.5) * width - width / 2
    line = np.exp(-((edge / rng.uniform(0.5, 4)) ** 2)) * np.clip(0.7 + 0.5 * fractal_noise(rng, side, 15, 0.7), 0, 1.4)
    return tone * shades * (1 + rng.uniform(0, 0.06) * grain) * (1 - rng.uniform(-0.25, 0.7) * line).clip(0.1)


ON_CONCRETE: tuple[Distractor, ...] = (joint, scratch, stain, shadow, spots)
ON_WALLS: tuple[Distractor, ...] = (
    *ON_CONCRETE,
    masonry,
    boards,
    moulding,
    peeling_paint,
    cable,
    plant,
    lettering,
    tyre_marks,
    tar_seam,
)
