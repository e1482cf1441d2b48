"""Change of a model's score when images are perturbed according to their maps.

A perturbation is any callable that takes one image (C, *spatial) and its map (*spatial), both on the CPU, and
returns a perturbed image. A metric combines a perturbation with a function ``change`` of the two scores, by default
their difference.

The model runs in eval mode without gradients, on its own device; its previous mode is restored. It sees the original
images once, in one batch as passed; perturbed ones ``batch_size`` at a time, across images and percentiles.

Scores are the values of the targets. The papers use probabilities (a softmax target); the ranges given here hold only
for them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

import cv2
import numpy as np
import torch

from pytorch_grad_cam.batches import Batch, call_model, prepare
from pytorch_grad_cam.context import Module, evaluation_mode
from pytorch_grad_cam.outputs import Targets, resolve_targets, target_scores
from pytorch_grad_cam.utils.maps import normalize
from pytorch_grad_cam.utils.model_targets import Target

Perturbation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Imputer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Percentile = float | Literal["auto"]

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """Change of the score by a perturbation: perturbed minus original.

    Args:
        perturbation: (image (C, *spatial), map (*spatial)) -> perturbed image.

    Attributes:
        batch_size: number of perturbed images per forward pass.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric
        >>> remove_relevant = PerturbationConfidenceMetric(lambda image, cam: image * (cam < 0.5))
        >>> model = torch.nn.Flatten()  # the score is the pixel
        >>> remove_relevant(torch.full((1, 1, 1, 1), 3.0), torch.ones(1, 1, 1), [0], model).tolist()
        [-3.0]
    """

    batch_size: int = 32

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def change(self, original: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        """The metric's value for the scores before and after: (N,) float32 each."""
        return perturbed - original

    def __call__(
        self,
        input_tensor: torch.Tensor,
        cams: np.ndarray | torch.Tensor,
        targets: Targets,
        model: Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> np.ndarray | tuple[np.ndarray, torch.Tensor]:
        """Compute the metric of each image.

        Args:
            input_tensor: (N, C, *spatial) batch.
            cams: (N, *spatial) maps.
            targets: one callable (or class index) per image; None: the class predicted for the original.
            model: maps the batch to (N, ...) outputs.
            return_visualization: also return the perturbed images.
            return_diff: False returns the scores of the perturbed images instead of ``change``.

        Returns:
            (N,) float32; with ``return_visualization`` a pair of it and the perturbed images (N, C, *spatial), on the
            device and of the dtype of ``input_tensor``.

        Raises:
            ValueError: the number of maps or of targets is not N, or a map contains NaN or infinite values.
        """
        resolved, original = original_scores(model, input_tensor, targets)
        images = torch.stack(list(perturbed_images([self.perturbation], input_tensor, cams))).to(input_tensor)
        scores = image_scores(model, images, resolved, self.batch_size)
        result = self.change(original, scores) if return_diff else scores
        return (result, images) if return_visualization else result


class AveragerAcrossThresholds:
    """Mean of a metric over percentiles.

    Args:
        imputer: percentile -> :class:`PerturbationConfidenceMetric`; a class such as ``ROADMostRelevantFirst``.
        percentiles: arguments of ``imputer``.

    Attributes:
        batch_size: number of perturbed images per forward pass.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.perturbation_confidence import AveragerAcrossThresholds
        >>> from pytorch_grad_cam.metrics.road import ROADMostRelevantFirst
        >>> images, maps, model = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), torch.nn.Flatten()
        >>> AveragerAcrossThresholds(ROADMostRelevantFirst, [20, 80])(images, maps, [0, 1], model).shape
        (2,)
    """

    batch_size: int = 32

    def __init__(
        self,
        imputer: Callable[[Percentile], PerturbationConfidenceMetric],
        percentiles: Sequence[Percentile] = PERCENTILES,
    ) -> None:
        self.imputer = imputer
        self.percentiles = list(percentiles)

    def metrics(self) -> list[PerturbationConfidenceMetric]:
        """One metric per percentile."""
        return [self.imputer(percentile) for percentile in self.percentiles]

    def __call__(
        self, input_tensor: torch.Tensor, cams: np.ndarray | torch.Tensor, targets: Targets, model: Module
    ) -> np.ndarray:
        """The mean of each image, (N,) float32; arguments and errors of :class:`PerturbationConfidenceMetric`."""
        return metric_values(self.metrics(), input_tensor, cams, targets, model, self.batch_size).mean(axis=0)


class RemoveMostRelevantFirst:
    """Perturbation that removes the most relevant pixels and lets an imputer fill them in.

    Pixels are removed by rank, so that exactly the requested fraction is removed, to the nearest pixel, also where many
    pixels share a value. Pixels of equal relevance are ranked by a random permutation of the positions that is the same
    for all images of a size: no side of the image is removed first, and the pixels removed at one percentile are also
    removed at every stricter one.

    Args:
        percentile: percentage of pixels that are kept, from 0 to 100; ``"auto"`` removes the pixels above Otsu's
            threshold of the map.
        imputer: (image (C, H, W), mask (H, W) float32 with 1 for kept and 0 for removed) -> image.

    Raises:
        ValueError: the percentile is out of range; in a call, map and image differ in size.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.perturbation_confidence import RemoveMostRelevantFirst
        >>> remove = RemoveMostRelevantFirst(75, imputer=torch.mul)  # removed pixels become 0
        >>> remove(torch.ones(1, 2, 2), torch.tensor([[0.1, 0.9], [0.2, 0.3]])).tolist()
        [[[1.0, 0.0], [1.0, 1.0]]]
    """

    def __init__(self, percentile: Percentile, imputer: Imputer) -> None:
        if percentile != "auto" and not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be from 0 to 100 or 'auto', got {percentile}")
        self.percentile = percentile
        self.imputer = imputer

    def __call__(self, input_tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The image (C, H, W) without the most relevant pixels of its map (H, W)."""
        if mask.shape != input_tensor.shape[1:]:
            raise ValueError(f"map of shape {tuple(mask.shape)} for an image of shape {tuple(input_tensor.shape[1:])}")
        return self.imputer(input_tensor, self.kept(mask).float())

    def kept(self, mask: torch.Tensor) -> torch.Tensor:
        """Mask of the pixels that are kept: bool, of the map's shape."""
        count = mask.numel() - count_relevant_pixels(mask) if self.percentile == "auto" else self._kept_pixels(mask)
        return relevance_ranks(mask) < count

    def _kept_pixels(self, mask: torch.Tensor) -> int:
        return round(mask.numel() * float(self.percentile) / 100)


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Perturbation that removes the least relevant pixels.

    ``"auto"`` removes the pixels that :class:`RemoveMostRelevantFirst` keeps.

    Examples:
        >>> import torch
        >>> from pytorch_grad_cam.metrics.perturbation_confidence import RemoveLeastRelevantFirst
        >>> remove = RemoveLeastRelevantFirst(75, imputer=torch.mul)  # removed pixels become 0
        >>> remove(torch.ones(1, 2, 2), torch.tensor([[0.1, 0.9], [0.2, 0.3]])).tolist()
        [[[0.0, 1.0], [1.0, 1.0]]]
    """

    def kept(self, mask: torch.Tensor) -> torch.Tensor:
        count = count_relevant_pixels(mask) if self.percentile == "auto" else self._kept_pixels(mask)
        return relevance_ranks(mask) >= mask.numel() - count


def relevance_ranks(relevance: torch.Tensor) -> torch.Tensor:
    """Rank of each pixel, 0 for the least relevant: int64 of the map's shape, all ranks distinct."""
    shuffled = torch.randperm(relevance.numel(), generator=torch.Generator().manual_seed(0)).to(relevance.device)
    order = shuffled[relevance.flatten()[shuffled].argsort(stable=True)]
    return order.argsort().reshape(relevance.shape)


def count_relevant_pixels(relevance: torch.Tensor) -> int:
    """Number of pixels above Otsu's threshold of the map, computed on 256 levels from its minimum to its maximum."""
    levels = (255 * normalize(relevance[None])[0]).to(torch.uint8).cpu().numpy()
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return int((levels > threshold).sum())


# -- scores of many perturbed images ------------------------------------------------------------------


def metric_values(
    metrics: Sequence[PerturbationConfidenceMetric],
    input_tensor: torch.Tensor,
    cams: np.ndarray | torch.Tensor,
    targets: Targets,
    model: Module,
    batch_size: int,
) -> np.ndarray:
    """Compute several metrics of each image, (metrics, N) float32; the originals are scored only once."""
    if any(type(metric).__call__ is not PerturbationConfidenceMetric.__call__ for metric in metrics):
        # A subclass with a call of its own cannot share batches.
        return np.asarray([metric(input_tensor, cams, targets, model) for metric in metrics], np.float32)
    resolved, original = original_scores(model, input_tensor, targets)
    images = perturbed_images([metric.perturbation for metric in metrics], input_tensor, cams)
    scores = image_scores(model, images, resolved * len(metrics), batch_size).reshape(len(metrics), -1)
    return np.stack([metric.change(original, row) for metric, row in zip(metrics, scores, strict=True)])


def perturbed_images(
    perturbations: Sequence[Perturbation], input_tensor: torch.Tensor, cams: np.ndarray | torch.Tensor
) -> Iterator[torch.Tensor]:
    """Iterate over all images under the first perturbation, then under the next; each of the input's dtype."""
    maps = as_maps(cams, len(input_tensor))
    images = input_tensor.detach().cpu()
    for perturbation in perturbations:
        for image, cam in zip(images, maps, strict=True):
            # Clones, since a perturbation may modify its arguments in place.
            yield perturbation(image.clone(), cam.clone()).to(input_tensor.dtype)


def as_maps(cams: np.ndarray | torch.Tensor, count: int) -> torch.Tensor:
    """Convert maps to a tensor on the CPU.

    Raises:
        ValueError: their number is not ``count``, or one contains NaN or infinite values.
    """
    maps = cams.detach().cpu() if isinstance(cams, torch.Tensor) else torch.from_numpy(np.array(cams, order="C"))
    if len(maps) != count:
        raise ValueError(f"{len(maps)} maps for {count} images: pass one per image")
    if not maps.isfinite().all():
        raise ValueError("a map is not finite: it contains NaN or infinite values")
    return maps


def original_scores(model: Module, images: torch.Tensor, targets: Targets) -> tuple[list[Target], np.ndarray]:
    """One target per image, and its score: (N,) float32."""
    outputs = run_model(model, images)
    resolved = resolve_targets(targets, outputs, len(images))
    return resolved, target_scores(resolved, outputs).float().cpu().numpy()


def image_scores(
    model: Module, images: Iterable[torch.Tensor], targets: Sequence[Target], batch_size: int
) -> np.ndarray:
    """Score any number of images, ``batch_size`` at a time: float32."""
    pairs = zip(images, targets, strict=True)
    found = []
    while batch := list(islice(pairs, batch_size)):
        chosen, of_chosen = zip(*batch, strict=True)
        found.append(target_scores(of_chosen, run_model(model, torch.stack(chosen))).float().cpu())
    return torch.cat(found).numpy()


@torch.no_grad()
def run_model(model: Module, images: torch.Tensor) -> Batch:
    """One forward pass in eval mode, on the model's device."""
    device = next((parameter.device for parameter in model.parameters()), images.device)
    with evaluation_mode(model):
        return call_model(model, prepare(images, device))
