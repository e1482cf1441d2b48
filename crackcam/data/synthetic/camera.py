"""Light and cameras: from a surface to a photograph of it."""

from __future__ import annotations

import cv2
import numpy as np

from crackcam.data.synthetic.noise import Rng


def illumination(rng: Rng, side: int) -> np.ndarray:
    """Uneven light, a linear gradient across the image: (side, side) float about 1."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return 1 + rng.uniform(0, 0.15) * (np.cos(angle) * x + np.sin(angle) * y)


def simulate_camera(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Defocus, sensor noise and limited range: (H, H, 3) float -> uint8."""
    sigma = rng.uniform(0.2, 1.0) if rng.random() < 0.8 else rng.uniform(1.0, 2.5)
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    image = image + rng.normal(0, rng.uniform(0.3, 4), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def randomize_camera(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Take a photograph (H, H, 3) uint8 again with another camera, in other light.

    Domain randomisation of defocus, contrast, exposure, white balance, uneven light, noise and JPEG compression.

    Returns:
        (H, H, 3) uint8.
    """
    values: np.ndarray = image.astype(np.float32) / 255
    if rng.random() < 0.5:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, 1.6))
    mean = values.mean()
    exposure = np.clip(mean + rng.normal(0, 0.13), 0.15, 0.85)
    values = (values - mean) * np.float32(np.exp(rng.normal(0, 0.35))) + np.float32(exposure)
    tint = 0.06 if rng.random() < 0.75 else 0.18  # the stronger one is that of painted walls
    values *= np.exp(rng.normal(0, tint, 3)).astype(np.float32)
    values *= (illumination(rng, len(image)) * illumination(rng, len(image))).astype(np.float32)[..., None]
    values += np.float32(rng.uniform(0, 0.05)) * rng.standard_normal(values.shape, np.float32)
    taken = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))]
        taken = cv2.imdecode(cv2.imencode(".jpg", taken, quality)[1], cv2.IMREAD_COLOR)
    return taken
