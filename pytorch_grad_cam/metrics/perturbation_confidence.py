"""How the score of a model changes when its pictures are perturbed where their maps say so.

A perturbation is any callable that takes one picture (C, *spatial) and its map (*spatial), both on the CPU, and
returns the picture changed. A metric is a perturbation and what is made of the two scores: their difference, if
not overridden in ``change``.

The model runs in eval mode without gradients, on its own device, and is given back as it was. It sees the
original pictures once, all together as passed; perturbed ones ``batch_size`` at a time, whatever picture and
percentile they come from.

Scores are what the targets return. Probabilities (a softmax target) are what the papers have in mind; the ranges
given here hold for them only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

import cv2
import numpy as np
import torch

from pytorch_grad_cam.activations_and_gradients import Module, evaluation_mode
from pytorch_grad_cam.batches import Batch, Targets, resolve_targets, target_scores
from pytorch_grad_cam.utils.maps import normalize
from pytorch_grad_cam.utils.model_targets import Target

Perturbation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Imputer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Percentile = float | Literal["auto"]

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """The change of the score by a perturbation: perturbed minus original.

    Args:
        perturbation: (picture (C, *spatial), map (*spatial)) -> perturbed picture.

    Attributes:
        batch_size: perturbed pictures that the model sees at a time.
    """

    batch_size: int = 32

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def change(self, original: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
        """What the metric makes of the scores before and after: (N,) float32 each."""
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
        """The metric for each picture.

        Args:
            input_tensor: (N, C, *spatial) batch.
            cams: (N, *spatial) maps.
            targets: one callable (or class index) for each picture; None: the class predicted for the original.
            model: maps the batch to (N, ...) outputs.
            return_visualization: return the perturbed pictures too.
            return_diff: False returns the scores of the perturbed pictures as they are.

        Returns:
            (N,) float32; with ``return_visualization`` a pair of it and the (N, C, *spatial) perturbed pictures,
            with device and dtype of ``input_tensor``.

        Raises:
            ValueError: the number of maps or of targets is not N, or a map is not finite.
        """
        resolved, original = original_scores(model, input_tensor, targets)
        pictures = torch.stack(list(perturbed_pictures([self.perturbation], input_tensor, cams))).to(input_tensor)
        scores = scores_of(model, pictures, resolved, self.batch_size)
        result = self.change(original, scores) if return_diff else scores
        return (result, pictures) if return_visualization else result


class AveragerAcrossThresholds:
    """The mean of a metric over percentiles.

    Args:
        imputer: percentile -> :class:`PerturbationConfidenceMetric`; a class such as ``ROADMostRelevantFirst``.
        percentiles: what it is called with.

    Attributes:
        batch_size: perturbed pictures that the model sees at a time.
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
        """One for each percentile."""
        return [self.imputer(percentile) for percentile in self.percentiles]

    def __call__(
        self, input_tensor: torch.Tensor, cams: np.ndarray | torch.Tensor, targets: Targets, model: Module
    ) -> np.ndarray:
        """The mean for each picture, (N,) float32; arguments and errors of :class:`PerturbationConfidenceMetric`."""
        return changes(self.metrics(), input_tensor, cams, targets, model, self.batch_size).mean(axis=0)


class RemoveMostRelevantFirst:
    """A perturbation: the most relevant pixels are removed, and an imputer fills them in.

    Pixels are removed by rank, so the fraction asked for is the fraction removed, to the nearest pixel, however
    many share a value. Pixels of equal relevance are ranked by a permutation of the positions that is the same
    for all pictures of a size: scattered, so that no side of the picture goes first, and the same at every
    percentile, so that what a percentile removes a stricter one removes too.

    Args:
        percentile: percentage of pixels that are kept, from 0 to 100; ``"auto"`` removes the relevant part of the
            map, by Otsu's threshold.
        imputer: (picture (C, H, W), mask (H, W) float32 with 1 for kept and 0 for removed) -> picture.

    Raises:
        ValueError: there is no such percentile; in a call, the map has not the picture's size.
    """

    def __init__(self, percentile: Percentile, imputer: Imputer) -> None:
        if percentile != "auto" and not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be from 0 to 100 or 'auto', got {percentile}")
        self.percentile = percentile
        self.imputer = imputer

    def __call__(self, input_tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The picture (C, H, W) without what its map (H, W) calls most relevant."""
        if mask.shape != input_tensor.shape[1:]:
            raise ValueError(f"map of {tuple(mask.shape)} for a picture of {tuple(input_tensor.shape[1:])}")
        return self.imputer(input_tensor, self.kept(mask).float())

    def kept(self, mask: torch.Tensor) -> torch.Tensor:
        """Which pixels stay: bool, of the map's shape."""
        count = mask.numel() - relevant_pixels(mask) if self.percentile == "auto" else self._kept_pixels(mask)
        return ranks(mask) < count

    def _kept_pixels(self, mask: torch.Tensor) -> int:
        return round(mask.numel() * float(self.percentile) / 100)


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """The same from the other end: the least relevant pixels are removed.

    ``"auto"`` removes what :class:`RemoveMostRelevantFirst` keeps.
    """

    def kept(self, mask: torch.Tensor) -> torch.Tensor:
        count = relevant_pixels(mask) if self.percentile == "auto" else self._kept_pixels(mask)
        return ranks(mask) >= mask.numel() - count


def ranks(relevance: torch.Tensor) -> torch.Tensor:
    """Rank of each pixel, 0 for the least relevant: int64 of the map's shape, every number once."""
    shuffled = torch.randperm(relevance.numel(), generator=torch.Generator().manual_seed(0)).to(relevance.device)
    order = shuffled[relevance.flatten()[shuffled].argsort(stable=True)]
    return order.argsort().reshape(relevance.shape)


def relevant_pixels(relevance: torch.Tensor) -> int:
    """How many pixels lie above Otsu's threshold of the map, taken on 256 levels from its minimum to its maximum."""
    levels = (255 * normalize(relevance[None])[0]).to(torch.uint8).cpu().numpy()
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return int((levels > threshold).sum())


# -- scores of many perturbed pictures ------------------------------------------------------------------


def changes(
    metrics: Sequence[PerturbationConfidenceMetric],
    input_tensor: torch.Tensor,
    cams: np.ndarray | torch.Tensor,
    targets: Targets,
    model: Module,
    batch_size: int,
) -> np.ndarray:
    """What each metric says of each picture, (metrics, N) float32; the original is scored once for all of them."""
    if any(type(metric).__call__ is not PerturbationConfidenceMetric.__call__ for metric in metrics):
        # Somebody's own way to call the model: it cannot share batches.
        return np.asarray([metric(input_tensor, cams, targets, model) for metric in metrics], np.float32)
    resolved, original = original_scores(model, input_tensor, targets)
    pictures = perturbed_pictures([metric.perturbation for metric in metrics], input_tensor, cams)
    scores = scores_of(model, pictures, resolved * len(metrics), batch_size).reshape(len(metrics), -1)
    return np.stack([metric.change(original, row) for metric, row in zip(metrics, scores, strict=True)])


def perturbed_pictures(
    perturbations: Sequence[Perturbation], input_tensor: torch.Tensor, cams: np.ndarray | torch.Tensor
) -> Iterator[torch.Tensor]:
    """All pictures under the first perturbation, then all under the next: one at a time, dtype of the input."""
    maps = as_maps(cams, len(input_tensor))
    pictures = input_tensor.detach().cpu()
    for perturbation in perturbations:
        for picture, cam in zip(pictures, maps, strict=True):
            # Clones: a perturbation may work in place.
            yield perturbation(picture.clone(), cam.clone()).to(input_tensor.dtype)


def as_maps(cams: np.ndarray | torch.Tensor, count: int) -> torch.Tensor:
    """Maps as a tensor on the CPU.

    Raises:
        ValueError: there are not ``count`` of them, or one is not finite.
    """
    maps = cams.detach().cpu() if isinstance(cams, torch.Tensor) else torch.from_numpy(np.array(cams, order="C"))
    if len(maps) != count:
        raise ValueError(f"{len(maps)} maps for {count} pictures: pass one for each picture")
    if not maps.isfinite().all():
        raise ValueError("a map is not finite")
    return maps


def original_scores(model: Module, pictures: torch.Tensor, targets: Targets) -> tuple[list[Target], np.ndarray]:
    """One target for each picture, and its score: (N,) float32."""
    outputs = outputs_of(model, pictures)
    resolved = resolve_targets(targets, outputs, len(pictures))
    return resolved, target_scores(resolved, outputs).float().cpu().numpy()


def scores_of(
    model: Module, pictures: Iterable[torch.Tensor], targets: Sequence[Target], batch_size: int
) -> np.ndarray:
    """The score of each of any number of pictures, float32."""
    pairs = zip(pictures, targets, strict=True)
    found = []
    while batch := list(islice(pairs, batch_size)):
        chosen, of_chosen = zip(*batch, strict=True)
        found.append(target_scores(of_chosen, outputs_of(model, torch.stack(chosen))).float().cpu())
    return torch.cat(found).numpy()


@torch.no_grad()
def outputs_of(model: Module, pictures: torch.Tensor) -> Batch:
    """One pass in eval mode, on the model's device."""
    device = next((parameter.device for parameter in model.parameters()), pictures.device)
    with evaluation_mode(model):
        return model(pictures.to(device))
