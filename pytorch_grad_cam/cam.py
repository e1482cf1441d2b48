"""CAM, the original class activation map."""

import torch
import torch.nn.functional as F
from torch import nn

from pytorch_grad_cam.base_cam import BaseCAM, LayerRun, require_finite
from pytorch_grad_cam.outputs import class_scores
from pytorch_grad_cam.utils.maps import spatial_dims
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


class CAM(BaseCAM):
    """Weight channels by the classifier's own weights: w_c is the last linear layer's weight for the class.

    Requires global average pooling followed by a single linear layer; every call checks this. For such networks, the
    weights of Grad-CAM are these weights divided by the number of spatial positions.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (arXiv:1512.04150).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import CAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> CAM(model, ["1"])(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    uses_gradients = False

    def channel_weights(self, run: LayerRun) -> torch.Tensor:
        pooled = run.activations.mean(dim=spatial_dims(run.activations))
        outputs = require_finite(class_scores(run.outputs, len(run.targets)).float())
        linear = [m for m in self.activations_and_grads.model.modules() if isinstance(m, nn.Linear)]
        head = next((m for m in reversed(linear) if m.in_features == pooled.shape[1]), None)
        if head is None or outputs.ndim != 2 or head.out_features != outputs.shape[1]:
            raise ValueError("CAM needs a linear classifier right above the target layer's pooled channels")
        bias = None if head.bias is None else head.bias.float()
        scores = F.linear(pooled, head.weight.float(), bias).float()  # half precision under a caller's autocast
        if not torch.allclose(scores, outputs, rtol=0.05, atol=0.05 * float(outputs.abs().max())):
            raise ValueError("CAM needs exactly global average pooling and a linear layer above the target layer")
        if not all(isinstance(target, ClassifierOutputTarget) for target in run.targets):
            raise ValueError("CAM explains logits of classes: pass ClassifierOutputTarget or class indices")
        return torch.stack([head.weight[target.category].float() for target in run.targets])  # type: ignore[attr-defined]
