"""Base class of all class activation map methods: run the model, weight the channels, sum, rectify, normalise, resize.

A method is a subclass with one function: ``channel_weights`` (one weight per channel) or, where the map is not a
weighted sum of channels, ``layer_map``. Both receive tensors in a :class:`~pytorch_grad_cam.layer_run.LayerRun`.

Subclasses written for the package grad-cam override ``get_cam_weights`` or ``get_cam_image`` instead, with numpy
arrays in and out; they work too (``pytorch_grad_cam.numpy_overrides``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import (
    ActivationsAndGradients,
    Module,
    ReshapeTransform,
    device_of,
    module_by_name,
    unwrap,
)
from pytorch_grad_cam.augmentations import AUGMENTATIONS
from pytorch_grad_cam.batches import (
    Batch,
    call_model,
    copies_of_item,
    images_in,
    map_tensors,
    mark_shared,
    prepare,
    with_images,
)
from pytorch_grad_cam.checks import heatmap_size, warn_of_empty_maps
from pytorch_grad_cam.context import explanation_context, with_usable_caches
from pytorch_grad_cam.layer_run import LayerRun
from pytorch_grad_cam.legacy import apply_use_cuda, targets_from_category
from pytorch_grad_cam.numpy_overrides import NumpyOverrides, adopt_numpy_overrides
from pytorch_grad_cam.outputs import (
    Targets,
    count_rows,
    resolve_targets,
    same_scores,
    split_outputs,
    target_scores,
)
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.model_targets import Target
from pytorch_grad_cam.utils.svd_on_activations import principal_map


class BaseCAM(NumpyOverrides):
    """A class activation map method, bound to a model and its target layers.

    Args:
        model: maps (N, C, *spatial), or a tuple or dict of arguments, to (N, K) scores or a structure that contains
            them. It runs in eval mode; its previous mode is restored. The first images among the arguments are
            explained.
        target_layers: modules of the model, or their names, whose output is (N, C, *spatial). The maps of several
            layers are averaged. Of a layer that runs several times, the last run on the explained images counts.
        reshape_transform: brings other layer outputs, as the layer returns them, into that shape (transformers).
        compute_input_gradient: accepted for compatibility, without effect: the graph starts at the target layer.
        uses_gradients: whether the method needs dY/dA; None: the default of its class.
        tta_transforms: iterable of ttach-like transforms for ``aug_smooth`` in place of the built-in ones.
        detach: False passes activations and gradients to the method in their graph, so that they can be
            differentiated again; None: the default of the class.
        use_cuda: deprecated; True moves the model to the GPU.

    Attributes:
        outputs: the model's output of the last call, detached.
        batch_size: number of images per forward pass in methods that run the model many times.

    Examples:
        A method of your own, where a channel's weight is the mean of its positive gradients:

        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import BaseCAM
        >>> class PositiveCAM(BaseCAM):
        ...     def channel_weights(self, run):
        ...         return run.gradients.clamp(min=0).mean(dim=(2, 3))
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> PositiveCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    uses_gradients = True
    detach = True
    explains_target = True  # False where the map is the same for all targets, and none is resolved
    warns_of_empty_maps = True  # False where another method calls this one for parts of an image

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str] | Module | str,
        reshape_transform: ReshapeTransform | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool | None = None,
        tta_transforms: Any = None,
        detach: bool | None = None,
        *,
        use_cuda: bool | None = None,
    ) -> None:
        self.model = apply_use_cuda(model, use_cuda)
        # One layer is itself, also where it is a Sequential, which could be iterated over; names are those of either.
        layers = [target_layers] if isinstance(target_layers, Module | str) else target_layers
        modules = {**dict(self.model.named_modules()), **dict(unwrap(self.model).named_modules())}
        self.target_layers = [module_by_name(modules, layer) if isinstance(layer, str) else layer for layer in layers]
        self.reshape_transform = reshape_transform
        self.compute_input_gradient = compute_input_gradient
        if uses_gradients is not None:
            self.uses_gradients = uses_gradients
        if detach is not None:
            self.detach = detach
        self.tta_transforms = tta_transforms
        self.batch_size = 16  # on CPUs, twice as many are a tenth slower: they no longer fit in the cache
        self.outputs: Batch | None = None
        self._last_runs: list[LayerRun] = []
        self.activations_and_grads = ActivationsAndGradients(
            unwrap(self.model), self.target_layers, reshape_transform, self.detach
        )

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        adopt_numpy_overrides(cls, BaseCAM.layer_map)

    # -- what a method overrides ------------------------------------------------------------------------

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        """Importance of each channel of the layer: (N, C) float32."""
        raise NotImplementedError(f"{type(self).__name__} defines neither channel_weights nor layer_map")

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        """Signed map of one layer, usually at the layer's own resolution: (N, *spatial) float32."""
        weights = self.channel_weights(run)
        activations = run.activations if self.detach else self.activations_and_grads.shaped(run.activations)
        return reduce_channels(map_utils.broadcast_over_space(weights, activations) * activations, eigen_smooth)

    # -- what a user calls ------------------------------------------------------------------------------

    def __call__(
        self,
        input_tensor: Batch,
        targets: Targets = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        *,
        target_category: int | list[int] | None = None,
    ) -> np.ndarray:
        """Compute one heatmap per image, min-max normalised to [0, 1].

        Args:
            input_tensor: (N, C, *spatial) batch, or a tuple or dict of the model's arguments; it is moved to the
                model's device.
            targets: one callable, class index or None (the predicted class) per image; or one class index, or None, for
                all images. Where the model merges images (the frames of a video), one per output.
            aug_smooth: average over six augmented copies of each image (flipped or not, times 0.9, 1 and 1.1).
            eigen_smooth: first principal component of the weighted activations in place of their sum.
            target_category: deprecated; class index for all images, or a list of them.

        Returns:
            (N, *spatial) float32 at the size of the input.

        Raises:
            ValueError: the number of targets is not N; the target does not depend on a layer; or the maps contain
                NaN or infinite values.
        """
        targets = targets_from_category(target_category, targets)
        if aug_smooth:
            return self.maps(input_tensor, targets, aug_smooth=True, eigen_smooth=eigen_smooth).cpu().numpy()
        return self.forward(input_tensor, targets, eigen_smooth)  # which a subclass may override

    def forward(self, input_tensor: Batch, targets: Targets = None, eigen_smooth: bool = False) -> np.ndarray:
        """A call without ``aug_smooth``."""
        return self.maps(input_tensor, targets, eigen_smooth=eigen_smooth).cpu().numpy()

    def forward_augmentation_smoothing(
        self, input_tensor: Batch, targets: Targets = None, eigen_smooth: bool = False
    ) -> np.ndarray:
        """A call with ``aug_smooth``."""
        return self(input_tensor, targets, aug_smooth=True, eigen_smooth=eigen_smooth)

    def maps(
        self,
        input_tensor: Batch,
        targets: Targets = None,
        *,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        normalize: bool = True,
        relu: bool = True,
    ) -> torch.Tensor:
        """Compute heatmaps as a call does, but return a tensor on the model's device.

        Args:
            input_tensor: as in a call.
            targets: as in a call.
            aug_smooth: as in a call.
            eigen_smooth: as in a call.
            normalize: False skips the final normalisation to [0, 1]. Maps of one layer are then in the method's own
                unit, and can be compared between images and classes.
            relu: False keeps evidence against the target, which is negative; requires ``normalize=False``.

        Returns:
            (N, *spatial) float32.

        Raises:
            ValueError: ``relu=False`` without ``normalize=False``, and all errors of a call.
        """
        if normalize and not relu:
            raise ValueError("relu=False requires normalize=False: normalisation to [0, 1] would lose the sign")
        finish = _Postprocessing(eigen_smooth, normalize, relu)
        with explanation_context(self.activations_and_grads.model):
            inputs = prepare(input_tensor, self.device)
            images_in(inputs)  # raises an error where there are none
            compute = self._augmented if aug_smooth else self._heatmaps
            return with_usable_caches(lambda: compute(inputs, targets, finish))

    @property
    def device(self) -> torch.device:
        """Current device of the model."""
        return device_of(self.activations_and_grads.model)

    def __enter__(self) -> "BaseCAM":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to release: hooks exist during a call only. Exceptions propagate."""

    # -- how it works -----------------------------------------------------------------------------------

    def _heatmaps(self, inputs: Batch, targets: Targets, finish: "_Postprocessing") -> torch.Tensor:
        try:
            if self._overrides_merging():
                return self._merge_arrays(inputs, targets, finish)
            layer_maps = [
                require_finite(m).float() for m in self._compute_layer_maps(inputs, targets, finish.eigen_smooth)
            ]
            sizes = {self._size_of(m, inputs) for m in layer_maps}
            if len(sizes) != 1:
                raise ValueError("pass at least one target layer, and only layers with maps of one dimension")
            (size,) = sizes
            if finish.relu:
                layer_maps = [m.relu() for m in layer_maps]
            if self.warns_of_empty_maps:
                warn_of_empty_maps(self.activations_and_grads, inputs, targets, layer_maps)
            if not finish.relu:
                return self._merge_signed(layer_maps, size)
            return self._merge_layers(layer_maps, size, finish.normalize)
        finally:
            self.activations_and_grads.clear()  # hold no activations between calls

    def _size_of(self, layer_map: torch.Tensor, inputs: Batch) -> tuple[int, ...]:
        images = images_in(inputs)
        same = len(layer_map) == len(images)  # outputs that are no scores may have any structure
        return heatmap_size(layer_map, images, len(images) if same else count_rows(self.outputs, len(images)))

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        runs = self._run_model(inputs, targets)
        with torch.no_grad():
            return [self.layer_map(run, eigen_smooth) for run in runs]

    def _run_model(self, inputs: Batch, targets: Targets) -> list[LayerRun]:
        """Run the model once and record the output of each target layer and the gradients with respect to it."""
        recorder = self.activations_and_grads
        outputs = recorder(inputs, with_graph=self.uses_gradients)
        self.outputs = map_tensors(torch.Tensor.detach, outputs)
        images = images_in(inputs)
        resolved = resolve_targets(targets, self.outputs, len(images)) if self.explains_target else []
        gradients: Sequence[torch.Tensor] = [torch.empty(0)] * len(self.target_layers)
        if self.uses_gradients:
            with torch.enable_grad():
                score = target_scores(resolved, outputs).sum()
            gradients = recorder.differentiate(score)
        recorded = zip(self.target_layers, recorder.activations, gradients, recorder.layer_outputs, strict=True)
        return [LayerRun(inputs, self.outputs, resolved, *layer) for layer in recorded]

    def _merge_layers(self, layer_maps: list[torch.Tensor], size: tuple[int, ...], normalize: bool) -> torch.Tensor:
        """Mean over the layers. Units differ between layers, so several maps are first normalised to [0, 1]."""
        if normalize or len(layer_maps) > 1:
            layer_maps = [map_utils.normalize(m) for m in layer_maps]
        merged = torch.stack([map_utils.resize(m, size) for m in layer_maps]).mean(dim=0)
        return map_utils.normalize(merged) if normalize else merged

    def _merge_signed(self, layer_maps: list[torch.Tensor], size: tuple[int, ...]) -> torch.Tensor:
        """Mean over the layers. Several maps are first divided by their largest magnitude, which preserves zero."""
        if len(layer_maps) > 1:
            largest = [m.abs().flatten(1).amax(1).reshape(-1, *[1] * (m.ndim - 1)) for m in layer_maps]
            layer_maps = [m / torch.where(peak > 0, peak, 1.0) for m, peak in zip(layer_maps, largest, strict=True)]
        return torch.stack([map_utils.resize(m, size) for m in layer_maps]).mean(dim=0)

    def _merge_arrays(self, inputs: Batch, targets: Targets, finish: "_Postprocessing") -> torch.Tensor:
        """The result of a subclass that makes or merges the layers' maps in numpy."""
        if not (finish.normalize and finish.relu):
            raise ValueError(f"{type(self).__name__} merges normalised heatmaps: normalize and relu must stay True")
        self._last_runs = self._run_model(inputs, targets)
        try:
            resolved = self._last_runs[0].targets
            merged = self.aggregate_multi_layers(self.compute_cam_per_layer(inputs, resolved, finish.eigen_smooth))
        finally:
            self._last_runs = []
        return require_finite(torch.as_tensor(merged, dtype=torch.float32, device=self.device))

    def _augmented(self, inputs: Batch, targets: Targets, finish: "_Postprocessing") -> torch.Tensor:
        # Targets are resolved once, on the original images: all augmented copies explain the same class.
        images = images_in(inputs)
        with torch.no_grad():
            outputs = call_model(self.activations_and_grads.model, inputs)
        resolved = resolve_targets(targets, outputs, len(images)) if self.explains_target else None
        heatmaps = []
        for augmentation in self.tta_transforms or AUGMENTATIONS:
            heatmap = self._heatmaps(with_images(inputs, augmentation.augment_image(images)), resolved, finish)
            heatmaps.append(augmentation.deaugment_mask(heatmap[:, None])[:, 0])
        self.outputs = outputs
        return torch.stack(heatmaps).mean(dim=0)

    def _inputs_of_single_images(self, inputs: Batch, outputs: Batch, targets: Sequence[Target]) -> Batch:
        """The inputs, ready for :func:`~pytorch_grad_cam.batches.batch_item`: those that images share are marked.

        Raises:
            ValueError: the model merges images, or the inputs of a single image cannot be told.
        """
        size = len(images_in(inputs))
        if len(targets) != size:
            raise ValueError(
                f"{type(self).__name__} runs images one by one, and the model merges {size} images into {len(targets)} "
                "outputs: use a method that runs once, such as GradCAM"
            )
        expected = split_outputs(outputs, size)

        def is_exact(marked: Batch) -> bool:
            last, model = size - 1, self.activations_and_grads.model
            try:
                found = split_outputs(call_model(model, copies_of_item(marked, last, size, 2)), 2)
                return same_scores(found[0], expected[last]) and same_scores(found[1], expected[last])
            except (IndexError, RuntimeError, ValueError):  # the model does not take these inputs together
                return False

        with torch.no_grad():
            return mark_shared(inputs, is_exact)

    def _score(self, inputs: Batch, targets: Sequence[Target]) -> torch.Tensor:
        """Run the model and return the targets' scores only: (N,) float32."""
        return target_scores(targets, call_model(self.activations_and_grads.model, inputs)).float()


@dataclass(frozen=True)
class _Postprocessing:
    """The last steps of a heatmap, see :meth:`BaseCAM.maps`."""

    eigen_smooth: bool
    normalize: bool
    relu: bool


def require_finite(values: torch.Tensor) -> torch.Tensor:
    """Return the tensor unchanged.

    Raises:
        ValueError: it contains NaN or infinite values.
    """
    if not torch.isfinite(values).all():
        raise ValueError(
            "the heatmap is not finite: the network's activations, gradients or scores contain NaN or infinite values"
        )
    return values


def reduce_channels(channels: torch.Tensor, eigen_smooth: bool) -> torch.Tensor:
    """Reduce channels (N, C, *spatial) to a map (N, *spatial): their sum, or their first principal component."""
    return principal_map(channels) if eigen_smooth else channels.sum(dim=1)
