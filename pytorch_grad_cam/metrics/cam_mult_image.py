"""Drop and increase in confidence: the score of a picture seen through its own map.

Chattopadhay et al., Grad-CAM++, WACV 2018 (arXiv:1710.11063), section 4.1: an explanation is good where the
picture multiplied by its map keeps the score.
"""

import numpy as np
import torch

from pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric


def multiply_tensor_with_cam(input_tensor: torch.Tensor, cam: torch.Tensor) -> torch.Tensor:
    """The picture (C, *spatial), normalised as the model expects it, times its map (*spatial)."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """O - Y, where Y is the score of the picture, and O that of the picture times its map."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """The relative drop max(0, Y - O) / |Y|: 0 for nothing lost, 1 for everything.

    Its mean over the pictures, times 100, is the paper's average drop %. grad-cam 1.5.7 returns the absolute drop
    max(0, Y - O). Made for probabilities: logits can drop by more than 1, and a shift of all logits changes the
    result. |Y| instead of Y lets a drop be a drop where a logit is negative; where Y is 0, the drop is absolute.
    """

    def change(self, original: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        scale = np.abs(original)
        return np.maximum(original - perturbed, 0) / np.where(scale > 0, scale, np.float32(1))


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1.0 where O > Y, 0.0 elsewhere; the mean over the pictures is the share whose confidence rises."""

    def change(self, original: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        return (perturbed > original).astype(np.float32)
