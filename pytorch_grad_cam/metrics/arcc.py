"""ARCC: the complexity, coherency and faithfulness of a heatmap in one number.

Domeniconi et al., How to Evaluate and Refine your CAM, 2026 (arXiv:2605.14641), as grad-cam 1.5.7 implements it: the
harmonic mean of coherency, 1 - complexity and ROAD (arXiv:2202.00449). It is ADCC by Poppi et al. (CVPR Workshops 2021,
arXiv:2104.10252) with ROAD in place of the average drop.

Maps are (N, *spatial) in [0, 1].
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import Module
from pytorch_grad_cam.metrics.perturbation_confidence import Percentile, as_maps, original_scores
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.outputs import Targets
from pytorch_grad_cam.utils.maps import normalize

# A CAM object, or any other callable that returns maps (N, *spatial) of a batch and its targets.
BaseMethod = Callable[..., np.ndarray]


def batch_pearson_coherency(A: np.ndarray, B: np.ndarray) -> np.ndarray:  # noqa: N803 - names of the documented API
    """Pearson correlation of each pair of maps.

    Args:
        A: (N, *spatial).
        B: the same shape.

    Returns:
        (N,) float32 in [-1, 1]; 0 where a map is constant.

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.metrics.arcc import batch_pearson_coherency
        >>> maps = np.float32([[[0, 1], [2, 3]]])
        >>> batch_pearson_coherency(maps, 5 - maps).tolist()
        [-1.0]
    """
    a, b = (_standardised(maps) for maps in (A, B))
    return (a * b).sum(axis=1).astype(np.float32)


def _standardised(maps: np.ndarray) -> np.ndarray:
    """Maps with mean 0 and norm 1: (N, pixels) float64. A constant map becomes zeros."""
    normalized = normalize(torch.from_numpy(np.array(maps, dtype=np.float64))).flatten(1).numpy()
    centred = normalized - normalized.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)


class Complexity:
    """Mean absolute value of a map: 0 for a map of zeros, 1 for a map of ones; lower is better.

    Poppi et al., Revisiting The Evaluation of Class Activation Mapping for Explainability, CVPR Workshops 2021
    (arXiv:2104.10252).

    Examples:
        >>> import numpy as np
        >>> from pytorch_grad_cam.metrics.arcc import Complexity
        >>> Complexity()(np.float32([[[0, 1], [0, 0]]])).tolist()
        [0.25]
    """

    def __call__(self, grayscale_cams: np.ndarray) -> np.ndarray:
        """(N, *spatial) maps to (N,) of their dtype."""
        return as_maps(grayscale_cams, len(grayscale_cams)).flatten(1).abs().mean(dim=1).numpy()


class Coherency:
    """Similarity of a map to the map of the image masked by it.

    (1 + r) / 2, with the Pearson correlation r of the two maps: in [0, 1], higher is better; 0.5 where a map is
    constant.

    Poppi et al., Revisiting The Evaluation of Class Activation Mapping for Explainability, CVPR Workshops 2021
    (arXiv:2104.10252).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from pytorch_grad_cam.metrics.arcc import Coherency
        >>> cam, images = GradCAM(model, ["1"]), torch.rand(2, 3, 16, 16)
        >>> Coherency()(images, cam(images, [0, 1]), [0, 1], model, cam).shape
        (2,)
    """

    def __call__(
        self,
        input_tensor: torch.Tensor,
        grayscale_cams: np.ndarray,
        targets: Targets,
        model: Module,
        base_method: BaseMethod,
    ) -> np.ndarray:
        """Compute the coherency of each map.

        Args:
            input_tensor: (N, C, *spatial) batch.
            grayscale_cams: (N, *spatial) maps.
            targets: one per image; None: the class that the model predicts for the unmasked image.
            model: predicts the class where ``targets`` is None.
            base_method: the CAM object that computed the maps; called with the batch and its targets.

        Returns:
            (N,) float32.

        Raises:
            ValueError: the number of maps or of targets is not N, or a map is not finite.
        """
        maps = as_maps(grayscale_cams, len(input_tensor))
        if targets is None:
            targets, _ = original_scores(model, input_tensor, None)
        masked = input_tensor * maps[:, None].to(input_tensor)
        return (1 + batch_pearson_coherency(base_method(masked, targets), maps.numpy())) / 2


class ARCC:
    """Harmonic mean of coherency, 1 - complexity and ROAD: in [0, 1], higher is better; 0 where one of them is 0.

    ROAD is doubled and clipped to [0, 1] first; targets must therefore be probabilities.

    Domeniconi et al., How to Evaluate and Refine your CAM, 2026 (arXiv:2605.14641).

    Args:
        base_method: the CAM object that computed the maps; called with a batch and its targets.
        road_percentiles: percentiles of :class:`ROADCombined`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from pytorch_grad_cam.metrics.arcc import ARCC
        >>> from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
        >>> cam, images = GradCAM(model, ["1"]), torch.rand(2, 3, 16, 16)
        >>> targets = [ClassifierOutputSoftmaxTarget(0), ClassifierOutputSoftmaxTarget(1)]
        >>> ARCC(cam, road_percentiles=[50])(images, cam(images, targets), targets, model).shape
        (2,)
    """

    def __init__(self, base_method: BaseMethod, road_percentiles: Sequence[Percentile] = (20, 40, 60, 80)) -> None:
        self.complexity = Complexity()
        self.coherency = Coherency()
        self.road = ROADCombined(percentiles=road_percentiles)
        self.base_method = base_method

    def __call__(
        self, input_tensor: torch.Tensor, grayscale_cams: np.ndarray, targets: Targets, model: Module
    ) -> np.ndarray:
        """(N,) float32; arguments and errors of :class:`Coherency`."""
        parts = [
            self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method),
            1 - self.complexity(grayscale_cams),
            np.clip(2 * self.road(input_tensor, grayscale_cams, targets, model), 0, 1),
        ]
        with np.errstate(divide="ignore"):  # 1 / 0 is infinite, and the harmonic mean 0
            return np.float32(3) / sum(np.float32(1) / part.astype(np.float32) for part in parts)
