"""Pictures and maps as numpy arrays: the helper functions that CAM tutorials call."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from pytorch_grad_cam.utils import maps


def preprocess_image(
    img: np.ndarray, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> torch.Tensor:
    """A picture as network input.

    Args:
        img: (H, W, C); float in [0, 1], or uint8, which is divided by 255.
        mean: subtracted from each channel.
        std: each channel is divided by it.

    Returns:
        (1, C, H, W) float32.
    """
    scaled = img.astype(np.float32) / (255 if img.dtype == np.uint8 else 1)
    normalized = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1)))[None]


def deprocess_image(img: np.ndarray) -> np.ndarray:
    """Gradients of any scale as a picture: mean to mid-grey, one standard deviation to a tenth of the range.

    Args:
        img: array of any shape.

    Returns:
        uint8 of the same shape.
    """
    centred = img - np.mean(img)
    return (255 * np.clip(0.5 + 0.1 * centred / (np.std(centred) + 1e-5), 0, 1)).astype(np.uint8)


def show_cam_on_image(
    img: np.ndarray,
    mask: np.ndarray,
    use_rgb: bool = False,
    colormap: int = cv2.COLORMAP_JET,
    image_weight: float = 0.5,
) -> np.ndarray:
    """The picture with the coloured map over it, stretched so that its brightest value is 255.

    Args:
        img: (H, W, 3) float in [0, 1].
        mask: (H, W) map in [0, 1].
        use_rgb: True where ``img`` is RGB, False where it is BGR.
        colormap: one of OpenCV's ``COLORMAP_*``.
        image_weight: share of the picture in the mixture, in [0, 1].

    Returns:
        (H, W, 3) uint8, in the channel order of ``img``.

    Raises:
        ValueError: ``img`` exceeds 1, or ``image_weight`` lies outside [0, 1].
    """
    if np.max(img) > 1:
        raise ValueError("img must be float in [0, 1]")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight must be in [0, 1], got {image_weight}")
    heat = cv2.applyColorMap((255 * mask).astype(np.uint8), colormap)
    if use_rgb:
        heat = heat[..., ::-1]
    mixed = (1 - image_weight) * (heat.astype(np.float32) / 255) + image_weight * img.astype(np.float32)
    brightest = np.max(mixed)
    return (255 * (mixed / brightest if brightest > 0 else mixed)).astype(np.uint8)


def scale_cam_image(cam: np.ndarray, target_size: tuple[int, ...] | None = None) -> np.ndarray:
    """Each map stretched to [0, 1], then resized.

    Args:
        cam: (N, *spatial) maps.
        target_size: spatial size in OpenCV's order, (width, height) or (width, height, depth).

    Returns:
        (N, *spatial) float32.
    """
    scaled = maps.normalize(torch.as_tensor(np.asarray(cam, dtype=np.float32)))
    return (scaled if target_size is None else maps.resize(scaled, target_size[::-1])).numpy()
