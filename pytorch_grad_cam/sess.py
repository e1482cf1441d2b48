"""SESS: Saliency Enhancing with Scaling and Sliding."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torchvision.transforms.v2 import functional as tv

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import Batch, call_model, images_in, map_tensors
from pytorch_grad_cam.grad_cam import GradCAM
from pytorch_grad_cam.outputs import Targets, resolve_targets, scores_in, target_scores
from pytorch_grad_cam.utils.maps import resize
from pytorch_grad_cam.utils.model_targets import Target

BLUR_SIDE, BLUR_SIGMA = 11, 5.0


class _Window(NamedTuple):
    """Position of a window, and the height and width of the scaled image that it is cut from, in pixels."""

    left: int
    top: int
    height: int
    width: int


class SESS(BaseCAM):
    """Merge another method's maps of windows at many scales, weighted by the windows' scores.

    The image is enlarged to several scales, and a window of the network's input size slides over each. Small objects
    are thus seen enlarged, and several objects of a class one by one. Images only, (N, C, H, W).

    Tursun et al., SESS: Saliency Enhancing with Scaling and Sliding, ECCV 2022 (arXiv:2207.01769).

    Args:
        base_method: class of the method that computes the maps.
        scales: lengths of the image's shorter side in pixels, each at least the window's; None: ``num_scales`` of them,
            from the window's size upward in steps of ``scale_step_ratio`` times it.
        num_scales: number of scales where ``scales`` is None.
        scale_step_ratio: step between scales, as a fraction of the window's size.
        window_size: side of the window in pixels; None: the image's shorter side.
        step_size: distance between windows; None: the window's size. Windows at the far edges are shifted back inside.
        pre_filter_ratio: fraction of the windows, those with the lowest scores, that are discarded, in [0, 1).
        theta: map values up to this threshold do not enter the mean.
        pool: ``mean`` or ``max`` of the windows that cover a pixel.
        smooth: blur the result (Gaussian, 11 x 11, standard deviation 5).
        use_softmax_scores: weight a window by the target of its probabilities; False: of its scores, if positive.
        batch_size: number of windows per forward pass.
        others: further arguments of ``base_method``.

    The other arguments are those of :class:`BaseCAM`.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from pytorch_grad_cam import SESS
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> SESS(model, ["1"], num_scales=2)(torch.rand(2, 3, 16, 16), targets=[0, 1]).shape
        (2, 16, 16)
    """

    def __init__(
        self,
        model: Module,
        target_layers: Sequence[Module | str],
        reshape_transform: ReshapeTransform | None = None,
        base_method: type[BaseCAM] = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2 / 7,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: str = "mean",
        smooth: bool = True,
        use_softmax_scores: bool = True,
        batch_size: int = 32,
        **others: Any,
    ) -> None:
        if pool not in ("mean", "max"):
            raise ValueError(f"pool must be 'mean' or 'max', got {pool!r}")
        if not 0 <= pre_filter_ratio < 1:
            raise ValueError(f"pre_filter_ratio must be in [0, 1), got {pre_filter_ratio}")
        if num_scales < 1:
            raise ValueError(f"num_scales must be at least 1, got {num_scales}")
        self.base_cam = base_method(model, target_layers, reshape_transform, **others)
        self.base_cam.warns_of_empty_maps = False  # many windows show nothing of the class
        super().__init__(model, target_layers, reshape_transform)
        self.scales, self.num_scales, self.scale_step_ratio = scales, num_scales, scale_step_ratio
        self.window_size, self.step_size = window_size, step_size
        self.pre_filter_ratio, self.theta, self.pool = pre_filter_ratio, theta, pool
        self.smooth, self.use_softmax_scores = smooth, use_softmax_scores
        self.batch_size = batch_size

    def _compute_layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        images = images_in(inputs)
        if images is not inputs or images.ndim != 4:
            raise ValueError("SESS explains models with a single input, images (N, C, H, W)")
        with torch.no_grad():
            self.outputs = map_tensors(torch.Tensor.detach, call_model(self.activations_and_grads.model, images))
        resolved = resolve_targets(targets, self.outputs, len(images))
        self._inputs_of_single_images(inputs, self.outputs, resolved)
        maps = [self._merged_map(image, target, eigen_smooth) for image, target in zip(images, resolved, strict=True)]
        return [torch.stack(maps)]

    def _merged_map(self, image: torch.Tensor, target: Target, eigen_smooth: bool) -> torch.Tensor:
        height, width = image.shape[1:]
        patches, windows = self._windows(image, self.window_size or min(height, width))
        scores = self._scores(patches, target)
        order = scores.argsort(stable=True)[int(len(scores) * self.pre_filter_ratio) :]
        weights = scores[order]
        highest = weights.max()
        weights = weights / highest if highest > 0 else torch.ones_like(weights)
        total, counts = (torch.zeros(height, width, device=image.device) for _ in range(2))
        for batch, weight in zip(order.split(self.batch_size), weights.split(self.batch_size), strict=True):
            heatmaps = self.base_cam.maps(patches[batch], [target] * len(batch), eigen_smooth=eigen_smooth)
            for heatmap, index in zip(heatmaps * weight[:, None, None], batch.tolist(), strict=True):
                pasted = paste(heatmap, windows[index], (height, width))
                if self.pool == "max":
                    total = torch.maximum(total, pasted)
                else:
                    counted = pasted > self.theta
                    total += torch.where(counted, pasted, 0)
                    counts += counted
        if self.pool == "mean":
            total = torch.where(counts > 0, total / counts.clamp(min=1), 0)
        if not self.smooth:
            return total
        with torch.autocast(total.device.type, enabled=False):  # the caller's autocast is for the model
            return tv.gaussian_blur(total[None], [BLUR_SIDE] * 2, [BLUR_SIGMA] * 2)[0]

    def _windows(self, image: torch.Tensor, window: int) -> tuple[torch.Tensor, list[_Window]]:
        """All windows (M, C, window, window) of all scales, and where each is from."""
        step = round(window * self.scale_step_ratio)
        patches, windows = [], []
        for scale in self.scales or [window + step * i for i in range(self.num_scales)]:
            if scale < window:
                raise ValueError(f"every scale must be at least the window's size, {window}; got {scale}")
            scaled = tv.resize(image, [scale], antialias=True)
            height, width = scaled.shape[1:]
            for top in starts(height, self.step_size or window, window):
                for left in starts(width, self.step_size or window, window):
                    patches.append(scaled[:, top : top + window, left : left + window])
                    windows.append(_Window(left, top, height, width))
        return torch.stack(patches), windows

    def _scores(self, patches: torch.Tensor, target: Target) -> torch.Tensor:
        """The target's score of each window, at least 0: (M,) float32."""
        scores = []
        with torch.no_grad():
            for batch in patches.split(self.batch_size):
                outputs = call_model(self.activations_and_grads.model, batch)
                scores.append(target_scores([target] * len(batch), self._weighing(outputs)).float())
        return torch.cat(scores).clamp(min=0)

    def _weighing(self, outputs: Batch) -> Batch:
        """The outputs with the scores, or their softmax, in float32."""
        scores = scores_in(outputs)
        weighing = scores.float().softmax(dim=-1) if self.use_softmax_scores else scores.float()
        return map_tensors(lambda t: weighing if t is scores else t, outputs)


def paste(heatmap: torch.Tensor, window: _Window, size: tuple[int, int]) -> torch.Tensor:
    """Place a window's heatmap on an empty map of its scale and resize that map to the image's size (H, W)."""
    canvas = heatmap.new_zeros(window.height, window.width)
    side = len(heatmap)
    canvas[window.top : window.top + side, window.left : window.left + side] = heatmap
    return resize(canvas[None], size)[0]


def starts(length: int, step: int, window: int) -> list[int]:
    """Start positions of windows along a side; the last window ends with the side.

    Examples:
        >>> from pytorch_grad_cam.sess import starts
        >>> starts(10, step=4, window=4)
        [0, 4, 6]
    """
    return [*range(0, length - window, step), length - window]
