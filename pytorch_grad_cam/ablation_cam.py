"""Ablation-CAM."""

import torch

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform, forward_hooks
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.model_targets import Target, target_scores

# Floats in one batch of ablated activations: 256 MB, the layers above included about three times that.
BATCH_FLOATS = 64 * 2**20


class AblationCAM(BaseCAM):
    """Channels weighted by what their loss costs: w_c = (Y - Y without channel c) / |Y|.

    A channel is lost by setting it to 0 in the layer's output. The layers below see one picture once for each
    batch: its ablated copies are made in the hook, so only the layers above run for every channel. Channels
    that are 0 already have weight 0, and no pass.

    Desai and Ramaswamy, Ablation-CAM, WACV 2020, equation 3. |Y| instead of Y: the paper has positive scores in
    mind, and a shift of all logits must not turn the map round.

    Args:
        batch_size: ablated copies at a time; None: what 256 MB hold.
        use_cuda: outdated.

    The other arguments are those of :class:`BaseCAM`.
    """

    uses_gradients = False

    def __init__(
        self,
        model: Module,
        target_layers: list[Module],
        reshape_transform: ReshapeTransform | None = None,
        batch_size: int | None = None,
        *,
        use_cuda: bool | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, use_cuda=use_cuda)
        self.batch_size = batch_size

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        activations = run.activations
        intact = target_scores(run.targets, run.outputs).float()
        weights = torch.zeros(activations.shape[:2], device=activations.device)
        for i, target in enumerate(run.targets):
            live = activations[i].flatten(1).any(dim=1).nonzero()[:, 0]
            size = self.batch_size or max(1, BATCH_FLOATS // activations[i].numel())
            for channels in live.split(size):
                scores = self._ablated_scores(run.inputs[i : i + 1], run.layer, channels, target)
                weights[i, channels] = intact[i] - scores
        scale = intact.abs()
        return weights / torch.where(scale > 0, scale, 1.0)[:, None]

    def _ablated_scores(
        self, picture: torch.Tensor, layer: Module, channels: torch.Tensor, target: Target
    ) -> torch.Tensor:
        """The target's score without each of the channels: (len(channels),) float32."""
        rows = torch.arange(len(channels), device=channels.device)

        def ablate(index: int, output: torch.Tensor) -> torch.Tensor:
            copies = output.expand(len(rows), *output.shape[1:]).clone()
            shaped = copies if self.reshape_transform is None else self.reshape_transform(copies)
            if shaped.untyped_storage().data_ptr() != copies.untyped_storage().data_ptr():
                raise ValueError("AblationCAM needs a reshape_transform that returns a view, to write through it")
            shaped[rows, channels] = 0
            return copies

        with forward_hooks([layer], ablate):
            try:
                outputs = self.model(picture)
            except RuntimeError:
                # Layers above that join the batch with something of the single picture need it repeated.
                outputs = self.model(picture.expand(len(rows), *picture.shape[1:]))
        return target_scores([target] * len(rows), outputs).float()
