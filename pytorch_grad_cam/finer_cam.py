"""Finer-CAM."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import Batch
from pytorch_grad_cam.grad_cam import GradCAM
from pytorch_grad_cam.outputs import Targets, resolve_targets
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget, Target

SIMILAR_CLASSES = (1, 2, 3)  # ranks of similarity that are compared by default


class FinerCAM(BaseCAM):
    """What distinguishes a class from the classes most similar to it: another method's map of a difference of logits.

    Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation, CVPR 2025
    (arXiv:2501.11309), equation 6.

    Args:
        base_method: class of the method that computes the maps.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import FinerCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> FinerCAM(model, ["1"])(torch.rand(2, 3, 16, 16), alpha=0.6).shape
        (2, 16, 16)
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAM,
        **others: Any,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform, **others)
        if not self.base_cam.explains_target:
            raise ValueError(f"{base_method.__name__} is the same for all classes: there is nothing to compare")
        super().__init__(
            model,
            target_layers,
            reshape_transform,
            uses_gradients=self.base_cam.uses_gradients,
            detach=self.base_cam.detach,
        )
        self.base_cam.activations_and_grads = self.activations_and_grads
        self.batch_size = self.base_cam.batch_size

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        self.base_cam.batch_size = self.batch_size
        layer_maps = self.base_cam._compute_layer_maps(inputs, targets, eigen_smooth)
        self.outputs = self.base_cam.outputs
        return layer_maps

    def __call__(  # type: ignore[override]
        self,
        input_tensor: Batch,
        targets: Targets = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
        aug_smooth: bool = False,
    ) -> np.ndarray:
        """Compute heatmaps as :meth:`BaseCAM.__call__` does.

        Args:
            input_tensor: as in :meth:`BaseCAM.__call__`.
            targets: used unchanged; None compares classes as the further arguments describe.
            eigen_smooth: as in :meth:`BaseCAM.__call__`.
            alpha: strength of the comparison: factor of the other classes' logits, which are subtracted.
            comparison_categories: which classes to compare with, by their rank of similarity (1 is the class with the
                nearest logit); None: the nearest three, or as many as there are.
            target_idx: class index to explain; None: the predicted class of each image.
            aug_smooth: as in :meth:`BaseCAM.__call__`.
        """
        if targets is None:
            targets = comparison_targets(alpha, comparison_categories, target_idx)
        return self.maps(input_tensor, targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth).cpu().numpy()

    forward = __call__

    def maps(self, input_tensor: Batch, targets: Targets = None, **how: Any) -> torch.Tensor:
        """As :meth:`BaseCAM.maps`; class indices, or None, are compared with the three most similar classes."""
        if targets is None:
            targets = comparison_targets()
        elif not callable(targets) and not (isinstance(targets, Sequence) and any(map(callable, targets))):
            targets = comparison_targets(categories=targets)
        return super().maps(input_tensor, targets, **how)


def comparison_targets(
    alpha: float = 1,
    ranks: Sequence[int] | None = None,
    target_idx: int | None = None,
    categories: Targets = None,
) -> Callable[[torch.Tensor], list[Target]]:
    """Make a function of the model's output (N, K) that returns targets which compare a class with similar ones.

    Args:
        alpha: strength of the comparison.
        ranks: ranks of similarity of the classes to compare with; None: :data:`SIMILAR_CLASSES`.
        target_idx: class index to explain in all images; None: the predicted class of each.
        categories: class indices to explain, as in :data:`Targets`; they take precedence over ``target_idx``.
    """
    compared = SIMILAR_CLASSES if ranks is None else ranks

    def of_outputs(outputs: torch.Tensor) -> list[Target]:
        if outputs.ndim != 2:
            raise ValueError(f"Finer-CAM needs outputs of shape (images, classes), not {tuple(outputs.shape)}")
        if outputs.shape[1] == 1:
            raise ValueError("Finer-CAM compares classes, and the model has only 1")
        chosen = resolve_targets(target_idx if categories is None else categories, outputs, len(outputs))
        targets: list[Target] = []
        for scores, category in zip(outputs.float(), [c.category for c in chosen], strict=True):  # type: ignore[attr-defined]
            distance = (scores - scores[category]).abs()
            distance[category] = -1  # the class itself has rank 0, also where logits are equal
            nearest = distance.argsort(stable=True).tolist()
            others = [nearest[rank] for rank in compared if 0 < rank < len(nearest)]
            if not others:
                raise ValueError(f"Finer-CAM compares classes, and the model has only {len(nearest)}")
            targets.append(FinerWeightedTarget(category, others, alpha))
        return targets

    return of_outputs
