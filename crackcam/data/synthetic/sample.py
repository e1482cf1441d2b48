"""The generated sample: concrete with and without cracks, the data set that a fresh clone starts with.

Each image has a seed of its own: a surface (tone, grain, pores, stains), distractors (joints, scratches, shadows),
perhaps a crack, light, and a camera (focus, noise, JPEG compression). Distractors are as dark and as long as cracks and
occur in both classes.

    data/train/{Positive,Negative}/NNNNN.jpg    300 + 300
    data/test/{Positive,Negative}/NNNNN.jpg      60 +  60
    data/masks/NNNNN.png                        255 on the crack, 0 elsewhere; empty for Negative

How realistic it is: benchmarks/sample_realism.py trains on these images only and tests on photographs.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np

from crackcam import distributed
from crackcam.data.layout import class_folders
from crackcam.data.synthetic.camera import illumination, simulate_camera
from crackcam.data.synthetic.cracks import CrackLimits, fractal_crack
from crackcam.data.synthetic.distractors import ON_CONCRETE, add_distractors
from crackcam.data.synthetic.noise import Rng
from crackcam.data.synthetic.surfaces import concrete
from crackcam.errors import UserError
from crackcam.text import counted

logger = logging.getLogger(__name__)

CLASSES = ["Negative", "Positive"]  # in index order
CRACK_FREE, CRACKED = 0, 1  # their indices
SIDE = 227  # pixels; the size of the images in the METU concrete data set, which the sample resembles
COUNTS = {"train": 300, "test": 60}  # images of each class
DISTRACTOR_PROBABILITY = 0.16  # of each kind
CRACKS = CrackLimits(narrowest=1.6, widest=18.0, faintest=0.3)


def write_sample_if_missing(root: Path) -> None:
    """Write the sample below ``root`` unless it has class folders already, and log what was done.

    Of several processes only the main one writes.
    """
    if not distributed.is_main():
        return
    with contextlib.suppress(UserError):
        class_folders(root)
        logger.info(f"sample: {root} has class folders already; nothing generated")
        return
    logger.info(f"sample: generated {counted(write_sample(root), 'image')} and their crack masks in {root}")


def write_sample(root: str | Path, seed: int = 0, counts: dict[str, int] | None = None) -> int:
    """Write the sample data set below ``root``; its folders appear only when all images are complete.

    Args:
        root: data folder.
        seed: the same seed gives the same images.
        counts: number of images of each class by split; default :data:`COUNTS`.

    Returns:
        Number of images.

    Raises:
        UserError: ``root`` already contains one of the folders, with something in it.

    Examples:
        >>> import tempfile
        >>> from crackcam.data.synthetic import write_sample
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sample(folder, seed=0, counts={"train": 2, "test": 1})
        6
    """
    root, counts = Path(root), COUNTS if counts is None else counts
    if taken := [name for name in (*counts, "masks") if any((root / name).glob("*"))]:
        raise UserError(f"{root} already contains {', '.join(taken)}: the sample needs a folder without them")
    root.mkdir(parents=True, exist_ok=True)
    staging = root / ".sample-being-written"
    shutil.rmtree(staging, ignore_errors=True)
    number = 0
    try:
        (staging / "masks").mkdir(parents=True)
        for split, count in counts.items():
            for label in (CRACKED, CRACK_FREE):
                folder = staging / split / CLASSES[label]
                folder.mkdir(parents=True)
                for _ in range(count):
                    number += 1
                    rng = np.random.default_rng([seed, number])
                    image, mask = generate_image(rng, cracked=label == CRACKED)
                    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
                    cv2.imwrite(str(folder / f"{number:05d}.jpg"), image[..., ::-1], quality)
                    cv2.imwrite(str(staging / "masks" / f"{number:05d}.png"), mask)
        for folder in sorted(staging.iterdir()):
            folder.rename(root / folder.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return number


def generate_image(rng: Rng, cracked: bool) -> tuple[np.ndarray, np.ndarray]:
    """Generate one image of concrete.

    Returns:
        The RGB image, (SIDE, SIDE, 3) uint8, and its crack mask, (SIDE, SIDE) uint8 of 0 and 255.
    """
    light = rng.uniform(0, 2 * np.pi)  # direction of the light in the image plane, radians
    tone, colour = concrete(rng, SIDE)
    tone = add_distractors(rng, tone, light, ON_CONCRETE, DISTRACTOR_PROBABILITY)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if cracked:
        tone, mask = fractal_crack(rng, tone, light, CRACKS)
    tone = tone * illumination(rng, SIDE)
    return simulate_camera(rng, tone[..., None] * colour), mask
