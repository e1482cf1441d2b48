"""SESS: Saliency Enhancing with Scaling and Sliding."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms.v2 import functional as tv

from pytorch_grad_cam.activations_and_gradients import Module, ReshapeTransform
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.batches import Batch, Targets, call, each_tensor, pictures_of, resolve_targets, scores_in
from pytorch_grad_cam.grad_cam import GradCAM
from pytorch_grad_cam.utils.maps import resize
from pytorch_grad_cam.utils.model_targets import Target

BLUR_SIDE, BLUR_SIGMA = 11, 5.0


class SESS(BaseCAM):
    """Another method's maps of windows at many scales, weighted by the windows' scores and laid over each other.

    The picture is enlarged to several scales; a window of the network's size slides over each. So small objects are
    seen large, and several of a kind one by one. Pictures only, (N, C, H, W).

    Tursun et al., SESS: Saliency Enhancing with Scaling and Sliding, ECCV 2022 (arXiv:2207.01769).

    Args:
        base_method: class of the method whose maps are made.
        scales: lengths of the picture's shorter side, each at least the window's; None: ``num_scales`` of them, from
            the window's size upward in steps of ``scale_step_ratio`` times it.
        window_size: side of the window; None: the picture's shorter side.
        step_size: between windows; None: the window's size. Windows at the far edges are shifted back inside.
        pre_filter_ratio: share of the windows with the lowest scores that are left out, in [0, 1).
        theta: heat below it takes no part in the mean.
        pool: ``mean`` or ``max`` of the windows that cover a pixel.
        smooth: blur the result (Gaussian, 11 x 11, standard deviation 5).
        use_softmax_scores: a window's weight is the target of its probabilities; False: of its scores, if positive.
        batch_size: windows at a time.
        others: further arguments of ``base_method``.

    The other arguments are those of :class:`BaseCAM`.

    Raises:
        ValueError: an argument is out of its range.
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
        super().__init__(model, target_layers, reshape_transform)
        self.scales, self.num_scales, self.scale_step_ratio = scales, num_scales, scale_step_ratio
        self.window_size, self.step_size = window_size, step_size
        self.pre_filter_ratio, self.theta, self.pool = pre_filter_ratio, theta, pool
        self.smooth, self.use_softmax_scores = smooth, use_softmax_scores
        self.batch_size = batch_size

    def _layer_maps(self, inputs: Batch, targets: Targets, eigen_smooth: bool) -> list[torch.Tensor]:
        pictures = pictures_of(inputs)
        if pictures is not inputs or pictures.ndim != 4:
            raise ValueError("SESS explains models of one input, pictures (N, C, H, W)")
        with torch.no_grad():
            self.outputs = each_tensor(torch.Tensor.detach, call(self.activations_and_grads.model, pictures))
        resolved = resolve_targets(targets, self.outputs, len(pictures))
        maps = [self._enhanced(*of_picture, eigen_smooth) for of_picture in zip(pictures, resolved, strict=True)]
        return [torch.stack(maps)]

    def _enhanced(self, picture: torch.Tensor, target: Target, eigen_smooth: bool) -> torch.Tensor:
        height, width = picture.shape[1:]
        window = self.window_size or min(height, width)
        patches, places = self._windows(picture, window)
        scores = self._weights(patches, target)
        order = scores.argsort(stable=True)[int(len(scores) * self.pre_filter_ratio) :]
        weights = scores[order]
        highest = weights.max()
        weights = weights / highest if highest > 0 else torch.ones_like(weights)
        total, counts = (torch.zeros(height, width, device=picture.device) for _ in range(2))
        for some, share in zip(order.split(self.batch_size), weights.split(self.batch_size), strict=True):
            heats = self.base_cam.maps(patches[some], [target] * len(some), eigen_smooth=eigen_smooth)
            for heat, index in zip(heats * share[:, None, None], some.tolist(), strict=True):
                left, top, scaled_height, scaled_width = places[index]
                canvas = heat.new_zeros(scaled_height, scaled_width)
                canvas[top : top + window, left : left + window] = heat
                canvas = resize(canvas[None], (height, width))[0]
                if self.pool == "max":
                    total = torch.maximum(total, canvas)
                else:
                    counted = canvas > self.theta
                    total += torch.where(counted, canvas, 0)
                    counts += counted
        if self.pool == "mean":
            total = torch.where(counts > 0, total / counts.clamp(min=1), 0)
        if not self.smooth:
            return total
        with torch.autocast(total.device.type, enabled=False):  # the caller's is for the model
            return tv.gaussian_blur(total[None], [BLUR_SIDE] * 2, [BLUR_SIGMA] * 2)[0]

    def _windows(self, picture: torch.Tensor, window: int) -> tuple[torch.Tensor, list[tuple[int, int, int, int]]]:
        """All windows (M, C, window, window), and for each its left, top, and the height and width of the scale."""
        step = round(window * self.scale_step_ratio)
        patches, places = [], []
        for scale in self.scales or [window + step * i for i in range(self.num_scales)]:
            if scale < window:
                raise ValueError(f"every scale must be at least the window's size, {window}; got {scale}")
            scaled = tv.resize(picture, [scale], antialias=True)
            height, width = scaled.shape[1:]
            for top in starts(height, self.step_size or window, window):
                for left in starts(width, self.step_size or window, window):
                    patches.append(scaled[:, top : top + window, left : left + window])
                    places.append((left, top, height, width))
        return torch.stack(patches), places

    def _weights(self, patches: torch.Tensor, target: Target) -> torch.Tensor:
        scores = []
        with torch.no_grad():
            for some in patches.split(self.batch_size):
                outputs = scores_in(call(self.activations_and_grads.model, some)).float()
                rows = outputs.softmax(dim=-1) if self.use_softmax_scores else outputs
                scores += [target(row).sum() for row in rows]
        return torch.stack(scores).clamp(min=0)


def starts(length: int, step: int, window: int) -> list[int]:
    """Where windows start along a side; the last one ends with it."""
    return [*range(0, length - window, step), length - window]
