"""Finer-CAM."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import Batch, Targets
from pytorch_grad_cam.grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget, Target


class FinerCAM(BaseCAM):
    """What tells a class from the classes most like it: another method's map of the difference of their logits.

    Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation, CVPR 2025
    (arXiv:2501.11309), equation 6.

    Args:
        base_method: class of the method whose maps are made.

    The other arguments are those of :class:`BaseCAM`.
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

    def _layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        self.base_cam.batch_size = self.batch_size
        layer_maps = self.base_cam._layer_maps(inputs, targets, eigen_smooth)
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
        """Heat maps, as :meth:`BaseCAM.__call__` makes them.

        Args:
            targets: used as they are; None compares classes as the further arguments say.
            alpha: how much of the other classes' logits is taken off.
            comparison_categories: which classes to compare with, by their rank of similarity (1 is the class whose
                logit is nearest); None: the nearest three, or as many as there are.
            target_idx: the class to explain; None: the one predicted for each picture.
        """
        if targets is None:
            targets = differences(alpha, comparison_categories, target_idx)
        return self.maps(input_tensor, targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth).cpu().numpy()

    forward = __call__

    def maps(self, input_tensor: Batch, targets: Targets = None, **how: Any) -> torch.Tensor:
        """As :meth:`BaseCAM.maps`; class indices, or None, are compared with the three classes nearest to them."""
        if targets is None:
            targets = differences()
        elif not callable(targets) and not any(callable(target) for target in targets):
            targets = differences(categories=torch.as_tensor(targets))
        return super().maps(input_tensor, targets, **how)


def differences(
    alpha: float = 1,
    ranks: Sequence[int] | None = None,
    target_idx: int | None = None,
    categories: torch.Tensor | None = None,
) -> Any:
    """Targets that compare a class with those most like it, as a function of the model's output (N, K)."""

    def of_outputs(outputs: torch.Tensor) -> list[Target]:
        if outputs.ndim != 2:
            raise ValueError(f"Finer-CAM needs outputs of shape (pictures, classes), not {tuple(outputs.shape)}")
        chosen = outputs.argmax(dim=1) if target_idx is None else torch.full((len(outputs),), target_idx)
        if categories is not None:
            chosen = categories
        if len(chosen) != len(outputs):
            raise ValueError(f"{len(chosen)} targets for {len(outputs)} pictures: pass one for each picture")
        targets: list[Target] = []
        for scores, category in zip(outputs.float(), chosen.tolist(), strict=True):
            distance = (scores - scores[category]).abs()
            distance[category] = -1  # itself first, also where logits are equal
            nearest = distance.argsort(stable=True).tolist()
            wanted = range(1, 4) if ranks is None else ranks
            others = [nearest[rank] for rank in wanted if 0 < rank < len(nearest)]
            if not others:
                raise ValueError(f"Finer-CAM compares classes, and the model has {len(nearest)}")
            targets.append(FinerWeightedTarget(category, others, alpha))
        return targets

    return of_outputs
