"""Score-CAM."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pytorch_grad_cam.ablation_layer import AblationLayer, repeat_item
from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.batches import Batch, batch_item, with_images
from pytorch_grad_cam.utils.maps import LINEAR, normalize


class ScoreCAM(BaseCAM):
    """Weight channels by the score of the image masked by them.

    Each channel, resized to the image and min-max normalised to [0, 1], masks the image; w is the softmax over the
    channels of the target's scores. One forward pass per channel, ``batch_size`` (default 16) at a time. Equal channels
    share one pass, and so do all constant channels, which mask the whole image.

    Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPR Workshops 2020
    (arXiv:1910.01279), algorithm 1. The baseline's score is omitted: it cancels in the softmax.

    Args:
        ratio_channels_to_score: fraction of the channels that are scored, in (0, 1]: those whose activations lie most
            within the first principal component, as in :class:`AblationCAM`; the others have weight 0.

    The other arguments are those of :class:`BaseCAM`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import ScoreCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> ScoreCAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
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
        inputs = self._inputs_of_single_images(run.inputs, run.outputs, run.targets)
        for i, channels in enumerate(run.activations):
            tried = torch.arange(len(channels), device=channels.device)
            if self.ratio_channels_to_score < 1:
                strongest = AblationLayer().activations_to_be_ablated(
                    channels.cpu().numpy(), self.ratio_channels_to_score
                )
                tried = torch.as_tensor(strongest, device=channels.device).long()
            weights[i, tried] = self._channel_scores(run, inputs, i, channels[tried]).softmax(dim=0)
        return weights

    def _channel_scores(self, run: LayerRun, inputs: Batch, index: int, channels: torch.Tensor) -> torch.Tensor:
        """The target's score of one image masked by each channel (C, *spatial): (C,) float32."""
        inputs = batch_item(inputs, index, len(run.targets))
        image = run.images[index : index + 1]
        flat = channels.flatten(1)
        varies = flat.amax(1, keepdim=True) > flat.amin(1, keepdim=True)
        # Constant channels become one, and so do equal ones.
        distinct, which = torch.unique(torch.where(varies, flat, 0.0), dim=0, return_inverse=True)
        masks = distinct.reshape(-1, 1, *channels.shape[1:])
        scores = []
        for batch in masks.split(self.batch_size):
            large = F.interpolate(batch, image.shape[2:], mode=LINEAR[image.ndim - 2], align_corners=True)
            masked = repeat_item(image, 0, len(batch)).mul_(normalize(large).to(image.dtype))
            scores.append(self._score(with_images(inputs, masked), [run.targets[index]] * len(batch)))
        return torch.cat(scores)[which]
