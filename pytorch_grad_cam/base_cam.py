"""What all class activation maps have in common: run, weigh the channels, sum, rectify, stretch, resize.

A method is a subclass with one function: ``channel_weights`` (one weight a channel) or, where the map is not
a weighted sum of channels, ``layer_map``. Both get tensors in a :class:`LayerRun`.

Subclasses written for the package grad-cam override ``get_cam_weights`` or ``get_cam_image`` instead, with numpy
arrays in and out; they work too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import (
    ActivationsAndGradients,
    Module,
    ReshapeTransform,
    device_of,
    explained,
    plain,
)
from pytorch_grad_cam.batches import (
    Batch,
    Targets,
    call,
    each_tensor,
    pictures_of,
    resolve_targets,
    target_scores,
    with_pictures,
)
from pytorch_grad_cam.legacy import move_as_use_cuda_says, targets_of_category
from pytorch_grad_cam.utils import maps as map_utils
from pytorch_grad_cam.utils.model_targets import Target
from pytorch_grad_cam.utils.svd_on_activations import principal_map


@dataclass(frozen=True)
class LayerRun:
    """One run of the model, as a method sees it at one target layer.

    Attributes:
        inputs: the batch that the model got.
        outputs: what the model made of it, detached.
        targets: one for each picture.
        layer: the target layer.
        activations: its output A, (N, C, *spatial) float32; with ``detach=False`` as the layer made it, in the
            graph.
        gradients: dY/dA of the same shape; empty where the method's ``uses_gradients`` is False.
        layer_output: what the layer put out, as it was.
    """

    inputs: Batch
    outputs: Batch
    targets: list[Target]
    layer: Module
    activations: torch.Tensor
    gradients: torch.Tensor
    layer_output: Batch = None

    @property
    def pictures(self) -> torch.Tensor:
        """(N, C, *spatial): the tensor among the inputs that the map is laid over."""
        return pictures_of(self.inputs)


class BaseCAM:
    """A class activation map method, bound to a model and its target layers.

    Args:
        model: maps (N, C, *spatial), or a tuple or dict of arguments, to (N, K) scores or a structure that holds
            them. Runs in eval mode and is given back as it was.
        target_layers: modules of the model, or their names, whose output is (N, C, *spatial); maps of several layers
            are averaged.
        reshape_transform: brings another layer output into that shape (transformers).
        compute_input_gradient: accepted and not needed: the graph starts at the target layer.
        uses_gradients: whether the method needs dY/dA; None: what its class says.
        tta_transforms: iterable of ttach-like transforms for ``aug_smooth`` instead of the built-in ones.
        detach: False hands activations and gradients to the method in their graph, to be differentiated again; None:
            what its class says.
        use_cuda: outdated; True moves the model to the GPU.

    Attributes:
        outputs: the model's output of the last call, detached.
        batch_size: pictures at a time in methods that run the model many times.
    """

    uses_gradients = True
    detach = True
    explains_target = True  # False where the map is the same for all targets, and none is asked for

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool | None = None,
        tta_transforms: Any = None,
        detach: bool | None = None,
        *,
        use_cuda: bool | None = None,
    ) -> None:
        self.model = move_as_use_cuda_says(model, use_cuda)
        modules = dict(plain(self.model).named_modules())
        self.target_layers = [named(modules, layer) if isinstance(layer, str) else layer for layer in target_layers]
        self.reshape_transform = reshape_transform
        self.compute_input_gradient = compute_input_gradient
        if uses_gradients is not None:
            self.uses_gradients = uses_gradients
        if detach is not None:
            self.detach = detach
        self.tta_transforms = tta_transforms
        self.batch_size = 16  # on processors twice as many are slower by a tenth: they leave the cache
        self.outputs: Batch | None = None
        self._last_runs: list[LayerRun] = []
        self.activations_and_grads = ActivationsAndGradients(
            plain(self.model), self.target_layers, reshape_transform, self.detach
        )

    # -- what a method overrides ------------------------------------------------------------------------

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        """Importance of each channel of the layer: (N, C) float32."""
        raise NotImplementedError(f"{type(self).__name__} defines neither channel_weights nor layer_map")

    def layer_map(self, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
        """The signed map of one layer, mostly at its own resolution: (N, *spatial) float32."""
        weights = self.channel_weights(run)
        activations = run.activations if self.detach else self.activations_and_grads.shaped(run.activations)
        return summed(map_utils.over_space(weights, activations) * activations, eigen_smooth)

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "get_cam_weights" in vars(cls):
            cls.channel_weights = _weights_from_numpy  # type: ignore[method-assign]
            if "layer_map" not in vars(cls):
                cls.layer_map = BaseCAM.layer_map  # type: ignore[method-assign]
        if "get_cam_image" in vars(cls):
            cls.layer_map = _map_from_numpy  # type: ignore[method-assign]

    def get_cam_weights(
        self, input_tensor: Batch, target_layers: Any, targets: Any, activations: np.ndarray, grads: np.ndarray
    ) -> np.ndarray:
        """:meth:`channel_weights` with numpy arrays: (N, C, *spatial) in, (N, C) out."""
        method = self._torch_method("channel_weights", _weights_from_numpy)
        run = self._run_of_arrays(input_tensor, target_layers, targets, activations, grads)
        with torch.no_grad():  # the caller may differentiate, the method needs nothing but the arrays
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
        """:meth:`layer_map` with numpy arrays: (N, C, *spatial) in, (N, *spatial) out."""
        method = self._torch_method("layer_map", _map_from_numpy)
        run = self._run_of_arrays(input_tensor, target_layer, targets, activations, grads)
        with torch.no_grad():
            return method(self, run, eigen_smooth).cpu().numpy()

    def get_target_width_height(self, input_tensor: Batch) -> tuple[int, ...]:
        """Size of the maps, fastest dimension first: (W, H), or (W, H, D) for volumes."""
        return tuple(reversed(pictures_of(input_tensor).shape[2:]))

    def compute_cam_per_layer(self, input_tensor: Batch, targets: Any, eigen_smooth: bool) -> list[np.ndarray]:
        """The maps of each layer in the run that was just made, after ReLU, stretched, enlarged: (N, 1, *spatial) each.

        An override finds ``activations`` and ``gradients`` in ``self.activations_and_grads``.
        """
        size = tuple(reversed(self.get_target_width_height(input_tensor)))
        with torch.no_grad():
            layer_maps = [self.layer_map(run, eigen_smooth).float().relu() for run in self._last_runs]
        return [map_utils.resize(map_utils.normalize(m), size)[:, None].cpu().numpy() for m in layer_maps]

    def aggregate_multi_layers(self, cam_per_target_layer: Sequence[np.ndarray]) -> np.ndarray:
        """Maps of several layers (N, 1, *spatial) to (N, *spatial): their mean, stretched."""
        mean = np.mean(np.concatenate(cam_per_target_layer, axis=1), axis=1)
        return map_utils.normalize(torch.as_tensor(mean)).numpy()

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
        """Heat maps, each stretched to [0, 1].

        Args:
            input_tensor: (N, C, *spatial) batch, or a tuple or dict of the model's arguments; it is moved to the
                model's device.
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
        targets = targets_of_category(target_category, targets, len(pictures_of(input_tensor)))
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
        """What a call returns, as a tensor on the device of the model.

        Args:
            normalize: False leaves out the last stretching to [0, 1]. Maps of one layer then are in the method's
                own unit, and can be compared between pictures and classes.
            relu: False keeps what speaks against the target, below 0; it goes with ``normalize=False``.

        The other arguments, and errors, are those of a call.
        """
        if normalize and not relu:
            raise ValueError("relu=False goes with normalize=False: stretching to [0, 1] would lose the sign")
        finish = _Finish(eigen_smooth, normalize, relu)
        with explained(self.activations_and_grads.model):
            device = self.device
            inputs = each_tensor(lambda t: t.to(device), input_tensor)
            return self._smoothed(inputs, targets, finish) if aug_smooth else self._maps(inputs, targets, finish)

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return device_of(self.activations_and_grads.model)

    def __enter__(self) -> "BaseCAM":
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to undo: hooks live during a call only. Errors pass through."""

    # -- how it works -----------------------------------------------------------------------------------

    def _maps(self, inputs: Batch, targets: Targets, finish: "_Finish") -> torch.Tensor:
        try:
            if self._merges_arrays():
                return self._merged_arrays(inputs, targets, finish)
            layer_maps = [finite(m).float() for m in self._layer_maps(inputs, targets, finish.eigen_smooth)]
            size = tuple(pictures_of(inputs).shape[2:])
            if not finish.relu:
                return self._signed(layer_maps, size)
            return self._merged([m.relu() for m in layer_maps], size, finish.normalize)
        finally:
            self.activations_and_grads.clear()  # the maps are made: hold no activations until the next call

    def _merges_arrays(self) -> bool:
        """Whether a subclass overrides how the maps of layers are made and merged, in numpy."""
        names = ("compute_cam_per_layer", "aggregate_multi_layers", "get_target_width_height")
        return any(getattr(type(self), name) is not getattr(BaseCAM, name) for name in names)

    def _merged_arrays(self, inputs: Batch, targets: Targets, finish: "_Finish") -> torch.Tensor:
        if not (finish.normalize and finish.relu):
            raise ValueError(f"{type(self).__name__} merges stretched maps: there are no others")
        self._last_runs = self._runs(inputs, targets)
        try:
            resolved = self._last_runs[0].targets
            merged = self.aggregate_multi_layers(self.compute_cam_per_layer(inputs, resolved, finish.eigen_smooth))
        finally:
            self._last_runs = []
        return finite(torch.as_tensor(merged, dtype=torch.float32, device=self.device))

    def _layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        runs = self._runs(inputs, targets)
        with torch.no_grad():
            return [self.layer_map(run, eigen_smooth) for run in runs]

    def _runs(self, inputs: Batch, targets: Targets) -> list[LayerRun]:
        """Run the model once: what each target layer put out, and the gradients there."""
        recorder = self.activations_and_grads
        outputs = recorder(inputs, with_graph=self.uses_gradients)
        self.outputs = each_tensor(torch.Tensor.detach, outputs)
        pictures = pictures_of(inputs)
        resolved = resolve_targets(targets, self.outputs, len(pictures)) if self.explains_target else []
        gradients: Sequence[torch.Tensor] = [pictures.new_empty(0)] * len(self.target_layers)
        if self.uses_gradients:
            with torch.enable_grad():
                score = target_scores(resolved, outputs).sum()
            gradients = recorder.differentiate(score)
        return [
            LayerRun(inputs, self.outputs, resolved, *of_layer)
            for of_layer in zip(
                self.target_layers, recorder.activations, gradients, recorder.layer_outputs, strict=True
            )
        ]

    def _merged(self, layer_maps: list[torch.Tensor], size: tuple[int, ...], normalize: bool) -> torch.Tensor:
        """Mean over the layers. Layers have units of their own, so several are stretched to [0, 1] before it."""
        if normalize or len(layer_maps) > 1:
            layer_maps = [map_utils.normalize(m) for m in layer_maps]
        merged = torch.stack([map_utils.resize(m, size) for m in layer_maps]).mean(dim=0)
        return map_utils.normalize(merged) if normalize else merged

    def _signed(self, layer_maps: list[torch.Tensor], size: tuple[int, ...]) -> torch.Tensor:
        """Mean over the layers; of several, each is divided by its largest size, which leaves 0 where it is."""
        if len(layer_maps) > 1:
            largest = [m.abs().flatten(1).amax(1).reshape(-1, *[1] * (m.ndim - 1)) for m in layer_maps]
            layer_maps = [m / torch.where(most > 0, most, 1.0) for m, most in zip(layer_maps, largest, strict=True)]
        return torch.stack([map_utils.resize(m, size) for m in layer_maps]).mean(dim=0)

    def _smoothed(self, inputs: Batch, targets: Targets, finish: "_Finish") -> torch.Tensor:
        # Targets are resolved once, on the pictures as they are: all variants explain the same class.
        pictures = pictures_of(inputs)
        with torch.no_grad():
            outputs = call(self.activations_and_grads.model, inputs)
        resolved = resolve_targets(targets, outputs, len(pictures)) if self.explains_target else None
        heats = []
        for variant in self.tta_transforms or MIRRORED_AND_SCALED:
            heat = self._maps(with_pictures(inputs, variant.augment_image(pictures)), resolved, finish)
            heats.append(variant.deaugment_mask(heat[:, None])[:, 0])
        self.outputs = outputs
        return torch.stack(heats).mean(dim=0)

    def _score(self, inputs: Batch, targets: Sequence[Target]) -> torch.Tensor:
        """Run the model for its scores alone: (N,) float32."""
        return target_scores(targets, call(self.activations_and_grads.model, inputs)).float()

    # -- numpy overrides --------------------------------------------------------------------------------

    def _torch_method(self, name: str, adapter: Callable) -> Callable:
        """The nearest method that works on tensors: what ``super()`` means in a subclass that works on arrays."""
        return next(vars(c)[name] for c in type(self).__mro__ if vars(c).get(name, adapter) is not adapter)

    def _run_of_arrays(self, inputs: Batch, layer: Any, targets: Any, activations: Any, gradients: Any) -> LayerRun:
        def tensor(array: Any) -> torch.Tensor:
            return torch.empty(0) if array is None else torch.as_tensor(array, device=self.device)

        recorder = self.activations_and_grads
        of_layers = zip(recorder.target_layers, recorder.layer_outputs, strict=False)  # none yet, before a run
        output = next((output for module, output in of_layers if module is layer), None)
        return LayerRun(inputs, self.outputs, targets, layer, tensor(activations), tensor(gradients), output)


def _arrays(self: BaseCAM, run: LayerRun) -> tuple[Any, Any]:
    if not self.detach:
        return run.activations, run.gradients
    return run.activations.cpu().numpy(), run.gradients.cpu().numpy() if self.uses_gradients else None


def _weights_from_numpy(self: BaseCAM, run: LayerRun) -> torch.Tensor:
    with torch.enable_grad():  # an override may differentiate
        weights = self.get_cam_weights(run.inputs, run.layer, run.targets, *_arrays(self, run))
    return torch.as_tensor(weights, dtype=torch.float32, device=self.device)


def _map_from_numpy(self: BaseCAM, run: LayerRun, eigen_smooth: bool) -> torch.Tensor:
    with torch.enable_grad():
        heat = self.get_cam_image(run.inputs, run.layer, run.targets, *_arrays(self, run), eigen_smooth)
    return torch.as_tensor(heat, dtype=torch.float32, device=self.device)


@dataclass(frozen=True)
class _Finish:
    """How maps end, see :meth:`BaseCAM.maps`."""

    eigen_smooth: bool
    normalize: bool
    relu: bool


def named(modules: dict[str, Module], name: str) -> Module:
    """A module by its name.

    Raises:
        ValueError: there is none; the message lists those with similar names.
    """
    if name not in modules:
        from difflib import get_close_matches

        close = get_close_matches(name, modules, n=5, cutoff=0.4)
        raise ValueError(f"no layer {name!r} in the model{'; similar: ' + ', '.join(close) if close else ''}")
    return modules[name]


def finite(numbers: torch.Tensor) -> torch.Tensor:
    """The same numbers.

    Raises:
        ValueError: some are infinite or not a number.
    """
    if not torch.isfinite(numbers).all():
        raise ValueError("the map is not finite: the network's activations, gradients or scores are not")
    return numbers


def summed(channels: torch.Tensor, eigen_smooth: bool) -> torch.Tensor:
    """Channels (N, C, *spatial) to a map (N, *spatial): their sum, or their first principal component."""
    return principal_map(channels) if eigen_smooth else channels.sum(dim=1)


@dataclass(frozen=True)
class _Variant:
    """A picture mirrored left to right or not, times a factor, as ``aug_smooth`` tries them."""

    flip: bool
    factor: float

    def augment_image(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures.flip(-1) if self.flip else pictures) * self.factor

    def deaugment_mask(self, heat: torch.Tensor) -> torch.Tensor:
        return heat.flip(-1) if self.flip else heat


MIRRORED_AND_SCALED = [_Variant(flip, factor) for flip in (False, True) for factor in (0.9, 1.0, 1.1)]
