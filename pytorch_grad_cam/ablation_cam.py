"""Ablation-CAM."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from pytorch_grad_cam.ablation_layer import AblatedRows, AblationLayer
from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import (
    Batch,
    Targets,
    each_tensor,
    one_of,
    pictures_of,
    target_scores,
    with_pictures,
)
from pytorch_grad_cam.replay import Tape


class AblationCAM(BaseCAM):
    """Channels weighted by what their loss costs: w_c = (Y - Y without channel c) / |Y|.

    A channel is lost by setting it to 0 in the layer's output, and only what lies above the layer runs again. Channels
    that are 0 already have weight 0, and no pass. Models that cannot be started at a layer (see
    ``pytorch_grad_cam.replay``) run as a whole, on repeated pictures: the maps are the same, later.

    Desai and Ramaswamy, Ablation-CAM, WACV 2020, equation 3. |Y| instead of Y: the paper has positive scores in
    mind, and a shift of all logits must not turn the map round.

    Args:
        ablation_layer: for layers whose output is not (N, C, *spatial) and whose ``reshape_transform`` returns no view
            of it; None: channels are switched off through the view.
        batch_size: ablated copies at a time; where a copy is smaller than a picture, as many as take the memory of so
            many pictures.
        ratio_channels_to_ablate: share of the channels that are tried, those in the principal component's places first;
            the others have weight 0.

    The other arguments are those of :class:`BaseCAM`.
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

    def _runs(self, inputs: Batch, targets: Targets) -> list[LayerRun]:
        recorder = self.activations_and_grads
        size = len(pictures_of(inputs))
        self._tapes = {layer: Tape(recorder.model, layer, size) for layer in recorder.target_layers}
        with ExitStack() as stack:
            for tape in self._tapes.values():
                stack.enter_context(tape.recording())
            return super()._runs(inputs, targets)

    def _layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        try:
            return super()._layer_maps(inputs, targets, eigen_smooth)
        finally:
            self._tapes = {}  # they hold what all modules below the layers put out

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        tape = self._tapes[run.layer]
        weights = torch.zeros(run.activations.shape[:2], device=run.activations.device)
        intact = target_scores(run.targets, run.outputs)
        size = self.batch_size * max(1, run.pictures[0].numel() // run.activations[0].numel())
        ablated = self._ablated(run.layer_output, size)
        for i, target in enumerate(run.targets):
            one = one_of(run.inputs, i, len(run.targets))
            pair = with_pictures(one, run.pictures[i : i + 1].expand(2, *run.pictures.shape[1:]))
            tape.check(pair, i, twice(run.layer_output, i, len(run.targets)), target, intact[i])
            for channels in self._worth_a_run(run.activations[i]).split(size):
                copies = run.pictures[i : i + 1].expand(len(channels), *run.pictures.shape[1:])
                lost = tape.scores(with_pictures(one, copies), i, ablated(i, channels), target)
                weights[i, channels] = intact[i].float() - lost
        scale = intact.float().abs()
        return weights / torch.where(scale > 0, scale, 1.0)[:, None]

    def _worth_a_run(self, activations: torch.Tensor) -> torch.Tensor:
        """Indices of the channels (C, *spatial) that are tried, and are not 0 anyway."""
        chosen = torch.arange(len(activations), device=activations.device)
        if self.ratio_channels_to_ablate < 1:
            layer = self.ablation_layer or AblationLayer()
            indices = layer.activations_to_be_ablated(activations.cpu().numpy(), self.ratio_channels_to_ablate)
            chosen = torch.as_tensor(indices, device=activations.device).long()
        return chosen[activations[chosen].flatten(1).any(dim=1)]

    def _ablated(self, layer_output: Batch, size: int) -> Callable[[int, torch.Tensor], Batch]:
        """Makes the layer's output for a picture, one row for each channel, without it."""
        layer = self.ablation_layer
        if layer is None:
            return AblatedRows(layer_output, self.reshape_transform, size).without

        def rows(picture: int, channels: torch.Tensor) -> Batch:
            layer.set_next_batch(picture, layer_output, len(channels))
            layer.indices = channels.cpu().numpy()
            return layer(layer_output)

        return rows


def twice(layer_output: Batch, picture: int, size: int) -> Batch:
    """A layer's output for one picture of so many, in two rows."""
    return each_tensor(
        lambda t: t[picture].expand(2, *t.shape[1:]).clone() if t.ndim and len(t) == size else t, layer_output
    )
