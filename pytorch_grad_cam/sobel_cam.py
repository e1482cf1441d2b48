"""Edges of an image: a model-free baseline to compare heatmaps with.

A method whose maps resemble this one may depend on the image rather than on the model (Adebayo et al., Sanity Checks
for Saliency Maps, NeurIPS 2018, arXiv:1810.03292).
"""

import cv2
import numpy as np


def sobel_cam(img: np.ndarray) -> np.ndarray:
    """Mean of the absolute horizontal and vertical Sobel derivatives (3 x 3) of the brightness.

    Args:
        img: (H, W, 3) uint8, RGB.

    Returns:
        (H, W) uint8; derivatives above 255 are clipped.

    Raises:
        ValueError: ``img`` is not uint8.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.sobel_cam import sobel_cam
        >>> img = np.zeros((3, 4, 3), np.uint8)
        >>> img[:, 2:] = 10
        >>> sobel_cam(img)[0].tolist()
        [0, 20, 20, 0]
    """
    if img.dtype != np.uint8:
        raise ValueError(f"img must be uint8 in [0, 255], got {img.dtype}")
    grey = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
    across, down = (cv2.convertScaleAbs(cv2.Sobel(grey, cv2.CV_64F, *order, ksize=3)) for order in ((1, 0), (0, 1)))
    return cv2.addWeighted(across, 0.5, down, 0.5, 0)
