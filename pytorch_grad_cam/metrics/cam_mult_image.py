"""Drop and increase in confidence: change of the score when an image is multiplied by its own map.

Chattopadhay et al., Grad-CAM++, WACV 2018 (arXiv:1710.11063), section 4.1: an explanation is faithful where the image
multiplied by its map keeps the score.
"""

import numpy as np
import torch

from pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric


def multiply_tensor_with_cam(input_tensor: torch.Tensor, cam: torch.Tensor) -> torch.Tensor:
    """Multiply a normalised image (C, *spatial) by its map (*spatial).

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.cam_mult_image import multiply_tensor_with_cam
        >>> multiply_tensor_with_cam(torch.ones(3, 1, 2), torch.tensor([[0.5, 0.0]])).tolist()
        [[[0.5, 0.0]], [[0.5, 0.0]], [[0.5, 0.0]]]
    """
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """O - Y, where Y is the score of the image, and O the score of the image times its map.

    Chattopadhay et al., Grad-CAM++, WACV 2018 (arXiv:1710.11063), section 4.1.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
        >>> images, targets = torch.rand(2, 3, 16, 16), [ClassifierOutputSoftmaxTarget(0)] * 2
        >>> CamMultImageConfidenceChange()(images, GradCAM(model, ["1"])(images, targets), targets, model).shape
        (2,)
    """

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """Relative drop max(0, Y - O) / |Y|: 0 where the score is kept, 1 where it is lost entirely.

    Its mean over the images, times 100, is the paper's average drop %. grad-cam 1.5.7 returns the absolute drop
    max(0, Y - O). Intended for probabilities: logits can drop by more than 1, and a shift of all logits changes the
    result. |Y| in place of Y keeps the sign of a drop where a logit is negative; where Y is 0, the drop is absolute.

    Chattopadhay et al., Grad-CAM++, WACV 2018 (arXiv:1710.11063), section 4.1.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence
        >>> model = torch.nn.Flatten()  # the score is the pixel
        >>> DropInConfidence()(torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1), 0.75), [0], model).round(4).tolist()
        [0.25]
    """

    def change(self, original: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        scale = np.abs(original)
        return np.maximum(original - perturbed, 0) / np.where(scale > 0, scale, np.float32(1))


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1.0 where O > Y, 0.0 elsewhere; the mean over the images is the fraction whose confidence rises.

    Chattopadhay et al., Grad-CAM++, WACV 2018 (arXiv:1710.11063), section 4.1.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.cam_mult_image import IncreaseInConfidence
        >>> model = torch.nn.Flatten()  # the score is the pixel
        >>> IncreaseInConfidence()(torch.full((1, 1, 1, 1), -1.0), torch.full((1, 1, 1), 0.5), [0], model).tolist()
        [1.0]
    """

    def change(self, original: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        return (perturbed > original).astype(np.float32)
