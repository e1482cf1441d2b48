"""The input of a CAM method: one run of the model, seen at one target layer."""

from dataclasses import dataclass

import torch

from pytorch_grad_cam.activations_and_gradients import Module
from pytorch_grad_cam.batches import Batch, images_in
from pytorch_grad_cam.utils.model_targets import Target


@dataclass(frozen=True)
class LayerRun:
    """Inputs, outputs, activations and gradients of one run of the model at one target layer.

    Attributes:
        inputs: the batch passed to the model.
        outputs: the model's output, detached.
        targets: one for each image; empty where the method does not depend on a target.
        layer: the target layer.
        activations: output A of the layer, (N, C, *spatial) float32, detached; with ``detach=False`` the layer's
            output itself, still in the autograd graph.
        gradients: dY/dA, same shape as ``activations``; empty where the method's ``uses_gradients`` is False.
        layer_output: the layer's output before ``reshape_transform``.
    """

    inputs: Batch
    outputs: Batch
    targets: list[Target]
    layer: Module
    activations: torch.Tensor
    gradients: torch.Tensor
    layer_output: Batch = None

    @property
    def images(self) -> torch.Tensor:
        """The image tensor among the inputs, (N, C, *spatial)."""
        return images_in(self.inputs)
