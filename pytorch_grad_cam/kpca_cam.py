"""KPCA-CAM."""

from collections.abc import Sequence
from typing import Any

import sklearn.decomposition  # noqa: F401 - now, rather than in the middle of the first call
import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, finite
from pytorch_grad_cam.utils.maps import towards_channel_sum
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_kernel


class KPCA_CAM(BaseCAM):  # noqa: N801 - the name that users know
    """First kernel principal component of the activations: Eigen-CAM for structure that is not linear.

    It asks for no class and needs no gradient. The component's sign is turned towards the sum of the channels. Memory
    and time grow with the square and the cube of the number of places: use it at late layers.

    Karmani et al., KPCA-CAM: Visual Explainability of Deep Computer Vision Models Using Kernel PCA, MMSP 2024
    (arXiv:2410.00267).

    Args:
        kernel: a kernel of ``sklearn.decomposition.KernelPCA``.
        gamma: its coefficient; None: 1 / C.

    The other arguments are those of :class:`BaseCAM`.
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
        projection = get_2d_projection_kernel(finite(run.activations).cpu().numpy(), self.kernel, self.gamma)
        return towards_channel_sum(torch.from_numpy(projection).to(run.activations.device), run.activations)
