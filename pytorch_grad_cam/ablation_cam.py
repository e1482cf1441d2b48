"""Ablation-CAM."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from pytorch_grad_cam.ablation_layer import AblatedRows, AblationLayer
from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import Batch, copies_of_item, images_in, map_tensors
from pytorch_grad_cam.outputs import Targets, target_scores
from pytorch_grad_cam.replay import Tape


class AblationCAM(BaseCAM):
    """Weight channels by the loss of score without them: w_c = (Y - Y without channel c) / |Y|.

    A channel is ablated by setting it to 0 in the layer's output, and only the part of the model above the layer runs
    again. Channels that are 0 already have weight 0 and cost no pass. Models that cannot be resumed at a layer (see
    ``pytorch_grad_cam.replay``) run as a whole on repeated images: the maps are the same, but slower.

    Desai and Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization, WACV 2020, equation 3. The paper divides by Y, assuming positive scores; |Y| prevents the map from
    being inverted when all logits are shifted.

    Args:
        ablation_layer: for layers whose output is not (N, C, *spatial) and whose ``reshape_transform`` does not return
            a view of it; None: channels are set to 0 through the view.
        batch_size: number of ablated copies per forward pass; where a copy is smaller than an image, as many as need
            the memory of that many images.
        ratio_channels_to_ablate: fraction of the channels that are ablated, in (0, 1]: those whose activations lie
            most within the first principal component; the others have weight 0.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import AblationCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> AblationCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    uses_gradients = False

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        ablation_layer: AblationLayer | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
        **others: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **others)
        if not 0 < ratio_channels_to_ablate <= 1:
            raise ValueError(f"ratio_channels_to_ablate must be in (0, 1], got {ratio_channels_to_ablate}")
        self.ablation_layer = ablation_layer
        self.batch_size = batch_size
        self.ratio_channels_to_ablate = ratio_channels_to_ablate
        self._tapes: dict[Module, Tape] = {}

    def _run_model(self, inputs: Batch, targets: Targets) -> list[LayerRun]:
        recorder = self.activations_and_grads
        size = len(images_in(inputs))
        self._tapes = {layer: Tape(recorder.model, layer, size) for layer in recorder.target_layers}
        with ExitStack() as stack:
            for tape in self._tapes.values():
                stack.enter_context(tape.recording())
            runs = super()._run_model(inputs, targets)
        for layer, (run, _) in zip(recorder.target_layers, recorder.chosen_runs, strict=True):
            self._tapes[layer].run = run
        return runs

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        try:
            return super()._compute_layer_maps(inputs, targets, eigen_smooth)
        finally:
            self._tapes = {}  # they hold the outputs of all modules below the layers

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        tape, count = self._tapes[run.layer], len(run.targets)
        weights = torch.zeros(run.activations.shape[:2], device=run.activations.device)
        all_inputs = self._inputs_of_single_images(run.inputs, run.outputs, run.targets)
        intact = target_scores(run.targets, run.outputs)
        rows = self.batch_size * max(1, run.images[0].numel() // run.activations[0].numel())
        ablated = self._ablated_rows(run.layer_output, rows)
        for i, target in enumerate(run.targets):
            tape.check(
                copies_of_item(all_inputs, i, count, 2), i, item_twice(run.layer_output, i, count), target, intact[i]
            )
            for channels in self._channels_to_ablate(run.activations[i]).split(rows):
                copies = copies_of_item(all_inputs, i, count, len(channels))
                scores = tape.scores(copies, i, ablated(i, channels), target)
                weights[i, channels] = intact[i].float() - scores
        scale = intact.float().abs()
        return weights / torch.where(scale > 0, scale, 1.0)[:, None]

    def _channels_to_ablate(self, activations: torch.Tensor) -> torch.Tensor:
        """Indices of the channels (C, *spatial) that are to be ablated and are not 0 already."""
        chosen = torch.arange(len(activations), device=activations.device)
        if self.ratio_channels_to_ablate < 1:
            layer = self.ablation_layer or AblationLayer()
            indices = layer.activations_to_be_ablated(activations.cpu().numpy(), self.ratio_channels_to_ablate)
            chosen = torch.as_tensor(indices, device=activations.device).long()
        return chosen[activations[chosen].flatten(1).any(dim=1)]

    def _ablated_rows(self, layer_output: Batch, size: int) -> Callable[[int, torch.Tensor], Batch]:
        """A function (image index, channels) -> the layer's output for the image, one row without each channel."""
        layer = self.ablation_layer
        if layer is None:
            return AblatedRows(layer_output, self.reshape_transform, size).without_channels

        def rows(index: int, channels: torch.Tensor) -> Batch:
            layer.set_next_batch(index, layer_output, len(channels))
            layer.indices = channels.cpu().numpy()
            return layer(layer_output)

        return rows


def item_twice(layer_output: Batch, index: int, size: int) -> Batch:
    """A layer's output for one image of a batch of ``size`` images, in two rows."""
    return map_tensors(
        lambda t: t[index].expand(2, *t.shape[1:]).clone() if t.ndim and len(t) == size else t, layer_output
    )
