"""Score-CAM."""

import torch
import torch.nn.functional as F

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun
from pytorch_grad_cam.utils.maps import normalize
from pytorch_grad_cam.utils.model_targets import Target, target_scores

DEFAULT_BATCH = 32


class ScoreCAM(BaseCAM):
    """Channels weighted by the score of the picture seen through them.

    Each channel, enlarged to the picture and stretched to [0, 1], masks the picture; w is the softmax over
    the channels of the target's scores. One forward pass a channel, ``batch_size`` (default 32) at a time.
    A constant channel masks everything: all those of a picture share one pass.

    Wang et al., Score-CAM, CVPR Workshops 2020 (arXiv:1910.01279), algorithm 1 without the baseline's score,
    which softmax takes out.
    """

    uses_gradients = False

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        of_pictures = zip(run.inputs, run.targets, run.activations, strict=True)
        return torch.stack([self._scores(*of_picture).softmax(dim=0) for of_picture in of_pictures])

    def _scores(self, picture: torch.Tensor, target: Target, channels: torch.Tensor) -> torch.Tensor:
        size = self.batch_size or DEFAULT_BATCH
        flat = channels.flatten(1)
        varies = (flat.amax(1) > flat.amin(1)).nonzero()[:, 0]
        scores = channels.new_empty(len(channels))
        if len(varies) < len(channels):
            scores[:] = self._score(torch.zeros_like(picture)[None], target)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[picture.ndim - 1]
        for chosen in varies.split(size):
            masks = F.interpolate(channels[chosen, None], picture.shape[1:], mode=mode, align_corners=True)
            scores[chosen] = self._score(picture * normalize(masks).to(picture.dtype), target)
        return scores

    def _score(self, pictures: torch.Tensor, target: Target) -> torch.Tensor:
        return target_scores([target] * len(pictures), self.model(pictures)).float()
