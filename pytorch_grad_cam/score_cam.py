"""Score-CAM."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pytorch_grad_cam.ablation_layer import AblationLayer, rows_of
from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import one_of, with_pictures
from pytorch_grad_cam.utils.maps import normalize


class ScoreCAM(BaseCAM):
    """Channels weighted by the score of the picture seen through them.

    Each channel, enlarged to the picture and stretched to [0, 1], masks the picture; w is the softmax over
    the channels of the target's scores. One forward pass a channel, ``batch_size`` (default 16) at a time; equal
    channels, and all constant ones, which mask everything, share one.

    Wang et al., Score-CAM, CVPR Workshops 2020 (arXiv:1910.01279), algorithm 1 without the baseline's score,
    which softmax takes out.

    Args:
        ratio_channels_to_score: share of the channels that are tried, those in the principal component's places first,
            as in :class:`AblationCAM`; the others have weight 0.

    The other arguments are those of :class:`BaseCAM`.
    """

    uses_gradients = False

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        *,
        ratio_channels_to_score: float = 1.0,
        **others: Any,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **others)
        if not 0 < ratio_channels_to_score <= 1:
            raise ValueError(f"ratio_channels_to_score must be in (0, 1], got {ratio_channels_to_score}")
        self.ratio_channels_to_score = ratio_channels_to_score

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        weights = torch.zeros(run.activations.shape[:2], device=run.activations.device)
        for i, channels in enumerate(run.activations):
            tried = torch.arange(len(channels), device=channels.device)
            if self.ratio_channels_to_score < 1:
                strongest = AblationLayer().activations_to_be_ablated(
                    channels.cpu().numpy(), self.ratio_channels_to_score
                )
                tried = torch.as_tensor(strongest, device=channels.device).long()
            weights[i, tried] = self._scores(run, i, channels[tried]).softmax(dim=0)
        return weights

    def _scores(self, run: LayerRun, picture: int, channels: torch.Tensor) -> torch.Tensor:
        """The target's score of the picture seen through each channel (C, *spatial): (C,) float32."""
        one = one_of(run.inputs, picture, len(run.targets))
        pixels = run.pictures[picture : picture + 1]
        flat = channels.flatten(1)
        varies = flat.amax(1, keepdim=True) > flat.amin(1, keepdim=True)
        # Constant channels become one, and so do equal ones.
        distinct, own = torch.unique(torch.where(varies, flat, 0.0), dim=0, return_inverse=True)
        masks = distinct.reshape(-1, 1, *channels.shape[1:])
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[pixels.ndim - 2]
        scores = []
        for some in masks.split(self.batch_size):
            large = normalize(F.interpolate(some, pixels.shape[2:], mode=mode, align_corners=True))
            seen = rows_of(pixels, 0, len(some)).mul_(large.to(pixels.dtype))
            scores.append(self._score(with_pictures(one, seen), [run.targets[picture]] * len(some)))
        return torch.cat(scores)[own]
