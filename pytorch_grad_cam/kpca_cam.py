"""KPCA-CAM."""

from collections.abc import Sequence
from typing import Any

import sklearn.decomposition  # noqa: F401 - imported now rather than during the first call
import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, require_finite
from pytorch_grad_cam.utils.maps import align_sign_with_channel_sum
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_kernel


class KPCA_CAM(BaseCAM):  # noqa: N801 - the documented name
    """First kernel principal component of the activations: Eigen-CAM for nonlinear structure.

    Independent of the class; needs no gradient. The sign of the component is chosen such that it correlates with the
    sum of the channels, each weighted by its root mean square. Memory grows with the square and time with the cube of
    the number of positions: use it at late layers.

    Karmani et al., KPCA-CAM: Visual Explainability of Deep Computer Vision Models Using Kernel PCA, MMSP 2024
    (arXiv:2410.00267).

    Args:
        kernel: a kernel of ``sklearn.decomposition.KernelPCA``.
        gamma: its coefficient; None: 1 / C.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import KPCA_CAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> KPCA_CAM(model, ["1"], kernel="rbf")(torch.rand(2, 3, 16, 16)).shape
        (2, 16, 16)
    """

    uses_gradients = False
    explains_target = False

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **others)
        self.kernel = kernel
        self.gamma = gamma

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        projection = get_2d_projection_kernel(require_finite(run.activations).cpu().numpy(), self.kernel, self.gamma)
        component = torch.from_numpy(projection).to(run.activations.device)
        return align_sign_with_channel_sum(component, run.activations, by_strength=True)
