"""Compatibility with CAM subclasses written for the package grad-cam, which override methods with numpy arrays.

Such a subclass overrides ``get_cam_weights`` or ``get_cam_image`` (one layer's weights or map), or
``compute_cam_per_layer``, ``aggregate_multi_layers`` or ``get_target_width_height`` (how the maps of the layers are
made and merged). :class:`NumpyOverrides` offers all five with the signatures of grad-cam 1.5.7, implemented by the
tensor methods of :class:`~pytorch_grad_cam.BaseCAM`; :func:`adopt_numpy_overrides` routes a run through an override.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from pytorch_grad_cam.batches import Batch, images_in
from pytorch_grad_cam.layer_run import LayerRun
from pytorch_grad_cam.utils import maps as map_utils

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM

MERGING = ("compute_cam_per_layer", "aggregate_multi_layers", "get_target_width_height")


class NumpyOverrides:
    """The numpy methods of :class:`~pytorch_grad_cam.BaseCAM`, for subclasses to override or to call."""

    _last_runs: list[LayerRun]

    def get_cam_weights(
        self, input_tensor: Batch, target_layers: Any, targets: Any, activations: np.ndarray, grads: np.ndarray
    ) -> np.ndarray:
        """Channel weights, as :meth:`BaseCAM.channel_weights`: arrays (N, C, *spatial) in, (N, C) out."""
        method = self._tensor_method("channel_weights", weights_from_numpy)
        run = self._run_of_arrays(input_tensor, target_layers, targets, activations, grads)
        with torch.no_grad():  # the caller may differentiate; the method needs only the arrays
            return method(self, run).cpu().numpy()

    def get_cam_image(
        self,
        input_tensor: Batch,
        target_layer: Any,
        targets: Any,
        activations: np.ndarray,
        grads: np.ndarray,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """Signed map of one layer, as :meth:`BaseCAM.layer_map`: arrays (N, C, *spatial) in, (N, *spatial) out."""
        method = self._tensor_method("layer_map", map_from_numpy)
        run = self._run_of_arrays(input_tensor, target_layer, targets, activations, grads)
        with torch.no_grad():
            return method(self, run, eigen_smooth).cpu().numpy()

    def get_target_width_height(self, input_tensor: Batch) -> tuple[int, ...]:
        """Size of the heatmaps, fastest dimension first: (W, H), or (W, H, D) for volumes."""
        return tuple(reversed(images_in(input_tensor).shape[2:]))

    def compute_cam_per_layer(self, input_tensor: Batch, targets: Any, eigen_smooth: bool) -> list[np.ndarray]:
        """Heatmaps of each layer in the current run, after ReLU, min-max normalisation and resizing.

        An override finds ``activations`` and ``gradients`` in ``self.activations_and_grads``.

        Returns:
            One (N, 1, *spatial) float32 array for each target layer, in [0, 1].
        """
        cam = cast("BaseCAM", self)
        size = tuple(reversed(self.get_target_width_height(input_tensor)))
        with torch.no_grad():
            layer_maps = [cam.layer_map(run, eigen_smooth).float().relu() for run in self._last_runs]
        return [map_utils.resize(map_utils.normalize(m), size)[:, None].cpu().numpy() for m in layer_maps]

    def aggregate_multi_layers(self, cam_per_target_layer: Sequence[np.ndarray]) -> np.ndarray:
        """Mean over the layers' heatmaps (N, 1, *spatial), normalised to [0, 1]: (N, *spatial)."""
        mean = np.mean(np.concatenate(cam_per_target_layer, axis=1), axis=1)
        return map_utils.normalize(torch.as_tensor(mean)).numpy()

    def _overrides_merging(self) -> bool:
        """Whether a subclass overrides how the layers' maps are made and merged."""
        return any(getattr(type(self), name) is not getattr(NumpyOverrides, name) for name in MERGING)

    def _tensor_method(self, name: str, adapter: Callable) -> Callable:
        """The nearest tensor method in the class hierarchy: what ``super()`` means in a subclass that uses arrays."""
        return next(vars(c)[name] for c in type(self).__mro__ if vars(c).get(name, adapter) is not adapter)

    def _run_of_arrays(self, inputs: Batch, layer: Any, targets: Any, activations: Any, gradients: Any) -> LayerRun:
        cam = cast("BaseCAM", self)

        def tensor(array: Any) -> torch.Tensor:
            return torch.empty(0) if array is None else torch.as_tensor(array, device=cam.device)

        recorder = cam.activations_and_grads
        recorded = zip(recorder.target_layers, recorder.layer_outputs, strict=False)  # empty before a run
        output = next((output for module, output in recorded if module is layer), None)
        return LayerRun(inputs, cam.outputs, targets, layer, tensor(activations), tensor(gradients), output)


def adopt_numpy_overrides(cls: type[BaseCAM], default_layer_map: Callable) -> None:
    """Let the engine call a new subclass's numpy methods, if it defines any, in place of the inherited tensor methods.

    Args:
        cls: the subclass, as Python has just created it.
        default_layer_map: ``BaseCAM.layer_map``, which makes a map of channel weights.
    """
    if "get_cam_weights" in vars(cls):
        cls.channel_weights = weights_from_numpy  # type: ignore[method-assign]
        if "layer_map" not in vars(cls):
            cls.layer_map = default_layer_map  # type: ignore[method-assign]
    if "get_cam_image" in vars(cls):
        cls.layer_map = map_from_numpy  # type: ignore[method-assign]


def weights_from_numpy(self: BaseCAM, run: LayerRun) -> torch.Tensor:
    """``channel_weights`` of a subclass that overrides ``get_cam_weights``."""
    with torch.enable_grad():  # an override may differentiate
        weights = self.get_cam_weights(run.inputs, run.layer, run.targets, *_arrays(self, run))
    return torch.as_tensor(weights, dtype=torch.float32, device=self.device)


def map_from_numpy(self: BaseCAM, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
    """``layer_map`` of a subclass that overrides ``get_cam_image``."""
    with torch.enable_grad():
        layer_map = self.get_cam_image(run.inputs, run.layer, run.targets, *_arrays(self, run), eigen_smooth)
    return torch.as_tensor(layer_map, dtype=torch.float32, device=self.device)


def _arrays(cam: BaseCAM, run: LayerRun) -> tuple[Any, Any]:
    """Activations and gradients as an override expects them: arrays; with ``detach=False``, tensors in the graph."""
    if not cam.detach:
        return run.activations, run.gradients
    return run.activations.cpu().numpy(), run.gradients.cpu().numpy() if cam.uses_gradients else None
