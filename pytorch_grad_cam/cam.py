"""CAM, the first class activation map."""

import torch
import torch.nn.functional as F
from torch import nn

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, finite
from pytorch_grad_cam.batches import scores_in
from pytorch_grad_cam.utils.maps import spatial_dims
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class CAM(BaseCAM):
    """Channels weighted by the classifier's own weights: w_c is the entry of the last linear layer for the class.

    For networks that end in global average pooling and one linear layer; whether this one does is checked in every
    call. There, Grad-CAM's weights are these, divided by the number of places.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (arXiv:1512.04150).
    """

    uses_gradients = False

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        pooled = run.activations.mean(dim=spatial_dims(run.activations))
        outputs = finite(scores_in(run.outputs).float())
        linear = [m for m in self.activations_and_grads.model.modules() if isinstance(m, nn.Linear)]
        head = next((m for m in reversed(linear) if m.in_features == pooled.shape[1]), None)
        if head is None or outputs.ndim != 2 or head.out_features != outputs.shape[1]:
            raise ValueError("CAM needs a linear classifier right above the target layer's pooled channels")
        bias = None if head.bias is None else head.bias.float()
        scores = F.linear(pooled, head.weight.float(), bias).float()  # half under a caller's autocast
        if not torch.allclose(scores, outputs, rtol=0.05, atol=0.05 * float(outputs.abs().max())):
            raise ValueError("CAM needs nothing but global average pooling and a linear layer above the target layer")
        if not all(isinstance(target, ClassifierOutputTarget) for target in run.targets):
            raise ValueError("CAM explains logits of classes: pass ClassifierOutputTarget or class indices")
        return torch.stack([head.weight[target.category].float() for target in run.targets])  # type: ignore[attr-defined]
