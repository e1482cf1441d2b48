"""What all class activation maps have in common: run, weigh the channels, sum, rectify, stretch, resize.

A method is a subclass with one function: ``channel_weights`` (one weight a channel) or, where the map is not
a weighted sum of channels, ``layer_map``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import (
    ActivationsAndGradients,
    Module,
    ReshapeTransform,
    evaluation_mode,
)
from pytorch_grad_cam.legacy import move_as_use_cuda_says, targets_of_category
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.model_targets import Target, resolve_targets, target_scores
from pytorch_grad_cam.utils.svd_on_activations import principal_map


@dataclass(frozen=True)
class LayerRun:
    """One run of the model, as a method sees it at one target layer.

    Attributes:
        inputs: (N, ...) batch.
        outputs: (N, K) what the model made of it, detached.
        targets: one for each picture.
        layer: the target layer.
        activations: its output A, (N, C, *spatial) float32.
        gradients: dY/dA of the same shape; empty where the method's ``uses_gradients`` is False.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    targets: list[Target]
    layer: Module
    activations: torch.Tensor
    gradients: torch.Tensor


class BaseCAM:
    """A class activation map method, bound to a model and its target layers.

    Args:
        model: maps (N, C, *spatial) to (N, K) scores. Runs in eval mode and is given back as it was.
        target_layers: modules whose output is (N, C, *spatial); maps of several layers are averaged.
        reshape_transform: brings another layer output into that shape (transformers).
        use_cuda: outdated; True moves the model to the GPU.

    Attributes:
        outputs: the model's output of the last call, detached.
        batch_size: pictures at a time in methods that run the model many times; None: what memory allows.
        tta_transforms: iterable of ttach-like transforms for ``aug_smooth`` instead of the built-in ones.
    """

    uses_gradients: ClassVar[bool] = True

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module],
        reshape_transform: ReshapeTransform | None = None,
        *,
        use_cuda: bool | None = None,
    ) -> None:
        self.model = move_as_use_cuda_says(model, use_cuda)
        self.target_layers = list(target_layers)
        self.reshape_transform = reshape_transform
        self.batch_size: int | None = None
        self.tta_transforms = None
        self.outputs: torch.Tensor | None = None
        self.activations_and_grads = ActivationsAndGradients(self.model, self.target_layers, reshape_transform)

    # -- what a method overrides ------------------------------------------------------------------------

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        """Importance of each channel of the layer: (N, C) float32."""
        raise NotImplementedError

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        """The signed map of one layer at its own resolution: (N, *spatial) float32."""
        weights = map_utils.over_space(self.channel_weights(run), run.activations)
        return summed(weights * run.activations, eigen_smooth)

    # -- what a user calls ------------------------------------------------------------------------------

    def __call__(
        self,
        input_tensor: torch.Tensor,
        targets: Sequence[Target | int] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        *,
        target_category: int | list[int] | None = None,
    ) -> np.ndarray:
        """Heat maps, each stretched to [0, 1].

        Args:
            input_tensor: (N, C, *spatial) batch; it is moved to the model's device.
            targets: one callable (or class index) for each picture; None explains the class predicted for it.
            aug_smooth: average over six variants of the pictures (mirrored or not, 0.9, 1 and 1.1 times).
            eigen_smooth: first principal component of the weighted activations instead of their sum.
            target_category: outdated; class index for all pictures, or a list of them.

        Returns:
            (N, *spatial) float32 at the size of the input.

        Raises:
            ValueError: the number of targets is not N; the target does not depend on a layer; or the maps
                are not finite.
        """
        targets = targets_of_category(target_category, targets, len(input_tensor))
        return self.maps(input_tensor, targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth).cpu().numpy()

    def maps(
        self,
        input_tensor: torch.Tensor,
        targets: Sequence[Target | int] | None = None,
        *,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        normalize: bool = True,
    ) -> torch.Tensor:
        """What a call returns, as a tensor on the device of the model.

        Args:
            normalize: False leaves out the last stretching to [0, 1]. Maps of one layer then are in the method's
                own unit (>= 0), and can be compared between pictures and classes.

        The other arguments, and errors, are those of a call.
        """
        with torch.inference_mode(False), evaluation_mode(self.model):
            device = next((p.device for p in self.model.parameters()), input_tensor.device)
            inputs = input_tensor.to(device)
            if aug_smooth:
                return self._smoothed(inputs, targets, eigen_smooth, normalize)
            return self._maps(inputs, targets, eigen_smooth, normalize)

    def __enter__(self) -> "BaseCAM":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to undo: hooks live during a call only. Errors pass through."""

    # -- how it works -----------------------------------------------------------------------------------

    def _maps(
        self, inputs: torch.Tensor, targets: Sequence[Target | int] | None, eigen_smooth: bool, normalize: bool
    ) -> torch.Tensor:
        recorder = self.activations_and_grads
        try:
            layer_maps = self._layer_maps(inputs, targets, eigen_smooth)
            if not all(torch.isfinite(m).all() for m in layer_maps):
                raise ValueError("the map is not finite: the network's activations, gradients or scores are not")
            return self._merged([m.relu() for m in layer_maps], tuple(inputs.shape[2:]), normalize)
        finally:
            recorder.clear()  # the maps are made: hold no activations until the next call

    def _layer_maps(
        self, inputs: torch.Tensor, targets: Sequence[Target | int] | None, eigen_smooth: bool
    ) -> list[torch.Tensor]:
        recorder = self.activations_and_grads
        outputs = recorder(inputs, with_graph=self.uses_gradients)
        resolved = self._resolved(targets, outputs)
        activations = recorder.activations
        gradients: Sequence[torch.Tensor] = [a.new_empty(0) for a in activations]
        if self.uses_gradients:
            with torch.enable_grad():
                score = target_scores(resolved, outputs).sum()
            gradients = recorder.differentiate(score)
        with torch.no_grad():
            return [
                self.layer_map(LayerRun(inputs, outputs.detach(), resolved, *of_layer), eigen_smooth)
                for of_layer in zip(self.target_layers, activations, gradients, strict=True)
            ]

    def _resolved(self, targets: Sequence[Target | int] | None, outputs: torch.Tensor) -> list[Target]:
        self.outputs = outputs.detach()
        return resolve_targets(targets, outputs)

    def _merged(self, layer_maps: list[torch.Tensor], size: tuple[int, ...], normalize: bool) -> torch.Tensor:
        """Mean over the layers. Layers have units of their own, so several are stretched to [0, 1] before it."""
        if normalize or len(layer_maps) > 1:
            layer_maps = [map_utils.normalize(m) for m in layer_maps]
        merged = torch.stack([map_utils.resize(m, size) for m in layer_maps]).mean(dim=0)
        return map_utils.normalize(merged) if normalize else merged

    def _smoothed(
        self, inputs: torch.Tensor, targets: Sequence[Target | int] | None, eigen_smooth: bool, normalize: bool
    ) -> torch.Tensor:
        # Targets are resolved once, on the pictures as they are: all variants explain the same class.
        with torch.no_grad():
            outputs = self.model(inputs)
        targets = resolve_targets(targets, outputs)
        heats = []
        for variant in self.tta_transforms or MIRRORED_AND_SCALED:
            heat = self._maps(variant.augment_image(inputs), targets, eigen_smooth, normalize)
            heats.append(variant.deaugment_mask(heat[:, None])[:, 0])
        self.outputs = outputs
        return torch.stack(heats).mean(dim=0)


def summed(channels: torch.Tensor, eigen_smooth: bool) -> torch.Tensor:
    """Channels (N, C, *spatial) to a map (N, *spatial): their sum, or their first principal component."""
    return principal_map(channels) if eigen_smooth else channels.sum(dim=1)


@dataclass(frozen=True)
class _Variant:
    """A picture mirrored left to right or not, times a factor, as ``aug_smooth`` tries them."""

    flip: bool
    factor: float

    def augment_image(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs.flip(-1) if self.flip else inputs) * self.factor

    def deaugment_mask(self, heat: torch.Tensor) -> torch.Tensor:
        return heat.flip(-1) if self.flip else heat


MIRRORED_AND_SCALED = [_Variant(flip, factor) for flip in (False, True) for factor in (0.9, 1.0, 1.1)]
